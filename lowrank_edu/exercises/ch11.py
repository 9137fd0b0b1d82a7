"""Exercises of chapter 11: zero gradients, counts, the spectral start, the front, its area, and a missing factor."""

import numpy as np

from ..checking import Exercise, Mistake

# ---- a zero gradient ----------------------------------------
ZERO = Exercise(
    id="ch11-zero",
    title="Does a zero gradient freeze?",
    kind="predict",
    difficulty=2,
    minutes=3,
    needs="a guess, and what you know of momentum",
    know="why freezing must be more than zeroing gradients",
    reference="it moves on",
    options=("it stays", "it moves on", "it moves back", "only without momentum"),
    mistakes=[
        Mistake(
            "frozen",
            "it stays",
            "That is what plain gradient descent would do. AdamW does not step by the gradient: it steps by the "
            "moments it remembers, and it shrinks every weight besides.",
        ),
        Mistake(
            "back",
            "it moves back",
            "Nothing pulls it back to where it was. The remembered direction carries it further, and weight decay "
            "pulls it towards zero.",
        ),
        Mistake(
            "only momentum",
            "only without momentum",
            "The other way round: with momentum it certainly moves on. And even without it, decoupled weight decay "
            "shrinks the weight in every step.",
        ),
    ],
    praise="Momentum coasts, and weight decay pulls. Freezing means: no step at all, to the last bit.",
)


# ---- counts ----------------------------------------
def counts(d_in, d_out, r):
    """(LoRA, LoRA-FA, LaMDA at the start, LaMDA with B frozen): trained numbers of one layer."""
    return r * (d_in + d_out), r * d_out, r * d_out + r * r, r * r


COUNTS = Exercise(
    id="ch11-counts",
    title="What is left to train?",
    kind="code",
    difficulty=1,
    minutes=5,
    needs="the shapes of A, Σ and B",
    know="why r² is the number that LaMDA's headline is about",
    reference=counts,
    cases=lambda rng: [(192, 768, 8), (768, 192, 4), (11, 7, 3)],
    mistakes=[
        Mistake(
            "A trains",
            lambda d_in, d_out, r: (r * (d_in + d_out), r * d_in, r * d_in + r * r, r * r),
            "You froze the wrong factor: A is the one that never trains, so B's d_out counts.",
        ),
        Mistake(
            "r not squared",
            lambda d_in, d_out, r: (r * (d_in + d_out), r * d_out, r * d_out + r, r),
            "Σ is a full r × r matrix while it trains, not a diagonal: r² numbers.",
        ),
        Mistake(
            "A counted",
            lambda d_in, d_out, r: (
                r * (d_in + d_out),
                r * (d_in + d_out),
                r * (d_in + d_out) + r * r,
                r * d_in + r * r,
            ),
            "Frozen numbers are not trained: A counts in none but LoRA.",
        ),
        Mistake(
            "no core at the start",
            lambda d_in, d_out, r: (r * (d_in + d_out), r * d_out, r * d_out, r * r),
            "At the start Σ trains together with B: add its r².",
        ),
        Mistake(
            "product",
            lambda d_in, d_out, r: (d_in * d_out, r * d_out, r * d_out + r * r, r * r),
            "d_in · d_out is ΔW itself. LoRA trains its two factors.",
        ),
    ],
    praise="The last number does not know how wide the layer is.",
)


# ---- the start ----------------------------------------
def spectral_start(W, r):
    """(A, core, B, rest): B @ core @ A is the best rank-r copy of W, and rest + B @ core @ A is W."""
    U, S, Vt = np.linalg.svd(W, full_matrices=False)
    A, core, B = Vt[:r], np.diag(S[:r]), U[:, :r]
    return A, core, B, W - B @ core @ A


def _assembled(answer, W, r):
    A, core, B, rest = (np.asarray(x.detach() if hasattr(x, "detach") else x, float) for x in answer(W, r))
    shapes = {"A": (r, W.shape[1]), "core": (r, r), "B": (W.shape[0], r), "rest": W.shape}
    here = {"A": A.shape, "core": core.shape, "B": B.shape, "rest": rest.shape}
    if here != shapes:
        return {name: str(here[name]) for name in shapes}
    return {"copy": B @ core @ A, "start": rest + B @ core @ A, "A A^T": A @ A.T}


def _same(got, want):
    if set(got) != set(want):
        return False
    return all(got[k] == want[k] if isinstance(want[k], str) else np.allclose(got[k], want[k], atol=1e-8) for k in want)


def _changed(change):
    return lambda W, r: change(*spectral_start(W, r), W)


