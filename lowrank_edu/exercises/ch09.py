"""Exercises of chapter 9: codes in blocks, what they cost, starting and merging on them."""

import numpy as np

from ..checking import Exercise, Mistake

LEVELS = np.array([-1, -0.7, -0.53, -0.39, -0.28, -0.18, -0.09, 0, 0.08, 0.16, 0.25, 0.34, 0.44, 0.56, 0.72, 1])


# ---- what one outlier does ----------------------------------------
OUTLIER = Exercise(
    id="ch09-outlier",
    title="One weight is thirty times larger",
    kind="predict",
    difficulty=2,
    minutes=3,
    needs="a guess, made before you read on",
    know="why weights are quantised in small blocks",
    reference="3",
    options=("16", "8", "3", "2", "1"),
    mistakes=[
        Mistake(
            "16",
            "16",
            "That would be so if every weight were compared with its own size. All 64 are divided by one number, the "
            "largest of them, and then 63 of them are small.",
        ),
        Mistake(
            "8",
            "8",
            "That would need weights that fill about half of the range. Divided by 30, these fill less than a tenth of "
            "it: they lie between −0.08 and 0.08.",
        ),
        Mistake(
            "2",
            "2",
            "One on either side, and the third is in between: zero is a level of its own, and all weights nearer to it "
            "than about 1.2 go there.",
        ),
        Mistake(
            "1",
            "1",
            "Nearly: an outlier of 100 would do that. Divided by 30, a weight of 2 becomes 0.07, which is nearer "
            "to the level 0.08 than to 0.",
        ),
    ],
    praise="−0.09, 0 and 0.08: of 4 bits less than 2 are left for these 63 weights, and the outlier is exact.",
)


# ---- quantise in blocks ----------------------------------------
def blockwise(x, levels, size):
    """(codes, absmax): for each value of the vector x the number of its nearest level, per block of `size`."""
    codes, absmax = [], []
    for start in range(0, len(x), size):
        block = x[start : start + size]  # the last one may be short
        largest = np.abs(block).max()
        scaled = block / (largest or 1)  # a block of zeros stays zero
        codes.extend(np.abs(scaled[:, None] - levels).argmin(axis=1))
        absmax.append(largest)
    return np.array(codes), np.array(absmax)


def _blocks(x, size):
    return [x[start : start + size] for start in range(0, len(x), size)]


def _coded(largest=lambda b: np.abs(b).max(), nearest=None, cut=_blocks, guard=True):
    nearest = nearest or (lambda scaled, levels: np.abs(scaled[:, None] - levels).argmin(axis=1))

    def coded(x, levels, size):
        codes, absmax = [], []
        for block in cut(x, size):
            top = largest(block)
            with np.errstate(all="ignore"):
                codes.extend(nearest(block / (top or 1) if guard else block / top, levels))
            absmax.append(top)
        return np.array(codes), np.array(absmax)

    return coded


def _below(scaled, levels):
    return np.clip(np.searchsorted(levels, scaled, side="right") - 1, 0, len(levels) - 1)


def _padded(x, levels, size):
    return blockwise(np.pad(x, (0, -len(x) % size)), levels, size)


def _values(x, levels, size):
    codes, absmax = blockwise(x, levels, size)
    return levels[codes] * np.repeat(absmax, size)[: len(x)], absmax


def _block_cases(rng):
    def vector(n):
        x = rng.normal(size=n)
        x[0] = -4.0  # the largest of its block is negative
        return x

    zeros = vector(13)
    zeros[5:10] = 0
    return [(vector(22), LEVELS, 8), (zeros, LEVELS, 5), (vector(12) * 1e-3, LEVELS, 4)]


