"""Chapter 7: each planted wrong answer gets its own sentence; the recorded numbers say what the page says."""

import math
from pathlib import Path

import ch07_real as experiment
import nbformat
import numpy as np
import pytest
import torch
from helpers import assert_distinct_sentences, assert_each_option_has_its_sentence, assert_notebook_shows

import lowrank_edu as lo
from lowrank_edu import exercises, figures, shipped
from lowrank_edu.corpus.restaurants import meaning, restaurants, sentence, slot_accuracy

ROOT = Path(__file__).resolve().parents[1]


# ---- exercises ----------------------------------------
@pytest.mark.parametrize("name", ["ch07-forget", "ch07-targets"])
def test_every_option_has_its_sentence(name):
    assert_each_option_has_its_sentence(exercises.get(name), 3)


def test_the_options_about_targets_are_what_the_sentences_say():
    for names, said in {"q_proj": None, "attn": None, "c_attn": 4, "c_proj": 8}.items():
        model, _ = lo.load_model("tiny-gpt2")
        method = lo.LoRA(1, 1, [names])
        if said is None:
            with pytest.raises(ValueError, match="no module matched"):
                lo.adapt(model, method)
        else:
            assert len(lo.adapt(model, method).modules) == said


def test_conv1d_names_each_mistake():
    assert_distinct_sentences(
        exercises.get("ch07-conv1d"),
        wrong_answers={
            "linear": lambda A, B, s: np.einsum("or,ri->oi", B, A) * s,
            "reshape": lambda A, B, s: np.reshape(s * B @ A, (A.shape[1], -1)),
            "no scale": lambda A, B, s: A.T @ B.T,
            "by r": lambda A, B, s: A.T @ B.T * s / A.shape[0],
            "scale squared": lambda A, B, s: (s * A).T @ (s * B).T,
        },
        right_answers=[
            lambda A, B, s: s * A.T @ B.T,
            lambda A, B, s: torch.einsum("ri,or->io", torch.tensor(A), torch.tensor(B)) * s,
            lambda A, B, s: [
                [s * sum(A[r][i] * B[o][r] for r in range(len(A))) for o in range(len(B))] for i in range(A.shape[1])
            ],
        ],
    )


def test_the_package_s_conv1d_is_the_exercise_s():
    model, _ = lo.load_model("tiny-gpt2")
    lo.adapt(model, lo.LoRA(2, 6, ["c_attn"]))
    layer = lo.adapted_layers(model)["transformer.h.0.attn.c_attn"]
    update = layer.updates["default"]
    update.B.data.normal_(generator=torch.Generator().manual_seed(0))
    W0 = layer.base.weight.detach().clone()
    lo.merge(model)
    moved = model.get_submodule("transformer.h.0.attn.c_attn").base.weight.detach() - W0
    want = exercises.get("ch07-conv1d").reference(update.A.detach().numpy(), update.B.detach().numpy(), 3.0)
    np.testing.assert_allclose(moved.numpy(), want, atol=1e-5)


def test_mask_names_each_mistake():
    assert_distinct_sentences(
        exercises.get("ch07-mask"),
        wrong_answers={
            "all": lambda p, c, e: [e, *p, *c, e],
            "shifted": lambda p, c, e: [-100] * (len(p) + 2) + c,
            "never stops": lambda p, c, e: [-100, *[-100] * len(p), *c, -100],
            "short": lambda p, c, e: [-100 for _ in p] + c + [e],
            "zeros": lambda p, c, e: [0, *[0] * len(p), *c, e],
        },
        right_answers=[
            lambda p, c, e: torch.tensor([-100] * (len(p) + 1) + c + [e]),
            lambda p, c, e: np.concatenate([np.full(len(p) + 1, -100), c, [e]]),
        ],
    )


def test_the_package_s_labels_are_the_exercise_s():
    _, tok = lo.load_model("tiny-gpt2")
    record = restaurants(1, 0)[0]
    pair = {"prompt": meaning(record), "completion": sentence(record, np.random.default_rng(0))}
    (example,) = lo.read_data([pair], tok)
    prompt, completion = (tok(pair[k], add_special_tokens=False)["input_ids"] for k in ("prompt", "completion"))
    assert example["labels"].tolist() == exercises.get("ch07-mask").reference(prompt, completion, tok.eos_token_id)


def test_the_page_shows_every_exercise():
    assert_notebook_shows(exercises.chapter("ch07"), "ch07_real.ipynb")


# ---- the recorded numbers ----------------------------------------
@pytest.fixture(scope="module")
def results():
    return shipped.results("ch07_real")


