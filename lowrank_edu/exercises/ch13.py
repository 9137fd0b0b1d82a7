"""Exercises of chapter 13: a new paper, an adapter per row, DoRA counted, a swap that does nothing, and a design."""

import numpy as np

from ..checking import Exercise, Mistake

# ---- a paper from after this book ----------------------------------------
PLACE = Exercise(
    id="ch13-place",
    title="Which row is its nearest neighbour?",
    kind="choice",
    difficulty=1,
    minutes=4,
    needs="the five questions",
    know="how to read a paper that was written after this book",
    reference="LoRA-XS",
    options=("VeRA", "AdaLoRA", "LoRA-XS", "LaMDA"),
    mistakes=[
        Mistake(
            "vectors",
            "VeRA",
            "VeRA trains vectors too, but around random matrices that all layers share, and two vectors in each layer. "
            "Shape and start both differ. Look for a row with frozen singular directions.",
        ),
        Mistake(
            "diagonal",
            "AdaLoRA",
            "AdaLoRA has a diagonal that starts at zero as well, but its P and Q are random, they train, and the rank "
            "falls: start and schedule both differ.",
        ),
        Mistake(
            "spectral start",
            "LaMDA",
            "LaMDA has singular directions, but its Σ is square and starts at the singular values, and B trains at "
            "first: shape, start and schedule all differ.",
        ),
    ],
    praise="One answer differs: the square core has become its diagonal. Then ask what r² − r numbers fewer cost.",
)


# ---- an adapter per row ----------------------------------------
def routed(y, x, A, B, idx, scale):
    """(n, d_out): y[i] + scale · B[idx[i]] A[idx[i]] x[i], for a batch in which each row has its own adapter."""
    z = np.einsum("ni,nri->nr", x, A[idx])
    return y + scale * np.einsum("nr,nor->no", z, B[idx])


def _with(which=lambda idx, n, m: (idx, idx), size=lambda s: s, keep=1.0):
    def answer(y, x, A, B, idx, scale):
        a, b = which(idx, len(x), len(A))
        z = np.einsum("ni,nri->nr", x, A[a])
        return keep * y + size(scale) * np.einsum("nr,nor->no", z, B[b])

    return answer


def _summed(y, x, A, B, idx, scale):
    return y + scale * np.einsum("ni,mri,mor->no", x, A, B)


def _averaged(y, x, A, B, idx, scale):
    return _summed(y, x, A, B, idx, scale / len(A)) if len(A) else y


def _mean_factors(y, x, A, B, idx, scale):
    return y + scale * x @ A.mean(axis=0).T @ B.mean(axis=0).T


def _cases(rng):
    def case(n, m, r, d_in, d_out, idx):
        y, x = rng.normal(size=(n, d_out)), rng.normal(size=(n, d_in))
        return y, x, rng.normal(size=(m, r, d_in)), rng.normal(size=(m, d_out, r)), np.array(idx), 1.5 + rng.random()

    return [
        case(5, 3, 2, 7, 4, [2, 0, 1, 0, 2]),
        case(6, 4, 3, 5, 9, [3, 1, 1, 0, 2, 0]),
        case(3, 5, 2, 6, 8, [4, 2, 3]),
    ]


GATHER = Exercise(
    id="ch13-gather",
    title="One batch, an adapter for each row",
    kind="code",
    difficulty=2,
    minutes=10,
    needs="indexing with an array, and `np.einsum` or a loop",
    know="what a server does that answers a hundred customers with one model",
    reference=routed,
    cases=_cases,
    mistakes=[
        Mistake(
            "one for all",
            _with(lambda idx, n, m: ([idx[0]] * n, [idx[0]] * n)),
            "Every row got the adapter of the first row. Index A and B with the whole of `idx`: `A[idx]` has one A "
            "for each row.",
        ),
        Mistake(
            "adapter zero",
            _with(lambda idx, n, m: ([0] * n, [0] * n)),
            "Every row got adapter 0. Which adapter a row wants stands in `idx`.",
        ),
        Mistake(
            "row number",
            _with(lambda idx, n, m: (np.arange(n) % m, np.arange(n) % m)),
            "Row i got adapter i. It wants adapter idx[i]: rows come in any order, and several may share one.",
        ),
        Mistake(
            "sorted",
            _with(lambda idx, n, m: (np.sort(idx), np.sort(idx))),
            "You sorted `idx`, as a server does to keep rows of one adapter together, but did not move the rows of x "
            "and y with it. Now they belong to others.",
        ),
        Mistake(
            "wrong pair",
            _with(lambda idx, n, m: (idx, np.sort(idx))),
            "A and B of a row come from two different adapters. Their product is something that nobody trained.",
        ),
        Mistake(
            "B of the first",
            _with(lambda idx, n, m: (idx, [idx[0]] * n)),
            "A is gathered for each row, B only once. Both factors must come from idx[i].",
        ),
        Mistake(
            "no scale",
            _with(size=lambda s: 1.0),
            "The scale is missing: each adapter was trained with α/r in front.",
        ),
        Mistake(
            "scale twice",
            _with(size=lambda s: s * s),
            "The scale is in there twice, perhaps once with A and once with B. It belongs to the product.",
        ),
        Mistake("no base", _with(keep=0.0), "y is missing: what the frozen layer computed has to stay in the sum."),
        Mistake(
            "all of them",
            _summed,
            "Each row got the sum of all adapters. It wants one of them.",
        ),
        Mistake(
            "mean update",
            _averaged,
            "Each row got the mean of all updates. That is a fine way to mix adapters, but here a row wants its own.",
        ),
        Mistake(
            "mean factors",
            _mean_factors,
            "You averaged the A's and the B's. Their product has cross terms that no adapter learnt, and a row wants "
            "its own adapter anyway.",
        ),
    ],
    praise="Two gathered products, whatever the number of adapters. `lo.routed` and Punica's kernel do this.",
    on_mutation="The numbers are right, but your function changed its argument {name}. Return a new array.",
)


