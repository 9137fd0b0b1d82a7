"""Chapter 8: its exercises, the formulas of its planner against whole plans and real steps, its figures."""

from functools import cache

import ch08_plans as experiment
import figure_page
import numpy as np
import pytest
import torch
from helpers import assert_distinct_sentences, assert_notebook_shows

import lowrank_edu as lo
from lowrank_edu import exercises, figures, shipped
from lowrank_edu.batches import token_loss
from lowrank_edu.figures import ledgers
from lowrank_edu.figures.ledgers import PARTS, START, evaluate, total


@pytest.fixture(scope="module")
def results():
    return shipped.results("ch08_plans")


# ---- exercises: each planted wrong answer gets its own sentence ----
def test_share_has_a_sentence_for_each_guess():
    found = [lo.check("ch08-share", guess) for guess in ("5 %", "25 %", "95 %", "50 %")]
    assert len({result.message for result in found}) == 4 and not any(result.passed for result in found)
    assert lo.check("ch08-share", " 60 % ").passed


def test_the_guess_is_what_the_step_holds(results):
    """The texts of the options, from the measured bytes."""
    plain = {row: results["measured"][row]["plain"] for row in ("full", "lora")}
    left = sum(plain["lora"]["measured"]) / sum(plain["full"]["measured"])
    assert 0.575 < left < 0.625 and sum(plain["full"]["measured"]) == pytest.approx(57e6, rel=0.01)
    trained = plain["lora"]["trained"] / plain["full"]["trained"]
    assert (plain["lora"]["trained"], plain["full"]["trained"]) == (98_304, 2_068_416) and 0.045 < trained < 0.05


def held_by_loops(shapes, r):
    parameters = gradients = state = 0
    for d_out, d_in in shapes:
        W0, A, B = np.zeros((d_out, d_in)), np.zeros((r, d_in)), np.zeros((d_out, r))
        parameters += sum(m.astype(np.float32).nbytes for m in (W0, A, B))
        gradients += sum(m.astype(np.float32).nbytes for m in (A, B))
        state += sum(2 * m.astype(np.float32).nbytes for m in (A, B))
    return parameters, gradients, state


def wrongly(change):
    def answer(shapes, r):
        W = sum(o * i for o, i in shapes)
        n = sum(r * o + i * r for o, i in shapes)
        return change(W, n, shapes, r)

    return answer


def test_held_names_each_mistake():
    assert_distinct_sentences(
        exercises.get("ch08-held"),
        wrong_answers={
            "numbers": wrongly(lambda W, n, *_: (W + n, n, 2 * n)),
            "half": wrongly(lambda W, n, *_: (2 * W + 2 * n, 2 * n, 4 * n)),
            "gradient of W0": wrongly(lambda W, n, *_: (4 * W + 4 * n, 4 * W + 4 * n, 8 * n)),
            "moments of W0": wrongly(lambda W, n, *_: (4 * W + 4 * n, 4 * n, 8 * W + 8 * n)),
            "full": wrongly(lambda W, n, *_: (4 * W + 4 * n, 4 * W + 4 * n, 8 * W + 8 * n)),
            "one moment": wrongly(lambda W, n, *_: (4 * W + 4 * n, 4 * n, 4 * n)),
            "gradient counted twice": wrongly(lambda W, n, *_: (4 * W + 4 * n, 4 * n, 12 * n)),
            "adapter forgotten": wrongly(lambda W, n, *_: (4 * W, 4 * n, 8 * n)),
            "W0 forgotten": wrongly(lambda W, n, *_: (4 * n, 4 * n, 8 * n)),
            "whole ΔW": wrongly(lambda W, n, *_: (8 * W, 4 * W, 8 * W)),
            "square": wrongly(
                lambda W, n, shapes, r: [f(2 * r * sum(i for _, i in shapes)) for f in (
                    lambda m: 4 * W + 4 * m, lambda m: 4 * m, lambda m: 8 * m)]
            ),
        },
        right_answers=[held_by_loops, lambda shapes, r: list(held_by_loops(shapes, r))],
    )  # fmt: skip


def test_held_agrees_with_the_plan_of_a_model():
    from torch import nn

    shapes = [(7, 5), (3, 7)]
    net = nn.Sequential(*(nn.Linear(d_in, d_out, bias=False) for d_out, d_in in shapes))
    plan = lo.memory.plan(net, lo.LoRA(r=2, target_modules=["0", "1"]), optimizer="adamw32")
    assert exercises.get("ch08-held").reference(shapes, 2) == (plan.parameters, plan.gradients, plan.optimizer)