def rows(results, label):
    return [results["runs"][f"{label} {seed}"] for seed in results["seeds"]]


def moves(results, label, what):
    """[(mean change, standard error)] of the seeds, against the model before training."""
    base = results["base"][label.split()[0]]
    return [experiment.change(row[what], base[what], base["tokens"][what]) for row in rows(results, label)]


def held(results, label):
    n = np.array(results["base"][label.split()[0]]["tokens"]["held"])
    return [n @ row["held"] / n.sum() for row in rows(results, label)]


def test_the_file_is_complete():
    assert experiment.missing(experiment.begun()) == []


def test_the_floor_is_ln_6_for_each_completion(results):
    _, tok = lo.load_model("tiny-gpt2")
    data = lo.read_data(experiment.pairs(64, 7)[1], tok)
    tokens = sum(int((example["labels"] != -100).sum()) for example in data)
    base = results["base"]["tiny-gpt2"]
    assert sum(base["tokens"]["held"]) == tokens and len(base["held"]) == 64
    assert base["floor"] == pytest.approx(64 * math.log(6) / tokens, rel=1e-3)
    for label in experiment.METHODS:
        assert min(held(results, label)) > results["base"][label.split()[0]]["floor"]


def test_every_rate_is_the_best_of_its_grid_and_not_at_its_edge(results):
    for label, rates in results["rates"].items():
        tried = sorted(map(float, rates))
        best = min(tried, key=lambda lr: rates[f"{lr:g}"])
        assert tried[0] < best < tried[-1] and {row["lr"] for row in rows(results, label)} == {best}
    for label, (_, rate) in experiment.GENTLE.items():
        assert {row["lr"] for row in rows(results, label)} == {rate}
        assert 2.5 < rows(results, label.removesuffix(" gentle"))[0]["lr"] / rate < 3.5


def test_the_standard_error_is_that_of_leaving_one_text_out():
    rng = np.random.default_rng(0)
    n, before = rng.integers(10, 60, 80), rng.normal(3, 0.5, 80)
    after = before + rng.normal(0.2, 0.3, 80)
    mean, error = experiment.change(after, before, n)
    without = np.array([np.average(np.delete(after - before, i), weights=np.delete(n, i)) for i in range(80)])
    jackknife = np.sqrt(79 / 80 * ((without - without.mean()) ** 2).sum())
    assert mean == pytest.approx(np.average(after - before, weights=n)) and error == pytest.approx(jackknife, rel=0.05)
    assert experiment.change(before + 0.1, before, n) == pytest.approx((0.1, 0))  # all alike: nothing to be unsure of


def test_the_page_computes_the_same_error():
    (cell,) = [c.source for c in page().cells if c.source.startswith("def change")]
    names = {"np": np}
    exec(cell, names)
    n, before, after = [12, 30, 21], [1.0, 2.0, 4.0], [1.5, 1.0, 4.5]
    assert names["change"](after, before, n) == pytest.approx(experiment.change(after, before, n))


def test_training_the_tiny_model_again_gives_a_recorded_row(results):
    old, tokens = results["runs"]["tiny-gpt2 lora 0"], np.array(results["base"]["tiny-gpt2"]["tokens"]["held"])
    again = experiment.run("tiny-gpt2 lora", old["lr"], 0)
    assert again["trained"] == old["trained"] == 12288
    assert again["curve"][0] == pytest.approx(old["curve"][0], abs=1e-3)
    assert tokens @ again["held"] / tokens.sum() == pytest.approx(tokens @ old["held"] / tokens.sum(), abs=0.03)


def test_the_figure_shows_the_file(results):
    figure, run = figures.facts_replay(), results["runs"]["smollm2-135m lora 0"]
    assert [texts[0] for texts in figure.data["texts"]] == [text or "(nothing)" for text in run["texts"]]
    assert figure.data["score"][-1] == slot_accuracy(restaurants(8, 7)[0], run["texts"][-1])
    base = results["base"]["smollm2-135m"]
    assert figure.data["loss"][0] == pytest.approx(np.average(base["held"], weights=base["tokens"]["held"]), abs=1e-3)
    assert len(figure.html) < 20_000


# ---- the live run on SmolLM2 ----------------------------------------
def page():
    return nbformat.read(ROOT / "chapters" / "ch07_real.ipynb", as_version=4)