# ---- DoRA by hand ----------------------------------------
COUNT = Exercise(
    id="ch13-count",
    title="How many numbers does DoRA train?",
    kind="number",
    difficulty=1,
    minutes=4,
    needs="the shapes of A, B and m, and pencil and paper",
    know="what the learned lengths cost, and of what they are the lengths",
    reference=8 * (576 + 192) + 576,
    mistakes=[
        Mistake("no lengths", 6144, "That is LoRA: A and B alone. DoRA trains the lengths m as well."),
        Mistake(
            "columns",
            6336,
            "You took one length for each input. A row of W0 + ΔW makes one output; each row has its length: d_out.",
        ),
        Mistake("both", 6912, "You took lengths for inputs and outputs. There is one for each output only."),
        Mistake("one", 6145, "One length for the whole matrix? Each row has its own."),
        Mistake("m per rank", 6152, "The lengths are those of the rows of W0 + ΔW, not of the r directions."),
        Mistake("whole", 576 * 192, "That is the whole matrix, as in full fine-tuning. W0 stays frozen."),
    ],
    praise="6,144 for A and B, 576 for the lengths: 9 % more numbers. The time is another matter.",
)


# ---- the swap that does nothing ----------------------------------------
SWAP = Exercise(
    id="ch13-swap",
    title="The swap that does nothing",
    kind="find-the-bug",
    difficulty=2,
    minutes=5,
    needs="what merging does to the weights, and to the forward pass",
    know="why a served model may keep its old voice without a word",
    reference="b",
    options=("a", "b", "c", "d"),
    mistakes=[
        Mistake(
            "training mode",
            "a",
            "`eval()` turns dropout off. It decides neither which adapter acts nor whether it is merged.",
        ),
        Mistake(
            "other base",
            "c",
            "Both were trained beside this base. One of another base would give strange answers, not the old ones.",
        ),
        Mistake(
            "cache",
            "d",
            "Nothing of the first answer is kept: each call begins with an empty cache.",
        ),
    ],
    praise="Merged, the pirate is in W, and the factors beside it are not read. Unmerge first, or do not merge.",
)


# ---- design an experiment ----------------------------------------
DESIGN = Exercise(
    id="ch13-design",
    title="Which experiment would convince you?",
    kind="design",
    difficulty=3,
    minutes=6,
    needs="the five answers of DiagTune, and the question: what exactly would a result be due to?",
    know="how to plan the runs that a claim needs",
    reference="C",
    options=("A", "B", "C", "D", "E"),
    mistakes=[
        Mistake(
            "unequal search",
            "A",
            "Seeds make a difference certain, and do not make it fair: one rate was searched for, the other was copied "
            "from another model and task. Thirty seeds would only measure this head start precisely.",
        ),
        Mistake(
            "three changes at once",
            "B",
            "Fairly searched and paired, but the rivals differ in shape, start and schedule at once. If DiagTune wins "
            "or loses, you do not know which of the three did it. Look for a rival that differs in the diagonal only.",
        ),
        Mistake(
            "chosen on the test",
            "D",
            "The right rival, and then the best of 30 looks at the stories that are reported: the winner of many tries "
            "looks better than it is, and one seed each shows no spread. Choose the rate elsewhere, then look once.",
        ),
        Mistake(
            "no rival",
            "E",
            "Then you know one number very well, and have nothing to compare it with. Whether a diagonal suffices is a "
            "question about two methods.",
        ),
    ],
    praise="One answer changes, both sides are searched alike, and each seed gives one difference. Ten equal signs "
    "happen by chance once in 512.",
)

EXERCISES = [PLACE, GATHER, COUNT, SWAP, DESIGN]
