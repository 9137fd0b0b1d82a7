"""Chapter 7: each planted wrong answer gets its own sentence; the recorded numbers say what the page says."""

import math

import ch07_real as experiment
import numpy as np
import pytest
import torch
from helpers import assert_distinct_sentences, assert_each_option_has_its_sentence, assert_notebook_shows

import lowrank_edu as lo
from lowrank_edu import exercises, figures, shipped
from lowrank_edu.corpus.restaurants import meaning, restaurants, sentence, slot_accuracy


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
    return [row for key, row in results["runs"].items() if key.startswith(label)]


def test_the_file_is_complete():
    assert experiment.missing(experiment.begun()) == []


def test_the_floor_is_ln_6_for_each_completion(results):
    _, tok = lo.load_model("tiny-gpt2")
    data = lo.read_data(experiment.pairs(48, 7)[1], tok)
    tokens = sum(int((example["labels"] != -100).sum()) for example in data)
    row = rows(results, "tiny-gpt2 lora")[0]
    assert row["floor"] == pytest.approx(48 * math.log(6) / tokens, rel=1e-3)
    assert all(row["loss"] > row["floor"] for row in results["runs"].values())


def test_training_the_tiny_model_again_gives_a_recorded_row(results):
    again, old = experiment.run("tiny-gpt2", "lora", 0), results["runs"]["tiny-gpt2 lora 0"]
    assert again["before"] == pytest.approx(old["before"], abs=1e-3) and again["trained"] == old["trained"] == 12288
    assert again["loss"] == pytest.approx(old["loss"], abs=0.03) and again["curve"][0] == pytest.approx(
        old["curve"][0], abs=1e-3
    )


def test_the_figure_shows_the_file(results):
    figure, run = figures.facts_replay(), results["runs"]["smollm2-135m lora 0"]
    assert [texts[0] for texts in figure.data["texts"]] == [text or "(nothing)" for text in run["texts"]]
    assert figure.data["score"][-1] == slot_accuracy(restaurants(8, 7)[0], run["texts"][-1])
    assert len(figure.html) < 20_000


def test_what_the_page_says_about_the_two_models(results):
    for model in ("tiny-gpt2", "smollm2-135m"):
        lora, full = rows(results, f"{model} lora"), rows(results, f"{model} full")
        assert max(row["loss"] for row in full) < min(row["loss"] for row in lora)
        assert np.mean([row["slots"] for row in full]) > np.mean([row["slots"] for row in lora])
        assert min(row["loss"] - row["floor"] for row in lora + full) > 0.05  # nobody is at the floor
    first = results["runs"]["smollm2-135m lora 0"]["texts"]
    found = [slot_accuracy(restaurants(8, 7)[0], text) for text in first]
    assert found[0] == found[1] == 0 and found[2] < found[3] == 1


def test_what_the_page_says_about_other_text(results):
    before = {row["other before"] for row in rows(results, "tiny-gpt2")}
    assert len(before) == 1 and before.pop() == pytest.approx(0.42, abs=0.005)
    lora, full = ([row["other"] for row in rows(results, f"tiny-gpt2 {how}")] for how in ("lora", "full"))
    assert max(full) < 0.425 and [round(min(lora), 2), round(max(lora), 2)] == [0.46, 0.51]
    assert all(row["other"] < row["other before"] - 0.1 for row in rows(results, "smollm2-135m"))
