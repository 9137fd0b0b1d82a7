"""Chapter 5: each planted wrong answer gets its own sentence; the committed data are what a run gives."""

from collections import OrderedDict

import ch05_merge as experiment
import numpy as np
import peft
import pytest
import torch
from helpers import assert_distinct_sentences, assert_notebook_shows
from hypothesis import given
from hypothesis import strategies as st
from peer import bitsandbytes

import lowrank_edu as lo
from lowrank_edu import corpus, exercises, figures, shipped
from lowrank_edu.updates import weight_of


# ---- exercises ----------------------------------------
def by_view(x):
    """bf16 by hand, another way: add half a step to the fp32 bit pattern, ties to even, and cut."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).view(np.float32)


def mantissa(x, bits, rounding):
    exponent = np.floor(np.log2(np.abs(x))) + 1
    return rounding(x / 2.0**exponent * 2.0**bits) / 2.0**bits * 2.0**exponent


def test_bf16_names_each_mistake():
    assert_distinct_sentences(
        exercises.get("ch05-bf16"),
        wrong_answers={
            "cut off": lambda x: mantissa(x, 8, np.fix),
            "rounded down": lambda x: mantissa(x, 8, np.floor),
            "stored bits": lambda x: mantissa(x, 7, np.round),
            "leading bit counted twice": lambda x: mantissa(x, 9, np.round),
            "half precision": lambda x: x.astype(np.float16).astype(float),
            "steps of 1/256": lambda x: np.round(256 * x) / 256,
            "two decimals": lambda x: np.array([round(v, 2) for v in x.flat]).reshape(x.shape),
            "exponent lost": lambda x: 256 * mantissa(x, 8, np.round),
        },
        right_answers=[
            by_view,
            lambda x: torch.as_tensor(x).bfloat16(),
            lambda x: mantissa(x, 8, np.round).tolist(),
        ],
    )


def test_no_case_is_so_small_that_fp16_would_lose_more_bits():
    assert min(np.abs(case[0]).min() for case in exercises.get("ch05-bf16").fresh_cases()) > 2.0**-14


def test_drift_has_a_sentence_for_each_guess():
    wrong = {guess: guess for guess in ("zero", "Smaller", "30 times", "1000 times")}
    assert_distinct_sentences(exercises.get("ch05-drift"), wrong, ["The same", " the same."])


def second_merge_adds(layer):
    layer.kept = layer.W.copy()
    layer.W = layer.W + layer.scale * (layer.B @ layer.A)


def raises_after(layer):
    merged = layer.kept is not None
    old = layer.W.copy()
    layer.W = layer.W + layer.scale * (layer.B @ layer.A)
    if merged:
        raise ValueError("too late")
    layer.kept = old


def same_matrix(layer):
    if layer.kept is None:
        layer.kept = layer.W
        layer.W += layer.scale * (layer.B @ layer.A)
    else:
        raise ValueError("no")


def says_nothing(layer):
    if layer.kept is not None:
        return
    layer.kept = layer.W.copy()
    layer.W = layer.W + layer.scale * (layer.B @ layer.A)


def asserts(layer):
    assert layer.kept is None
    says_nothing(layer)


def refusing(body):
    def merge(layer):
        if layer.kept is not None:
            raise ValueError("merged already")
        body(layer)

    return merge


@refusing
def keeps_the_wrong_one(layer):
    layer.W = layer.W + layer.scale * (layer.B @ layer.A)
    layer.kept = layer.W.copy()


@refusing
def keeps_the_update(layer):
    layer.kept = layer.scale * (layer.B @ layer.A)
    layer.W = layer.W + layer.kept


@refusing
def keeps_nothing(layer):
    layer.W = layer.W + layer.scale * (layer.B @ layer.A)


@refusing
def forgets_scale(layer):
    layer.kept = layer.W.copy()
    layer.W = layer.W + layer.B @ layer.A


@refusing
def wrong_product(layer):
    layer.W = layer.W + layer.scale * layer.A @ layer.B


def in_place_with_a_copy(layer):
    if layer.kept is not None:
        raise ValueError("first unmerge")
    layer.kept = layer.W.copy()
    layer.W += np.einsum("or,ri->oi", layer.B, layer.A) * layer.scale


def test_merge_names_each_mistake():
    wrong = [second_merge_adds, raises_after, same_matrix, says_nothing, asserts, keeps_the_wrong_one,
             keeps_the_update, keeps_nothing, forgets_scale, wrong_product]  # fmt: skip
    assert_distinct_sentences(exercises.get("ch05-merge"), {f.__name__: f for f in wrong}, [in_place_with_a_copy])


def test_combine_names_each_mistake():
    def root_of_each(A1, B1, A2, B2, w1, w2):
        return (
            torch.tensor(np.hstack([w1**0.5 * B1, w2**0.5 * B2])),
            np.vstack([w1**0.5 * A1, w2**0.5 * A2]),
        )

    def by_svd(A1, B1, A2, B2, w1, w2):
        U, S, Vt = np.linalg.svd(w1 * B1 @ A1 + w2 * B2 @ A2, full_matrices=False)
        return U * S, Vt

    assert_distinct_sentences(
        exercises.get("ch05-combine"),
        wrong_answers={
            "average": lambda A1, B1, A2, B2, w1, w2: (w1 * B1 + w2 * B2, w1 * A1 + w2 * A2),
            "squared": lambda A1, B1, A2, B2, w1, w2: (np.c_[w1 * B1, w2 * B2], np.r_[w1 * A1, w2 * A2]),
            "loud": lambda A1, B1, A2, B2, w1, w2: (np.c_[B1, B2], np.r_[A1, A2]),
            "exchanged": lambda A1, B1, A2, B2, w1, w2: (np.c_[B1, B2], np.r_[w2 * A1, w1 * A2]),
            "A first": lambda A1, B1, A2, B2, w1, w2: (np.r_[A1, A2], np.c_[w1 * B1, w2 * B2]),
            "other axes": lambda A1, B1, A2, B2, w1, w2: (np.r_[w1 * B1, w2 * B2], np.c_[A1, A2]),
            "matrix": lambda A1, B1, A2, B2, w1, w2: w1 * (B1 @ A1) + w2 * (B2 @ A2),
        },
        right_answers=[root_of_each, by_svd],
    )


def test_dropout_has_a_sentence_for_each_option():
    exercise = exercises.get("ch05-dropout")
    assert_distinct_sentences(exercise, {o: o.upper() for o in exercise.options if o != "nowhere"}, ["Nowhere."])


def test_the_page_shows_every_exercise():
    assert_notebook_shows(exercises.chapter("ch05"), "ch05_merge.ipynb")


# ---- what the chapter claims ----------------------------------------------------
@pytest.mark.parametrize("dtype, width", [(np.float16, 16), (np.float32, 32)])
def test_a_second_trip_with_the_same_update_moves_nothing(dtype, width):
    """Reiser and Knuth 1975; the oracle is the processor's own rounding."""
    numbers = st.floats(-1, 1, width=width, allow_subnormal=False)

    @given(st.lists(st.tuples(numbers, numbers), min_size=1))
    def holds(pairs):
        W0, dW = np.array(pairs, dtype).T
        once = (W0 + dW) - dW
        assert np.array_equal((once + dW) - dW, once)

    holds()


