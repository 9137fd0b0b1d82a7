"""Exercises of chapter 2: two counts, the energy, the gradient of one layer, how many tokens, and d90."""

import numpy as np

from ..checking import Exercise, Mistake
from ..checks.comparing import close, exact_integer

# ---- two counts that disagree ------------------------------------------------------------------------------
SPIKE = np.array([10.0] + [1.0] * 100)  # one strong direction and a hundred weak ones


def _effective(p):
    return float(np.exp(-np.sum(p * np.log(p))))


_P, _E = SPIKE / SPIKE.sum(), SPIKE**2 / np.sum(SPIKE**2)
_RIGHT = {"effective": _effective(_P), "stable": 2.0}

COUNTS = Exercise(
    id="ch02-counts",
    title="Two counts that disagree",
    kind="number",
    difficulty=1,
    minutes=5,
    needs="the two definitions above",
    know="why one matrix can look high-rank and low-rank at once",
    reference=_RIGHT,
    compare=close(0.01),
    mistakes=[
        Mistake(
            "energy shares",
            _RIGHT | {"effective": _effective(_E)},
            "Your stable rank is right. For the effective rank you took shares of σ², the energy; it takes "
            "shares of σ itself, and so hears the hundred weak directions much better.",
        ),
        Mistake(
            "entropy",
            _RIGHT | {"effective": float(np.log(_effective(_P)))},
            "Your stable rank is right. The other number is the entropy in nats; its exponential turns it "
            "into a number of directions.",
        ),
        Mistake(
            "not squared",
            _RIGHT | {"stable": float(SPIKE.sum() / 10)},
            "Your effective rank is right. The stable rank counts energy: square the singular values before "
            "you add them, and divide by the square of the largest.",
        ),
        Mistake(
            "root left",
            _RIGHT | {"stable": 2.0**0.5},
            "Your effective rank is right. ‖W‖ / σ₁ is the root of the stable rank: square it.",
        ),
        Mistake(
            "exchanged",
            {"effective": 2.0, "stable": _effective(_P)},
            "Both numbers are right, under each other's name: the stable rank is the small one, because one "
            "direction holds half of the energy.",
        ),
        Mistake(
            "hard rank",
            {"effective": 101.0, "stable": 101.0},
            "101 is the rank: every direction counts as one, however weak. Both soft counts give less to the "
            "weak ones.",
        ),
        Mistake(
            "only the strong one",
            {"effective": 1.0, "stable": 1.0},
            "One direction is strong, but the hundred others together hold as much energy as it does. "
            "Put the numbers into the two formulas.",
        ),
    ],
    praise="One direction holds half of the energy (stable rank 2), and yet most directions are in use.",
)


# ---- find the bug: how many directions hold a share of the energy? -----------------------------------------
def rank_for_share(S, share):
    kept = np.cumsum(S**2) / np.sum(S**2)  # energy is squared length
    return int(np.sum(kept < share)) + 1


def _share_cases(rng):
    steep = np.sort(rng.exponential(1, 9) ** 2)[::-1].copy()
    flat = np.linspace(3, 1, 40)
    return [(steep, 0.9), (flat, 0.5), (np.append(8.0, np.ones(30)), 0.6), (flat, 0.95)]


