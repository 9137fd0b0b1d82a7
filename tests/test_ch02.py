"""Chapter 2: its exercises, its figures and its experiment."""

import ch02_intrinsic as experiment
import numpy as np
import pytest
from helpers import assert_distinct_sentences, assert_notebook_shows

from lowrank_edu import exercises, figures, shipped
from lowrank_edu.figures import dimension, updates


@pytest.fixture(scope="module")
def recorded():
    return shipped.results("ch02_updates")


@pytest.fixture(scope="module")
def measured():
    return shipped.results("ch02_intrinsic")


# ---- exercises ----


def test_counts_names_each_mistake():
    S = np.array([10.0] + [1.0] * 100)
    p = S / S.sum()
    effective = np.exp(-(p * np.log(p)).sum())
    q = S**2 / (S**2).sum()
    assert_distinct_sentences(
        exercises.get("ch02-counts"),
        wrong_answers={
            "squares": {"effective": np.exp(-(q * np.log(q)).sum()), "stable": 2},
            "no square": {"effective": effective, "stable": 11},
            "entropy": {"effective": np.log(effective), "stable": 2},
            "root": {"effective": effective, "stable": 1.414},
            "exchanged": {"effective": 2, "stable": effective},
            "rank": {"effective": 101, "stable": 101},
            "one": {"effective": 1, "stable": 1},
        },
        right_answers=[{"effective": round(effective, 1), "stable": 2}],
    )


def test_energy_names_each_mistake():
    def with_kept(kept, extra=1):
        return lambda S, share: int((kept(S) < share).sum()) + extra

    assert_distinct_sentences(
        exercises.get("ch02-energy"),
        wrong_answers={
            "unchanged": with_kept(lambda S: S.cumsum() / S.sum()),
            "late": with_kept(lambda S: (S.cumsum() / S.sum()) ** 2),
            "above": with_kept(lambda S: (S**2).cumsum() / S.sum()),
            "below": with_kept(lambda S: (S * S).cumsum() / S.sum() ** 2),
            "off by one": with_kept(lambda S: (S**2).cumsum() / (S**2).sum(), 0),
            "length": with_kept(lambda S: ((S**2).cumsum() / (S**2).sum()) ** 0.5),
        },
        right_answers=[lambda S, share: int(np.argmax(np.cumsum(S * S) >= share * np.dot(S, S))) + 1],
    )


def test_gradient_names_each_mistake():
    def overwritten(X, G):
        for x, g in zip(X, G, strict=True):
            dW = np.outer(g, x)
        return dW

    def early(X, G):
        for x, g in zip(X, G, strict=True):
            return np.outer(g, x)

    assert_distinct_sentences(
        exercises.get("ch02-gradient"),
        wrong_answers={
            "transposed": lambda X, G: sum(np.outer(x, g) for x, g in zip(X, G, strict=True)),
            "mean": lambda X, G: np.mean([np.outer(g, x) for x, g in zip(X, G, strict=True)], axis=0),
            "sum first": lambda X, G: G.sum(0)[:, None] * X.sum(0)[None],
            "overwritten": overwritten,
            "early": early,
            "stacked": lambda X, G: np.array([np.outer(g, x) for x, g in zip(X, G, strict=True)]),
        },
        right_answers=[lambda X, G: G.T @ X, lambda X, G: np.einsum("no,ni->oi", G, X)],
    )


def test_tokens_names_each_mistake():
    wrong = {"examples": 5, "one": 30, "length": 31, "all": 155, "side": 192, "long side": 576, "entries": 110_592}
    assert_distinct_sentences(exercises.get("ch02-tokens"), wrong_answers=wrong, right_answers=["150", 150.0])


def test_d90_names_each_mistake():
    def passing(test, pick=min):
        def answer(dims, losses, base, full):
            return pick([d for d, v in zip(dims, losses, strict=True) if test(v, base, full)], default=None)

        return answer

    assert_distinct_sentences(
        exercises.get("ch02-d90"),
        wrong_answers={
            "of full": passing(lambda v, base, full: full / v >= 0.9),
            "plus ten": passing(lambda v, base, full: v <= full * 1.1),
            "tenth": passing(lambda v, base, full: v <= base / 10),
            "nine tenths": passing(lambda v, base, full: v <= 0.9 * base),
            "ten percent": passing(lambda v, base, full: (base - v) >= 0.1 * (base - full)),
            "largest": passing(lambda v, base, full: (base - v) / (base - full) >= 0.9, max),
            "best": lambda dims, losses, base, full: dims[losses.index(min(losses))],
            "index": lambda dims, losses, base, full: [base - v >= 0.9 * (base - full) for v in losses].index(1),
        },
        right_answers=[passing(lambda v, base, full: (base - v) / (base - full) >= 0.9)],
    )


def test_the_page_shows_every_exercise():
    assert_notebook_shows(exercises.chapter("ch02"), "ch02_updates.ipynb")


# ---- figures ----
def _cut(seed, rank, kept, rest, base=2.0, full=1.0):
    return {"seed": seed, "rank": rank, "base": base, "full": full, "energy": 0.5, "kept": kept, "rest": rest}


def test_a_cut_is_a_share_of_the_improvement_and_a_mean_over_seeds():
    table = updates.cut_table({"cuts": [_cut(0, 4, 1.25, 1.5), _cut(1, 4, 1.35, 2.0), _cut(0, 1, 1.6, 1.1)]})
    assert [row.rank for row in table] == [1, 4]
    assert table[1].kept == pytest.approx(0.70) and table[1].rest == pytest.approx(0.25)
    assert updates.share_at([(row.rank, row.kept) for row in table], 2) == pytest.approx(0.4 + 0.3 / 3)


