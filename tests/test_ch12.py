"""Chapter 12: each planted wrong answer gets its own sentence; the recorded numbers say what the page says."""

from dataclasses import replace
from fractions import Fraction

import ch12_spectrum as experiment
import contest
import numpy as np
import pytest
from helpers import assert_distinct_sentences, assert_notebook_shows

import lowrank_edu as lo
from lowrank_edu import exercises, figures, shipped
from lowrank_edu.allocation import allocate, energy_at
from lowrank_edu.figures import energies


# ---- exercises ----------------------------------------
@pytest.mark.parametrize("name, least", [("sums", 3), ("read", 3), ("control", 4)])
def test_every_option_of_the_choices_has_its_sentence(name, least):
    exercise = exercises.get(f"ch12-{name}")
    wrong = {o: o.upper() for o in exercise.options if o != exercise.reference}
    assert len(wrong) >= least
    padded = wrong if len(wrong) >= 4 else wrong | {"no option": "both"}
    results = {key: lo.checking.examine(exercise, answer) for key, answer in padded.items()}
    assert not any(result.passed for result in results.values())
    assert len({result.message for result in results.values()}) == len(padded)
    assert lo.checking.examine(exercise, f" {exercise.reference.capitalize()}. ").passed


def test_uneven_ranks_never_sum_to_as_much():
    """What the answer of ch12-sums says, for many plans, and what its sentences compute."""
    rng = np.random.default_rng(0)
    for plan in rng.integers(1, 17, size=(200, 16)):
        assert plan.sum() ** 2 <= 16 * (plan**2).sum()
    assert 16**2 == 4 * 8**2 and 11**2 + 2**2 <= 2 * 8**2 and 11 + 2 < 2 * 8


def test_energy_names_each_mistake():
    def squares(S):
        return [float(s) * float(s) for s in S]

    assert_distinct_sentences(
        exercises.get("ch12-energy"),
        wrong_answers={
            "plain σ": lambda S, k: np.cumsum(S)[k - 1] / np.cumsum(S)[-1],
            "energy in all": lambda S, k: float(np.dot(S[:k], S[:k])),
            "the k-th": lambda S, k: squares(S)[k - 1] / sum(squares(S)),
            "rest": lambda S, k: sum(squares(S)[k:]) / sum(squares(S)),
            "k − 1": lambda S, k: sum(squares(S)[: k - 1]) / sum(squares(S)),
            "k + 1": lambda S, k: sum(squares(S)[: k + 1]) / sum(squares(S)),
            "σ₁": lambda S, k: sum((s / S[0]) ** 2 for s in S[:k]),
            "length": lambda S, k: np.linalg.norm(S[:k]) / np.linalg.norm(S),
        },
        right_answers=[energy_at, lambda S, k: 1 - sum(squares(S)[k:]) / sum(squares(S))],
    )


def served(energies, ranks, budget, cost=lambda r: r * r, flat=True, reserve=True, back=True, use=True):
    """A second implementation with a queue, and switches for what goes wrong."""
    queue = list(enumerate(energies))
    if use:
        queue.sort(key=lambda pair: pair[1] if flat else -pair[1])
    got = []
    while queue:
        layer, _ = queue.pop(0)
        waiting = len(queue) * cost(min(ranks)) if reserve else 0
        spent = sum(cost(r) for _, r in got)
        fits = [r for r in ranks if spent + cost(r) + waiting <= budget]
        got.append((layer, max(fits) if fits else 0))
    return [r for _, r in (sorted(got) if back else got)]


