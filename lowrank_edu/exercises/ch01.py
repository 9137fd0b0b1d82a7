"""Exercises of chapter 1: outer products, the best copy, its error, its price, and a soft count of ranks."""

import numpy as np

from ..checking import Exercise, Mistake
from ..checks.comparing import exact_integer


# ---- a matrix from patterns --------------------------------------------------------------------------------
def sum_of_patterns(B, A):
    """Σ_k outer(B[:, k], A[k]): (d_out, r), (r, d_in) -> (d_out, d_in)."""
    W = np.zeros((B.shape[0], A.shape[1]))
    for k in range(len(A)):
        W = W + np.outer(B[:, k], A[k])  # column k of B times row k of A: one pattern, of full size
    return W


def _factor_cases(rng):
    shapes = [(4, 2, 5), (3, 2, 7), (6, 3, 4)]
    return [(rng.normal(size=(d_out, r)), rng.normal(size=(r, d_in))) for d_out, r, d_in in shapes]


OUTER = Exercise(
    id="ch01-outer",
    title="A matrix from patterns",
    kind="code",
    difficulty=1,
    minutes=6,
    needs="`np.outer` and a loop",
    know="what a product of two thin matrices is made of",
    reference=sum_of_patterns,
    cases=_factor_cases,
    mistakes=[
        Mistake(
            "one pattern",
            lambda B, A: np.outer(B[:, 0], A[0]),
            "That is the first pattern alone, a matrix of rank 1. Each of the r patterns has full size: add "
            "them.",
        ),
        Mistake(
            "last pattern",
            lambda B, A: np.outer(B[:, -1], A[-1]),
            "Only the last pattern is left: each turn of the loop replaced the one before. Add to W instead.",
        ),
        Mistake(
            "rows of B",
            lambda B, A: sum(np.outer(B[k], A[k]) for k in range(len(A))),
            "`B[k]` is row k of B, with r numbers. Pattern k needs column k, with d_out numbers: `B[:, k]`.",
        ),
        Mistake(
            "columns of A",
            lambda B, A: sum(np.outer(B[:, k], A[:, k]) for k in range(len(A))),
            "`A[:, k]` is column k of A, with r numbers. Pattern k needs row k, with d_in numbers: `A[k]`.",
        ),
        Mistake(
            "sums first",
            lambda B, A: np.outer(B.sum(axis=1), A.sum(axis=0)),
            "You added up the columns of B and the rows of A, and then multiplied once. That mixes every "
            "column with every row, and its rank is 1. Multiply each pair first, then add.",
        ),
        Mistake(
            "mean",
            lambda B, A: sum_of_patterns(B, A) / len(A),
            "The patterns are right and you took their mean. A matrix is their sum: do not divide by r.",
        ),
        Mistake(
            "flat",
            lambda B, A: np.outer(B, A),
            "`np.outer` flattens what it gets: this multiplies each of the d_out·r numbers with each of the "
            "r·d_in. Give it one column and one row at a time.",
        ),
        Mistake(
            "inner",
            lambda B, A: A @ B,
            "`A @ B` is the product in the other order: r × r inner products, where the sides happen to fit.",
        ),
    ],
    praise="`B @ A` gives the same numbers: a matrix product is this sum, written shorter.",
)


# ---- the best copy of rank r -------------------------------------------------------------------------------
def best_copy(W, r):
    """The matrix of rank r that is closest to W: (d_out, d_in) -> (d_out, d_in)."""
    U, S, Vt = np.linalg.svd(W, full_matrices=False)
    B = U[:, :r] * S[:r]  # (d_out, r): column k is stretched by σ_k
    A = Vt[:r]  # (r, d_in)
    return B @ A


def _copy_cases(rng):
    return [(rng.normal(size=shape), r) for shape, r in [((5, 3), 2), ((4, 7), 2), ((8, 6), 3)]]


def _from_svd(change):
    def copy(W, r):
        return change(*np.linalg.svd(W, full_matrices=False), r)

    return copy


