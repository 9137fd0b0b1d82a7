"""Exercises of chapter 10: scores of triplets, a budget that falls, and a rank that never does."""

import numpy as np

from ..checking import Exercise, Mistake

# ---- what the peak costs ----------------------------------------
PEAK = Exercise(
    id="ch10-peak",
    title="Does pruning save memory while you train?",
    kind="predict",
    difficulty=2,
    minutes=3,
    needs="a guess, made before you read on",
    know="when AdaLoRA's budget helps, and when it does not",
    reference="1.5 times",
    options=("2/3", "the same", "1.5 times", "more, but only at the end"),
    mistakes=[
        Mistake(
            "pays the end",
            "2/3",
            "That would be so if the run could start at rank 8 and end smaller. It starts at 12 and ends at 8: the "
            "ranks that will be cut must be trained first, or nobody would know that they can go.",
        ),
        Mistake(
            "counts the end",
            "the same",
            "The two have equal ranks at the end only. In the first step AdaLoRA has 12 of them, and memory is paid "
            "for the largest step.",
        ),
        Mistake(
            "counts backwards",
            "more, but only at the end",
            "It needs more from the first step on: twelve ranks are there before anything is cut, and cutting sets a λ "
            "to zero but gives no memory back.",
        ),
    ],
    praise="Memory is paid at the peak, and the peak is the start. What pruning makes small is the file.",
)


# ---- the score of a triplet ----------------------------------------
def triplet_scores(A, B, lam, gA, gB, glam):
    """(r) scores: |λ g| + the mean of |A g| over the row of A + the mean of |B g| over the column of B."""
    return np.abs(lam * glam) + np.abs(A * gA).mean(axis=1) + np.abs(B * gB).mean(axis=0)


def _scored(lam=lambda p, g: np.abs(p * g), of=lambda p, g: np.abs(p * g), over=np.mean):
    def score(A, B, lam_, gA, gB, glam):
        return lam(lam_, glam) + over(of(A, gA), axis=1) + over(of(B, gB), axis=0)

    return score


def _wrong_axes(A, B, lam, gA, gB, glam):
    return np.abs(A * gA).mean(axis=0)[: len(lam)] + np.abs(B * gB).mean(axis=1)[: len(lam)] + np.abs(lam * glam)


def _score_cases(rng):
    def case(r, d_in, d_out):
        shapes = ((r, d_in), (d_out, r), (r,))
        return (*(rng.normal(size=s) for s in shapes), *(rng.normal(size=s) for s in shapes))

    return [case(3, 7, 5), case(2, 4, 9), case(4, 6, 11)]


SCORE = Exercise(
    id="ch10-score",
    title="What would the loss miss?",
    kind="code",
    difficulty=2,
    minutes=10,
    needs="`np.abs`, `mean` with an axis, and the shapes of A and B",
    know="how AdaLoRA compares directions of layers of different sizes",
    reference=triplet_scores,
    cases=_score_cases,
    mistakes=[
        Mistake(
            "no abs",
            _scored(lam=lambda p, g: p * g, of=lambda p, g: p * g),
            "Without the absolute value, entries that pull in opposite directions cancel, and a direction full of "
            "important numbers can score nothing.",
        ),
        Mistake(
            "abs of the mean",
            lambda A, B, lam, gA, gB, glam: np.abs(lam * glam) + np.abs((A * gA).mean(1)) + np.abs((B * gB).mean(0)),
            "You took the mean first and the absolute value after it: entries of opposite sign have cancelled by then.",
        ),
        Mistake(
            "sum",
            _scored(over=np.sum),
            "You added up the entries. Then a direction of a wide layer wins because it is long, not because it "
            "matters: a mean makes layers of different sizes comparable.",
        ),
        Mistake(
            "gradient only",
            _scored(lam=lambda p, g: np.abs(g), of=lambda p, g: np.abs(g)),
            "The gradient alone says how steep the loss is. To lose an entry is to move it by its whole value: "
            "multiply by the weight.",
        ),
        Mistake(
            "weight only",
            _scored(lam=lambda p, g: np.abs(p), of=lambda p, g: np.abs(p)),
            "The size of the weight alone: a large weight to which the loss is indifferent would be kept. Multiply by "
            "the gradient.",
        ),
        Mistake(
            "without lambda",
            lambda A, B, lam, gA, gB, glam: np.abs(A * gA).mean(1) + np.abs(B * gB).mean(0),
            "The score of λ itself is missing; it is the number that pruning sets to zero.",
        ),
        Mistake(
            "squares",
            _scored(lam=lambda p, g: (p * g) ** 2, of=lambda p, g: (p * g) ** 2),
            "Squares instead of absolute values: a known criterion, but another one. This one is |weight · gradient|.",
        ),
    ],
    praise="A row of A, a column of B and one λ: one number for all of them, comparable across layers.",
)


