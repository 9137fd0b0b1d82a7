"""Chapter 3: each wrong answer gets the sentence that helps, and the figure counts like the models do."""

import json
import re

import figure_page
import numpy as np
import pytest
from helpers import CHAPTERS, assert_distinct_sentences, assert_notebook_shows

from lowrank_edu import exercises, figures, shipped
from lowrank_edu.checking import examine
from lowrank_edu.figures import anatomy

# ---- exercises -----------------------------------------------------------------------------------------


def test_forward_names_each_mistake():
    def adds_in_place(x, W0, A, B, alpha, r):
        W0 += alpha / r * B @ A
        return x @ W0.T

    def row_by_row(x, W0, A, B, alpha, r):
        return [[sum(W0[o] * v) + alpha / r * (B[o] @ (A @ v)) for o in range(len(W0))] for v in x]

    found = assert_distinct_sentences(
        exercises.get("ch03-forward"),
        wrong_answers={
            "update turned": lambda x, W0, A, B, alpha, r: x @ W0.T + (alpha / r) * x @ B @ A,
            "no transposes": lambda x, W0, A, B, alpha, r: x @ W0.T + (alpha / r) * x @ A @ B,
            "columns": lambda x, W0, A, B, alpha, r: W0 @ x + alpha / r * B @ A @ x,
            "no scale": lambda x, W0, A, B, alpha, r: x @ (W0 + B @ A).T,
            "alpha": lambda x, W0, A, B, alpha, r: x @ (W0 + alpha * B @ A).T,
            "rslora": lambda x, W0, A, B, alpha, r: x @ (W0 + alpha / np.sqrt(r) * B @ A).T,
            "no base": lambda x, W0, A, B, alpha, r: x @ (alpha / r * B @ A).T,
            "loud base": lambda x, W0, A, B, alpha, r: alpha / r * (x @ (W0 + B @ A).T),
            "in place": adds_in_place,
        },
        right_answers=[
            lambda x, W0, A, B, alpha, r: np.einsum("ni,oi->no", x, W0 + alpha / r * B @ A),
            row_by_row,
        ],
    )
    assert "`x @ A.T`" in found["update turned"].message
    assert "W0" in found["in place"].message and found["in place"].diagnosis == "mutation"


def test_forward_takes_tensors():
    torch = pytest.importorskip("torch")

    def forward(x, W0, A, B, alpha, r):
        return torch.nn.functional.linear(x, W0) + alpha / r * torch.nn.functional.linear(x @ A.T, B)

    assert examine(exercises.get("ch03-forward"), forward).passed


def test_start_names_each_mistake():
    assert_distinct_sentences(
        exercises.get("ch03-start"),
        wrong_answers={
            "zero": lambda r, d_out, d_in, rng: (np.zeros((r, d_in)), np.zeros((d_out, r))),
            "random": lambda r, d_out, d_in, rng: (rng.uniform(size=(r, d_in)), rng.uniform(size=(d_out, r))),
            "B random": lambda r, d_out, d_in, rng: (np.zeros((r, d_in)), rng.uniform(size=(d_out, r))),
            "turned": lambda r, d_out, d_in, rng: (rng.uniform(size=(d_in, r)), np.zeros((r, d_out))),
            "exchanged": lambda r, d_out, d_in, rng: (rng.uniform(size=(r, d_out)), np.zeros((d_in, r))),
            "alike": lambda r, d_out, d_in, rng: (np.full((r, d_in), 0.01), np.zeros((d_out, r))),
        },
        right_answers=[
            lambda r, d_out, d_in, rng: [rng.uniform(-1, 1, (r, d_in)).astype(np.float32), [[0] * r] * d_out]
        ],
    )


def test_count_names_each_mistake():
    assert_distinct_sentences(
        exercises.get("ch03-count"),
        wrong_answers={
            "one block": 24_576,
            "square": 147_456,
            "A": 73_728,
            "B": 221_184,
            "whole": 21_233_664,
            "times": 169_869_312,
            "bias": 322_560,
        },
        right_answers=["294,912", 294_912.0, np.int64(294_912)],
    )


