"""The harness of the comparisons: its runs, its choice of a learning rate, its file, and the budgets of its scripts."""

import json
import shutil
import sys
from dataclasses import replace

import ch06_rivals
import ch10_adalora
import ch11_lamda
import ch12_spectrum
import contest
import pytest
import records

import lowrank_edu as lo
from lowrank_edu import shipped

SCRIPTS = [ch06_rivals, ch10_adalora, ch11_lamda, ch12_spectrum]
ADALORA = lo.AdaLoRA(1, 2, target_modules=("c_attn",), total_steps=2)


def toy_entries():
    ranks = lambda schedule: [entry["rank"] for entry in schedule.history]  # noqa: E731
    return {
        "bitfit": contest.Entry(lo.BitFit(), 1e-2),
        "adalora": contest.Entry(ADALORA, 1e-2, replay=ranks),
    }


TOY = contest.Contest("toy", toy_entries, steps=2, batch=2, stories=3, samples=1, seeds=(0, 1))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Results go to a folder of this test; the model is the real one."""
    (tmp_path / "tiny-gpt2").mkdir()
    for name in ("model.safetensors", "tokenizer.json"):
        shutil.copy(shipped.ASSETS / "tiny-gpt2" / name, tmp_path / "tiny-gpt2" / name)
    monkeypatch.setattr(shipped, "ASSETS", tmp_path)
    monkeypatch.setattr(contest, "EXTRA", 1)
    monkeypatch.setattr(sys, "argv", ["script"])
    return tmp_path


def finished(toy=TOY):
    assert contest.main("What it does.", toy) == 0
    return shipped.results(toy.name)


def test_a_contest_stopped_and_resumed_is_the_same_as_one_in_one_go(folder, monkeypatch, capsys):
    whole = finished()
    row, entry = whole["entries"]["bitfit"]["runs"]["1"], whole["entries"]["bitfit"]
    assert row["gap"] == pytest.approx(row["loss"] - whole["floor"], abs=2e-3) and 0 <= row["score"] <= 1
    assert entry["lr"] == 0.04 and entry["edge"] == "highest"  # two steps never have too high a rate
    assert list(entry["rates"]) == ["0.005", "0.01", "0.02", "0.04"] and entry["trained"] == row["left"] == 8640
    assert whole["entries"]["adalora"]["replay"] == [8, 4, 4] and entry["bytes"]["gradients"] == 4 * 8640
    assert "replay" not in entry and contest.missing(TOY, contest.begun(TOY)) == []

    for label, method in {"bitfit": lo.BitFit(), "adalora": ADALORA}.items():  # the same runs, written out
        model, tok = lo.load_model("tiny-gpt2")
        lo.adapt(model, method, seed=1)
        data = lo.tokenize(tok, lo.corpus.stories(4, 41, "pirate"))
        found = whole["entries"][label]
        lo.train(model, data, steps=2, batch_size=2, lr=found["lr"], seed=1, schedule="linear", progress=False)
        for what, style in ("loss", "pirate"), ("plain", None):
            held_out = lo.tokenize(tok, lo.corpus.stories(3, 42, style))
            assert found["runs"]["1"][what] == pytest.approx(lo.evaluate(model, held_out), rel=1e-3)
    mean, least, most = contest.summary(whole)["bitfit"]
    assert least <= mean <= most and {least, most} == {e["gap"] for e in entry["runs"].values()}

    (folder / "results" / "toy.json").unlink()
    real, calls = contest.trained, []

    def stopping(*args):
        calls.append(args)
        if len(calls) in (3, 6):
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(contest, "trained", stopping)
    for stops in (2, 4):  # runs that were finished before
        with pytest.raises(KeyboardInterrupt):
            contest.main("What it does.", TOY)
        found = shipped.results("toy")["entries"].values()
        assert sum(len(e["rates"]) + len(e["runs"]) for e in found) == stops
    monkeypatch.setattr(sys, "argv", ["script", "--check"])
    assert contest.main("What it does.", TOY) == 1 and "missing: bitfit seed 0" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["script"])
    assert finished() | {"seconds": 0} == whole | {"seconds": 0}
    assert len(calls) == 2 + 12  # nothing that was saved is done again


def test_results_of_other_weights_settings_or_methods_are_not_continued(folder):
    others = [replace(TOY, **change) for change in ({"steps": 3}, {"batch": 1}, {"stories": 4}, {"style": "poet"})]
    assert len({TOY.fingerprint(), *(other.fingerprint() for other in others)}) == 5
    assert replace(TOY, seeds=(0, 1, 2)).fingerprint() == TOY.fingerprint()  # more seeds keep those that are there

    results = contest.begun(TOY)
    for entry in results["entries"].values():
        entry |= {"rates": {"0.005": 2.0, "0.01": 1.0, "0.02": 3.0}, "lr": 0.01}
    records.save("toy", results)
    assert [run[1] for run in contest.missing(TOY, contest.begun(TOY))] == ["seed"] * 4
    for change in ({"method": replace(ADALORA, alpha=3)}, {"rate": 2e-2}, {"steps": 3}):
        changed = {"bitfit": toy_entries()["bitfit"], "adalora": replace(toy_entries()["adalora"], **change)}
        found = contest.begun(replace(TOY, entries=lambda changed=changed: changed))["entries"]
        assert found["bitfit"]["rates"] and not found["adalora"]["rates"]

    path = folder / "tiny-gpt2" / "model.safetensors"
    weights = bytearray(path.read_bytes())
    weights[-1] ^= 1
    path.write_bytes(weights)
    assert contest.begun(TOY)["fingerprint"] != results["fingerprint"]
    assert not any(entry["rates"] for entry in contest.begun(TOY)["entries"].values())


def test_the_best_rate_is_chosen_from_the_losses_that_the_file_holds(folder, monkeypatch):
    exact = {0.005: 0.5, 0.01: 0.41249, 0.02: 0.41151}  # apart by less than TIE; rounded as in the file, by just TIE
    monkeypatch.setattr(contest, "tuned", lambda toy, entry, lr: exact[lr])
    results = contest.begun(TOY)
    for lr in exact:
        contest.perform(TOY, {"toy": results}, "toy", "bitfit", "rate", lr)
    found = results["entries"]["bitfit"]
    assert (found["lr"], found["edge"]) == contest.choose(found["rates"]) == (0.02, "highest")
    assert contest.untried([*exact], found["rates"]) == [0.04]  # so the file and the next run agree


def climb(loss, grid=(1, 2, 4)):
    """All rates that are tried for a function of the rate, in order."""
    rates = {}
    while left := contest.untried(grid, rates):
        rates[f"{left[0]:g}"] = loss(left[0])
    return rates


def test_the_best_rate_wins_and_an_edge_extends_the_grid_and_is_told():
    inside = climb(lambda lr: abs(lr - 2.2))
    assert list(inside) == ["1", "2", "4"] and contest.choose(inside) == (2, None)
    above = climb(lambda lr: abs(lr - 9))
    assert list(above) == ["1", "2", "4", "8", "16"] and contest.choose(above) == (8, None)
    below = climb(lambda lr: None if lr > 0.3 else 1.0 - lr)  # rates that diverged are worse than any loss
    assert contest.choose(below) == (0.25, None) and list(below)[3:] == ["0.5", "0.25", "0.125"]
    ever = climb(lambda lr: -lr)
    assert len(ever) == 3 + contest.EXTRA and contest.choose(ever) == (2.0**6, "highest")
    assert contest.choose(climb(lambda lr: lr)) == (2.0**-4, "lowest")
    assert contest.choose({"1": 0.5, "2": 0.4005, "4": 0.4}) == (2, None)  # as good as equal: the lower one
    assert contest.choose({"1": 0.5, "2": 0.402, "4": 0.4}) == (4, "highest")
    assert contest.choose(climb(lambda lr: None)) == (None, "lowest")


def test_a_run_that_diverges_is_noted_and_has_no_row(folder):
    entry = contest.Entry(lo.LoRA(1, 2, "all-linear"), 1e30)
    assert contest.tuned(TOY, entry, 1e30) is None and contest.ran(TOY, entry, 1e30, 0) == (None, None)
    files = {"toy": contest.begun(replace(TOY, entries=lambda: {"wild": entry}))}
    files["toy"]["entries"]["wild"]["rates"] = {"5e+29": None, "1e+30": None, "2e+30": None, "2.5e+29": None}
    assert contest.missing(replace(TOY, entries=lambda: {"wild": entry}), files["toy"]) == []  # no rate, no runs


def trained_numbers(entry, model):
    updates = entry.method.build(model).values()
    return sum(p.numel() for p in {id(p): p for u in updates for p in u.trained().values()}.values())


def test_budgets_that_are_called_equal_are_equal():
    model, _ = lo.load_model("tiny-gpt2")
    counts = {label: trained_numbers(entry, model) for label, entry in ch06_rivals.entries().items()}
    for budget, target in {"budget": 9216, "where": 12288}.items():
        found = [n for label, n in counts.items() if label.startswith(budget)]
        assert max(found) == target and min(found) >= target * (1 if budget == "where" else 0.83)
    adalora = {label: trained_numbers(entry, model) for label, entry in ch10_adalora.entries().items()}
    assert adalora["feed-forward r=3"] == adalora["attention r=5"] == 23040

    budgets = [(b, list(r.values())) for b in ch12_spectrum.UNIFORM for r in ch12_spectrum.allocations(b).values()]
    for budget, ranks in budgets:
        assert budget - 4 <= sum(r * r for r in ranks) <= budget
    unequal = [sorted(ranks) for _, ranks in budgets if len(set(ranks)) > 1]
    assert len(unequal) == 8 and unequal[:4] == unequal[:1] * 4 and unequal[4:] == unequal[4:5] * 4
    squares = {trained_numbers(e, model) for label, e in ch12_spectrum.entries().items() if label.endswith("no B")}
    assert squares == {1024, 1020}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_a_committed_file_is_of_this_model_and_these_settings(script):
    path = shipped.ASSETS / "results" / f"{script.CONTEST.name}.json"
    if path.exists():
        found, begun = json.loads(path.read_text("utf-8")), contest.begun(script.CONTEST)
        assert found["fingerprint"] == begun["fingerprint"]
        marks = [{label: entry["mark"] for label, entry in f["entries"].items()} for f in (found, begun)]
        assert marks[0] == marks[1]
        assert path.stat().st_size < 40_000