ENERGY = Exercise(
    id="ch02-energy",
    title="Find the bug: too many directions",
    kind="find-the-bug",
    difficulty=1,
    minutes=4,
    needs="what energy means",
    know="the slip that makes every update look high-rank",
    reference=rank_for_share,
    cases=_share_cases,
    mistakes=[
        Mistake(
            "as given",
            lambda S, share: int(np.sum(np.cumsum(S) / np.sum(S) < share)) + 1,
            "This still adds up σ. Energy is squared: the error of a cut is the sum of the σ² that are "
            "dropped (chapter 1), so the shares must be shares of σ².",
        ),
        Mistake(
            "squared too late",
            lambda S, share: int(np.sum((np.cumsum(S) / np.sum(S)) ** 2 < share)) + 1,
            "You squared the share of the sum. Square every σ first, then add: (a + b)² is not a² + b².",
        ),
        Mistake(
            "squared above only",
            lambda S, share: int(np.sum(np.cumsum(S**2) / np.sum(S) < share)) + 1,
            "Squares above the line, plain values below it: at the end this ratio is not 1. Square in both "
            "places.",
        ),
        Mistake(
            "sum squared below",
            lambda S, share: int(np.sum(np.cumsum(S**2) / np.sum(S) ** 2 < share)) + 1,
            "`np.sum(S)**2` squares the sum; the energy of the whole matrix is `np.sum(S**2)`.",
        ),
        Mistake(
            "one too few",
            lambda S, share: int(np.sum(np.cumsum(S**2) / np.sum(S**2) < share)),
            "The squares are right now. But you return how many ranks are not enough; the first rank that is "
            "enough is the next one: keep the + 1.",
        ),
        Mistake(
            "rooted",
            lambda S, share: int(np.sum(np.sqrt(np.cumsum(S**2) / np.sum(S**2)) < share)) + 1,
            "That is the share of the length ‖W‖. Energy is the squared length: leave out the root.",
        ),
    ],
    praise="With squares the strong directions count for what they carry.",
)


# ---- the gradient of one layer ----------------------------------------------------------------------------
def weight_gradient(X, G):
    dW = np.zeros((G.shape[1], X.shape[1]))  # (d_out, d_in)
    for x, g in zip(X, G, strict=True):  # one token after the other
        dW += np.outer(g, x)  # rank 1
    return dW


def _gradient_cases(rng):
    return [
        (rng.normal(size=(n, d_in)), rng.normal(size=(n, d_out)))
        for n, d_in, d_out in ((2, 5, 3), (4, 3, 7), (1, 4, 2))
    ]


GRADIENT = Exercise(
    id="ch02-gradient",
    title="One token, one outer product",
    kind="code",
    difficulty=2,
    minutes=8,
    needs="outer products (chapter 1)",
    know="why n tokens give a gradient of rank n at most",
    reference=weight_gradient,
    cases=_gradient_cases,
    mistakes=[
        Mistake(
            "transposed",
            lambda X, G: X.T @ G,
            "Every number is there, with rows and columns exchanged: this is (d_in, d_out). W has a row for "
            "each output, so g stands first: `np.outer(g, x)`.",
        ),
        Mistake(
            "mean",
            lambda X, G: G.T @ X / len(X),
            "You averaged over the tokens. The loss is a sum over tokens here, so the gradient is a sum too.",
        ),
        Mistake(
            "sum first",
            lambda X, G: np.outer(G.sum(0), X.sum(0)),
            "You added the tokens up first and then took one outer product: always rank 1, and full of cross "
            "terms between one token's g and another token's x.",
        ),
        Mistake(
            "last token",
            lambda X, G: np.outer(G[-1], X[-1]),
            "That is the last token alone. In a loop, `+=` adds each token to the ones before; `=` forgets "
            "them.",
        ),
        Mistake(
            "first token",
            lambda X, G: np.outer(G[0], X[0]),
            "That is the first token alone. Does your loop return before it has seen the others?",
        ),
        Mistake(
            "gram",
            lambda X, G: G @ X.T,
            "The shapes only fit if d_out = d_in, or the result compares tokens with tokens. Sum over the "
            "tokens: they are the axis that X and G share.",
        ),
        Mistake(
            "not added",
            lambda X, G: np.einsum("ni,nj->nij", G, X),
            "These are the right outer products, one for each token, still side by side. Add them up over "
            "the first axis.",
        ),
    ],
    praise="n outer products: rank n at most, however large W is.",
)