def test_freeze_names_each_mistake():
    bug = lambda name: "c_attn" in name  # noqa: E731  the function that the page asks to mend
    found = assert_distinct_sentences(
        exercises.get("ch03-freeze"),
        wrong_answers={
            "the bug": bug,
            "adapted": lambda name: ".base." in name or ".update." in name,
            "all": lambda name: 1,
            "none": lambda name: 0,
            "B": lambda name: name[-1] == "B",
            "A": lambda name: name[-1] == "A",
            "inverse": lambda name: ".update." not in name,
            "rest": lambda name: ".base." not in name,
        },
        right_answers=[lambda name: ".update." in name, lambda name: name.split(".")[-1] in {"A", "B"}],
    )
    assert "W0 itself" in found["the bug"].message


def test_conv1d_names_each_mistake():
    def in_place(weight, A, B, scale):
        weight += scale * A.T @ B.T
        return weight

    assert_distinct_sentences(
        exercises.get("ch03-conv1d"),
        wrong_answers={
            "no transpose": lambda weight, A, B, scale: weight + (scale * B) @ A,
            "turned": lambda weight, A, B, scale: weight.T + (scale * B) @ A,
            "A @ B": lambda weight, A, B, scale: weight + scale * (A @ B),
            "no scale": lambda weight, A, B, scale: weight + A.T @ B.T,
            "update": lambda weight, A, B, scale: scale * A.T @ B.T,
            "minus": lambda weight, A, B, scale: weight - scale * A.T @ B.T,
            "in place": in_place,
        },
        right_answers=[
            lambda weight, A, B, scale: weight + scale * A.T @ B.T,
            lambda weight, A, B, scale: (weight.T + scale * np.einsum("or,ri->oi", B, A)).T,
        ],
    )


def test_fused_names_each_mistake():
    wrong = ("half", "three quarters", "five quarters", "one and a half")
    assert_distinct_sentences(exercises.get("ch03-fused"), {w: w for w in wrong}, right_answers=["same", "Same"])


def test_the_page_shows_every_exercise():
    assert_notebook_shows(exercises.chapter("ch03"), "ch03_lora.ipynb")


# ---- the figure ----------------------------------------------------------------------------------------

ALL = list(anatomy.LINEAR)