def test_the_same_is_false_for_several_updates_in_turn():
    rng = np.random.default_rng(0)
    W0 = rng.normal(size=(40, 30)).astype(np.float32)
    deltas = (0.05 * rng.normal(size=(3, 40, 30))).astype(np.float32)
    W, errors = W0, []
    for trip in range(1, 301):
        W = (W + deltas[trip % 3]) - deltas[trip % 3]
        if trip in (30, 300):
            errors.append(np.abs(W - W0).max())
    assert errors[1] > 5 * errors[0] > 0


@pytest.fixture(scope="module")
def results():
    return shipped.results("ch05_merge")


def test_recorded_drift_has_the_shape_that_the_page_describes(results):
    drift = {name: [entry["max"] for entry in entries] for name, entries in results["drift"].items()}
    assert len(set(drift["fp32 one"])) == 1 and drift["fp32 one"][0] > 0
    assert 50 < drift["fp32 three"][-1] / drift["fp32 three"][results["cycles"].index(10)] < 200
    assert drift["bf16 one"][-1] > 3 * drift["bf16 one"][0]
    assert all(entry["ours exact"] is True for entry in results["merge"].values())
    lost = [results["merge"][name]["lost"] for name in ("fp32", "fp16", "bf16")]
    assert lost == sorted(lost) and lost[2] > 0.01 > lost[0]


@pytest.mark.parametrize("name, order", [("fp32", "one"), ("bf16", "three")])
def test_measuring_the_drift_again_gives_the_recorded_numbers(results, name, order):
    again = experiment.drift(experiment.FORMATS[name], experiment.ORDERS[order], [1, 3])
    recorded = [results["drift"][f"{name} {order}"][results["cycles"].index(c)] for c in (1, 3)]
    for new, old in zip(again, recorded, strict=True):
        assert new["moved"] == pytest.approx(old["moved"], rel=0.02)
        assert new["max"] == pytest.approx(old["max"], rel=0.5)  # the largest of many: one rounding step


