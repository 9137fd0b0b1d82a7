"""Exercises of chapter 3: What is LoRA, in thirty lines?"""

import numpy as np

from ..checking import Exercise, Mistake
from ..checks.comparing import exact_integer


# ---- ch03-forward: h = W0 x + ΔW x, without forming ΔW
def forward(x, W0, A, B, alpha, r):
    z = x @ A.T  # (n, d_in) -> (n, r)
    return x @ W0.T + alpha / r * (z @ B.T)  # (n, r) -> (n, d_out)


def _layers(rng):
    sizes = [(2, 5, 3, 2), (1, 4, 7, 3), (6, 3, 8, 2)]  # n, d_out, d_in, r: never square
    return [
        (
            rng.normal(size=(n, d_in)),
            rng.normal(size=(d_out, d_in)),
            rng.normal(size=(r, d_in)),
            rng.normal(size=(d_out, r)),
            16.0,
            r,
        )
        for n, d_out, d_in, r in sizes
    ]


FORWARD = Exercise(
    id="ch03-forward",
    title="The forward pass",
    kind="code",
    difficulty=1,
    minutes=6,
    needs="two matrix products",
    know="why ΔW is never formed",
    reference=forward,
    cases=_layers,
    mistakes=[
        Mistake(
            "x @ B @ A",
            lambda x, W0, A, B, alpha, r: x @ W0.T + alpha / r * (x @ B @ A),
            "The shapes of `x @ B @ A` fit only when a layer is square; this one is not. It would apply ΔW "
            "transposed. A comes first: `x @ A.T` brings x down to r numbers, `B.T` brings them back up.",
        ),
        Mistake(
            "x @ A @ B",
            lambda x, W0, A, B, alpha, r: x @ W0.T + alpha / r * (x @ A @ B),
            "The order is right, A before B, but the rows of x are examples: each product needs the "
            "transpose, `x @ A.T` and then `B.T`.",
        ),
        Mistake(
            "W0 @ x",
            lambda x, W0, A, B, alpha, r: W0 @ x + alpha / r * (B @ (A @ x)),
            "On paper x is a column, W0 x. In code each row of x is an example, so the product is turned "
            "round: `x @ W0.T`, and `x @ A.T @ B.T` in the same way.",
        ),
        Mistake(
            "scale forgotten",
            lambda x, W0, A, B, alpha, r: x @ W0.T + x @ A.T @ B.T,
            "W0 x is right and so is the direction of ΔW x, but its length is not: where did the scale α/r "
            "go?",
        ),
        Mistake(
            "alpha without r",
            lambda x, W0, A, B, alpha, r: x @ W0.T + alpha * (x @ A.T @ B.T),
            "You multiplied the update by α. LoRA multiplies it by α/r: divide by the rank.",
        ),
        Mistake(
            "square root of r",
            lambda x, W0, A, B, alpha, r: x @ W0.T + alpha / r**0.5 * (x @ A.T @ B.T),
            "α/√r is the scale of rsLoRA, which chapter 4 compares. Plain LoRA divides by r.",
        ),
        Mistake(
            "base forgotten",
            lambda x, W0, A, B, alpha, r: alpha / r * (x @ A.T @ B.T),
            "This is ΔW x alone. The frozen layer still speaks: add W0 x.",
        ),
        Mistake(
            "scaled everything",
            lambda x, W0, A, B, alpha, r: alpha / r * (x @ W0.T + x @ A.T @ B.T),
            "The scale belongs to the update alone. W0 x keeps its own volume, or the model is no longer "
            "itself when B is zero.",
        ),
    ],
    on_mutation="Right numbers, once. But {name} itself changed: call it twice and you have added ΔW twice. "
    "Return W0 x + ΔW x instead, and leave {name} as it was.",
    praise="Two thin products instead of one thick one: ΔW was never formed.",
)


