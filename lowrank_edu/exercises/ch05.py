"""Exercises of chapter 5: merging, unmerging, swapping, adding up."""

from dataclasses import dataclass

import numpy as np

from ..checking import Exercise, Mistake
from ..checks.comparing import close, same_product


# ---- storing a number in bf16 ----------------------------------------
def store_bf16(x):
    """x rounded to 8 significant bits, as bf16 stores it (zero and ordinary sizes)."""
    m, e = np.frexp(x)  # x = m · 2ᵉ with ½ ≤ |m| < 1
    return np.ldexp(np.round(m * 2**8), e - 8)  # 8 bits of m are kept, the rest is rounded away


def _bits(n, cut=np.round):
    def store(x):
        m, e = np.frexp(x)
        return np.ldexp(cut(m * 2**n), e - n)

    return store


def _no_way_back(x):
    m, e = np.frexp(x)
    return np.ldexp(np.round(m * 2**8), e)


BF16 = Exercise(
    id="ch05-bf16",
    title="Store a weight in bf16",
    kind="code",
    difficulty=2,
    minutes=8,
    needs="`np.frexp`, `np.ldexp`, `np.round`",
    know="why a small ΔW can vanish in a merge",
    reference=store_bf16,
    compare=close(1e-7),  # an answer in bf16 is exact too, so its dtype excuses nothing
    cases=lambda rng: [
        (size * rng.normal(size=n),) for size, n in [(1.0, (3, 5)), (1e-3, (4, 2)), (300.0, 7)]
    ],
    mistakes=[
        Mistake(
            "chopped",
            _bits(8, np.trunc),
            "You cut the extra bits off; storing rounds to the nearest number that exists. Cutting is "
            "wrong by up to a whole step instead of half a step, and always towards zero.",
        ),
        Mistake(
            "floor",
            _bits(8, np.floor),
            "`np.floor` moves every number down, so negative weights move away from zero. Storing goes to "
            "the nearest number, on either side.",
        ),
        Mistake(
            "7 bits",
            _bits(7),
            "One bit too few. bf16 writes 7 bits down, but the leading 1 needs no writing: 8 bits are "
            "significant.",
        ),
        Mistake(
            "9 bits",
            _bits(9),
            "One bit too many. `np.frexp` gives m between ½ and 1, so the leading bit is already one of "
            "the 8.",
        ),
        Mistake(
            "fp16",
            _bits(11),
            "That is fp16, with 11 significant bits. bf16 keeps only 8 and spends the other bits on the "
            "exponent.",
        ),
        Mistake(
            "fixed steps",
            lambda x: np.round(x * 2**8) / 2**8,
            "These steps are the same for all numbers. In floating point the steps grow with the number: "
            "split off its power of two first, with `np.frexp`.",
        ),
        Mistake(
            "decimal",
            lambda x: np.round(x, 2),
            "You rounded decimal digits after the point. Storage rounds binary digits, counted from the "
            "first that is not zero.",
        ),
        Mistake(
            "no way back",
            _no_way_back,
            "256 times too large: m was multiplied by 2⁸ and never divided again. The exponent becomes e "
            "− 8.",
        ),
    ],
    praise="Steps of 1 part in 256 to 128: whatever ΔW changes by less than half of that is lost.",
)


# ---- how an error grows ----------------------------------------
DRIFT = Exercise(
    id="ch05-drift",
    title="A thousand times in, a thousand times out",
    kind="predict",
    difficulty=2,
    minutes=3,
    needs="a guess, made before you read on",
    know="when rounding errors add up and when they do not",
    reference="the same",
    options=("zero", "smaller", "the same", "30 times", "1000 times"),
    mistakes=[
        Mistake(
            "zero",
            "zero",
            "That is what the algebra says: W + Δ − Δ = W. The computer rounds after each of the two "
            "steps, and after one round trip several weights in a hundred have moved.",
        ),
        Mistake(
            "smaller",
            "smaller",
            "Errors of opposite sign can cancel when there are many different ones. Here the same two "
            "roundings are repeated on the same numbers, so there is nothing new to cancel.",
        ),
        Mistake(
            "30 times",
            "30 times",
            "√1000 ≈ 32 is a good guess for errors that are drawn anew in each step. These are not: the "
            "second round trip starts from a number that already survives the trip.",
        ),
        Mistake(
            "1000 times",
            "1000 times",
            "That needs the same error in the same direction each time. With one adapter the first trip "
            "moves W to a number that comes back to itself. Three adapters in turn can do what you say: "
            "see below.",
        ),
    ],
    praise="After one trip W is a number that the next trip leaves alone (Reiser and Knuth, 1975).",
)


# ---- merging once ----------------------------------------
@dataclass
class Layer:
    """A layer as small as can be. `kept` is None as long as nothing is merged."""

    W: np.ndarray  # (d_out, d_in)
    A: np.ndarray  # (r, d_in)
    B: np.ndarray  # (d_out, r)
    scale: float
    kept: np.ndarray | None = None

    def __repr__(self):
        return f"a layer with W {self.W.shape}, r = {len(self.A)}"