def _first_columns(W, r):
    copy = np.zeros_like(W)
    copy[:, :r] = W[:, :r]
    return copy


def _span_of_first_columns(W, r):
    Q = np.linalg.qr(W[:, :r])[0]
    return Q @ Q.T @ W


BEST = Exercise(
    id="ch01-best",
    title="The best copy of rank r",
    kind="code",
    difficulty=2,
    minutes=8,
    needs="`np.linalg.svd(W, full_matrices=False)`",
    know="which r patterns to keep, and how loud each is",
    reference=best_copy,
    cases=_copy_cases,
    mistakes=[
        Mistake(
            "no S",
            _from_svd(lambda U, S, Vt, r: U[:, :r] @ Vt[:r]),
            "The right directions, all equally loud: the singular values are missing. Multiply column k of U "
            "by `S[k]` first.",
        ),
        Mistake(
            "S twice",
            _from_svd(lambda U, S, Vt, r: (U[:, :r] * S[:r]) @ (S[:r, None] * Vt[:r])),
            "S stands in both factors, so each pattern is σ² strong. Put it into one of them, or its root "
            "into "
            "both.",
        ),
        Mistake(
            "the weakest",
            _from_svd(lambda U, S, Vt, r: (U[:, -r:] * S[-r:]) @ Vt[-r:]),
            "You kept the r weakest patterns, which is the worst choice. numpy sorts the singular values "
            "from "
            "the largest down: take the first r.",
        ),
        Mistake(
            "one pattern",
            _from_svd(lambda U, S, Vt, r: S[r - 1] * np.outer(U[:, r - 1], Vt[r - 1])),
            "This is pattern r alone. The copy is the sum of the patterns 1 to r: use slices, `[:, :r]` and "
            "`[:r]`.",
        ),
        Mistake(
            "one too few",
            _from_svd(lambda U, S, Vt, r: (U[:, : r - 1] * S[: r - 1]) @ Vt[: r - 1]),
            "One pattern is missing: this has rank r − 1. The slice `[:r]` already ends before index r.",
        ),
        Mistake(
            "one too many",
            _from_svd(lambda U, S, Vt, r: (U[:, : r + 1] * S[: r + 1]) @ Vt[: r + 1]),
            "Closer than allowed: this has rank r + 1. Count the patterns that you kept.",
        ),
        Mistake(
            "everything",
            lambda W, r: W,
            "This is W itself. It is as close as can be, but its rank is not r.",
        ),
        Mistake(
            "columns of Vt",
            _from_svd(lambda U, S, Vt, r: (U[:, :r] * S[:r]) @ Vt[:, :r].T),
            "`Vt` is already transposed: its rows are the directions. Take `Vt[:r]`, and do not turn it "
            "again.",
        ),
        Mistake(
            "first columns",
            _first_columns,
            "Keeping r columns and dropping the rest does have rank r. But which columns come first in W "
            "is an "
            "accident. The SVD finds the mixtures of columns that matter.",
        ),
        Mistake(
            "span of the first columns",
            _span_of_first_columns,
            "Good: every column of W, as well as the first r columns can build it. The rank is r, but the "
            "first r columns are not the best building blocks. U has those.",
        ),
    ],
    praise="No other matrix of this rank comes closer: that is the theorem of Eckart and Young.",
)


# ---- the error, without the copy ---------------------------------------------------------------------------
def what_is_lost(S, r):
    """Squared Frobenius error and spectral error of the best rank-r copy, from the singular values alone."""
    squared = sum(S[r:] ** 2)  # the energy of the patterns left out
    spectral = S[r]  # the strongest of them: σ_{r+1}, because counting starts at 0
    return squared, spectral


def _spectrum_cases(rng):
    return [(np.sort(rng.uniform(0.2, 5, n))[::-1].copy(), r) for n, r in [(4, 2), (6, 2), (7, 4)]]