# ---- the budget ----------------------------------------
def budget(t, start, goal, warmup, final, total):
    """How many directions may stay after step t."""
    if t <= warmup:
        return start
    if t > total - final:
        return goal
    left = 1 - (t - warmup) / (total - warmup - final)
    return int(goal + (start - goal) * left**3)


def _falling(power=3, left=None, before=True, after=True, cut=int):
    def falling(t, start, goal, warmup, final, total):
        if before and t <= warmup:
            return start
        if after and t > total - final:
            return goal
        share = left(t, warmup, final, total) if left else 1 - (t - warmup) / (total - warmup - final)
        return cut(goal + (start - goal) * share**power)

    return falling


def _no_final(t, warmup, final, total):
    return 1 - (t - warmup) / (total - warmup)


def _misprint(t, warmup, final, total):
    return 1 - (t - warmup - final) / (total - warmup - final)


BUDGET = Exercise(
    id="ch10-budget",
    title="The total rank must fall",
    kind="code",
    difficulty=2,
    minutes=8,
    needs="the formula above, and `int` to cut off what is behind the point",
    know="why AdaLoRA prunes early and fast, and then leaves time to repair",
    reference=budget,
    cases=lambda rng: (
        [(int(t), 48, 32, 20, 30, 120) for t in (0, 20, 21, 40, 55, 75, 90, 91, 119)]
        + [(33, 576, 300, 10, 25, 100), (70, 576, 300, 10, 25, 100)]
    ),
    mistakes=[
        Mistake(
            "linear",
            _falling(power=1),
            "A straight line. The power of 3 takes most ranks away early, while there is time to repair the damage.",
        ),
        Mistake(
            "misprint",
            _falling(left=_misprint),
            "You wrote t − t_i − t_f above the line, as the paper prints it. Then the budget would jump above b₀ when "
            "the warm-up ends. Both released codes use t − t_i, and so do we.",
        ),
        Mistake(
            "final phase forgotten",
            _falling(left=_no_final, after=False),
            "The fall must be over when the final phase begins, t_f steps before the end: divide by T − t_i − t_f.",
        ),
        Mistake(
            "no warm-up",
            _falling(before=False),
            "Up to t_i nothing is cut: there 1 − (t − t_i)/… is above 1, and your budget above b₀.",
        ),
        Mistake(
            "from the other end",
            _falling(left=lambda t, warmup, final, total: (t - warmup) / (total - warmup - final)),
            "Your budget rises from b_T to b₀. The share that is *left* is 1 minus the share that is over.",
        ),
        Mistake(
            "not whole",
            _falling(cut=float),
            "A budget counts directions: cut off what is behind the point.",
        ),
    ],
    praise="Flat, then a steep fall, then slower and slower, then flat again.",
)


# ---- the rank that never changes ----------------------------------------
NEVER = Exercise(
    id="ch10-never",
    title="The rank that never changes",
    kind="find-the-bug",
    difficulty=2,
    minutes=5,
    needs="the order of things in a training loop",
    know="the reason behind the question that is asked about AdaLoRA again and again",
    reference="c",
    options=("a", "b", "c", "d"),
    mistakes=[
        Mistake(
            "a",
            "a",
            "A wrong learning rate trains badly, but ranks would still fall: the budget looks at the step, not at the "
            "loss.",
        ),
        Mistake(
            "b",
            "b",
            "Clearing gradients after the step is what every loop does, and the next backward pass fills them again. "
            "In PEFT the allocator must be called before that; here it is never called at all.",
        ),
        Mistake(
            "d",
            "d",
            "Rank 12 to 8 is the usual setting, 1.5 times the goal. If the two were equal the budget could not fall; "
            "here it could.",
        ),
    ],
    praise="Nobody tells AdaLoRA that a step has passed. The loss falls, nothing fails, and the result is a LoRA of "
    "rank 12 with a penalty.",
)


# ---- feed-forward or attention ----------------------------------------
PART = Exercise(
    id="ch10-part",
    title="Which half of a block?",
    kind="predict",
    difficulty=2,
    minutes=3,
    needs="the figure's squares, and a guess",
    know="that what keeps its rank and what trains best alone are two questions",
    reference="attention",
    options=("feed-forward", "attention", "no difference"),
    mistakes=[
        Mistake(
            "ranks are no proof",
            "feed-forward",
            "That is what the kept ranks suggest, and what the paper reports for its tasks. But a rank kept beside "
            "others is not a part trained alone: look at the next cell.",
        ),
        Mistake(
            "no difference",
            "no difference",
            "Equal counts are not equal use: the next cell shows a difference larger than the spread of the seeds.",
        ),
    ],
    praise="Here attention alone does better, although AdaLoRA left more ranks in the feed-forward part.",
)

EXERCISES = [PEAK, SCORE, BUDGET, NEVER, PART]