def test_split_names_each_mistake():
    def share(energies, ranks, budget):
        need = [1 - e for e in energies]
        want = [(budget * n / sum(need)) ** 0.5 for n in need]
        return [sorted(ranks, key=lambda r: abs(r - w))[0] for w in want]

    def same(energies, ranks, budget):
        return [max(r for r in ranks if r * r * len(energies) <= budget) for _ in energies]

    def package(energies, ranks, budget):  # spectra of two values with these energies at 1
        spectra = {i: np.sqrt([e, *[(1 - e) / 40] * 40]) for i, e in enumerate(energies)}
        return list(allocate({i: np.sort(S)[::-1] for i, S in spectra.items()}, ranks, budget, reference=1).values())

    assert_distinct_sentences(
        exercises.get("ch12-split"),
        wrong_answers={
            "steep": lambda *case: served(*case, flat=False),
            "Σ r": lambda *case: served(*case, cost=lambda r: r),
            "greedy": lambda *case: served(*case, reserve=False),
            "sorted": lambda *case: served(*case, back=False),
            "uniform": same,
            "proportional": share,
        },
        right_answers=[served, package, lambda *case: np.array(served(*case))],
    )


def test_layers_served_as_they_stand_look_like_ranks_not_put_back():
    """Without sorting, the first layers get most: the same list, so one sentence speaks of both."""
    exercise = exercises.get("ch12-split")
    result = lo.checking.examine(exercise, lambda *case: served(*case, use=False))
    assert not result.passed and "not sorted by energy" in result.message


def test_the_plot_says_what_the_reading_exercise_says():
    spectra = experiment.spectra()

    def line(k):
        return [name.split(".", 2)[2] for name in sorted(spectra, key=lambda name: energy_at(spectra[name], k))]

    assert (line(8)[0], line(32)[0]) == ("0.attn.c_attn", "2.mlp.c_proj")
    assert line(8)[-1] == line(32)[-1] == "3.attn.c_proj"
    place = "0.attn.c_proj"
    assert line(2).index(place) == 1 and line(8).index(place) == 3 and line(32).index(place) >= 8


def test_the_page_shows_every_exercise():
    assert_notebook_shows(exercises.chapter("ch12"), "ch12_spectrum.ipynb")


# ---- the recorded numbers ----------------------------------------
@pytest.fixture(scope="module")
def results():
    return shipped.results("ch12_spectrum")


def test_the_file_is_complete_and_of_this_model(results):
    assert contest.missing(experiment.CONTEST, results) == []
    assert results["fingerprint"] == experiment.CONTEST.fingerprint() and results["seeds"] == [0, 1, 2, 3, 4]
    assert not any(entry["edge"] for entry in results["entries"].values())  # every best rate lies inside its grid


def test_spectra_and_ranks_of_the_file_are_computed_again(results):
    for name, S in experiment.spectra().items():
        assert results["spectra"][name] == pytest.approx(S[: experiment.SHOWN], rel=1e-3)
        assert results["spectra"]["energy"][name] == pytest.approx(np.sum(S**2), rel=1e-3)
    for budget in experiment.UNIFORM:
        for order, ranks in experiment.allocations(budget).items():
            assert results["ranks"][f"{budget} {order}"] == list(ranks.values())


def test_training_again_ends_within_the_recorded_range(results):
    """40 steps of the page's live case: flat-first ahead by more than the page says."""
    ends = {}
    for order in ("flat", "steep"):
        row = lo.LaMDA(8, "all-linear", freeze_share=0, rank_pattern=experiment.allocations(1024)[order])
        model, _ = contest.trained(replace(experiment.CONTEST, steps=40), contest.Entry(row, 0.256), 0.256, 0)
        ends[order] = lo.evaluate(model, contest.examples(32, contest.HELD_OUT, "pirate")[0])
    assert ends["flat"] < ends["steep"] - 0.05