TAIL = Exercise(
    id="ch01-tail",
    title="The error without the copy",
    kind="code",
    difficulty=2,
    minutes=6,
    needs="Pythagoras",
    know="how to read an error off a spectrum",
    reference=what_is_lost,
    cases=_spectrum_cases,
    mistakes=[
        Mistake(
            "unsquared energy",
            lambda S, r: (sum(S[r:]), S[r]),
            "You added the singular values themselves. The patterns are perpendicular, so their lengths "
            "add up "
            "like the sides of a right triangle: square each one, then add.",
        ),
        Mistake(
            "square of the sum",
            lambda S, r: (sum(S[r:]) ** 2, S[r]),
            "You added first and squared afterwards. 3² + 4² is 25, (3 + 4)² is 49: square each, then add.",
        ),
        Mistake(
            "root",
            lambda S, r: (np.sqrt(sum(S[r:] ** 2)), S[r]),
            "This is the Frobenius error; asked is its square. Leave out the root: the squares are what "
            "adds up.",
        ),
        Mistake(
            "kept",
            lambda S, r: (sum(S[:r] ** 2), S[r]),
            "That is the energy of the patterns that were kept. The error is in the others: `S[r:]`.",
        ),
        Mistake(
            "share",
            lambda S, r: (sum(S[r:] ** 2) / sum(S**2), S[r]),
            "That is the lost share of the energy, between 0 and 1. Asked is the amount: do not divide.",
        ),
        Mistake(
            "one too few dropped",
            lambda S, r: (sum(S[r + 1 :] ** 2), S[r + 1]),
            "You start one too late. Index 0 is σ₁, so the first value left out, σ_{r+1}, has index r.",
        ),
        Mistake(
            "one too many dropped",
            lambda S, r: (sum(S[r - 1 :] ** 2), S[r - 1]),
            "You start one too early: `S[r − 1]` is σ_r, the last value that is kept.",
        ),
        Mistake(
            "last value",
            lambda S, r: (sum(S[r:] ** 2), S[-1]),
            "The sum is right. The spectral error is the strongest pattern left out, not the weakest one.",
        ),
        Mistake(
            "first value",
            lambda S, r: (sum(S[r:] ** 2), S[0]),
            "The sum is right. σ₁ is the spectral norm of W; in what is missing σ₁ no longer occurs. Which "
            "is "
            "the largest value that does?",
        ),
        Mistake(
            "squared spectral",
            lambda S, r: (sum(S[r:] ** 2), S[r] ** 2),
            "The sum is right. The spectral error is a length, not an energy: do not square it.",
        ),
        Mistake(
            "order",
            lambda S, r: (S[r], sum(S[r:] ** 2)),
            "Two right numbers in the wrong order: first the squared Frobenius error, then the spectral one.",
        ),
    ],
    praise="You know the error of every copy before you have made one.",
)

# ---- when does it pay? -------------------------------------------------------------------------------------
EVEN = Exercise(
    id="ch01-even",
    title="When does it stop paying?",
    kind="number",
    difficulty=1,
    minutes=3,
    needs="one division",
    know="up to which rank two factors save anything",
    reference=2985,  # 4096 · 11008 / (4096 + 11008) = 2985.2…
    compare=exact_integer,
    mistakes=[
        Mistake(
            "rounded up",
            2986,
            "So close: with 2,986 the factors hold 45,100,544 numbers, and W holds 45,088,768. Round down.",
        ),
        Mistake(
            "shorter side",
            4096,
            "4,096 is the largest rank that W can have. Factors of that rank hold 61,865,984 numbers, more "
            "than W itself.",
        ),
        Mistake(
            "half the shorter side",
            2048,
            "Half of the side is right for a square matrix. Here one side is longer, and a little more fits.",
        ),
        Mistake(
            "forgot one factor (B)",
            11008,
            "You counted the numbers of A only. B has r columns of its own: each rank costs 4,096 + 11,008 "
            "numbers.",
        ),
        Mistake(
            "harmonic mean",
            lambda n: n in (5970, 5971),
            "Twice too large: 2·d_out·d_in / (d_out + d_in) is the harmonic mean of the sides; leave out "
            "the 2.",
        ),
        Mistake(
            "numbers of W",
            4096 * 11008,
            "That is how many numbers W holds. How many of them does one rank cost?",
        ),
        Mistake(
            "price of one rank",
            4096 + 11008,
            "That is what one rank costs: a column of B and a row of A. How often does it fit into W?",
        ),
        Mistake(
            "not a whole number",
            lambda n: 2985 < n < 2986,
            "The division is right. A rank is a whole number, and the copy must be smaller than W: round "
            "down.",
        ),
    ],
    praise="LoRA at r = 8 uses 120,832 numbers here, a 373rd of W.",
)