# ---- how many tokens? --------------------------------------------------------------------------------------
TOKENS = Exercise(
    id="ch02-tokens",
    title="The largest rank of a batch",
    kind="predict",
    difficulty=1,
    minutes=3,
    needs="the exercise before this one",
    know="what limits the rank: examples × length, not examples",
    reference=150,
    compare=exact_integer,
    mistakes=[
        Mistake(
            "examples",
            5,
            "5 is the number of examples. But each position that predicts a token adds an outer product of "
            "its own.",
        ),
        Mistake(
            "one example",
            30,
            "30 is one story. The batch has five, and their outer products all add up in one gradient.",
        ),
        Mistake(
            "length",
            31,
            "31 is the length of one story. Count positions that predict something, and count them in all "
            "five stories.",
        ),
        Mistake(
            "last position",
            155,
            "155 counts every token. The last token of a story predicts nothing, and no later position reads "
            "it: its g is zero. So each story gives one less.",
        ),
        Mistake(
            "smaller side",
            192,
            "192 is the bound that the matrix sets. Here the tokens run out first: rank ≤ the smaller of the "
            "two bounds.",
        ),
        Mistake(
            "larger side",
            576,
            "No matrix has a higher rank than its smaller side, and here another bound is lower still.",
        ),
        Mistake("entries", 576 * 192, "That is how many numbers the gradient has, not its rank."),
    ],
    praise="5 × 30 positions predict something. With seven such stories the smaller side, 192, takes over.",
)  # fmt: skip


# ---- d90 ---------------------------------------------------------------------------------------------------
def d90(dims, losses, base, full):
    needed = base - 0.9 * (base - full)  # 90 % of the way down
    return min(d for d, loss in zip(dims, losses, strict=True) if loss <= needed)


def _d90_cases(rng):
    dims, falling = [10, 100, 1000, 10_000, 100_000], [2.95, 2.2, 0.80, 0.65, 0.61]
    wavy = [1.85, 0.79, 0.71, 0.75]  # training is noisy: the loss need not fall with every d
    return [
        (dims, falling, 3.0, 0.6),
        (dims[:4], wavy, 2.0, 0.7),
        ([5, 50, 500], [1.49, 1.105, 1.02], 1.5, 1.0),
    ]


def _first(test, pick=min):
    """A wrong d90: pick among the d whose loss passes another test; None when there are none."""

    def wrong(dims, losses, base, full):
        found = [d for d, loss in zip(dims, losses, strict=True) if test(loss, base, full)]
        return pick(found) if found else None

    return wrong


D90 = Exercise(
    id="ch02-d90",
    title="Read d90 off the curve",
    kind="code",
    difficulty=2,
    minutes=7,
    needs="the definition above",
    know="what “90 % of full fine-tuning” is 90 % of",
    reference=d90,
    cases=_d90_cases,
    mistakes=[
        Mistake(
            "of the full loss",
            _first(lambda loss, base, full: loss <= full / 0.9),
            "You asked for a loss within 1/0.9 of the full one. A loss has no zero that means “nothing "
            "learned”: compare improvements, base − loss with base − full.",
        ),
        Mistake(
            "ten percent above",
            _first(lambda loss, base, full: loss <= 1.1 * full),
            "You asked for at most 10 % more loss than full fine-tuning. The 90 % are of the improvement: "
            "base − loss ≥ 0.9 · (base − full).",
        ),
        Mistake(
            "ten percent of base",
            _first(lambda loss, base, full: loss <= 0.1 * base),
            "You asked the loss to fall to a tenth of its start, which even full fine-tuning does not reach. "
            "How far does full fine-tuning come?",
        ),
        Mistake(
            "ninety percent of base",
            _first(lambda loss, base, full: loss <= 0.9 * base),
            "A loss of 0.9 · base is a tenth less, whatever full fine-tuning reaches. Measure how far down "
            "between base and full each d has come.",
        ),
        Mistake(
            "ten percent of the way",
            _first(lambda loss, base, full: loss <= base - 0.1 * (base - full)),
            "That is 10 % of the way from base to full. Nine tenths of the way down is close to full.",
        ),
        Mistake(
            "largest",
            _first(lambda loss, base, full: loss <= base - 0.9 * (base - full), max),
            "All of these d are enough. The intrinsic dimension is the smallest of them.",
        ),
        Mistake(
            "index",
            lambda dims, losses, base, full: int(np.argmax(np.array(losses) <= base - 0.9 * (base - full))),
            "That is the position in the list. Return the d that stands there.",
        ),
        Mistake(
            "best loss",
            lambda dims, losses, base, full: dims[int(np.argmin(losses))],
            "That is the d with the lowest loss. d90 asks for the smallest d that is good enough.",
        ),
    ],
    praise="The same rule reads the curve above.",
)

EXERCISES = [COUNTS, ENERGY, GRADIENT, TOKENS, D90]
