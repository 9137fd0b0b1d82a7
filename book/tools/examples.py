"""The example that an assignment shows: one short case of an exercise, and what the reference makes of it.

An example is read by people, so its numbers are short: arrays to one decimal, other numbers to two. What is expected is
worked out again from the rounded numbers, and rounded as far as the assignment's own comparison does not notice.
"""

from __future__ import annotations

import copy
import inspect

import numpy as np
from assignment_helper import difference


def tenths(rng, *shape):
    """An array of numbers such as -1.3, none of them zero."""
    return rng.integers(1, 20, shape) * rng.choice([-0.1, 0.1], shape)


def score(rng):
    shapes = [(2, 3), (4, 2), (2,)]  # A, B and λ
    return [tenths(rng, *shape) for shape in shapes * 2]


def gather(rng):
    """Three tokens, and a stack of two adapters."""
    y, x, A, B = (tenths(rng, *shape) for shape in [(3, 4), (3, 3), (2, 2, 3), (2, 4, 2)])
    return y, x, A, B, np.array([1, 0, 1]), 2.0


CASES = {  # where the smallest case of the check shows too little, or is too long to read
    "ch02-energy": lambda rng: (np.array([6.0, 3.0, 2.0, 1.0, 0.5]), 0.9),
    "ch02-gradient": lambda rng: (tenths(rng, 2, 4), tenths(rng, 2, 3)),
    "ch02-d90": lambda rng: ([10, 100, 1000, 10000, 100000], [2.95, 2.2, 0.8, 0.65, 0.61], 3.0, 0.6),
    "ch05-bf16": lambda rng: (np.array([0.3, -1.1, 62.6, -34.2, 99.7]),),
    "ch09-blocks": lambda rng: (
        np.array([-4.0, 1.2, 2.8, 0.3, 0.1, -0.2, 0.5]),
        np.array([-1.0, -0.5, 0.0, 0.3, 1.0]),
        4,
    ),
    "ch09-bits": lambda rng: (4, 64, 256),
    "ch10-score": score,
    "ch10-budget": lambda rng: (40, 48, 32, 20, 30, 120),
    "ch11-front": lambda rng: (20, 8, 36),
    "ch13-gather": gather,
}


def case(exercise) -> tuple:
    """The inputs of the example: a case of its own, or the smallest of the check's, rounded."""
    if exercise.id in CASES:
        return tuple(rounded(value) for value in CASES[exercise.id](np.random.default_rng(0)))
    smallest = min(exercise.fresh_cases(), key=lambda inputs: sum(np.size(value) for value in inputs))
    return tuple(rounded(value) for value in smallest)


def rounded(value):
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        return np.round(value, 1) + 0.0  # and no -0.0
    return round(value, 2) if isinstance(value, float) else value


def expected(exercise, inputs):
    """What the reference gives for these inputs, with no more digits than the comparison needs."""
    return shortest(exercise.reference(*copy.deepcopy(inputs)))


def shortest(value):
    if isinstance(value, tuple):
        return tuple(map(shortest, value))
    if np.asarray(value).dtype.kind != "f":
        return value
    short = next(short for digits in range(16) if near(short := np.round(value, digits), value)) + 0.0
    return short if isinstance(value, np.ndarray) else float(short)


def near(short, value) -> bool:
    """Equal, and with room to spare for the rounding of another way to compute it."""
    return difference(short + (short - value), value) == ""


def text(value, indent: int) -> str:
    """A value as short Python that begins in column `indent`: the rows of an array one below the other."""
    if isinstance(value, np.ndarray):
        width = max(len(str(number)) for number in value.flat)
        return f"np.array({rows(value, indent + len('np.array('), width)})"
    if isinstance(value, tuple) and any(isinstance(item, np.ndarray) for item in value):
        inside = [f"{' ' * (indent + 4)}{text(item, indent + 4)}," for item in value]
        return "\n".join(["(", *inside, f"{' ' * indent})"])
    return repr(value.item() if isinstance(value, np.generic) else value)


def rows(array, indent: int, width: int) -> str:
    if array.ndim == 1:
        return f"[{', '.join(f'{number!s:>{width}}' for number in array)}]"
    between = f",\n{' ' * (indent + 1)}"
    return f"[{between.join(rows(part, indent + 1, width) for part in array)}]"


def cell(exercise) -> str:
    """The call of the notebook's `example`, every input with its name."""
    inputs = case(exercise)
    names = inspect.signature(exercise.reference).parameters
    named = [*zip(names, inputs, strict=False), ("expected", expected(exercise, inputs))]
    arguments = [
        f"    {name}={text(value, 4 if isinstance(value, tuple) else 5 + len(name))}," for name, value in named
    ]
    return "\n".join(["example(", f"    {exercise.reference.__name__},", *arguments, ")"])
