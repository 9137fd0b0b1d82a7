"""Chapter 10: each planted wrong answer gets its own sentence; the recorded numbers say what the page says."""

from itertools import pairwise

import ch10_adalora as experiment
import contest
import numpy as np
import pytest
import torch
from helpers import assert_distinct_sentences, assert_each_option_has_its_sentence, assert_notebook_shows

import lowrank_edu as lo
from lowrank_edu import exercises, figures, shipped


# ---- exercises ----------------------------------------
@pytest.mark.parametrize("name, wrong, right", [("ch10-peak", 3, ["1.5 Times"]), ("ch10-part", 2, ["Attention."])])
def test_every_guess_has_its_sentence(name, wrong, right):
    assert_each_option_has_its_sentence(exercises.get(name), wrong, right)


def test_never_has_a_sentence_for_each_letter():
    assert_each_option_has_its_sentence(exercises.get("ch10-never"), 3, ["(c)"])


def entry_by_entry(weigh=lambda w, g: abs(w * g), finish=lambda values: sum(values) / len(values)):
    """Scores with loops and lists, and one thing changed."""

    def answer(A, B, lam, gA, gB, glam):
        found = []
        for k in range(len(lam)):
            row = [weigh(w, g) for w, g in zip(A[k], gA[k], strict=True)]
            column = [weigh(B[i][k], gB[i][k]) for i in range(len(B))]
            found.append(weigh(lam[k], glam[k]) + finish(row) + finish(column))
        return found

    return answer


def test_score_names_each_mistake():
    assert_distinct_sentences(
        exercises.get("ch10-score"),
        wrong_answers={
            "signs": entry_by_entry(weigh=lambda w, g: w * g),
            "late abs": lambda A, B, lam, gA, gB, glam: (
                abs(lam * glam) + abs(np.einsum("rj,rj->r", A, gA)) / A.shape[1] + abs((B * gB).sum(0)) / len(B)
            ),
            "sums": entry_by_entry(finish=sum),
            "gradients": entry_by_entry(weigh=lambda w, g: abs(g)),
            "weights": entry_by_entry(weigh=lambda w, g: abs(w)),
            "no lambda": lambda A, B, lam, gA, gB, glam: abs(A * gA).mean(1) + abs(B * gB).mean(0),
            "squares": entry_by_entry(weigh=lambda w, g: (w * g) ** 2),
        },
        right_answers=[
            entry_by_entry(),
            lambda *case: (
                lambda A, B, lam, gA, gB, glam: (lam * glam).abs() + (A * gA).abs().mean(1) + (B * gB).abs().mean(0)
            )(*map(torch.tensor, case)),
        ],
    )


def falling(power=3, above=lambda t, w, f: t - w, below=lambda w, f, T: T - w - f, quiet=(True, True), whole=np.floor):
    def answer(t, start, goal, warmup, final, total):
        if quiet[0] and t <= warmup:
            return start
        if quiet[1] and t > total - final:
            return goal
        gone = above(t, warmup, final) / below(warmup, final, total)
        return whole(goal + (start - goal) * (1 - gone) ** power)

    return answer


def test_budget_names_each_mistake():
    assert_distinct_sentences(
        exercises.get("ch10-budget"),
        wrong_answers={
            "linear": falling(power=1),
            "printed": falling(above=lambda t, w, f: t - w - f),
            "to the end": falling(below=lambda w, f, T: T - w, quiet=(True, False)),
            "at once": falling(quiet=(False, True)),
            "rising": lambda t, s, g, w, f, T: (
                s if t <= w else g if t > T - f else int(g + (s - g) * ((t - w) / (T - w - f)) ** 3)
            ),
            "fractions": falling(whole=float),
        },
        right_answers=[falling(), lambda *a: torch.tensor(falling()(*a))],
    )


def test_the_package_s_budget_and_scores_are_the_exercises():
    model, _ = lo.load_model("tiny-gpt2")
    method = lo.AdaLoRA(2, 3, 6, "all-linear", warmup_steps=20, final_steps=30, every=5)
    lo.adapt(model, method)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    with lo.attach(model, optimizer, total_steps=120) as attached:
        schedule = attached.schedules["default"]
        exercise = exercises.get("ch10-budget").reference
        assert [schedule.budget(t) for t in range(121)] == [exercise(t, 48, 32, 20, 30, 120) for t in range(121)]
        update = next(iter(schedule.updates.values()))
        parts = [update.A, update.B, update.core]
        for part in parts:
            part.data.normal_(generator=torch.Generator().manual_seed(1))
            part.grad = torch.randn(part.shape, generator=torch.Generator().manual_seed(2))
        # after one gradient the sensitivity Ī is 0.15 |w g|
        first = {key: mean for key, (mean, _) in schedule.measured().items()}
        path = next(iter(schedule.updates))
        want = exercises.get("ch10-score").reference(
            *(p.detach().numpy() for p in parts), *(p.grad.numpy() for p in parts)
        )
        got = first[f"{path}.core"] + first[f"{path}.A"].mean(1) + first[f"{path}.B"].mean(0)
        np.testing.assert_allclose(got.numpy(), 0.15 * want, rtol=1e-5)


def test_the_page_shows_every_exercise():
    assert_notebook_shows(exercises.chapter("ch10"), "ch10_adalora.ipynb")