def test_the_figure_shows_the_file(results):
    figure = figures.rank_budget()
    assert figure.state == {"reference": 8, "order": "flat-first", "budget": "1024"} and len(figure.html) < 40_000
    for budget, reference in (1024, 8), (256, 4):
        for order in ("flat", "steep"):
            plan = figure.data["plans"][f"{order}-first {budget} {reference}"]
            assert plan == results["ranks"][f"{budget} {order}"]
    whole = energies.whole(results)
    for name, S in experiment.spectra().items():
        for k in energies.REFERENCES:
            assert energy_at(whole[name], k) == pytest.approx(energy_at(S, k), rel=2e-3)
    order = {name.split(".", 2)[2]: energies._d_out(name.split(".", 2)[2]) for name in whole}
    model, _ = lo.load_model("tiny-gpt2")
    for name in whole:
        assert order[name.split(".", 2)[2]] == experiment.weight_of(model.get_submodule(name)).shape[0]


# ---- the sentences of the page, each on the file ----------------------------------------
def gaps(results, label):
    return np.array([run["gap"] for run in results["entries"][label]["runs"].values()])


def lower(results, one, other):
    return int((gaps(results, one) < gaps(results, other)).sum())


def means(results, labels):
    return {label: gaps(results, label).mean() for label in labels}


def test_what_the_page_says_about_the_larger_budget(results):
    plans = [f"1024 {p}" for p in ("uniform", "flat", "shuffle 2", "shuffle 1", "steep")]
    mean = means(results, plans)
    assert sorted(mean, key=mean.get) == plans
    trained = {p: results["entries"][p]["trained"] for p in plans}
    assert [trained[p] for p in ("1024 uniform", "1024 flat", "1024 shuffle 1")] == [56_320, 31_356, 52_092]
    assert min(trained.values()) == trained["1024 flat"]
    assert lower(results, "1024 flat", "1024 uniform") == 0
    assert lower(results, "1024 flat", "1024 steep") == 5
    assert [lower(results, "1024 steep", f"1024 shuffle {n}") for n in (1, 2)] == [0, 0]
    assert [lower(results, "1024 flat", f"1024 shuffle {n}") for n in (1, 2)] == [4, 3]
    assert gaps(results, "1024 flat").min() < gaps(results, "1024 uniform").max()  # "the ranges overlap"


def test_what_the_page_says_about_equal_counts(results):
    uniform, flat, steep = (f"1024 {p}, no B" for p in ("uniform", "flat", "steep"))
    assert [results["entries"][p]["trained"] for p in (uniform, flat, steep)] == [1024, 1020, 1020]
    mean = means(results, (uniform, flat, steep))
    assert mean[flat] - mean[uniform] == pytest.approx(-0.005, abs=5e-4) and lower(results, flat, uniform) == 3
    assert lower(results, steep, uniform) == 0
    assert mean[steep] - mean[uniform] == pytest.approx(0.1, abs=5e-3)
    assert mean[uniform] == pytest.approx(0.11, abs=5e-3)  # "a gap as large as the other plans' whole loss"


def test_what_the_page_says_about_the_smaller_budget(results):
    uniform, flat, steep = (f"256 {p}" for p in ("uniform", "flat", "steep"))
    mean = means(results, (uniform, flat, steep))
    assert mean[flat] - mean[uniform] == pytest.approx(-0.012, abs=5e-4) and lower(results, flat, uniform) == 4
    assert lower(results, flat, steep) == 5 and lower(results, steep, uniform) == 3
    entry = results["entries"]
    assert entry[flat]["trained"] / entry[uniform]["trained"] == pytest.approx(0.766, abs=1e-3)
    assert entry[steep]["lr"] == entry[flat]["lr"] / 2 == entry[uniform]["lr"] / 2