BLOCKS = Exercise(
    id="ch09-blocks",
    title="Quantise in blocks",
    kind="code",
    difficulty=2,
    minutes=12,
    needs="`np.abs`, `argmin`, and slices that may be short at the end",
    know="what a 4-bit weight is: a code, and the absmax of its block",
    reference=blockwise,
    cases=_block_cases,
    mistakes=[
        Mistake(
            "max without abs",
            _coded(largest=lambda b: b.max()),
            "`max` without the absolute value: where the largest weight is negative, values below −1 come out, and all "
            "of them get the lowest code.",
        ),
        Mistake(
            "zero block",
            _coded(guard=False),
            "A block of zeros divides 0 by 0, and NaN finds no level. Divide by 1 there: zero has a level of its own.",
        ),
        Mistake(
            "last block dropped",
            _coded(cut=lambda x, n: _blocks(x[: len(x) // n * n], n)),
            "The last block is short, and you left it out: these weights are gone. Slices may end early, `x[20:28]` of "
            "22 values has 2.",
        ),
        Mistake(
            "padded",
            _padded,
            "You filled the last block up with zeros and kept their codes too: there are more codes than values. Cut "
            "them off again.",
        ),
        Mistake(
            "one block",
            _coded(cut=lambda x, n: [x]),
            "One absmax for the whole vector. Each block has its own, so that a large value spoils only its "
            "neighbours.",
        ),
        Mistake(
            "level below",
            _coded(nearest=_below),
            "You took the level below each value. Take the nearest, on either side: it halves the error.",
        ),
        Mistake(
            "even steps",
            _coded(nearest=lambda scaled, levels: np.round((scaled + 1) * 7.5).astype(int)),
            "These codes count 16 even steps from −1 to 1. The levels are not evenly spaced: look for the nearest one "
            "in `levels`.",
        ),
        Mistake(
            "standard deviation",
            _coded(largest=lambda b: b.std()),
            "Divided by the standard deviation, values leave the range from −1 to 1, and the largest are cut off. "
            "Divide by the largest magnitude: it is kept exactly.",
        ),
        Mistake(
            "not divided",
            _coded(nearest=lambda scaled, levels: np.abs(scaled[:, None] - levels).argmin(1), largest=lambda b: 1.0),
            "The levels lie between −1 and 1, but the values were not divided by anything: small weights all become "
            "zero and large ones ± 1.",
        ),
        Mistake(
            "values back",
            _values,
            "These are the values that the codes stand for. What is stored is the codes themselves: whole numbers "
            "from 0 to 15.",
        ),
    ],
    praise="This is all that is stored: a number from 0 to 15 for each weight, and a length for each block.",
)


# ---- bits per parameter ----------------------------------------
def bits(code, block, group=None):
    """Bits per weight: `code` bits each, and an absmax per block: fp32, or 8 bits and one fp32 per `group` blocks."""
    if group is None:
        return code + 32 / block
    return code + 8 / block + 32 / (block * group)


BITS = Exercise(
    id="ch09-bits",
    title="Count the bits of a parameter",
    kind="code",
    difficulty=2,
    minutes=6,
    needs="one division for each thing that is shared",
    know="why 4-bit weights take 4.5 bits, and with double quantisation 4.127",
    reference=bits,
    cases=lambda rng: [(4, 64), (4, 64, 256), (8, 128), (4, 32, 128), (3, 100, 50)],
    mistakes=[
        Mistake(
            "codes alone",
            lambda code, block, group=None: code,
            "These are the codes alone. Without the absmax of its block a code says nothing: 32 bits, shared by the "
            "weights of a block.",
        ),
        Mistake(
            "one level",
            lambda code, block, group=None: code + (32 if group is None else 8) / block,
            "With double quantisation the 8-bit numbers have an absmax too: 32 bits more, shared by block · group "
            "weights.",
        ),
        Mistake(
            "group alone",
            lambda code, block, group=None: code + (32 / block if group is None else 8 / block + 32 / group),
            "A group is so many *blocks*. Its 32 bits are shared by block · group weights, not by `group` of them.",
        ),
        Mistake(
            "first level kept",
            lambda code, block, group=None: code + 32 / block + (0 if group is None else 8 / (block * group)),
            "The other way round: with double quantisation the many absmax of the blocks have 8 bits, and the few of "
            "the groups have 32.",
        ),
        Mistake(
            "both kept",
            lambda code, block, group=None: bits(code, block) + (0 if group is None else bits(0, block, group)),
            "The 8-bit absmax *replace* the 32-bit ones; after double quantisation those are no longer stored.",
        ),
        Mistake(
            "bytes",
            lambda code, block, group=None: code + (4 / block if group is None else 1 / block + 4 / (block * group)),
            "Bytes and bits are mixed: an fp32 number has 4 bytes, which are 32 bits.",
        ),
        Mistake(
            "not shared",
            lambda code, block, group=None: code + (32 if group is None else 8 + 32),
            "That would be an absmax for every single weight. It is shared by all weights of a block: divide.",
        ),
    ],
    praise="4.5 and 4.127: double quantisation saves 0.373 bit on each of 65 billion weights, 3 GB.",
)


# ---- the LoftQ start ----------------------------------------
def loftq(W, quantise, r, scale):
    """(Q, A, B): Q the codes' values of W, and scale · B @ A the best rank-r copy of what they miss."""
    Q = quantise(W)
    U, S, Vt = np.linalg.svd(W - Q, full_matrices=False)
    root = np.sqrt(S[:r] / scale)
    return Q, root[:, None] * Vt[:r], U[:, :r] * root  # (d_out, d_in), (r, d_in), (d_out, r)


def _coarse(W):
    """A quantiser for the cases: 5 even levels per row."""
    top = np.abs(W).max(axis=1, keepdims=True)
    return np.round(2 * W / top) * top / 2


def _watch_loftq(start, W, quantise, r, scale):
    Q, A, B = start(W, quantise, r, scale)
    return {"Q": np.asarray(Q), "scale · B @ A": scale * np.asarray(B) @ np.asarray(A)}


def _factored(what, split=lambda S, scale: np.sqrt(S / scale), sign=1, cut=True):
    def start(W, quantise, r, scale):
        Q = quantise(W)
        U, S, Vt = np.linalg.svd(what(W, Q), full_matrices=False)
        n = r if cut else len(S)
        root = split(S[:n], scale)
        return Q, root[:, None] * Vt[:n], sign * U[:, :n] * root

    return start


def _once_more(W, quantise, r, scale):
    _, A, B = loftq(W, quantise, r, scale)
    return quantise(W - scale * B @ A), A, B


LOFTQ = Exercise(
    id="ch09-loftq",
    title="Start where the codes miss",
    kind="code",
    difficulty=3,
    minutes=12,
    needs="`np.linalg.svd` with `full_matrices=False`, and chapter 4's PiSSA start",
    know="what LoftQ's start is, and why it needs the scale",
    reference=loftq,
    run=_watch_loftq,
    cases=lambda rng: [
        (rng.normal(size=(o, i)), _coarse, r, scale)
        for o, i, r, scale in [(9, 5, 2, 2.0), (6, 11, 3, 0.5), (8, 4, 1, 4.0)]
    ],
    mistakes=[
        Mistake(
            "no scale",
            _factored(lambda W, Q: W - Q, lambda S, scale: np.sqrt(S)),
            "Right directions, wrong length: the layer will multiply B @ A by scale, so divide by it here. Left out, "
            "this is right for α = r alone. PEFT 0.21.2 leaves it out too (peft#1982).",
        ),
        Mistake(
            "divided twice",
            _factored(lambda W, Q: W - Q, lambda S, scale: np.sqrt(S) / scale),
            "Both factors are divided by scale, so the product is divided by its square. Give each factor the root of "
            "S / scale.",
        ),
        Mistake(
            "multiplied",
            _factored(lambda W, Q: W - Q, lambda S, scale: np.sqrt(S * scale)),
            "The layer multiplies by scale already; multiplying here too counts it twice. Divide.",
        ),
        Mistake(
            "singular values twice",
            _factored(lambda W, Q: W - Q, lambda S, scale: S / np.sqrt(scale)),
            "S stands in both factors, so the product has S². Give each the root of it.",
        ),
        Mistake(
            "of W",
            _factored(lambda W, Q: W),
            "This is PiSSA: the main directions of W itself. Q holds W already, coarsely; the factors should hold "
            "what is missing, W − Q.",
        ),
        Mistake(
            "wrong sign",
            _factored(lambda W, Q: Q - W),
            "The sign is turned round: Q + ΔW should come closer to W, so ΔW is a copy of W − Q, not of Q − W.",
        ),
        Mistake(
            "not cut",
            _factored(lambda W, Q: W - Q, cut=False),
            "All directions were kept: exact, but no longer of rank r. Keep the first r.",
        ),
        Mistake(
            "second round",
            _once_more,
            "You quantised once more, after the factors were found. That begins LoftQ's second round; here Q is "
            "`quantise(W)`.",
        ),
    ],
    praise="Q + scale · B @ A is as close to W as rank r allows: training starts nearer to the model you had.",
)


# ---- merging ----------------------------------------
MERGE = Exercise(
    id="ch09-merge",
    title="Which merge is the model that you trained?",
    kind="choice",
    difficulty=2,
    minutes=4,
    needs="what the forward pass computes while an adapter is trained on codes",
    know="what each of the three merges is exact for",
    reference="dequantise",
    options=("dequantise", "full", "requantise", "all three", "none"),
    mistakes=[
        Mistake(
            "full",
            "full",
            "It looks like the better weight, and it may even work better. But ΔW learnt beside Ŵ, and part of what it "
            "learnt makes up for Ŵ − W. On W that correction corrects something that is not there.",
        ),
        Mistake(
            "requantise",
            "requantise",
            "This one stays small, but Ŵ + ΔW has to go through the 16 levels once more. Most entries of ΔW are "
            "smaller than a step between two levels.",
        ),
        Mistake(
            "all three",
            "all three",
            "They give three different weights: Ŵ + ΔW, W + ΔW, and the codes of Ŵ + ΔW. Only one of them was in the "
            "forward pass while you trained.",
        ),
        Mistake(
            "none",
            "none",
            "One is, up to rounding in fp32. Write down what the forward pass computes on a quantised base, and look "
            "for a single matrix that does the same.",
        ),
    ],
    praise="Ŵ + ΔW is what every training step computed; it is dense, so the 4 bits are gone.",
)

EXERCISES = [OUTLIER, BLOCKS, BITS, LOFTQ, MERGE]