# ---- ch03-start: the model begins as itself, and can leave
def start(r, d_out, d_in, rng):
    A = rng.normal(size=(r, d_in)) / r
    B = np.zeros((d_out, r))
    return A, B


def _look_at_start(answer, r, d_out, d_in, rng):
    """What matters about a start, whatever the random numbers are."""
    factors = answer(r, d_out, d_in, rng)
    if factors is ... or factors is None:
        return factors  # not yet
    A, B = (np.asarray(factor, dtype=float) for factor in factors)
    return {
        "shape of A": A.shape,
        "shape of B": B.shape,
        "A is all zero": not A.any(),
        "B is all zero": not B.any(),
        "rank of A": int(np.linalg.matrix_rank(A)),
    }


START = Exercise(
    id="ch03-start",
    title="Begin as yourself",
    kind="code",
    difficulty=1,
    minutes=5,
    needs="`rng.normal`, `np.zeros`",
    know="why the first step starts from the base model",
    reference=start,
    cases=lambda rng: [(2, 5, 7, np.random.default_rng(1)), (3, 9, 4, rng), (4, 6, 11, rng)],
    run=_look_at_start,
    mistakes=[
        Mistake(
            "both zero",
            lambda r, d_out, d_in, rng: (np.zeros((r, d_in)), np.zeros((d_out, r))),
            "ΔW = 0, so far so good. But with both factors at zero each waits for the other: their "
            "gradients are zero too, and nothing will ever move. Make A random. (Chapter 4 watches this "
            "happen.)",
        ),
        Mistake(
            "both random",
            lambda r, d_out, d_in, rng: (rng.normal(size=(r, d_in)), rng.normal(size=(d_out, r))),
            "With both factors random, B A is not zero: before the first step the model is already "
            "somebody else. One of the two has to be zero.",
        ),
        Mistake(
            "the other way round",
            lambda r, d_out, d_in, rng: (np.zeros((r, d_in)), rng.normal(size=(d_out, r))),
            "This starts silent and it can learn: good. The paper, PEFT and this book choose the other "
            "factor: A random, B zero. Swap them, so that your numbers match theirs.",
        ),
        Mistake(
            "shapes turned",
            lambda r, d_out, d_in, rng: (rng.normal(size=(d_in, r)), np.zeros((r, d_out))),
            "A brings x down to r numbers, so it has r rows: (r, d_in). B brings them up: (d_out, r).",
        ),
        Mistake(
            "d_in and d_out exchanged",
            lambda r, d_out, d_in, rng: (rng.normal(size=(r, d_out)), np.zeros((d_in, r))),
            "A meets x, which has d_in numbers; B writes h, which has d_out. You exchanged the two.",
        ),
        Mistake(
            "all rows alike",
            lambda r, d_out, d_in, rng: (np.ones((r, d_in)), np.zeros((d_out, r))),
            "B A is zero, but all rows of A are the same: r rows that say one thing are of rank 1, and they "
            "would stay alike through training. Random numbers make them differ.",
        ),
    ],
    praise="ΔW = 0 to the last bit, and the first gradient of B is not zero.",
)