def merge(layer):
    """Add ΔW to W once and keep the W that it replaces.  A second time: ValueError, nothing changed."""
    if layer.kept is not None:
        raise ValueError("merged already: a second merge would add ΔW twice. Unmerge first.")
    layer.kept = layer.W
    layer.W = layer.W + layer.scale * layer.B @ layer.A  # a new matrix: the kept one stays as it was


def _watch_merge(merge, layer):
    merge(layer)
    once, kept = np.array(layer.W), None if layer.kept is None else np.array(layer.kept)
    try:
        merge(layer)
        second = "no error"
    except Exception as error:
        second = f"raises {type(error).__name__}"
    return {
        "W after merge": once,
        "kept": kept,
        "second merge": second,
        "W after the second merge": np.array(layer.W),
    }


def _merge_twice(layer):
    layer.kept = layer.W
    layer.W = layer.W + layer.scale * layer.B @ layer.A


def _merge_late(layer):
    before, layer.W = layer.W, layer.W + layer.scale * layer.B @ layer.A
    if layer.kept is not None:
        raise ValueError("merged already")
    layer.kept = before


def _merge_alias(layer):
    if layer.kept is not None:
        raise ValueError("merged already")
    layer.kept = layer.W
    layer.W += layer.scale * layer.B @ layer.A


def _merge_silent(layer):
    if layer.kept is None:
        merge(layer)


def _merge_assert(layer):
    if layer.kept is not None:
        raise AssertionError
    merge(layer)


def _merge_keeping(keep, dW=lambda layer: layer.scale * layer.B @ layer.A):
    def merge(layer):
        if layer.kept is not None:
            raise ValueError("merged already")
        old, layer.W = layer.W, layer.W + dW(layer)
        layer.kept = keep(layer, old)

    return merge


MERGE = Exercise(
    id="ch05-merge",
    title="Merge once, and only once",
    kind="code",
    difficulty=2,
    minutes=10,
    needs="the formula for ΔW and one `raise`",
    know="what a layer must remember so that a merge can be undone",
    reference=merge,
    run=_watch_merge,
    may_change=True,
    cases=lambda rng: [
        (Layer(rng.normal(size=(o, i)), rng.normal(size=(r, i)), rng.normal(size=(o, r)), scale),)
        for o, i, r, scale in [(5, 3, 2, 4.0), (4, 7, 3, 0.5), (3, 8, 1, 2.0)]
    ],
    mistakes=[
        Mistake(
            "twice",
            _merge_twice,
            "The second merge went through: W is now W0 + 2ΔW, and the kept copy is no longer W0. Look at "
            "`layer.kept` first, and raise ValueError when it is not None.",
        ),
        Mistake(
            "too late",
            _merge_late,
            "You raise, but after W has changed: the error arrives and the damage is done. Check first, "
            "change after.",
        ),
        Mistake(
            "alias",
            _merge_alias,
            "`layer.kept = layer.W` is a second name for one matrix, and `+=` changes that matrix: the "
            "kept W0 has ΔW in it too. Make a new matrix with W + ΔW, or keep a copy.",
        ),
        Mistake(
            "silent",
            _merge_silent,
            "The weights are safe, but nobody hears of it: who calls merge a second time believes that "
            "something was merged. Raise ValueError.",
        ),
        Mistake(
            "assert",
            _merge_assert,
            "An `assert` disappears under `python -O`, and the second merge with it goes through. Raise "
            "ValueError.",
        ),
        Mistake(
            "kept merged",
            _merge_keeping(lambda layer, old: layer.W),
            "You kept the merged W. What unmerge needs is the one that it replaced: store it before you add.",
        ),
        Mistake(
            "kept ΔW",
            _merge_keeping(lambda layer, old: layer.scale * layer.B @ layer.A),
            "You kept ΔW, to subtract it later. In floating point W0 + ΔW − ΔW is not W0: keep W0 itself.",
        ),
        Mistake(
            "kept nothing",
            _merge_keeping(lambda layer, old: None),
            "Nothing was kept, so nothing can be put back, and the layer does not know that it is merged. "
            "Store the old W in `layer.kept`.",
        ),
        Mistake(
            "no scale",
            _merge_keeping(lambda layer, old: old, lambda layer: layer.B @ layer.A),
            "ΔW is scale · B @ A; here B @ A went in at full length. Where did the scale go?",
        ),
        Mistake(
            "A @ B",
            _merge_keeping(lambda layer, old: old, lambda layer: layer.scale * layer.A @ layer.B),
            "`A @ B` is r × r at best and does not fit W. A comes first in time, so it stands last: B @ A.",
        ),
    ],
    praise="Refused before anything changed, and W0 is kept: `lo.merge` adds no more than that.",
)