START = Exercise(
    id="ch11-start",
    title="Start as the model",
    kind="code",
    difficulty=2,
    minutes=10,
    needs="`np.linalg.svd` with `full_matrices=False`, `np.diag`",
    know="how an adapter can be made of the weight itself and still begin as the model",
    reference=spectral_start,
    cases=lambda rng: [(rng.normal(size=(6, 4)), 2), (rng.normal(size=(5, 8)), 3), (rng.normal(size=(7, 3)), 2)],
    run=_assembled,
    compare=_same,
    mistakes=[
        Mistake(
            "no residual",
            _changed(lambda A, core, B, rest, W: (A, core, B, W)),
            "The frozen part is still W, so the start is W plus its own rank-r copy: those directions act twice. Take "
            "B Σ A out of it.",
        ),
        Mistake(
            "values squared",
            _changed(lambda A, core, B, rest, W: (A, core @ core, B, W - B @ core @ core @ A)),
            "The singular values are squared. The start is right, because you subtract what you add, but the copy is "
            "not W's.",
        ),
        Mistake(
            "values in A",
            _changed(lambda A, core, B, rest, W: (core @ A, np.eye(len(core)), B, rest)),
            "The product is right, but the singular values sit in A, which is never trained. They belong into Σ, and A "
            "keeps orthonormal rows.",
        ),
        Mistake(
            "a vector",
            _changed(lambda A, core, B, rest, W: (A, np.diag(core), B, rest)),
            "Σ is a vector of singular values; it must be an r × r matrix, because all of its entries will train: "
            "`np.diag`.",
        ),
        Mistake(
            "smallest",
            lambda W, r: (lambda U, S, Vt: (Vt[-r:], np.diag(S[-r:]), U[:, -r:],
                                            W - U[:, -r:] @ np.diag(S[-r:]) @ Vt[-r:]))(
                *np.linalg.svd(W, full_matrices=False)
            ),
            "Those are the smallest singular values. The SVD has them last; take the first r.",
        ),
    ],
    praise="Signs of the singular vectors may differ from ours; the products are what counts.",
)  # fmt: skip


# ---- the front ----------------------------------------
def front(t, r, freeze_steps):
    """How many of the r columns of B are frozen after t steps."""
    return min(r, r * t // freeze_steps)


FRONT = Exercise(
    id="ch11-front",
    title="The freezing front",
    kind="code",
    difficulty=1,
    minutes=5,
    needs="whole-number division",
    know="the schedule of LaMDA, and what one missing letter does to it",
    reference=front,
    cases=lambda rng: [(t, 8, 36) for t in (0, 4, 5, 20, 35, 36, 37, 119)] + [(7, 3, 10), (50, 64, 300)],
    mistakes=[
        Mistake(
            "factor r",
            lambda t, r, freeze_steps: min(r, t // freeze_steps),
            "Without the factor r the first column freezes when all should be frozen. This is what the released code "
            "computes.",
        ),
        Mistake(
            "no end",
            lambda t, r, freeze_steps: r * t // freeze_steps,
            "After freeze_steps you freeze more columns than there are: take the smaller of that and r.",
        ),
        Mistake(
            "up",
            lambda t, r, freeze_steps: min(r, -(-r * t // freeze_steps)),
            "You rounded up: the first column would freeze in the first step.",
        ),
        Mistake(
            "left",
            lambda t, r, freeze_steps: r - min(r, r * t // freeze_steps),
            "That is how many columns still train. The question is how many are frozen.",
        ),
        Mistake(
            "fraction",
            lambda t, r, freeze_steps: min(r, r * t / freeze_steps),
            "A column is frozen or not: whole numbers only, rounded down.",
        ),
    ],
    praise="One column after the other, and all of them by t_i.",
)


# ---- read the plot ----------------------------------------
AREA = Exercise(
    id="ch11-area",
    title="The area under the staircase",
    kind="read-the-plot",
    difficulty=2,
    minutes=5,
    needs="the figure, and an eye for areas",
    know="what the r² at the end leaves out",
    reference="10,000",
    options=("1,000", "10,000", "17,000", "28,000", "46,000"),
    mistakes=[
        Mistake(
            "the end",
            "1,000",
            "That is the height at the end, 1,024, where the staircase stays for 70 % of the run. The steps before it "
            "are short but high: look at the area, not at the last value.",
        ),
        Mistake(
            "a box",
            "17,000",
            "30 % of 56,320: so it would be if all of B trained for 36 steps and then stopped at once. The staircase "
            "falls all the way; under it is about half of that box.",
        ),
        Mistake(
            "half way down",
            "28,000",
            "That is half the height: the mean over the 36 steps of the fall. For the other 84 steps the staircase "
            "lies at the bottom, and the average is over all 120.",
        ),
        Mistake(
            "what is saved",
            "46,000",
            "That is the area *above* the staircase: the numbers that are not trained in an average step. The "
            "question is for those below it.",
        ),
    ],
    praise="About a fifth of what trains at the start. The headline counts the end of the staircase, the peak of "
    "memory its beginning, and neither is the average.",
)


# ---- the missing factor ----------------------------------------
MISSING = Exercise(
    id="ch11-missing",
    title="What does the released schedule freeze?",
    kind="find-the-bug",
    difficulty=2,
    minutes=4,
    needs="the line of code, and the largest value of `iters`",
    know="how to read what a program does, and not what it is called",
    reference=3,
    mistakes=[
        Mistake(
            "all",
            64,
            "That is the intent. But `iters` never exceeds max_steps · accum, so the quotient never exceeds 1/0.3.",
        ),
        Mistake("none", 0, "Some do: after 30 % of the run the quotient is 1, after 60 % it is 2."),
        Mistake("one", 1, "At the end of the run the quotient is 1/0.3, and `int` makes 3 of it."),
        Mistake(
            "share",
            lambda n: n in (19, 20, 21),
            "0.3 · 64 would be a share of the columns; the program divides by 0.3, and there is no 64 in the line.",
        ),
    ],
    praise="int(1/0.3) = 3 of 64. And those three are not really frozen, because only their gradients are set to zero.",
)

EXERCISES = [ZERO, COUNTS, START, FRONT, AREA, MISSING]
