"""Exercises of chapter 7: what is forgotten, which layers match, a transposed weight, and what is learnt of a row."""

from ..checking import Exercise, Mistake

# ---- what it costs elsewhere ----------------------------------------
FORGET = Exercise(
    id="ch07-forget",
    title="Who disturbs the rest more?",
    kind="predict",
    difficulty=2,
    minutes=3,
    needs="a guess, made before you read on",
    know="that the rate which is best for the task need not be best for what the model knew before",
    reference="full fine-tuning",
    options=("LoRA", "full fine-tuning", "neither", "both alike"),
    mistakes=[
        Mistake(
            "louder, so worse",
            "LoRA",
            "Its rate is nearly three times as high, and what it adds acts on every text. But it has 12,288 numbers, "
            "and full fine-tuning moves every weight as far as the sentences want. The table below has both.",
        ),
        Mistake(
            "frozen, so safe",
            "neither",
            "With LoRA the weights stay, but what the model computes does not: ΔW acts on every text, also on one that "
            "has nothing to do with the task.",
        ),
        Mistake(
            "alike",
            "both alike",
            "One loses four to nine times as much as the other, in every seed. The table below has the numbers.",
        ),
    ],
    praise="At the rate that is best for the task. At a third of that rate full fine-tuning forgets less than LoRA: "
    "see below.",
)


# ---- which layers match ----------------------------------------
TARGETS = Exercise(
    id="ch07-targets",
    title="Which layers does that name?",
    kind="choice",
    difficulty=2,
    minutes=4,
    needs="the table of layers that `lo.adapt` prints",
    know="how a target list can match nothing, or less than you meant",
    reference='["c_attn"]',
    options=('["q_proj", "v_proj"]', '["c_attn"]', '["c_proj"]', '["attn"]'),
    mistakes=[
        Mistake(
            "llama's names",
            '["q_proj", "v_proj"]',
            "Those are Llama's names. GPT-2 has no such layers: nothing matches, and this package raises an error.",
        ),
        Mistake(
            "two layers",
            '["c_proj"]',
            "GPT-2 has two layers of that name in each block: the attention's output and the way down of the "
            "feed-forward part. Neither holds queries, keys or values.",
        ),
        Mistake(
            "a container",
            '["attn"]',
            "A name matches a layer that ends in it. `attn` is the box around the layers, not a layer with a weight.",
        ),
    ],
    praise="One fused layer for queries, keys and values; `blocks=` takes slices of it.",
)


# ---- a transposed weight ----------------------------------------
def conv1d_delta(A, B, scale):
    """What must be added to a Conv1D weight, which is stored as (d_in, d_out)."""
    return scale * (B @ A).T


CONV1D = Exercise(
    id="ch07-conv1d",
    title="Spot the transpose",
    kind="code",
    difficulty=2,
    minutes=6,
    needs="the shapes of A, B and of a Conv1D weight",
    know="why code that works on Llama fails on GPT-2, and only where d_in ≠ d_out",
    reference=conv1d_delta,
    cases=lambda rng: [
        (rng.normal(size=(2, 4)), rng.normal(size=(7, 2)), 2.0),
        (rng.normal(size=(3, 8)), rng.normal(size=(5, 3)), 0.5),
        (rng.normal(size=(2, 6)), rng.normal(size=(9, 2)), 4.0),
    ],
    mistakes=[
        Mistake(
            "as for Linear",
            lambda A, B, scale: scale * B @ A,
            "That is ΔW as (d_out, d_in), right for `nn.Linear`. GPT-2's Conv1D stores its weight as (d_in, d_out): "
            "transpose the product.",
        ),
        Mistake(
            "reshaped",
            lambda A, B, scale: (scale * B @ A).reshape(A.shape[1], B.shape[0]),
            "`reshape` gives the right shape and the wrong numbers: it cuts the rows anew. A transpose exchanges rows "
            "and columns.",
        ),
        Mistake(
            "scale forgotten",
            lambda A, B, scale: (B @ A).T,
            "The transpose is right; the scale is missing.",
        ),
        Mistake(
            "divided again",
            lambda A, B, scale: scale * (A.T @ B.T) / len(A),
            "The product is divided by r. If α/r is meant: `scale` is that already.",
        ),
        Mistake(
            "scale twice",
            lambda A, B, scale: scale**2 * (B @ A).T,
            "The scale stands in there twice: once is enough, in either place.",
        ),
    ],
    praise="A and B keep their shapes on every layer; only ΔW turns.",
)


# ---- what is learnt of a row ----------------------------------------
def labels(prompt, completion, end):
    """Labels of end + prompt + completion + end: −100 where nothing is learnt."""
    return [-100] * (1 + len(prompt)) + list(completion) + [end]


MASK = Exercise(
    id="ch07-mask",
    title="Learn the answer, not the question",
    kind="code",
    difficulty=2,
    minutes=6,
    needs="lists, and the number −100, which a loss leaves out",
    know="what loss on the completion only means, token by token",
    reference=labels,
    cases=lambda rng: [([11, 12, 13], [21, 22], 0), ([5], [6, 7, 8], 1), ([31, 32], [41], 2)],
    mistakes=[
        Mistake(
            "everything",
            lambda prompt, completion, end: [end, *prompt, *completion, end],
            "All of it is learnt: the model spends its effort on predicting tables. Put −100 where the prompt is.",
        ),
        Mistake(
            "no end",
            lambda prompt, completion, end: [-100] * (2 + len(prompt)) + list(completion),
            "Same length, but shifted: the labels stand where the tokens stand; the model shifts them itself.",
        ),
        Mistake(
            "end not learnt",
            lambda prompt, completion, end: [-100] * (1 + len(prompt)) + list(completion) + [-100],
            "The end of the text is masked: the model would never learn to stop.",
        ),
        Mistake(
            "too short",
            lambda prompt, completion, end: [-100] * len(prompt) + list(completion) + [end],
            "One label too few: the row begins with the end-of-text token, which is not learnt either.",
        ),
        Mistake(
            "zero",
            lambda prompt, completion, end: [0] * (1 + len(prompt)) + list(completion) + [end],
            "0 is a token like any other, and would be learnt. The number that a loss leaves out is −100.",
        ),
    ],
    praise="The prompt is read, and not learnt.",
)

EXERCISES = [FORGET, TARGETS, CONV1D, MASK]