# ---- the recorded numbers ----------------------------------------
@pytest.fixture(scope="module")
def results():
    return shipped.results("ch10_adalora")


def column(results, label, what="gap"):
    return [row[what] for row in results["entries"][label]["runs"].values()]


def test_the_file_is_complete():
    assert contest.missing(experiment.CONTEST, contest.begun(experiment.CONTEST)) == []


def test_training_again_gives_a_recorded_row(results):
    entry, label = experiment.entries()["adalora r=1"], "adalora r=1"
    row, replay = contest.ran(experiment.CONTEST, entry, results["entries"][label]["lr"], 0)
    old = results["entries"][label]
    assert row["gap"] == pytest.approx(old["runs"]["0"]["gap"], abs=0.01) and row["left"] == old["trained"]
    assert [c[1:3] for c in replay["choices"]] == [c[1:3] for c in old["replay"]["choices"]]


def test_what_the_page_says_about_losses(results):
    gaps = lambda label: column(results, label)  # noqa: E731
    for pair in (
        ("lora r=1", "adalora r=1"),
        ("lora r=2", "adalora r=2"),
        ("lora r=2, 240 steps", "adalora r=2, 240 steps"),
    ):
        assert np.mean(gaps(pair[0])) < np.mean(gaps(pair[1]))
    assert min(gaps("adalora r=1")) - max(gaps("lora r=1")) < 0.002  # come close
    assert min(gaps("adalora r=2")) < max(gaps("lora r=2"))  # overlap
    assert min(gaps("adalora r=2, 240 steps")) > 1.5 * max(gaps("lora r=2, 240 steps"))  # clearly ahead
    assert max(gaps("adalora r=2, no penalty")) < min(gaps("lora r=2"))  # ahead in every seed
    short = [label for label in results["entries"] if "240" not in label]
    assert all(max(gaps("lora r=3")) < min(gaps(label)) for label in short if label != "lora r=3")  # best of all
    forgot = np.array([column(results, label, "plain") for label in short])
    assert (np.argmax(forgot, axis=0) == short.index("lora r=3")).sum() == 2  # forgets most in two of three
    base, kept = results["base"]["plain"], forgot[short.index("adalora r=2, no penalty")]
    assert np.all(forgot[short.index("lora r=3")] - base > 2 * (kept - base))  # "far more", in every seed
    assert results["entries"]["lora r=3"]["trained"] == pytest.approx(
        results["entries"]["adalora r=2"]["trained"], rel=0.01
    )
    pairs = {"adalora r=1": "lora r=1", "adalora r=2": "lora r=2", "adalora r=2, no penalty": "lora r=2",
             "adalora r=2, 240 steps": "lora r=2, 240 steps"}  # fmt: skip
    less = np.array([np.less(column(results, a, "plain"), column(results, b, "plain")) for a, b in pairs.items()])
    assert less[:, :2].all() and less[:, 2].sum() == 1  # seeds 0 and 1 always, seed 2 in one pair of four
    means = {label: np.mean(gaps(label)) for label in results["entries"] if "r=2" in label and "240" not in label}
    assert max(means, key=means.get) == "adalora r=2, paper"
    assert 0.4 < min(column(results, "adalora r=2, paper", "score")) < 0.6


def test_what_the_page_says_about_parts_and_memory(results):
    assert min(column(results, "feed-forward r=3")) > max(column(results, "attention r=5"))
    shares = {}
    for label, entry in results["entries"].items():
        if "replay" in entry:
            ranks = dict(zip(entry["replay"]["layers"], entry["replay"]["choices"][-1][3], strict=True))
            shares[label] = sum(r for name, r in ranks.items() if ".mlp." in name) / sum(ranks.values())
    assert len(shares) == 5 and [label for label, share in shares.items() if share <= 0.5] == ["adalora r=2, paper"]
    lora, adalora = (results["entries"][label] for label in ("lora r=2", "adalora r=2"))
    assert adalora["trained"] / lora["trained"] == pytest.approx(1.5, abs=0.01)
    assert adalora["bytes"]["optimizer"] / lora["bytes"]["optimizer"] == pytest.approx(3, abs=0.01)


def test_the_figure_shows_the_file(results):
    figure, run = figures.adalora_replay(), results["entries"]["adalora r=2"]["replay"]
    shown = figure.data["runs"]["adalora r=2"]
    assert shown["total"] == [c[2] for c in run["choices"]] and shown["steps"][-1] == 90
    names = [n.removeprefix("transformer.h.") for n in run["layers"]]
    assert shown["ranks"][-1][4 * 2 + 3] == run["choices"][-1][3][names.index("2.mlp.c_proj")]
    ends = [r for row in shown["ranks"][-1:] for r in row]
    assert min(ends) == 0 and max(ends) == 3  # "some layers keep all three directions, others none"
    back = {}
    for label, run in figure.data["runs"].items():
        pairs = [pair for two in pairwise(run["ranks"]) for pair in zip(*two, strict=True)]
        back[label] = sum(later > earlier for earlier, later in pairs)
    assert list(back.values()) == [0, 1, 4, 0]  # no squares come back, one, four, none
    assert f"total falls from {shown['total'][0]} to {shown['total'][-1]}" in figure.alt
