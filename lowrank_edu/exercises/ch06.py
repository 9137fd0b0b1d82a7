"""Exercises of chapter 6: who costs time, what a bottleneck counts, an update in two factors, where to adapt."""

import numpy as np

from ..checking import Exercise, Mistake

# ---- who is free afterwards ----------------------------------------
FREE = Exercise(
    id="ch06-free",
    title="Who is free afterwards?",
    kind="predict",
    difficulty=1,
    minutes=3,
    needs="a guess, made before you read on",
    know="the one advantage of LoRA that no training curve shows",
    reference="LoRA",
    options=("Houlsby adapter", "LoRA", "prefix tuning", "all of them"),
    mistakes=[
        Mistake(
            "bottleneck",
            "Houlsby adapter",
            "A bottleneck has a bend in the middle, an activation function, so no weight of the model can take it up: "
            "its two small layers run after every block for ever.",
        ),
        Mistake(
            "prefix",
            "prefix tuning",
            "Its keys and values stand in front of every text: attention looks at them again for each new token, and "
            "they take places of the context.",
        ),
        Mistake(
            "all",
            "all of them",
            "Small does not mean free. Two of these run something extra in every layer; only what can be added to a "
            "weight disappears.",
        ),
    ],
    praise="W0 + scale · B A is a matrix of the old size. After merging, the model is as fast as before.",
)


# ---- count a Houlsby adapter ----------------------------------------
def houlsby(layers, d, b):
    """Trained numbers: two bottlenecks a block, each with a way down, a way up, and both biases."""
    return 2 * layers * (d * b + b + b * d + d)


HOULSBY = Exercise(
    id="ch06-houlsby",
    title="Count the bottlenecks",
    kind="code",
    difficulty=2,
    minutes=6,
    needs="the sentence above, and one multiplication for each matrix",
    know="how to check a published parameter count with a pencil",
    reference=houlsby,
    cases=lambda rng: [(4, 192, 2), (12, 768, 8), (96, 12288, 1)],
    mistakes=[
        Mistake(
            "one a block",
            lambda layers, d, b: layers * (2 * d * b + b + d),
            "That is one bottleneck a block: Pfeiffer's placement. Houlsby puts one behind attention and another "
            "behind the feed-forward part.",
        ),
        Mistake(
            "no biases",
            lambda layers, d, b: 4 * layers * d * b,
            "The matrices are right, the biases are missing: b numbers behind the way down, d behind the way up.",
        ),
        Mistake(
            "one matrix",
            lambda layers, d, b: 2 * layers * (d * b + b + d),
            "Only one of the two matrices: a bottleneck goes down to b and up to d again.",
        ),
        Mistake(
            "small bias only",
            lambda layers, d, b: 2 * layers * (2 * d * b + b),
            "The bias of the way up is missing: it has d numbers, more than the other.",
        ),
        Mistake(
            "both biases wide",
            lambda layers, d, b: 2 * layers * (2 * d * b + 2 * d),
            "The bias behind the way down has as many numbers as it has outputs: b, not d.",
        ),
    ],
    praise="For GPT-3's shapes and b = 1 these are the 7.1 million of the LoRA paper's table.",
)


# ---- a whole update in two factors ----------------------------------------
def two_factors(dW, scale):
    """(A, B) with scale · B @ A = dW exactly: r is the smaller side of dW."""
    U, S, Vt = np.linalg.svd(dW, full_matrices=False)
    return Vt, U * S / scale


def _product(answer, dW, scale):
    A, B = answer(dW, scale)
    r = min(dW.shape)
    A, B = (np.asarray(x.detach() if hasattr(x, "detach") else x, float) for x in (A, B))
    if A.shape != (r, dW.shape[1]) or B.shape != (dW.shape[0], r):
        if A.shape == (dW.shape[0], r) and B.shape == (r, dW.shape[1]):
            return {"A": "shape of B", "B": "shape of A"}
        return {"A": str(A.shape), "B": str(B.shape)}
    return scale * B @ A


def _same_product(got, want):
    if isinstance(got, dict) or isinstance(want, dict):
        return isinstance(got, dict) and isinstance(want, dict) and got == want
    return np.asarray(got).shape == want.shape and np.allclose(got, want, atol=1e-8)


FACTORS = Exercise(
    id="ch06-factors",
    title="Any update, in two factors",
    kind="code",
    difficulty=2,
    minutes=8,
    needs="`np.linalg.svd` with `full_matrices=False`, and chapter 1",
    know="that LoRA of full rank can write every update of a layer",
    reference=two_factors,
    cases=lambda rng: [(rng.normal(size=(5, 3)), 2.0), (rng.normal(size=(4, 7)), 0.5), (rng.normal(size=(6, 2)), 3.0)],
    run=_product,
    compare=_same_product,
    mistakes=[
        Mistake(
            "swapped",
            lambda dW, scale: two_factors(dW, scale)[::-1],
            "The right two matrices in the wrong order: return A (r × d_in) first, then B (d_out × r).",
        ),
        Mistake(
            "no singular values",
            lambda dW, scale: (lambda U, S, Vt: (Vt, U / scale))(*np.linalg.svd(dW, full_matrices=False)),
            "The singular values are missing: U Vᵀ has the right directions, all equally loud.",
        ),
        Mistake(
            "twice",
            lambda dW, scale: (lambda U, S, Vt: (S[:, None] * Vt, U * S / scale))(
                *np.linalg.svd(dW, full_matrices=False)
            ),
            "The singular values are in both factors, so they count twice in the product. Give each factor the root, "
            "or one of them all.",
        ),
        Mistake(
            "scale forgotten",
            lambda dW, scale: two_factors(dW, 1.0),
            "Without dividing by scale the product is scale times ΔW: the layer multiplies by it once more.",
        ),
        Mistake(
            "scale twice",
            lambda dW, scale: (lambda A, B: (A / scale, B))(*two_factors(dW, scale)),
            "You divided both factors by scale; once is enough, or each by its root.",
        ),
        Mistake(
            "rank one",
            lambda dW, scale: (lambda A, B: (A * (np.arange(len(A)) < 1)[:, None], B))(*two_factors(dW, scale)),
            "Only the first direction is left. At full rank all of them stay.",
        ),
    ],
    praise="What LoRA can *express* at full rank is everything. What training finds is another question.",
)


# ---- where ----------------------------------------
WHERE = Exercise(
    id="ch06-where",
    title="Where would you spend 12,288 numbers?",
    kind="predict",
    difficulty=2,
    minutes=3,
    needs="a guess, made before the next cell",
    know="why many matrices at a small rank beat one at a large rank",
    reference="all linear, r = 1",
    options=("q, r = 8", "v, r = 8", "q and v, r = 4", "all linear, r = 1"),
    mistakes=[
        Mistake(
            "query",
            "q, r = 8",
            "The worst of all here: with q alone the model can change where it looks, and hardly what it says. It "
            "leaves no mark of the style in what the model writes.",
        ),
        Mistake(
            "value",
            "v, r = 8",
            "Much better than q, because v carries what is said. But eight directions in one matrix are more than that "
            "matrix needs, and others get none.",
        ),
        Mistake(
            "both",
            "q and v, r = 4",
            "The paper's favourite, and here the best among the choices within attention. The next cell has one that "
            "is better still.",
        ),
    ],
    praise="One direction in each of sixteen layers: breadth before depth.",
)

EXERCISES = [FREE, HOULSBY, FACTORS, WHERE]