# ---- adding adapters up ----------------------------------------
def combine(A1, B1, A2, B2, w1, w2):
    """(B, A) with B @ A = w1 · B1 @ A1 + w2 · B2 @ A2: the ranks add."""
    B = np.hstack([w1 * B1, w2 * B2])  # (d_out, r) and (d_out, r) -> (d_out, 2r)
    A = np.vstack([A1, A2])  # (r, d_in) and (r, d_in) -> (2r, d_in)
    return B, A


def _combine_cases(rng):
    draw = rng.normal
    return [
        (draw(size=(r, i)), draw(size=(o, r)), draw(size=(r, i)), draw(size=(o, r)), w1, w2)
        for o, i, r, w1, w2 in [(5, 3, 2, 0.5, 0.25), (4, 7, 3, 0.75, 0.5), (6, 8, 2, 1.5, 0.5)]
    ]


COMBINE = Exercise(
    id="ch05-combine",
    title="Add two adapters up",
    kind="code",
    difficulty=2,
    minutes=8,
    needs="what a product of two blocks side by side and one above the other gives",
    know="why a sum of updates is not an average of their factors",
    reference=combine,
    compare=same_product,
    cases=_combine_cases,
    mistakes=[
        Mistake(
            "averaged factors",
            lambda A1, B1, A2, B2, w1, w2: (w1 * B1 + w2 * B2, w1 * A1 + w2 * A2),
            "Adding two updates is not averaging their factors: (B₁+B₂)(A₁+A₂) has the cross terms B₁A₂ "
            "and B₂A₁, which neither adapter learnt. And the rank cannot grow, though the sum needs it to.",
        ),
        Mistake(
            "weights twice",
            lambda A1, B1, A2, B2, w1, w2: (np.hstack([w1 * B1, w2 * B2]), np.vstack([w1 * A1, w2 * A2])),
            "Each weight is in B and in A, so it counts squared. Put it into one of them, or its root "
            "into both.",
        ),
        Mistake(
            "no weights",
            lambda A1, B1, A2, B2, w1, w2: (np.hstack([B1, B2]), np.vstack([A1, A2])),
            "The right blocks, at full volume: w1 and w2 are missing.",
        ),
        Mistake(
            "weights exchanged",
            lambda A1, B1, A2, B2, w1, w2: (np.hstack([w2 * B1, w1 * B2]), np.vstack([A1, A2])),
            "w1 and w2 have changed places: w1 belongs to B1 @ A1.",
        ),
        Mistake(
            "order of the pair",
            lambda A1, B1, A2, B2, w1, w2: (np.vstack([A1, A2]), np.hstack([w1 * B1, w2 * B2])),
            "The right factors, returned as (A, B). The product is B @ A: return (B, A).",
        ),
        Mistake(
            "wrong axes",
            lambda A1, B1, A2, B2, w1, w2: (np.vstack([w1 * B1, w2 * B2]), np.hstack([A1, A2])),
            "This stacks the other way: the product is twice as tall and twice as wide as W. The B's "
            "stand side by side (`np.hstack`), the A's one above the other (`np.vstack`).",
        ),
        Mistake(
            "whole matrix",
            lambda A1, B1, A2, B2, w1, w2: w1 * B1 @ A1 + w2 * B2 @ A2,
            "The right update, but as a whole d_out × d_in matrix. An adapter is stored as two thin "
            "factors: which B and A have this product?",
        ),
    ],
    praise="The ranks add, nothing is lost: `lo.combine` does the same.",
)


# ---- dropout ----------------------------------------
DROPOUT = Exercise(
    id="ch05-dropout",
    title="Where does the dropout go?",
    kind="choice",
    difficulty=1,
    minutes=2,
    needs="what dropout does in training, and in eval mode",
    know="which model a merged weight equals",
    reference="nowhere",
    options=("nowhere", "into W, times 0.9", "into W, divided by 0.9", "one mask into W", "it stays"),
    mistakes=[
        Mistake(
            "times 0.9",
            "into W, times 0.9",
            "That was the rule when dropout scaled at test time. Today's dropout divides by 0.9 while "
            "training, so the average is right already and eval mode uses ΔW as it is.",
        ),
        Mistake(
            "divided",
            "into W, divided by 0.9",
            "The division by 0.9 belongs to training, where it makes up for the inputs that were dropped. "
            "In eval mode nothing is dropped, so there is nothing to make up for.",
        ),
        Mistake(
            "one mask",
            "one mask into W",
            "A mask is drawn anew for each batch, and for the inputs, not the weights. No single one "
            "belongs in W.",
        ),
        Mistake(
            "stays",
            "it stays",
            "It acted on the input of A, and after a merge there is no A that anything passes through. A "
            "merged model in train mode has lost this dropout.",
        ),
    ],
    praise="The merged model equals the adapted one in eval mode, and only there.",
)

EXERCISES = [DRIFT, BF16, MERGE, COMBINE, DROPOUT]