def test_measuring_a_merge_again_gives_the_recorded_numbers(results):
    new, old = experiment.merge_error(torch.bfloat16), results["merge"]["bf16"]
    assert new["lost"] == pytest.approx(old["lost"], rel=0.02)
    assert new["relative"] == pytest.approx(old["relative"], rel=0.02)


def test_in_codes_the_numbers_come_again_and_the_page_tells_them(results):
    new, old = experiment.merge_error("nf4"), results["merge"]["nf4"]
    assert new["lost"] == pytest.approx(old["lost"], rel=0.02) and old["lost"] < 0.1  # "few changes are lost"
    assert new["relative"] == pytest.approx(old["relative"], rel=0.02)
    assert old["relative"] == pytest.approx(0.4, abs=0.05)  # "wrong by two fifths"
    again = experiment.drift_in_codes(experiment.STYLES[:1], [1, 3])
    recorded = [results["drift"]["nf4 one"][results["cycles"].index(c)] for c in (1, 3)]
    assert [entry["max"] for entry in again] == pytest.approx([entry["max"] for entry in recorded], rel=0.02)
    series = [entry["max"] for entry in results["drift"]["nf4 one"]]
    at = dict(zip(results["cycles"], series, strict=True))
    assert series == sorted(series) and at[1000] == pytest.approx(10 * at[100], rel=0.05)  # "and never stops"


@pytest.mark.filterwarnings("ignore:(Merge|Unmerge) lora module")
def test_peft_s_merge_into_4_bits_is_this_arithmetic():
    model, _ = experiment.loaded("nf4", ["pirate"])
    layer = lo.adapted_layers(model)["transformer.h.2.mlp.c_proj"]
    W0, update = weight_of(layer.base), layer.updates["pirate"]
    kind = {"compress_statistics": False, "quant_type": "nf4"}
    base = bitsandbytes.nn.Linear4bit(W0.shape[1], W0.shape[0], bias=False, **kind)
    base.weight = bitsandbytes.nn.Params4bit(W0.clone(), requires_grad=False, **kind)
    there = torch.nn.Sequential(OrderedDict(fc=base.to("cpu")))
    there.is_loaded_in_4bit = True
    rank = len(update.A)
    peft.inject_adapter_in_model(peft.LoraConfig(r=rank, lora_alpha=rank * update.scale, target_modules=["fc"]), there)
    there.fc.lora_A["default"].weight.data.copy_(update.A)
    there.fc.lora_B["default"].weight.data.copy_(update.B)
    for _ in range(3):
        there.fc.merge()
        there.fc.unmerge()
    weight = there.fc.get_base_layer().weight
    W, dW = bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state), layer.delta("pirate")
    here = W0
    for _ in range(3):
        here = experiment._packed(experiment._packed(here + dW) - dW)
    assert (W - here).abs().max() < 1e-6 < (here - W0).abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, "nf4"])
def test_our_round_trips_return_every_bit(dtype):
    assert experiment.ours(dtype, experiment.STYLES, 6)


def test_the_style_adapters_are_what_the_results_say(results):
    for style in experiment.STYLES:
        model, tok = experiment.loaded(torch.float32, [style])
        loss = lo.evaluate(model, lo.tokenize(tok, corpus.stories(100, seed=2, style=style)))
        assert loss == pytest.approx(results["styles"][style]["after"], abs=2e-3)
        assert results["styles"][style]["in style"] >= 0.9
        assert all(corpus.style_score(text, style) > 0.9 for text in results["styles"][style]["samples"])


def test_training_again_begins_as_recorded(results):
    losses = experiment.train_style("pirate", experiment.SAMPLE)[2].loss
    assert losses == pytest.approx(results["first losses"], abs=0.02)


def test_the_figure_tells_the_end_of_the_story(results):
    figure = figures.merge_drift(results)
    assert f"{results['drift']['fp32 three'][-1]['max']:.1e} in fp32" in figure.alt
    assert figure.data["series"]["fp32 one"]["max"][0] == 0
    with pytest.raises(ValueError, match="not a square"):
        broken = {"corner": "AAAA", "max": 1.0, "moved": 0.1}
        figures.merge_drift({"cycles": [1], "drift": {"fp32 one": [broken]}, "merge": {}})
    with pytest.raises(ValueError, match=r"ch05_merge.*make experiments"):
        shipped.results("ch05")