def test_the_live_run_is_on_the_page_and_was_not_skipped():
    printed = "".join(o.get("text", "") for c in page().cells if c.cell_type == "code" for o in c.outputs)
    for told in ("SmolLM2-135M-Instruct from GGUF Q4_1", "460,800 of 134,975,808", "before: ", "below 1.5 after ten steps: True"):
        assert told in printed
    said = [c.source for c in page().cells if c.cell_type == "markdown" and "LOWRANK_SKIP_SMOLLM2=1" in c.source]
    assert len(said) == 1 and "not the original" in said[0]


def test_nothing_in_ci_skips_it():
    for path in ("Makefile", ".ci/run", "tests/portable.py", "tests/strict_nbval.py", "book/tools/notebooks.py"):
        assert "LOWRANK_SKIP" not in (ROOT / path).read_text("utf-8")


# ---- what the page says ----------------------------------------
def text_of_the_page():
    return "\n".join(c.source for c in page().cells if c.cell_type == "markdown")


def test_what_the_page_says_about_the_task(results):
    for model, ratio in (("tiny-gpt2", 168), ("smollm2-135m", 292)):
        lora, full = rows(results, f"{model} lora"), rows(results, f"{model} full")
        tokens = results["base"][model]["tokens"]["held"]
        pairs = [experiment.change(a["held"], b["held"], tokens) for a, b in zip(lora, full, strict=True)]
        assert all(mean > 4.85 * error for mean, error in pairs)  # "about five standard errors or more", in every seed
        low, high = (f"{f(mean for mean, _ in pairs):.3f}" for f in (min, max))
        on = "the tiny model" if model == "tiny-gpt2" else "SmolLM2"
        assert f"by {low} to {high} on {on}" in text_of_the_page()
        assert round(full[0]["trained"] / lora[0]["trained"]) == ratio
    base = results["base"]["smollm2-135m"]
    assert f"{base['slots']:.2f}" == "0.08"
    assert min(row["slots"] for how in ("lora", "full") for row in rows(results, f"smollm2-135m {how}")) > 0.985
    assert np.ptp(held(results, "smollm2-135m lora")) > 0.05


def test_what_the_page_says_about_other_text(results):
    told = {}
    for model, kinds in (("tiny-gpt2", ["stories"]), ("smollm2-135m", ["prose", "rows", "chat"])):
        for what in kinds:
            lora, full = (moves(results, f"{model} {how}", what) for how in ("lora", "full"))
            for (less, error), (more, other) in zip(lora, full, strict=True):
                assert more - less > 3 * np.hypot(error, other) and less > 3 * error
            ranges = [[f"{f(mean for mean, _ in found):.2f}" for f in (min, max)] for found in (full, lora)]
            told[what] = "{} to {} against {} to {}".format(*ranges[0], *ranges[1])
    for what, place in (("stories", "the stories"), ("prose", "prose"), ("chat", "in dialogue")):
        assert f"{told[what]} {place if what == 'chat' else 'on ' + place}" in text_of_the_page()
    for how in ("lora", "full"):
        pairs = zip(*(moves(results, f"smollm2-135m {how}", what) for what in ("rows", "prose")), strict=True)
        assert all(0.85 < a / b < 1.15 for (a, _), (b, _) in pairs)


def test_what_the_page_says_about_gentle_rates(results):
    lora, full = (moves(results, f"tiny-gpt2 {how} gentle", "stories") for how in ("lora", "full"))
    assert max(mean for mean, _ in lora + full) < 0.011
    assert np.mean([mean for mean, _ in full]) < np.mean([mean for mean, _ in lora])
    price = {how: np.subtract(held(results, f"tiny-gpt2 {how} gentle"), held(results, f"tiny-gpt2 {how}"))
             for how in ("lora", "full")}  # fmt: skip
    assert price["lora"].round(2) == pytest.approx(0.04) and 0 < price["full"].min() and price["full"].max() < 0.021
    assert max(held(results, "tiny-gpt2 full gentle")) < min(held(results, "tiny-gpt2 lora"))


def test_the_guess_is_right_about_the_stories(results):
    lora, full = ([mean for mean, _ in moves(results, f"tiny-gpt2 {how}", "stories")] for how in ("lora", "full"))
    assert exercises.get("ch07-forget").reference == "full fine-tuning"
    assert all(3.5 < more / less < 9.5 for less, more in zip(lora, full, strict=True))  # "four to nine times"


def test_the_replay_ends_with_every_fact(results):
    found = [slot_accuracy(restaurants(8, 7)[0], text) for text in results["runs"]["smollm2-135m lora 0"]["texts"]]
    assert found[0] == 0 and found[-1] == 1
