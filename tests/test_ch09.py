"""Chapter 9: each planted wrong answer gets its own sentence; the recorded numbers say what the page says."""

import ch09_qlora as experiment
import ch09_smollm2 as real
import numpy as np
import pytest
import torch
from helpers import assert_distinct_sentences, assert_notebook_shows

import lowrank_edu as lo
from lowrank_edu import exercises, figures, quant, shipped
from lowrank_edu.figures import code_use


# ---- exercises ----------------------------------------
def test_outlier_has_a_sentence_for_each_guess():
    exercise = exercises.get("ch09-outlier")
    assert_distinct_sentences(exercise, {o: o for o in exercise.options if o != "3"}, ["3.", " 3 "])


def test_the_guess_about_the_outlier_is_right():
    def levels_used(outlier):
        block = torch.cat([torch.linspace(-2.4, 2.4, 63), torch.tensor([outlier])])
        return len(quant.dequantize(quant.quantize(block, "nf4"))[:63].unique())

    assert (levels_used(30.0), levels_used(100.0)) == (3, 1)  # what the answer and the sentence of "1" say


def by_search(x, levels, size):
    """Nearest level by bisection between midpoints, absmax from a padded table."""
    x = np.asarray(x, float)
    table = np.pad(x, (0, -len(x) % size)).reshape(-1, size)
    top = np.maximum(table.max(1), -table.min(1))
    scaled = (table / np.where(top > 0, top, 1)[:, None]).ravel()[: len(x)]
    return np.searchsorted((levels[1:] + levels[:-1]) / 2, scaled).tolist(), top.tolist()


def looped(
    top=lambda b: max(abs(v) for v in b), best=lambda v, levels: min(range(16), key=lambda k: abs(v - levels[k]))
):
    def answer(x, levels, size):
        codes, tops = [], []
        for start in range(0, len(x), size):
            block = list(x[start : start + size])
            tops.append(top(block))
            codes += [best(v / (tops[-1] or 1), levels) for v in block]
        return codes, tops

    return answer