# ---- a soft count of ranks ---------------------------------------------------------------------------------
def soft_count(S):
    """Effective rank: exp of the entropy of p = σ / Σσ.   Roy & Vetterli 2007"""
    p = S / sum(S)
    p = p[p > 0]  # p ln p goes to 0 with p, but np.log(0) does not
    entropy = -sum(p * np.log(p))  # in nats
    return np.exp(entropy)


def _soft_cases(rng):
    with_zero = np.append(np.sort(rng.uniform(0.2, 5, 4))[::-1], 0.0)
    return [(np.sort(rng.exponential(2, n) + 0.1)[::-1].copy(),) for n in (3, 6)] + [(with_zero,)]


def _entropy(p, log=np.log):
    p = p[p > 0]
    return -np.sum(p * log(p))


SOFT = Exercise(
    id="ch01-soft",
    title="A soft count",
    kind="code",
    difficulty=2,
    minutes=6,
    needs="`np.log` and `np.exp`",
    know="how to count ranks without choosing a threshold",
    reference=soft_count,
    cases=_soft_cases,
    mistakes=[
        Mistake(
            "squared",
            lambda S: np.exp(_entropy(S**2 / np.sum(S**2))),
            "You took shares of the energy. This measure takes shares of the singular values themselves, "
            "p = σ / Σσ, and so listens more to the small ones.",
        ),
        Mistake(
            "entropy only",
            lambda S: _entropy(S / np.sum(S)),
            "That is the entropy, in nats. Its exponential turns it back into a number of directions: four "
            "equal values should give 4, and ln 4 is 1.39.",
        ),
        Mistake(
            "base 2 under exp",
            lambda S: np.exp(_entropy(S / np.sum(S), np.log2)),
            "The entropy is in bits and the exponential expects nats. Use `np.log`, or 2 to the power of "
            "bits.",
        ),
        Mistake(
            "zeros",
            lambda S: np.exp(-np.sum(S / np.sum(S) * np.log(S / np.sum(S)))),
            "Right until a singular value is 0: then 0 · ln 0 becomes NaN. Zero directions count for "
            "nothing, "
            "so leave them out first: `p = p[p > 0]`.",
        ),
        Mistake(
            "no sign",
            lambda S: np.exp(-_entropy(S / np.sum(S))),
            "1 over the right answer: logarithms of shares are negative, and the minus before the sum is "
            "missing.",
        ),
        Mistake(
            "no shares",
            lambda S: np.exp(_entropy(S)),
            "Entropy is about shares that add up to 1. Divide by the sum of S first.",
        ),
        Mistake(
            "stable rank",
            lambda S: np.sum(S**2) / S[0] ** 2,
            "That is the stable rank, Σσ²/σ₁². It is useful too, but here the entropy decides.",
        ),
        Mistake(
            "participation ratio",
            lambda S: 1 / np.sum((S / np.sum(S)) ** 2),
            "1/Σp² is another soft count, the participation ratio. It is right for equal values; the one "
            "asked "
            "for here is the exponential of −Σ p ln p.",
        ),
        Mistake(
            "hard count",
            lambda S: np.count_nonzero(S),
            "That is the number of values above 0, the ordinary rank. The soft count lets small values count "
            "for less.",
        ),
    ],
    praise="Equal values give a whole number, and no threshold had to be chosen.",
)

EXERCISES = [OUTER, BEST, TAIL, EVEN, SOFT]
