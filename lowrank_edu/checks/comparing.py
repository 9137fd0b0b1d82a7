"""Are two answers the same answer, and if not, how do they differ, in one sentence?   numpy only.

A comparison is any function `compare(got, want) -> bool`. The ones here accept numpy arrays, torch tensors
(by duck typing), lists and Python numbers in every mix, and ignore what does not matter: dtype, signs, order.
"""

from __future__ import annotations

from functools import reduce

import numpy as np

TOLERANCE = {"float16": 2e-2, "bfloat16": 4e-2, "float32": 1e-4}  # relative to the largest target; else 1e-6


class NotNumbers(TypeError):
    """The answer cannot be read as an array of numbers."""


def as_array(x) -> np.ndarray:
    """Any numeric answer as an array: tensor, list of tensors, '1,000', nested list.  Else NotNumbers."""
    if isinstance(x, str):
        try:
            return np.asarray(float(x.replace(",", "").replace("_", "").replace(" ", "")))
        except ValueError:
            raise NotNumbers(f"the text {x!r}") from None
    if hasattr(x, "detach"):
        x = x.detach().cpu()
        x = (x.float() if "bfloat16" in str(x.dtype) else x).numpy()
    if isinstance(x, (list, tuple)):
        x = [as_array(v) for v in x]
    try:
        array = np.asarray(x)
    except ValueError:
        raise NotNumbers("a list whose rows differ in length") from None
    except Exception:  # an object of the learner's own, which may raise anything
        raise NotNumbers(f"of type {type(x).__name__}") from None
    if array.dtype.kind not in "biufc":
        raise NotNumbers(f"of type {type(x).__name__}")
    return array


def tolerance(*answers) -> float:
    """Relative tolerance that suits the coarsest dtype among the answers."""
    names = [str(getattr(a, "dtype", "")).replace("torch.", "") for a in answers]
    return max(TOLERANCE.get(name, 1e-6) for name in names)


def _near(a, b, rtol) -> bool:
    if a.shape != b.shape:
        return False
    size = np.max(np.abs(b), initial=0.0)
    floor = 1e-2 * rtol * size if size else 1e-12  # small entries carry the rounding of large ones
    return bool(np.all(np.abs(a - b) <= rtol * np.abs(b) + floor))


def close(rtol=None):
    """Same shape and numbers, within `rtol` (default: by dtype). Tuples and dicts part by part."""

    def compare(got, want):
        if isinstance(want, (tuple, dict)):
            pairs = parts(got, want)
            return pairs is not None and all(compare(g, w) for _, g, w in pairs)
        if want is None or isinstance(want, (str, bool, np.bool_)):
            return same_text(got, want)
        try:
            a, b = as_array(got), as_array(want)
        except NotNumbers:
            return False
        return _near(a * 1.0, b * 1.0, rtol or tolerance(got, want))

    return compare


def same_text(got, want) -> bool:
    """Text, truth values and choices: capitals, blanks and a closing bracket or full stop do not matter."""
    plain = lambda v: str(v).strip().strip("().").strip().casefold()  # noqa: E731
    return plain(got) == plain(want)


def exact_integer(got, want) -> bool:
    """Every digit counts, the spelling does not: 1_000, 1000.0, '1,000' and np.int64(1000) are one answer."""
    try:
        a, b = as_array(got), as_array(want)
    except NotNumbers:
        return False
    return a.shape == b.shape and bool(np.all(a == b))


def within_factor(factor):
    """For estimates: right when between want/factor and want·factor."""

    def compare(got, want):
        try:
            ratio = as_array(got) / as_array(want)
        except NotNumbers:
            return False
        return bool(np.all((ratio >= 1 / factor) & (ratio <= factor)))

    return compare


def up_to_signs(axis=None):
    """A vector and its negative are equal: axis=0 a sign per column, axis=1 per row, None one for all."""

    def compare(got, want):
        try:
            a, b = as_array(got) * 1.0, as_array(want) * 1.0
        except NotNumbers:
            return False
        if a.shape != b.shape:
            return False
        signs = np.where(np.sum(a * b, axis=axis, keepdims=True) < 0, -1.0, 1.0)
        return _near(a * signs, b, tolerance(got, want))

    return compare


def same_subspace(got, want) -> bool:
    """Do the columns span the same space? Compares orthogonal projectors, so any basis will do."""
    try:
        a, b = as_array(got) * 1.0, as_array(want) * 1.0
    except NotNumbers:
        return False
    if a.ndim != 2 or a.shape[0] != b.shape[0] or np.linalg.matrix_rank(a) != np.linalg.matrix_rank(b):
        return False
    return _near(a @ np.linalg.pinv(a), b @ np.linalg.pinv(b), max(1e-5, tolerance(got, want)))


def same_product(got, want) -> bool:
    """Factors (B, A) or (U, S, Vt) are right when their product is, however split; S may be a vector."""
    try:
        a, b = (reduce(np.matmul, [np.diag(f) if f.ndim == 1 else f for f in map(as_array, x)])
                for x in (got, want))  # fmt: skip
    except (NotNumbers, ValueError, TypeError):
        return False
    return _near(a * 1.0, b * 1.0, tolerance(*got, *want))


def unordered(got, want) -> bool:
    """The same members in any order: names, indices, numbers."""
    try:
        a, b = (sorted(str(v) if isinstance(v, str) else f"{float(v):.6g}" for v in x) for x in (got, want))
    except (TypeError, ValueError):
        return False
    return a == b


def parts(got, want):
    """[(label, got part, want part)] of a tuple or dict target; None when the answer is built differently."""
    if isinstance(want, dict):
        if not isinstance(got, dict) or set(got) != set(want):
            return None
        return [(repr(k), got[k], want[k]) for k in want]
    if not isinstance(got, (tuple, list)) or len(got) != len(want):
        return None
    return [(f"number {i} of {len(want)}", g, w) for i, (g, w) in enumerate(zip(got, want, strict=True), 1)]


def show(x) -> str:
    """A value in a sentence: a number to 4 digits, a small array in full, a large one by its shape."""
    try:
        a = x if isinstance(x, str) else as_array(x)
    except NotNumbers:
        a = x
    if not isinstance(a, np.ndarray):
        text = repr(x)
        return text if len(text) <= 80 else text[:77] + "..."
    if a.ndim == 0:
        return f"{a.item():,}" if a.dtype.kind in "biu" else f"{a.item():.4g}"
    if a.size <= 8:
        return np.array2string(a, precision=4, suppress_small=True).replace("\n", "")
    return f"an array of shape {a.shape}"