def whole_blocks_only(x, levels, size):
    return by_search(x[: size * (len(x) // size)], levels, size)


def too_many_codes(x, levels, size):
    return by_search(np.concatenate([x, np.zeros(-len(x) % size)]), levels, size)


def nan_for_zeros(x, levels, size):
    codes, tops = [], []
    for part in np.split(x, range(size, len(x), size)):
        tops.append(abs(part).max())
        codes += [int(np.argmin(abs(v / tops[-1] - levels))) for v in part]
    return codes, tops


def values_instead(x, levels, size):
    codes, tops = by_search(x, levels, size)
    return [levels[c] * tops[i // size] for i, c in enumerate(codes)], tops


def test_blocks_names_each_mistake():
    assert_distinct_sentences(
        exercises.get("ch09-blocks"),
        wrong_answers={
            "sign ignored": looped(top=max),
            "nan": nan_for_zeros,
            "rest forgotten": whole_blocks_only,
            "padding kept": too_many_codes,
            "one ruler": lambda x, levels, size: by_search(x, levels, len(x)),
            "floor": looped(best=lambda v, levels: max(k for k in range(16) if levels[k] <= v or k == 0)),
            "uniform": looped(best=lambda v, levels: round((v + 1) / 2 * 15)),
            "sigma": looped(top=np.std),
            "no ruler": looped(top=lambda b: 1.0),
            "dequantised": values_instead,
        },
        right_answers=[by_search, looped()],
    )


def test_bits_names_each_mistake():
    assert_distinct_sentences(
        exercises.get("ch09-bits"),
        wrong_answers={
            "codes": lambda code, block, group=None: float(code),
            "second level forgotten": lambda code, block, group=None: code + (8 if group else 32) / block,
            "per group": lambda code, block, group=None: code + (8 / block + 32 / group if group else 32 / block),
            "exchanged": lambda code, block, group=None: code + 32 / block + (8 / block / group if group else 0),
            "added": lambda code, block, group=None: code + (40 / block + 32 / block / group if group else 32 / block),
            "bytes": lambda code, block, group=None: code + (1 / block + 4 / block / group if group else 4 / block),
            "each its own": lambda code, block, group=None: code + (40 if group else 32),
        },
        right_answers=[
            lambda code, block, group=None: code + 2 ** (3 if group else 5) / block + 32 / block / (group or np.inf)
        ],
    )


@pytest.mark.parametrize("double", [False, True])
def test_counted_bits_are_those_of_a_real_tensor(double):
    bits = exercises.get("ch09-bits").reference
    q = quant.quantize(torch.randn(256, 512), "nf4", 64, double)  # 8 groups of 256 blocks
    offset = 32 / q.shape.numel() if double else 0
    assert q.bits_per_parameter == pytest.approx(bits(4, 64, 256 if double else None) + offset)


def unscaled(W, quantise, r, scale, of=lambda W, Q: W - Q, weight=lambda S, scale: S):
    Q = quantise(W)
    U, S, Vt = np.linalg.svd(of(W, Q), full_matrices=False)
    return Q, Vt[:r], U[:, :r] * weight(S[:r], scale)


def start(**change):
    """The start with everything in B, which is as good, and one thing changed."""
    return lambda W, quantise, r, scale: unscaled(
        W, quantise, r, scale, **({"weight": lambda S, scale: S / scale} | change)
    )


def test_loftq_names_each_mistake():
    def again(W, quantise, r, scale):
        _, A, B = start()(W, quantise, r, scale)
        return quantise(W - scale * (B @ A)), A, B

    assert_distinct_sentences(
        exercises.get("ch09-loftq"),
        wrong_answers={
            "scale forgotten": unscaled,
            "scale squared": start(weight=lambda S, scale: S / scale**2),
            "times scale": start(weight=lambda S, scale: S * scale),
            "S squared": start(weight=lambda S, scale: S**2 / scale),
            "pissa": start(of=lambda W, Q: W),
            "turned round": start(of=lambda W, Q: Q - W),
            "all ranks": lambda W, quantise, r, scale: start()(W, quantise, min(W.shape), scale),
            "quantised again": again,
        },
        right_answers=[start(), lambda *case: [torch.tensor(part) for part in start()(*case)]],
    )


def test_the_package_s_loftq_is_the_exercise_s():
    model, _ = lo.load_model("tiny-gpt2")
    path = "transformer.h.1.mlp.c_fc"
    W = experiment.weight_of(model.get_submodule(path)).detach().double()
    settings = lo.Quantization("nf4", double_quant=False, target_modules=["c_fc"])
    lo.adapt(model, lo.LoRA(4, 12, ["c_fc"], init="loftq"), quantize=settings)

    def quantise(W):
        return quant.dequantize(quant.quantize(torch.tensor(W).float())).double().numpy()

    Q, A, B = exercises.get("ch09-loftq").reference(W.numpy(), quantise, 4, 3.0)
    layer = lo.adapted_layers(model)[path]
    assert np.array_equal(Q, experiment.weight_of(layer.base).double().numpy())
    assert np.allclose(3 * B @ A, layer.delta("default").detach().numpy(), atol=1e-6)


def test_merge_has_a_sentence_for_each_option():
    exercise = exercises.get("ch09-merge")
    assert_distinct_sentences(exercise, {o: o.upper() for o in exercise.options if o != "dequantise"}, ["Dequantise."])


def test_the_page_shows_every_exercise():
    assert_notebook_shows(exercises.chapter("ch09"), "ch09_qlora.ipynb")


# ---- the recorded numbers ----------------------------------------
@pytest.fixture(scope="module")
def results():
    return shipped.results("ch09_qlora")


@pytest.fixture(scope="module")
def levels():
    return shipped.results("ch09_levels")


def test_the_files_are_complete_and_of_this_model(results, levels):
    files = experiment.loaded()
    assert experiment.missing(files) == []
    marks = experiment.fingerprints()
    assert (results["fingerprint"], levels["fingerprint"]) == (marks["ch09_qlora"], marks["ch09_levels"])


@pytest.mark.parametrize("base", ["nf4 dq", "loftq 1"])
def test_measuring_a_base_again_gives_the_recorded_numbers(results, base):
    new, old = experiment.untrained(base), results["base"][base]
    assert new["bytes"] == old["bytes"] and new["bits"] == pytest.approx(old["bits"], abs=1e-3)
    assert new["weights"] == pytest.approx(old["weights"], rel=1e-3)
    assert new["kl"] == pytest.approx(old["kl"], rel=0.1)
    assert new["plain"] == pytest.approx(old["plain"], abs=1e-3)


def test_training_again_begins_as_recorded(results):
    losses = experiment.train(experiment.started("nf4"), results["lr"], 0, experiment.SHORT).loss
    assert losses == pytest.approx(results["short"]["nf4"], abs=0.05)


def test_the_figure_s_numbers_are_measured_again(levels):
    again = experiment.level_rows(experiment.spoiled(experiment.source("Gaussian"), 30))["64"]
    old = levels["levels"]["Gaussian 30"]["64"]
    assert again["hist"] == old["hist"]
    for kind in code_use.KINDS:
        assert again[kind]["error"] == pytest.approx(old[kind]["error"], rel=1e-3)
        assert np.abs(np.subtract(again[kind]["use"], old[kind]["use"])).max() <= 1


# ---- the sentences of the page, each on the file ----------------------------------------
def test_what_the_page_says_about_blocks_and_outliers(levels):
    def error(name, block, kind="nf4"):
        return levels["levels"][name][str(block)][kind]["error"][0]

    plain = levels["levels"]["Gaussian 0"]
    assert error("Gaussian 0", 64) == pytest.approx(0.0728, abs=2e-4)  # bitsandbytes' own table: 0.072798
    assert error("Gaussian 0", 4096) == pytest.approx(0.0925, abs=3e-3)  # 0.092547 there; 16 blocks here
    told = {block: code_use.entropy(row["nf4"]["use"]) for block, row in plain.items()}
    assert told["16"] > 3.95 and 3.8 < told["64"] < 3.95 and told["4096"] < 3.6
    for name in ("Gaussian 0", "weight 0"):  # without outliers NF4 has the smallest error at every block size
        for block in experiment.BLOCKS:
            assert error(name, block) < min(error(name, block, "fp4"), error(name, block, "int4"))
    assert error("Gaussian 30", 4096) > 6 * error("Gaussian 0", 4096)  # one outlier spoils a large block
    assert error("Gaussian 30", 64) < 1.2 * error("Gaussian 0", 64)  # and one in 64 of the small ones
    assert 0.5 < error("Gaussian 100", 4096, "fp4") / error("Gaussian 100", 4096) < 0.6  # fp4 wins there
    double = plain["64"]["nf4"]["error"]
    assert 1 < double[1] / double[0] < 1.005


def test_the_figure_shows_the_file(levels):
    figure = figures.four_bits()
    assert figure.state == {"kind": "nf4", "block": 64, "outlier": 0, "source": "Gaussian", "double": False}
    assert f"{levels['levels']['Gaussian 0']['64']['nf4']['error'][0]:.4f} σ" in figure.html
    assert figure.data["bits"]["64"] == [4.5, 4.127] and len(figure.html) < 40_000
    assert code_use.entropy([625] * 16) == 4 and code_use.entropy([10_000] + [0] * 15) == 0


def test_what_the_page_says_about_the_bases(results):
    base = results["base"]
    error, kl, loss = ({name: row[key] for name, row in base.items()} for key in ("weights", "kl", "plain"))
    for measure in (error, kl):
        assert measure["int8"] < measure["nf4"] < measure["nf4 dq"] < measure["int4"] < measure["fp4"]
        assert measure["nf4 dq"] < 1.04 * measure["nf4"]
        assert measure["loftq 5"] < measure["loftq 1"] < measure["nf4"]
    assert kl["int4"] / kl["nf4"] == pytest.approx(2, abs=0.1)
    assert kl["fp4"] / kl["nf4"] == pytest.approx(2.5, abs=0.1)
    assert max(abs(loss[name] - loss["fp32"]) for name in base) <= 2.5e-4
    assert base["nf4 dq"]["bytes"] / base["fp32"]["bytes"] == pytest.approx(1 / 8, abs=0.005)


def after_training(results, base):
    return [results["runs"][f"{base} seed={seed}"]["loss"] - results["floor"] for seed in results["seeds"]]


def merges(results, how, key):
    return [row[how][key] for row in results["merge"].values()]


def test_what_the_page_says_about_the_trained_adapters(results):
    runs = {base: after_training(results, base) for base in experiment.BASES}
    for base, rows in runs.items():  # every range overlaps with that of fp32: no difference seen
        assert min(rows) < max(runs["fp32"]) and max(rows) > min(runs["fp32"]), base
    codes = [name for name in runs if not name.startswith("loftq")]
    means = {base: float(np.mean(rows)) for base, rows in runs.items()}
    assert 0.004 < max(max(runs[name]) - min(runs[name]) for name in codes) <= 0.006
    assert max(means[name] for name in codes) - min(means[name] for name in codes) == pytest.approx(0.002, abs=5e-4)
    assert abs(means["fp4"] - means["fp32"]) < 2e-4 and abs(means["loftq 5"] - means["fp32"]) < 2e-4
    assert (
        means["nf4"] > means["nf4 dq"]
        and max(means, key=means.get) == "loftq 1"
        and min(runs["loftq 1"]) < max(runs["nf4"])
    )
    assert list(runs)[-2:] == ["loftq 1", "loftq 5"]  # "the last two lines of the table"
    rates = {float(rate): loss for rate, loss in results["rates"].items()}
    assert experiment.tuned(rates) == results["lr"] == 0.016


def test_what_the_page_says_about_smollm2():
    found = shipped.results("ch09_smollm2")
    assert found["fingerprint"] == real.begun()["fingerprint"] and not real.missing(found)
    runs = {base: [found["runs"][f"{base} {seed}"] for seed in found["seeds"]] for base in real.BASES}
    fp32, bf16, nf4 = ([row["loss"] for row in runs[base]] for base in real.BASES)
    assert [round(a - b, 2) for a, b in zip(fp32, nf4, strict=True)] == pytest.approx([0.06, 0.07, 0.05])
    assert max(abs(a - b) for a, b in zip(fp32, bf16, strict=True)) < 0.01
    before = {base: rows[0]["before"] for base, rows in runs.items()}
    assert before["nf4 dq"] - before["fp32"] == pytest.approx(1 / 3, abs=0.01)
    assert 0 < before["bf16"] - before["fp32"] < 0.005
    assert [round(rows[0]["frozen"] / 1e6) for rows in runs.values()] == [538, 269, 168]
    model = real.loaded()[0]
    assert round(model.get_input_embeddings().weight.nbytes / 1e6) == 113
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


def test_smollm2_on_codes_begins_as_recorded():
    old = shipped.results("ch09_smollm2")["runs"]["nf4 dq 0"]
    data = real.examples(real.STEPS * real.BATCH, 100)
    history = lo.train(real.based("nf4 dq"), data, steps=1, batch_size=real.BATCH, lr=real.LR, seed=0, progress=False)
    assert history.loss[0] == pytest.approx(old["curve"][0], abs=0.02)


def test_a_best_rate_on_the_edge_of_the_grid_is_refused():
    with pytest.raises(ValueError, match=r"lr=0.064 is the best and the last.*extend RATES"):
        experiment.tuned({0.004: 1.0, 0.016: 0.9, 0.064: 0.8})


def test_what_the_page_says_about_merging(results):
    assert len(results["merge"]) == 3
    assert max(merges(results, "dequantise", "error")) < 1e-6 and max(merges(results, "dequantise", "kl")) < 1e-8
    for how in ("full", "requantise"):
        assert all(0.17 < error < 0.21 for error in merges(results, how, "error"))
    trained = merges(results, "dequantise", "loss")
    moved = [np.subtract(merges(results, how, "loss"), trained) for how in ("full", "requantise")]
    assert np.abs(moved).max() <= 1.25e-3 and (np.array(moved) < 0).sum() == 1
    assert moved[0].mean() > 0  # W + ΔW is not better than Ŵ + ΔW
    length = [results["base"]["nf4 dq"]["weights"] / error for error in merges(results, "full", "error")]
    assert all(0.5 <= ratio <= 0.56 for ratio in length)  # ‖ΔW‖ / ‖W‖: half


def test_requantising_deletes_a_quiet_adapter():
    """ΔW below half a step leads to the same codes again: the merged weight is Ŵ, off by all of ΔW."""
    model, _ = lo.load_model("tiny-gpt2")
    lo.adapt(model, lo.LoRA(4, 8, ["c_fc"]), quantize="nf4")
    for layer in lo.adapted_layers(model).values():
        layer.updates["default"].B.data.normal_(std=1e-4, generator=torch.Generator().manual_seed(0))
    assert lo.merge(model, how="requantise").error > 0.9


def test_the_gap_and_the_colab_arithmetic_of_the_page():
    nf4 = sorted(quant.LEVELS["nf4"])
    assert max(np.diff(nf4)) > 0.25  # "the widest gap is more than a quarter of the absmax"
    assert 12 * 12 * 768**2 * 4 == pytest.approx(340e6, rel=0.01)
    assert 12 * 12 * 768**2 * quant.bits_per_parameter("nf4", 64, True) / 8 == pytest.approx(44e6, rel=0.01)
    assert 4 * 124e6 * 8 * 128 / (65e12 / 3) == pytest.approx(25e-3, rel=0.1)
    plan = lo.memory.plan("gpt2", lo.LoRA(r=8, alpha=16, target_modules="all-linear"), quantize="nf4")
    embeddings = 4 * 768 * (50257 + 1024)
    assert plan.parameters == pytest.approx(207e6, rel=0.01) and embeddings > plan.parameters / 2
