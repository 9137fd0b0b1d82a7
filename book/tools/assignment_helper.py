"""The cell with which every assignment begins: numpy alone, so that it runs where the book is not installed.

`example` tells learners what they got and what was expected. `mark` gives the marks: it raises the same sentence, with
as much as can be said without giving the hidden numbers away.
"""

import contextlib
import io
import traceback

import numpy as np


class Wrong(Exception):
    """An answer that earns nothing. Jupyter shows the sentence alone: a traceback would quote the hidden numbers."""

    def _render_traceback_(self):
        return [str(self)]


def example(function, /, *, expected, **inputs):
    """Call `function` with these inputs, in this order; say whether it gives what is expected."""
    name = function.__name__
    try:
        said = difference(function(*inputs.values()), expected)
    except NotImplementedError:
        return print(f"○ {name} is not written yet.")
    except Exception as problem:
        said = f"{stopped(problem, function)}: {problem}\nIt was called with {given(inputs)}."
    print(f"✗ {name}: {said}" if said else f"✓ {name} gives what is expected.")


def mark(name, there, cases):
    """Wrong, unless the function called `name` gives what is wanted in every one of `cases`: [(inputs, wanted)]."""
    for number, (inputs, wanted) in enumerate(cases, 1):
        said = told(name, there, inputs, wanted)
        if said:
            called = f"It was called with {given(inputs, whole=False)}."
            raise Wrong(f"✗ {name}, hidden case {number} of {len(cases)}: {said}\n{called}")


def told(name, there, inputs, wanted):
    """What is wrong with one hidden case; nothing that the function prints or says while it runs gets out."""
    if not callable(there.get(name)):
        return f"there is no function called {name}."
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return difference(there[name](*inputs.values()), wanted, whole=False)
    except NotImplementedError:
        return "it is not written yet."
    except (Exception, KeyboardInterrupt, SystemExit) as problem:
        return f"{stopped(problem, there[name])}."


def stopped(problem, function):
    """Which line of the function stopped, and with what."""
    file = getattr(getattr(function, "__code__", None), "co_filename", None)
    lines = [frame.line for frame in traceback.extract_tb(problem.__traceback__) if frame.filename == file]
    place = f" in the line `{lines[-1]}`" if lines and lines[-1] else ""
    return f"it stopped{place} with {type(problem).__name__}"


def given(inputs, whole=True):
    """The inputs in a sentence: arrays by their shapes, other values as they are if they may be shown `whole`."""
    said = []
    for name, value in inputs.items():
        if np.ndim(value):
            said.append(f"{name} of shape {np.shape(value)}")
        else:
            said.append(f"{name} = {value}" if whole else f"a number {name}")
    return ", ".join(said)


def difference(got, want, whole=True):
    """'' when shapes are equal and numbers are, up to rounding; else a sentence that says expected and got.

    Without `whole` it shows one number of each, to three digits, and not the arrays.
    """
    if isinstance(want, tuple):
        if not isinstance(got, (tuple, list, np.ndarray)) or len(got) != len(want):
            return f"got {kind(got)}, expected {len(want)} values."
        said = [difference(a, b, whole) for a, b in zip(got, want, strict=True)]
        return next((f"value {i} of {len(want)}: {text}" for i, text in enumerate(said, 1) if text), "")
    try:
        ours = np.asarray(got if got is not None else "", dtype=float)
    except (TypeError, ValueError):
        return f"got {kind(got)}, expected {kind(want)}."
    want = np.asarray(want)
    if ours.shape != want.shape:
        return f"got {kind(ours)}, expected {kind(want)}." + (both(ours, want) if whole else "")
    wrong = ~np.isclose(ours, want, rtol=1e-4, atol=1e-8)
    if not wrong.any():
        return ""
    if whole and not want.shape:
        return f"got {ours:,.8g}, expected {want:,.8g}."
    if whole:
        return f"{wrong.sum()} of {want.size} numbers differ.{both(ours, want)}"
    first = tuple(int(i) for i in np.argwhere(wrong)[0])
    where = f"{wrong.sum()} of {want.size} numbers differ; at {list(first)} it " if first else "it "
    pair = [f"{value[first]:.3g}" for value in (ours, want)]
    near = ", and they differ in later digits" if pair[0] == pair[1] else ""
    return f"{where}got {pair[0]}, expected {pair[1]}{near}."


def kind(value):
    """What a value is, in a few words."""
    if value is None:
        return "None (does the function end in `return`?)"
    if isinstance(value, (tuple, list)) and any(map(np.ndim, value)):
        return f"{len(value)} values"
    if isinstance(value, (str, dict, set)) or callable(value):
        return f"a {type(value).__name__}"
    shape = np.shape(value)
    return f"an array of shape {shape}" if shape else "one number"


def both(got, want):
    """The two arrays, one below the other, whole numbers as such."""
    if want.dtype.kind in "biu" and np.array_equal(got, np.round(got)):
        got = got.astype(int)
    pair = [np.array2string(value, precision=5, suppress_small=True) for value in (got, want)]
    return f"\ngot\n{pair[0]}\nexpected\n{pair[1]}"