# ---- ch03-count: how many numbers learn?
COUNT = Exercise(
    id="ch03-count",
    title="Count what learns",
    kind="number",
    difficulty=1,
    minutes=4,
    needs="the shapes in the figure",
    know="where r(d_in + d_out) comes from",
    reference=12 * 8 * (768 + 3 * 768),
    compare=exact_integer,
    mistakes=[
        Mistake(
            "one block",
            8 * (768 + 3 * 768),
            "That is one block. GPT-2 has 12 of them, each with its own A and B.",
        ),
        Mistake(
            "square layer",
            12 * 8 * (768 + 768),
            "c_attn is not square: it makes query, key and value at once, so it has 3 × 768 outputs.",
        ),
        Mistake(
            "A alone",
            12 * 8 * 768,
            "That is A in all 12 blocks. B learns too, and here it is three times as large.",
        ),
        Mistake(
            "B alone",
            12 * 8 * 3 * 768,
            "That is B in all 12 blocks. A learns too: r × d_in numbers.",
        ),
        Mistake(
            "the whole matrix",
            12 * 768 * 3 * 768,
            "That is W0 in all 12 blocks: what full fine-tuning of these layers would train. LoRA trains A "
            "and B.",
        ),
        Mistake(
            "multiplied",
            12 * 8 * 768 * 3 * 768,
            "You multiplied the sides. A has r × d_in numbers and B has d_out × r: the two are added.",
        ),
        Mistake(
            "with the bias",
            12 * (8 * (768 + 3 * 768) + 3 * 768),
            "Nearly: you counted the biases too. They are frozen, unless you ask for bias='lora_only'.",
        ),
        Mistake("more than the model", lambda n: n > 124_439_808, "GPT-2 has 124,439,808 numbers in all."),
    ],
    praise="0.24 % of the model.",
)


# ---- ch03-freeze: which parameters learn? The given answer trains the base.
def trains(name):
    return name.endswith((".A", ".B"))


_GPT2 = [
    "wte.weight",
    "h.0.ln_1.weight",
    "h.0.attn.c_attn.base.weight",
    "h.0.attn.c_attn.base.bias",
    "h.0.attn.c_attn.update.A",
    "h.0.attn.c_attn.update.B",
    "h.0.attn.c_proj.weight",
]
_LLAMA = [
    "embed_tokens.weight",
    "layers.0.self_attn.q_proj.base.weight",
    "layers.0.self_attn.q_proj.update.A",
    "layers.0.self_attn.q_proj.update.B",
    "layers.0.self_attn.k_proj.weight",
    "layers.0.mlp.up_proj.weight",
]


def _decisions(answer, names):
    """Yes or no for each name; any spelling of them will do."""
    said = [answer(name) for name in names]
    return said[0] if said[0] is ... or said[0] is None else tuple(map(bool, said))


FREEZE = Exercise(
    id="ch03-freeze",
    title="Find the bug: which numbers learn?",
    kind="find-the-bug",
    difficulty=2,
    minutes=5,
    needs="the names of the parameters",
    know="what frozen means in code",
    reference=trains,
    cases=lambda rng: [(_GPT2,), (_LLAMA,), (_GPT2[::-1],)],
    run=_decisions,
    mistakes=[
        Mistake(
            "trained the base",
            lambda name: "c_attn" in name,
            "This trains c_attn.base.weight as well: W0 itself. The loss would fall, even faster, but the "
            "file you save holds only A and B, and they alone do not give that model. And a Llama has no "
            "c_attn at all.",
        ),
        Mistake(
            "trained the adapted layers",
            lambda name: "base" in name or "update" in name,
            "Better than a list of layers, but W0 of each adapted layer still learns. Only what was added "
            "may.",
        ),
        Mistake(
            "everything",
            lambda name: True,
            "Now everything learns: this is full fine-tuning with a decoration.",
        ),
        Mistake("nothing", lambda name: False, "Now nothing learns, and the optimizer gets an empty list."),
        Mistake(
            "only B",
            lambda name: name.endswith(".B"),
            "B learns, but A stays at its random start, so the r directions it reads from x never improve.",
        ),
        Mistake(
            "only A",
            lambda name: name.endswith(".A"),
            "A learns, but B stays at zero, so B A stays zero and A never even gets a gradient.",
        ),
        Mistake(
            "the wrong half",
            lambda name: "update" not in name,
            "Turned round: this trains the base and freezes A and B.",
        ),
        Mistake(
            "not the base weight",
            lambda name: "base" not in name,
            "W0 of the adapted layers is frozen now, but the layers without an adapter still learn: their "
            "names have no `.base` in them. Say what learns, not what does not.",
        ),
    ],
    praise="Freeze everything first, then let A and B learn.",
)