@pytest.mark.parametrize("name, total", [("GPT-2", 124_439_808), ("GPT-2 XL", 1_557_611_200)])
def test_counts_are_those_of_the_real_models(name, total):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    size = anatomy.GPT2[name]
    config = transformers.GPT2Config(n_embd=size["d"], n_layer=size["layers"], n_head=size["d"] // 64)
    with torch.device("meta"):
        model = transformers.GPT2LMHeadModel(config)
    assert sum(p.numel() for p in model.parameters()) == total == anatomy.counts(size, [], 8)[1]
    block = model.transformer.h[0]
    modules = dict(zip(ALL, [block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj], strict=True))
    for layer, module in modules.items():
        assert anatomy.shape_of(layer, size) == tuple(module.weight.shape)[::-1]


def test_trainable_is_what_adapt_reports():
    transformers = pytest.importorskip("transformers")
    import lowrank_edu as lo

    config = transformers.GPT2Config(n_embd=24, n_layer=2, n_head=2, vocab_size=50, n_positions=16, n_inner=40)
    model = transformers.GPT2LMHeadModel(config)
    report = lo.adapt(model, lo.LoRA(r=3, target_modules="all-linear"))
    assert anatomy.counts(anatomy._size(config), ALL, 3) == (report.trainable, report.total)


def test_the_picture_moves_by_keyboard_and_click():
    with figure_page.open_browser() as browser:
        figure = figures.block_anatomy(r=4)
        still = re.search(r'data-el="B" (x="[^"]*" y="[^"]*" width="[^"]*" height="[^"]*")', figure.stage)
        shown = figure_page.show(browser, figure.html)
        bar = shown.locator("[data-el=B]")
        box = [bar.get_attribute(side) for side in ("x", "y", "width", "height")]
        assert re.findall(r'"([^"]*)"', still[1]) == box  # the still picture is the first moving one
        assert shown.locator("[data-el=trainable]").text_content() == "147,456"
        slider = shown.locator("[data-control=r]")
        slider.focus()
        shown.keyboard.press("ArrowRight")
        assert shown.locator("[data-el=trainable]").text_content() == "294,912"  # PEFT counts the same
        shown.locator("[data-set='layer=c_fc']").click()
        assert "3,072 × 768" in shown.locator("[data-el=facts]").inner_text()
        assert "none here" in shown.locator("[data-el=facts]").inner_text()
        shown.locator("input[value=all]").focus()
        shown.keyboard.press("Space")
        size, r = anatomy.GPT2["GPT-2"], 8
        assert shown.locator("[data-el=trainable]").text_content() == f"{anatomy.counts(size, ALL, r)[0]:,}"
        for name in figures.block_anatomy().controls[0].options:  # every layer has something to say
            shown.locator("[data-control=layer]").select_option(name)
            assert name in shown.locator("[data-el=does]").inner_text()
        assert not shown.errors


def test_the_figure_is_described():
    figure = figures.block_anatomy()
    assert "2304 by 768" in figure.alt and "294,912" in figure.alt
    assert json.dumps(figure.data)


# ---- the page ------------------------------------------------------------------------------------------


def code_cells():
    cells = json.loads((CHAPTERS / "ch03_lora.ipynb").read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def test_lora_takes_thirty_lines():
    """The title promises it: update, layer, placing and training, imports and blank lines not counted."""
    parts = [
        next(code for code in code_cells() if line in code)
        for line in ("class LowRank", "class Adapted", "def add_lora", "optimizer.step()")
    ]
    lines = [line for code in parts for line in code.splitlines() if line.strip() and "import " not in line]
    assert len(lines) == 30


def test_the_recorded_run_happens_again():
    """The first steps of the experiment, trained here: the same loss within a small band, the same floor."""
    pytest.importorskip("transformers")
    import ch03_pirate as experiment

    shipped_record = shipped.results("ch03_pirate")
    again = experiment.run(stops=[0, 10], sampled=3)
    at = [shipped_record["steps"].index(step) for step in again["steps"]]
    assert again["floor"] == pytest.approx(shipped_record["floor"], abs=1e-4)
    assert again["loss"] == pytest.approx([shipped_record["loss"][i] for i in at], abs=0.05)
    assert shipped_record["score"][0] < 0.1 < 0.85 < shipped_record["score"][-1]
    assert shipped_record["loss"][-1] < shipped_record["loss"][0] - 0.05


def test_the_recorded_run_shows_what_the_page_says():
    record = shipped.results("ch03_pirate")
    at = {step: i for i, step in enumerate(record["steps"])}
    assert f"{record['score'][-1]:.0%}" == "92%"
    assert record["loss"] == sorted(record["loss"], reverse=True)  # "the loss falls at every stop"
    assert record["score"][at[40]] < 0.5 < record["score"][at[30]]  # "at step 40 there are fewer than at step 30"
    opens = {step: [text.startswith(" Arr!") for text in record["texts"][i]] for step, i in at.items()}
    assert not any(opens[30] + opens[40]) and all(opens[50] + opens[80])  # "their first words are broken"


def test_every_promise_of_the_page_holds():
    """The page prints properties as "…: True"; one that turned False would be committed without a sound."""
    cells = json.loads((CHAPTERS / "ch03_lora.ipynb").read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    printed = "".join("".join(output.get("text", "")) for output in outputs)
    assert printed.count(": True") == 5 and "False" not in printed