def test_what_the_page_says_about_style_and_forgetting(results):
    told = {
        label: {key: np.mean([run[key] for run in entry["runs"].values()]) for key in ("plain", "score")}
        for label, entry in results["entries"].items()
    }
    rate = {label: entry["lr"] for label, entry in results["entries"].items()}
    assert told["1024 steep"]["score"] == pytest.approx(told["1024 uniform"]["score"], abs=0.005)
    assert rate["1024 steep"] == 2 * rate["1024 uniform"]
    for shuffle in ("1024 shuffle 1", "1024 shuffle 2"):
        assert told[shuffle]["score"] < told["1024 steep"]["score"] - 0.05
        assert told[shuffle]["plain"] < told["1024 steep"]["plain"]
    small = ("256 uniform", "256 flat", "256 steep")
    assert min(small, key=lambda p: told[p]["plain"]) == min(small, key=lambda p: told[p]["score"]) == "256 steep"
    assert told["256 steep"]["plain"] < 0.6 * told["256 flat"]["plain"]
    without = {p: told[f"1024 {p}, no B"]["score"] for p in ("uniform", "flat", "steep")}
    assert min(without, key=without.get) == "flat"
    assert (without["flat"], without["uniform"]) == pytest.approx((0.31, 0.55), abs=6e-3)


def test_what_the_page_says_about_lora_and_adalora(results):
    uniform, lora, adalora = labels = ("1024 uniform", "lora r=8", "adalora r=8")
    mean, entry = means(results, labels), results["entries"]
    assert mean[uniform] / mean[lora] == pytest.approx(4.1, abs=0.2)
    assert entry[lora]["trained"] / entry[uniform]["trained"] == pytest.approx(1.75, abs=0.01)
    assert entry[lora]["runs"]["0"]["left"] == 96 * entry[uniform]["runs"]["0"]["left"]
    assert entry[adalora]["trained"] > entry[lora]["trained"] and mean[adalora] > mean[lora]
    few = shipped.results("ch10_adalora")
    assert few["fingerprint"] == results["fingerprint"]  # the same stories and steps
    few = few["entries"]["adalora r=2"]
    assert entry["1024 flat"]["trained"] < few["trained"] < entry[uniform]["trained"]
    assert 2 < mean[uniform] / np.mean([run["gap"] for run in few["runs"].values()]) < 2.5
    assert {run["left"] for run in few["runs"].values()} == {few["trained"]}  # "to the last step"
    moved = [mean_of - mean[uniform] for mean_of in means(results, [f"1024 {p}" for p in ("flat", "steep")]).values()]
    assert moved == pytest.approx([0.01, 0.03], abs=5e-3)
    assert mean[uniform] - mean[lora] == pytest.approx(0.05, abs=5e-3)


def test_what_the_page_says_about_signs():
    assert 2 * Fraction(1, 2) ** 5 == Fraction(1, 16)
    assert 2 * (5 + 1) * Fraction(1, 2) ** 5 == Fraction(6, 16)  # four or five of five, on either side


def places(v):
    return np.array([sum(w < x for w in v) + sum(w == x for w in v) / 2 for x in v])


def test_what_the_page_says_about_adalora(results):
    recorded = shipped.results("ch10_adalora")["entries"]
    last = {k: e["replay"]["choices"][-1][-1] for k, e in recorded.items() if "replay" in e}
    flatness = [-energy_at(S, 8) for S in experiment.spectra().values()]
    found = {k: np.corrcoef(places(flatness), places(r))[0, 1] for k, r in last.items()}
    assert all(0 < value < 0.65 for value in found.values())
    pairs = [np.corrcoef(places(a), places(b))[0, 1] for i, a in last.items() for j, b in last.items() if i < j]
    assert 0 < min(pairs) < 0.2 and 0.6 < max(pairs) < 0.8 and np.mean(pairs) - np.mean(list(found.values())) < 0.1
    names = list(experiment.spectra())
    at = names.index("transformer.h.3.attn.c_attn")
    assert np.argsort(flatness).tolist().index(at) < 4 and last["adalora r=2"][at] == 3


def test_a_random_order_of_sixteen_reaches_a_half_once_in_twenty():
    rng = np.random.default_rng(0)
    found = [np.corrcoef(np.arange(16), rng.permutation(16))[0, 1] for _ in range(4000)]
    assert np.mean(np.abs(found) >= 0.5) == pytest.approx(0.05, abs=0.015)