# ---- ch03-conv1d: GPT-2 stores W transposed
def baked(weight, A, B, scale):
    return weight + scale * (B @ A).T  # (d_in, d_out), as Conv1D stores it


def _conv1d(rng):
    sizes = [(3, 5, 2), (7, 4, 3), (4, 9, 2)]  # d_in, d_out, r
    return [
        (
            rng.normal(size=(d_in, d_out)),
            rng.normal(size=(r, d_in)),
            rng.normal(size=(d_out, r)),
            rng.uniform(0.5, 4),
        )
        for d_in, d_out, r in sizes
    ]


CONV1D = Exercise(
    id="ch03-conv1d",
    title="Bake ΔW into a Conv1D",
    kind="code",
    difficulty=2,
    minutes=6,
    needs="the transpose",
    know="the one place where GPT-2 is turned round",
    reference=baked,
    cases=_conv1d,
    mistakes=[
        Mistake(
            "no transpose",
            lambda weight, A, B, scale: weight + scale * (B @ A),
            "B A is (d_out, d_in), but Conv1D stores (d_in, d_out): they add up only on a square layer, "
            "and there the sum is wrong in silence. Transpose the finished product.",
        ),
        Mistake(
            "turned the weight",
            lambda weight, A, B, scale: weight.T + scale * (B @ A),
            "Right numbers, turned round: this is W as (d_out, d_in). Conv1D multiplies x @ weight, so "
            "what you store has to be (d_in, d_out).",
        ),
        Mistake(
            "A @ B",
            lambda weight, A, B, scale: weight + scale * (A @ B),
            "`A @ B` does not fit: A has d_in columns and B has d_out rows. A and B keep their shapes in a "
            "Conv1D too; only the finished ΔW = B A is transposed.",
        ),
        Mistake(
            "scale forgotten",
            lambda weight, A, B, scale: weight + (B @ A).T,
            "The transpose is right. The scale is missing: ΔW = scale · B A.",
        ),
        Mistake(
            "only the update",
            lambda weight, A, B, scale: scale * (B @ A).T,
            "That is ΔW, turned the right way. Baking in means adding it to the weight that is there.",
        ),
        Mistake(
            "subtracted",
            lambda weight, A, B, scale: weight - scale * (B @ A).T,
            "That takes ΔW out. To bake it in, add.",
        ),
    ],
    on_mutation="Right numbers, once. But {name} itself changed: bake twice and ΔW is in it twice. "
    "Return a new array; chapter 5 is about nothing else.",
    praise="The one transpose that GPT-2 asks for: that of the finished ΔW.",
)


# ---- ch03-fused: one A for q, k and v, or one each?
FUSED = Exercise(
    id="ch03-fused",
    title="One A for three, or one each?",
    kind="predict",
    difficulty=2,
    minutes=3,
    needs="the count above",
    know='what "q and v" means in GPT-2',
    reference="same",
    options=("half", "three quarters", "same", "five quarters", "one and a half"),
    mistakes=[
        Mistake(
            "one pair",
            "half",
            "r(d + d) is one pair. The names q and v ask for two slices, and each has an A and a B of its own.",
        ),
        Mistake(
            "shared A",
            "three quarters",
            "r(d + 2d) would be two slices that share one A. Here each slice brings an A of its own, r·d more.",
        ),
        Mistake(
            "B for k kept",
            "five quarters",
            "A second A costs r·d more, that is true. But the B for k is gone, and it was just as large.",
        ),
        Mistake(
            "three pairs",
            "one and a half",
            "3 · r(d + d) would be a pair for each of q, k and v. The blocks are q and v: k stays frozen.",
        ),
    ],
    praise="4 r d both times. The same price, but not the same update.",
)

EXERCISES = [FORWARD, START, COUNT, FREEZE, CONV1D, FUSED]
