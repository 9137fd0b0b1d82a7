"""The cells of an assignment that nbgrader cares about: the answer between its marks, and the hidden tests.

Hidden tests hold numbers and no code of the book: they are drawn and worked out here, with the reference; the place
where submissions run needs numpy and nothing of ours.
"""

from __future__ import annotations

import ast
import copy
import inspect
import textwrap

import assignment_helper
import fresh
import numpy as np

HELPER = inspect.getsource(assignment_helper).split('"""', 2)[2].strip()
MARKED = "# This cell gives the marks: it calls your function with other numbers."


def literal(value) -> str:
    """A value as Python that gives it back: every digit of every number."""
    if isinstance(value, np.ndarray):
        return f"np.array({value.tolist()!r}, dtype={str(value.dtype)!r}).reshape({value.shape!r})"
    if isinstance(value, (tuple, list)):
        inside = ", ".join(literal(item) for item in value)
        return f"({inside}{',' if len(value) == 1 else ''})" if isinstance(value, tuple) else f"[{inside}]"
    return repr(value.item() if isinstance(value, np.generic) else value)


def solved(function) -> str:
    """A reference as an instructor's cell: its body between nbgrader's marks, its signature outside."""
    source = textwrap.dedent(inspect.getsource(function))
    body = ast.parse(source).body[0].body
    first = body[1] if isinstance(getattr(body[0], "value", None), ast.Constant) and len(body) > 1 else body[0]
    lines = source.rstrip().splitlines()
    cut = first.lineno - 1
    return "\n".join([*lines[:cut], "    ### BEGIN SOLUTION", *lines[cut:], "    ### END SOLUTION"])


def hidden_cases(exercise, rng) -> list[tuple]:
    """Fresh cases of an exercise, two draws. Where its check uses the same for everybody, `fresh` has others."""
    draw = fresh.CASES.get(exercise.id, exercise.cases)
    return [tuple(case) for _ in range(2) for case in draw(rng)]


def call(exercise, cases) -> str:
    """The call of the notebook's `mark`: for each case its inputs by name, and what the reference makes of them."""
    names = inspect.signature(exercise.reference).parameters
    lines = [f"mark({exercise.reference.__name__!r}, globals(), ["]
    for case in cases:
        inputs = ", ".join(f"{name!r}: {literal(value)}" for name, value in zip(names, case, strict=False))
        lines.append(f"    ({{{inputs}}}, {literal(exercise.reference(*copy.deepcopy(case)))}),")
    return "\n".join([*lines, "])"])


def marked(exercise, rng) -> str:
    """The cell that gives the marks; all but a sentence is hidden. The helper is in it: nobody can have changed it."""
    tests = f"{HELPER}\n\n\n{call(exercise, hidden_cases(exercise, rng))}"
    return f"{MARKED}\n### BEGIN HIDDEN TESTS\n{tests}\n### END HIDDEN TESTS"