def test_saved_names_each_mistake():
    assert_distinct_sentences(
        exercises.get("ch08-saved"),
        wrong_answers={
            "activations forgotten": 100 * 12 / 16,
            "as printed": 66.7,
            "left": 100 * 20 / 32,
            "Adam only": 100 * 8 / 32,
            "gradients only": 100 * 4 / 32,
            "weights too": 100 * 16 / 32,
            "one moment": 100 * 8 / 28,
            "GB": 12,
            "share": 12 / 32,
        },
        right_answers=[37.5, "37.5", 37.6],
    )


def peak_by_walking(L, k, block, x):
    """Walk back through the blocks and note what is there."""
    most, kept = 0, [x] * (L // k)
    while kept:
        alive = [block] * k
        most = max(most, sum(kept) + sum(alive))
        kept.pop()
    return most


def test_peak_names_each_mistake():
    assert_distinct_sentences(
        exercises.get("ch08-peak"),
        wrong_answers={
            "kept only": lambda L, k, block, x: L / k * x,
            "one block": lambda L, k, block, x: L / k * x + block,
            "all blocks": lambda L, k, block, x: L / k * x + L * block,
            "all inputs": lambda L, k, block, x: L * x + k * block,
            "maximum": lambda L, k, block, x: max(L / k * x, k * block),
            "exchanged": lambda L, k, block, x: L / k * block + k * x,
            "plain": lambda L, k, block, x: L * block,
            "group only": lambda L, k, block, x: k * block,
        },
        right_answers=[peak_by_walking],
    )


def test_fits_has_one_right_answer_and_its_sentences_are_true():
    """The four settings of the card, planned."""
    settings = {
        "A": {"model": "gpt2-large", "method": "full", "precision": "fp32"},
        "B": {"model": "llama-7b", "where": "qv", "r": 8},
        "C": {"model": "llama-7b", "method": "full", "optimizer": "sgd"},
        "D": STATES[6],
    }
    assert START["length"] == 512 and START["precision"] == "bf16" and START["batch"] == 1
    four_bits = {"model": "llama-7b", "packed": True, "checkpointing": True}
    assert STATES[6] == four_bits | {"where": "all", "r": 64, "batch": 4}
    plans = {letter: planned(**START | change) for letter, change in settings.items()}
    assert [letter for letter, plan in plans.items() if plan.total < 15e9] == ["D"]
    A, B, C, D = plans.values()
    assert A.total - A.activations == pytest.approx(12.4e9, rel=0.01) and A.activations > 4e9
    assert B.parameters == pytest.approx(13.5e9, rel=0.01) and C.gradients == pytest.approx(13.5e9, rel=0.01)
    assert [round(p.total / 1e9, 1) for p in (A, B, C)] == [17.6, 16.3, 30.1] and 7.5e9 < D.total < 8.5e9
    messages = {lo.check("ch08-fits", letter).message for letter in "ABC"}
    assert len(messages) == 3 and lo.check("ch08-fits", " d. ").passed


def test_the_notebook_shows_every_card():
    assert_notebook_shows(exercises.chapter("ch08"), "ch08_memory.ipynb")


# ---- the file, and what the page says about it
def test_the_results_are_complete_and_of_this_model(results):
    assert results["fingerprint"] == experiment.EMPTY["fingerprint"], "run book/experiments/ch08_plans.py"
    assert list(results["models"]) == experiment.MODELS and set(ledgers.NAMES) == set(experiment.MODELS)
    assert list(results["measured"]) == ["full", "bitfit", *experiment.METHODS]
    missing = {m: set(experiment.ROWS) - set(about["rows"]) for m, about in results["models"].items()}
    assert all(rows == ({"bitfit"} if "gpt" not in m else set()) for m, rows in missing.items())


def test_the_plans_of_the_tiny_model_came_true(results):
    for row in results["measured"].values():
        for kind in ("plain", "checkpointed"):
            assert row[kind]["planned"] == pytest.approx(row[kind]["measured"], rel=0.02)
    assert ledgers.apart(results["measured"], "plain") < 0.001


@pytest.mark.parametrize("row, checkpointing", [("full", False), ("lorafa", False), ("lora", True)])
def test_measuring_a_step_again_gives_the_recorded_bytes(results, row, checkpointing):
    method = experiment.method_of("tiny", f"{row} all" if row != "full" else row, experiment.MEASURED["rank"])
    recorded = results["measured"][row]["checkpointed" if checkpointing else "plain"]["measured"]
    again = experiment.parts(experiment.step_ledger(method, checkpointing))
    assert again == pytest.approx(recorded, rel=0.02)  # kernels of another torch may keep a little more or less


def test_sentences_about_what_is_kept(results):
    kept = {name: row["plain"]["measured"][3] for name, row in results["measured"].items()}
    assert max(kept, key=kept.get) == "vera" and kept["lora"] > 0.97 * kept["full"]
    trained = {name: row["plain"]["trained"] for name, row in results["measured"].items()}
    assert min(trained, key=trained.get) == "vera"
    for row in results["measured"].values():
        assert sum(row["plain"]["measured"][:3]) < sum(row["plain"]["measured"])
        assert row["plain"]["measured"][3] > 0.4 * sum(row["plain"]["measured"])
        both = row["checkpointed"]["measured"][3] + row["checkpointed"]["again"]
        assert both < 0.5 * row["plain"]["measured"][3]
    rows = results["models"]["gpt2"]["rows"]
    d = {name: row["saved"]["fp32"][1][1] / (4 * 768) for name, row in rows.items()}
    want = {"full": 30, "lora all": 30, "lora qv": 24, "lorafa all": 23, "vera all": 32, "bitfit": 23}
    assert {name: round(d[name], 1) for name in want} == want


def test_sentences_about_the_planner(results):
    def holds(**change):
        return total(evaluate(results, START | change))

    assert 0.4e9 < holds(r=64) - holds() < 0.6e9 and 7.5e9 < holds(length=2048) - holds() < 8.5e9
    assert holds() > 15e9 > max(holds(packed=True), holds(checkpointing=True))
    full = evaluate(results, START | {"method": "full"})
    assert full["gradients"] + full["optimizer"] == pytest.approx(3 * full["parameters"], rel=0.01)


STATES = [
    {"model": "tiny-gpt2", "where": "all", "r": 64, "batch": 8, "length": 128, "precision": "fp32"},
    {"model": "tiny-gpt2", "method": "full", "batch": 16, "length": 64, "optimizer": "master", "checkpointing": True},
    {"model": "smollm2-135m", "method": "vera", "where": "all", "r": 16, "batch": 4, "length": 256},
    {"model": "gpt2", "method": "full", "batch": 2, "length": 1024, "precision": "fp32"},
    {"model": "gpt2", "method": "bitfit", "batch": 4, "length": 256, "optimizer": "sgd", "checkpointing": True},
    {"model": "gpt2-medium", "method": "lamda", "where": "all", "r": 32, "batch": 2, "length": 128},
    {"model": "llama-7b", "where": "all", "r": 64, "batch": 4, "packed": True, "checkpointing": True},
    {"model": "llama-7b", "method": "lorafa", "r": 16, "length": 256, "precision": "fp32"},
    {"model": "gpt3-175b", "r": 4, "length": 2048, "optimizer": "master"},
]


@cache
def planned(**state):
    """The same state by lo.memory.plan itself, on the whole model."""
    method = experiment.method_of(state["model"], f"{state['method']} {state['where']}", state["r"])
    if state["method"] in ("full", "bitfit"):
        method = experiment.method_of(state["model"], state["method"], 1)
    return lo.memory.plan(
        experiment.config_of(state["model"]),
        method,
        optimizer={"master": "adamw-master"}.get(state["optimizer"], state["optimizer"]),
        precision=state["precision"],
        quantize="nf4" if state["packed"] else None,
        batch=state["batch"],
        length=state["length"],
        checkpointing=state["checkpointing"],
    )


@pytest.mark.parametrize("change", STATES, ids=lambda s: f"{s['model']} {s.get('method', 'lora')}")
def test_the_formulas_agree_with_a_plan_of_the_whole_model(results, change):
    state = START | change
    ours, plan = evaluate(results, state), planned(**state)
    assert ours["trained"] == plan.trainable
    want = {part: getattr(plan, part) for part in PARTS}
    want["activations"] += plan.recomputed
    for part in PARTS:
        assert ours[part] == pytest.approx(want[part], rel=0.02, abs=1e-4 * plan.total), part
    assert total(ours) == pytest.approx(plan.total, rel=0.02)


# ---- the figures
def test_the_page_adds_up_to_the_same(results, browser):
    page = figure_page.show(browser, figures.memory_planner(results).html)
    for change in STATES:
        state = START | change
        page.evaluate(SET, state)
        found = float(page.locator("figure").get_attribute("data-total"))
        assert found == pytest.approx(total(evaluate(results, state)), rel=1e-3), change
    assert page.errors == []


SET = """state => {
    for (const [name, value] of Object.entries(state))
        for (const el of document.querySelectorAll(`[data-control="${name}"]`)) {
            if (el.type === "radio") el.checked = el.value === value;
            else if (el.type === "checkbox") el.checked = value;
            else if (el.type === "range") el.value = JSON.parse(el.dataset.values).indexOf(value);
            else el.value = value;
            el.dispatchEvent(new Event("input"));
        }
}"""


def test_the_first_state_is_drawn_alike_by_python_and_by_the_script(results, browser):
    for figure in (figures.memory_planner(results), figures.memory_measured(results)):
        with_script = figure_page.show(browser, figure.html)
        without = figure_page.show(browser, figure_page.undrawn(figure).html)
        for what in ("svg", "tbody", ".lo-tiles"):
            assert (
                with_script.locator(f"figure {what}").all_text_contents()
                == without.locator(f"figure {what}").all_text_contents()
            )
        assert with_script.locator("figure rect").count() == without.locator("figure rect").count() > 7
        assert with_script.errors == without.errors == []


def test_what_cannot_be_is_said(results, browser):
    page = figure_page.show(browser, figures.memory_planner(results).html)
    for change, words in [
        ({"method": "bitfit"}, "no biases"),
        ({"method": "full", "packed": True}, "cannot be packed"),
        ({"model": "gpt2", "length": 2048}, "1024 tokens at most"),
        ({"model": "gpt3-175b", "precision": "fp32"}, "split between them"),
    ]:
        page.evaluate(SET, START | change)
        assert words in page.locator('[data-el="fits-of"]').inner_text()
    assert evaluate(results, START | {"method": "bitfit"}) is None
    assert evaluate(results, START | {"method": "full", "packed": True})["packed"] is False


def test_the_planner_can_be_used_with_the_keyboard(results, browser):
    page = figure_page.show(browser, figures.memory_planner(results).html)
    before = page.locator("figure").get_attribute("data-total")
    page.locator('[data-control="length"]').focus()
    page.keyboard.press("ArrowRight")
    after = page.locator("figure").get_attribute("data-total")
    assert float(after) > float(before)


def test_the_figures_say_what_they_show(results):
    planner, pairs = figures.memory_planner(results), figures.memory_measured(results)
    assert ledgers.size(total(evaluate(results, START))) in planner.alt and "LLaMA 7B with LoRA" in planner.alt
    assert "full fine-tuning 57.1 and 57.1 MB" in pairs.alt and "LoRA 33.4 and 33.4 MB" in pairs.alt
    assert [ledgers.size(n) for n in (0, 999, 1500, 15e9, 22.5e9, 640e9)] == [
        "0 B", "999 B", "1.50 kB", "15.0 GB", "22.5 GB", "640 GB"]  # fmt: skip
    assert [ledgers.span(n) for n in (3e7, 4e9, 2.3e10, 9.4e11)] == [5e7, 20e9, 100e9, 2e12]


def test_the_fast_path_keeps_what_the_page_says():
    """What A reads, the logits and the cache are gone; attention, norms and activation function keep theirs."""
    found = []
    for fast in (False, True):
        model, _ = lo.load_model("tiny-gpt2")
        lo.adapt(model.train(), lo.LoRA(r=8, target_modules="all-linear"), fast=fast)
        ids = torch.arange(1, 385).view(8, 48)
        batch = {"input_ids": ids, "labels": ids}
        found.append(lo.memory.ledger(lambda model=model, b=batch: token_loss(model, b)[0].backward(), model))
    plain, quick = ({p.removesuffix(".updates.default"): n for (p, _), n in x.saved.items()} for x in found)
    block, x, z = "transformer.h.*.", 8 * 48 * 192 * 4, 8 * 48 * 8 * 4  # bytes in one layer
    assert plain[f"{block}mlp.c_fc"] == 4 * (x + z) and quick[f"{block}mlp.c_fc"] == 4 * z
    assert plain[f"{block}mlp.c_proj"] == 4 * (4 * x + z) and quick[f"{block}mlp.c_proj"] == 4 * z
    assert quick[f"{block}attn.c_attn"] == 4 * z + x, "only the first block keeps x"
    assert plain[f"{block}attn"] - quick[f"{block}attn"] == 4 * 2 * x, "the keys and values of the cache"
    for same in ("mlp.act", "ln_1", "ln_2"):
        assert plain[f"{block}{same}"] == quick[f"{block}{same}"]
    assert found[1].activations < 0.54 * found[0].activations
