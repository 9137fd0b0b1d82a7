"""How do two answers differ?  General patterns, tried when no exercise's own mistake fits.   numpy only.

`diagnose(got, want, ...)` gives (name, sentence). The name is stable, the sentence carries the numbers.
"""

from __future__ import annotations

import numpy as np

from .comparing import NotNumbers, as_array, close, parts, show, tolerance

FACTORS = {  # yours / target, and the words that explain it
    "-1": (-1.0, "Only the sign is different."),
    "2": (2.0, "A factor 2 was counted twice, or a half was lost."),
    "1/2": (0.5, "A factor 2 is missing."),
    "100": (100.0, "Percent and share differ by 100."),
    "1/100": (0.01, "Percent and share differ by 100."),
    "8": (8.0, "Bits and bytes differ by 8."),
    "1/8": (0.125, "Bits and bytes differ by 8."),
    "1/ln 2": (1 / np.log(2), "Logarithms to base 2 and natural ones differ by ln 2."),
    "ln 2": (np.log(2), "Logarithms to base 2 and natural ones differ by ln 2."),
}


def diagnose(got, want, reveal=True, scales=None):
    """(name, sentence) for the first pattern that explains the difference.

    reveal: may the sentence show the target?   scales: factors known in this case, {"r/α": 4.0}.
    """
    if isinstance(want, (tuple, dict)):
        return _structure(got, want, reveal, scales)
    if want is None or isinstance(want, (str, bool, np.bool_)):
        target = f"Target {show(want)}, yours" if reveal else "It is not"
        return "text", f"{target} {show(got)}."
    try:
        a, b = as_array(got), as_array(want)
    except NotNumbers as problem:
        expects = f"an array of shape {as_array(want).shape}" if as_array(want).ndim else "one number"
        return "type", f"Your answer is {problem}; this exercise expects {expects}."
    same = close(max(1e-5, tolerance(got, want)))
    if not np.isfinite(a).all():
        return _not_finite(a)
    if a.shape != b.shape:
        return _shape(a, b, same)
    a, b = a * 1.0, b * 1.0
    return _factor(a, b, same, scales or {}) or _pattern(a, b, same) or _first(a, b, reveal)


def _structure(got, want, reveal, scales):
    pairs = parts(got, want)
    if pairs is None:
        built = f"the keys {sorted(map(str, want))}" if isinstance(want, dict) else f"{len(want)} parts"
        return "structure", f"The answer should have {built}; yours is {show(got)}."
    for label, g, w in pairs:
        if not close()(g, w):
            name, sentence = diagnose(g, w, reveal, scales)
            return f"{label}: {name}", f"In {label}: {sentence}"
    return "structure", "Each part alone is close; together they are not what this exercise asks for."


def _not_finite(a):
    where = np.argwhere(~np.isfinite(a))
    place = f" at {_index(where[0])}" if a.ndim else ""
    count = f"Your answer has {a[tuple(where[0])]}{place} ({len(where)} of {a.size} numbers are not finite)."
    return "not finite", f"{count} Look for a division by zero, the logarithm of 0 or an overflow."


def _shape(a, b, same):
    sizes = f"Shape {b.shape} expected, yours is {a.shape}"
    moved = "rows and columns changed places, and the numbers differ as well."
    if a.ndim == 2 and a.T.shape == b.shape:
        if same(a.T, b):
            return "transposed", f"{sizes}: every number is right, but transposed. Swap the axes once."
        return "shape transposed", f"{sizes}: {moved}"
    if a.size == b.size and same(a.reshape(b.shape), b):
        return "reshape", f"{sizes}: the numbers are right, the axes are not. Check `keepdims` or reshape."
    return "shape", f"{sizes}. Write down the shape after each step and find where they part."


def _factor(a, b, same, scales):
    size = float(np.sum(b * b))
    factor = float(np.sum(a * b)) / size if size else 1.0
    if size and not np.any(a):
        return "all zero", "Everything in your answer is 0. Is a factor still zero, or a result never stored?"
    if abs(factor) < 1e-12 or np.isclose(factor, 1, rtol=1e-5) or not same(a, factor * b):
        return None
    length = f"{factor:.4g} times too large" if abs(factor) > 1 else f"{factor:.4g} of what it should be"
    start = f"Direction right, length {length}" if b.size > 1 else f"Yours is {length}"
    for name, value in scales.items():
        if np.isclose(factor, value, rtol=1e-4):
            return f"factor {name}", f"{start}: exactly {name}. Where did the scale go?"
    for name, (value, why) in FACTORS.items():
        if np.isclose(factor, value, rtol=1e-4):
            which = "Each number" if b.size > 1 else "Yours"
            return f"factor {name}", f"{which} is the target times {name}. {why}"
    if b.size > 1:
        return "factor", f"{start}. One constant is missing or counted twice."
    return None


def _pattern(a, b, same):
    if a.ndim == 2 and a.shape[0] == a.shape[1] and same(a, b.T):
        return "transposed", "This is the transpose of the target; its square shape hides that."
    if a.size > 1 and same(np.abs(a), np.abs(b)):
        return "signs", "Every size is right; some signs are not. Where does a minus enter?"
    if np.all(b >= 0) and same(a, b**2):
        return "squared", "Yours is the square of the target. Take the root, or leave out the square."
    if np.all(a >= 0) and same(a**2, b):
        return "root", "Yours is the square root of the target: the target is squared."
    if a.ndim == 1 and same(a[::-1], b):
        return "reversed", "The right numbers from the other end: turn the order round."
    if a.size > 1 and same(np.sort(a, axis=None), np.sort(b, axis=None)):
        return "order", "The right numbers in another order."
    shift = (a - b).flat[0] if a.size > 1 else 0.0
    if shift and np.allclose(a - b, shift, rtol=1e-5):
        return "offset", f"Every number is off by {shift:.4g}. Something constant was added or left out."
    return None


def _first(a, b, reveal):
    if a.ndim == 0:
        if reveal:
            return "difference", f"Target {_digits(b, a)}, yours {_digits(a, b)}."
        ratio = max(abs(a / b), abs(b / a)) if a * b > 0 else np.inf
        by = f", by {100 * (ratio - 1):.2g} %" if ratio < 1.2 else f", by a factor of {ratio:.3g}"
        side, by = "large" if a > b else "small", by if ratio < np.inf else ""
        return "difference", f"Yours, {a:,g}, is too {side}{by}."
    wrong = np.argwhere(~(np.abs(a - b) <= 1e-6 * np.abs(b) + 1e-12))
    index = tuple(wrong[0]) if len(wrong) else (0,) * a.ndim
    values = f"target {_digits(b[index], a[index])}, yours" if reveal else "yours is"
    count = f"The shape {a.shape} is right; {len(wrong)} of {a.size} numbers differ."
    return "difference", f"{count} The first is at {_index(index)}: {values} {_digits(a[index], b[index])}."


def _index(i):
    return "[" + ", ".join(map(str, map(int, i))) + "]"


def _digits(x, other):
    short = f"{x:.4g}"
    return short if short != f"{other:.4g}" else f"{x:.10g}"