def test_noise_has_the_norm_and_the_shape_of_the_update():
    layer = {"shape": [5, 3], "W0": [3.0, 2.0, 1.0], "delta": [0.4, 0.2, 0.1]}
    drawn = updates._matrices(layer)
    energy = {name: m["top"] ** 2 * np.sum(np.square(m["s"])) for name, m in drawn.items()}
    assert energy["noise"] == pytest.approx(energy["delta"], rel=1e-2) == pytest.approx(0.21, rel=1e-2)
    assert drawn["noise"]["shape"] == [5, 3]


def test_d90_is_ninety_percent_of_the_way_down():
    results = {"full": [{"base": 3.0, "loss": 1.0}], "weights": 500, "runs": []}
    for d, losses in ((10, [2.9, 2.8]), (50, [1.3, 1.3]), (100, [1.1, 1.28]), (1000, [1.3, 1.1]), (2000, [1.0, 1.1])):
        results["runs"] += [{"d": d, "loss": loss} for loss in losses]
    assert dimension.intrinsic_dimension(results) == 100  # mean 1.19 ≤ 1.2, and the first
    results["runs"] = results["runs"][:2]
    assert dimension.intrinsic_dimension(results) is None


def test_the_figures_are_the_same_every_time_and_say_what_they_show(recorded, measured):
    first, second = figures.update_spectra(recorded), figures.loss_against_d(measured)
    assert first.html == figures.update_spectra().html and second.html == figures.loss_against_d().html
    assert "half of the energy" in first.alt and "full fine-tuning" in second.alt


# ---- the page's words hold for the committed results ----
def test_the_update_has_full_rank_and_a_steep_spectrum(recorded):
    assert all(row["numerical"] > 0.9 * 192 for row in recorded["growth"])  # "practically every direction"
    effective = [row["effective"] for row in sorted(recorded["growth"], key=lambda row: row["steps"])]
    assert max(effective) == effective[0] and effective[-1] < 0.9 * effective[0]  # "falls and settles"
    for name, layer in recorded["layers"].items():
        drawn = updates._matrices(layer)
        half = {name: updates._rank_for(m["s"], 0.5) for name, m in drawn.items()}
        assert half["delta"] < half["W0"] < half["noise"]
        falling = np.array(layer["delta"]) / layer["delta"][0]
        if name.endswith("attn.c_proj"):
            assert 20 < (falling < 1e-3).sum() < 40  # "the last 30 or so fade away"
        else:
            assert falling[-1] > 0.01  # "even the last stands above a hundredth of the first"


def test_a_cut_keeps_more_skill_than_energy(recorded):
    rows = {row.rank: row for row in updates.cut_table(recorded)}
    assert rows[8].kept > 0.8 and rows[8].kept > rows[8].energy + 0.1  # "fewer than ten"
    assert rows[1].kept > 0.5  # "most of the way there"
    assert rows[1].rest > 0.94 and rows[3].rest < 1 / 3  # "without the strongest one", "without the strongest three"
    assert rows[4].energy == pytest.approx(0.6, abs=0.01)  # "the 40 % of it beyond rank 4 …
    assert rows[192].kept - rows[4].kept == pytest.approx(0.02, abs=0.005)  # … bring two points more"
    assert rows[192].kept < 0.995  # "the line does not end at 100 %"
    assert all(rows[r].kept + rows[r].rest > 1 for r in (1, 4, 8))  # "add up to more than 100 %"
    assert all(rows[r].kept > rows[r].rest for r in (4, 8, 16))  # "the strongest few are enough"


def test_few_numbers_learn_the_style(measured):
    d90 = dimension.intrinsic_dimension(measured)
    assert d90 == 1000  # "the first of the eight d that were tried: between 300 and 1,000"
    assert sorted({run["d"] for run in measured["runs"]})[2:5] == [100, 300, 1000]
    base, full, rows = dimension.summary(measured)
    few, some, many = (np.mean(rows[i][1]) for i in (0, 3, -1))
    assert base > few > some > many > full - 0.1 * (base - full)
    assert base - few > 0.3 * (base - full)  # "ten numbers go a long way"


def test_the_update_works_where_w0_is_quiet(recorded):
    for layer in recorded["layers"].values():
        seen, chance = layer["seen"], 4 / layer["shape"][1]
        assert seen["by_chance"] < seen["by_delta"] < 0.5 * seen["by_W0"]
        assert chance < layer["phi"] < 0.8
        assert seen["delta"] < seen["by_delta"]  # "it stays weaker than W0"


# ---- the experiment ----
def test_the_results_belong_to_this_model_and_are_complete(recorded, measured):
    assert recorded["fingerprint"] == measured["fingerprint"] == experiment.fingerprint(), (
        "the model or the settings have changed: run make experiments"
    )
    assert experiment.missing(recorded, measured) == []


def test_a_sample_retrains_to_the_committed_losses(recorded, measured):
    committed = next(row for row in recorded["cuts"] if row["seed"] == 0 and row["rank"] == 4)
    band = 0.04 * (committed["base"] - committed["full"])  # 4 % of the improvement; processors differ by less
    model, base, full = experiment.tune(experiment.lo.FullFineTuning(), experiment.LR, seed=0)
    held_out = experiment.data(experiment.lo.load_model("tiny-gpt2")[1])[1]
    assert base == pytest.approx(committed["base"], abs=1e-3)
    assert full == pytest.approx(committed["full"], abs=band)
    assert experiment.loss_of(model, held_out, slice(0, 4)) == pytest.approx(committed["kept"], abs=band)
    run = next(row for row in measured["runs"] if row["d"] == 1000 and row["seed"] == 0)
    assert experiment.run_d(1000, 0)["loss"] == pytest.approx(run["loss"], abs=2 * band)
