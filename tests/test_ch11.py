"""Chapter 11: each planted wrong answer gets its own sentence; the recorded numbers say what the page says."""

import itertools

import ch11_lamda as experiment
import contest
import numpy as np
import pytest
import torch
from helpers import assert_distinct_sentences, assert_each_option_has_its_sentence, assert_notebook_shows

import lowrank_edu as lo
from lowrank_edu import exercises, figures, shipped
from lowrank_edu.figures import front_page
from lowrank_edu.figures.page import path
from lowrank_edu.methods.lamda import frozen_columns


# ---- exercises ----------------------------------------
def test_zero_has_a_sentence_for_each_guess():
    assert_each_option_has_its_sentence(exercises.get("ch11-zero"), 3, ["It moves on."])


def test_area_has_a_sentence_for_each_reading(results):
    exercise = exercises.get("ch11-area")
    assert_each_option_has_its_sentence(exercise, 4, ["10,000.", " 10,000 "])
    run, steps = front_page.recorded(results)[0]["lamda"], results["steps"]
    ends = [step for step, *_ in run[1:]] + [steps]
    area = sum((end - step) * left for (step, _, left), end in zip(run, ends, strict=True))
    told = sorted(exercise.options, key=lambda option: abs(int(option.replace(",", "")) - area / steps))
    assert told[0] == exercise.reference and area / steps == pytest.approx(10_500, abs=50)
    assert [run[-1][2], 0.3 * run[0][2], run[0][2] / 2, run[0][2] - area / steps] == pytest.approx(
        [1_000, 17_000, 28_000, 46_000], rel=0.03
    )  # what the wrong options are said to be


def test_missing_names_each_number():
    assert_distinct_sentences(
        exercises.get("ch11-missing"), {"all": 64, "none": 0, "one": 1, "share": 19}, ["3", 3.0, torch.tensor(3)]
    )


def test_counts_names_each_mistake():
    assert_distinct_sentences(
        exercises.get("ch11-counts"),
        wrong_answers={
            "B frozen": lambda i, o, r: (r * i + r * o, r * i, r * i + r**2, r**2),
            "diagonal": lambda i, o, r: (r * i + r * o, r * o, r * o + r, r),
            "A too": lambda i, o, r: (r * i + r * o, r * i + r * o, r * i + r * o + r**2, r * i + r**2),
            "B alone": lambda i, o, r: (r * i + r * o, r * o, r * o, r**2),
            "dense": lambda i, o, r: (i * o, r * o, r * o + r**2, r**2),
        },
        right_answers=[lambda i, o, r: [r * (i + o), o * r, r * (o + r), r * r]],
    )


def turned(W, r, keep=lambda W, start: W - start, core=np.diag, split=lambda A, S, B: (A, S, B), of=slice(None)):
    """The start with the signs of every direction turned, and one thing changed."""
    U, S, Vt = (np.asarray(x) for x in np.linalg.svd(np.asarray(W), full_matrices=False))
    at = slice(0, r) if of == slice(None) else slice(len(S) - r, len(S))
    A, middle, B = split(-Vt[at], core(S[at]), -U[:, at])
    return A, middle, B, keep(W, B @ (middle if np.ndim(middle) == 2 else np.diag(middle)) @ A)


def test_start_names_each_mistake():
    assert_distinct_sentences(
        exercises.get("ch11-start"),
        wrong_answers={
            "W stays": lambda W, r: turned(W, r, keep=lambda W, start: W),
            "squares": lambda W, r: turned(W, r, core=lambda S: np.diag(S**2)),
            "in A": lambda W, r: turned(W, r, split=lambda A, S, B: (S @ A, np.eye(len(S)), B)),
            "vector": lambda W, r: turned(W, r, core=lambda S: S),
            "last": lambda W, r: turned(W, r, of="last"),
        },
        right_answers=[turned, lambda W, r: [torch.tensor(np.ascontiguousarray(x)) for x in turned(W, r)]],
    )


def test_front_names_each_mistake():
    assert_distinct_sentences(
        exercises.get("ch11-front"),
        wrong_answers={
            "no r": lambda t, r, n: min(int(t / n), r),
            "for ever": lambda t, r, n: int(r * t / n),
            "ceiling": lambda t, r, n: min(r, int(np.ceil(r * t / n))),
            "the others": lambda t, r, n: max(0, r - r * t // n),
            "not whole": lambda t, r, n: r * min(1, t / n),
        },
        right_answers=[
            lambda t, r, n: frozen_columns(t, r, n),
            lambda t, r, n: sum(r * t >= k * n for k in range(1, r + 1)),
        ],
    )


def test_the_page_shows_every_exercise():
    assert_notebook_shows(exercises.chapter("ch11"), "ch11_lamda.ipynb")


# ---- the recorded numbers ----------------------------------------
@pytest.fixture(scope="module")
def results():
    return shipped.results("ch11_lamda")


def column(results, label, what="gap"):
    return [row[what] for row in results["entries"][label]["runs"].values()]


def test_the_file_is_complete():
    assert contest.missing(experiment.CONTEST, contest.begun(experiment.CONTEST)) == []


def test_training_again_gives_a_recorded_row(results):
    entry, old = experiment.entries()["lamda svd-zero"], results["entries"]["lamda svd-zero"]
    row, replay = contest.ran(experiment.CONTEST, entry, old["lr"], 0)
    assert row["gap"] == pytest.approx(old["runs"]["0"]["gap"], abs=0.01) and row["left"] == 1024
    assert replay == old["replay"]


def test_what_the_page_says_about_neighbours(results):
    gaps = {label: column(results, label) for label in results["entries"]}
    worse = ["lora r=8", "lora-fa", "lora r=1", "lamda r=32", "lamda", "lora-xs"]
    for better, other in itertools.pairwise(worse):
        assert max(gaps[better]) < min(gaps[other]), (better, other)
    assert np.mean(gaps["lamda"]) == pytest.approx(2 * np.mean(gaps["lora r=1"]), rel=0.1)
    assert results["entries"]["lamda"]["trained"] > 4 * results["entries"]["lora r=1"]["trained"]
    assert max(gaps["vera"]) < min(gaps["lamda"])
    assert all(entry["edge"] is None for entry in results["entries"].values())
    vera = results["entries"]["vera"]
    assert vera["lr"] == 0.512 == 64 * results["entries"]["lora r=8"]["lr"] and vera["rates"]["1.024"] > 4
    assert np.mean(gaps["lora-fa"]) - np.mean(gaps["lora r=8"]) < 0.005  # "almost as good as LoRA"


def test_what_the_page_says_about_the_ablations(results):
    mean = {label: np.mean(column(results, label)) for label in results["entries"]}
    assert mean["lamda frozen by 1"] < mean["lamda"] / 2 < mean["lamda"] < mean["lamda frozen at once"]
    assert min(column(results, "lamda frozen by 0.1")) > max(column(results, "lamda frozen at once"))
    assert max(mean["lamda bottom"], mean["lamda random"]) < mean["lamda"]
    residual = [column(results, label) for label in ("lamda", "lamda bottom", "lamda random")]
    assert max(column(results, "lamda svd-zero")) < min(map(min, residual))
    starts = ["lamda", "lamda bottom", "lamda random", "lamda svd-zero", "lamda released", "lamda as released"]
    assert min(starts, key=mean.get) == "lamda as released"
    assert mean["lamda as released"] == pytest.approx(mean["lora-fa"], abs=0.003)


def test_what_the_page_says_about_the_released_schedule(results):
    assert int(1 / 0.3) == 3 and results["entries"]["lamda as released"]["replay"][-1][1] == 3 * front_page.LAYERS
    last = results["entries"]["lamda"]["replay"][-1]
    assert last == [36, 8 * front_page.LAYERS, 1024]


def test_what_the_page_says_about_bytes():
    tiny, _ = lo.load_model("tiny-gpt2")
    plan = lambda method, **how: lo.memory.plan(tiny, method, batch=8, length=64, **how)  # noqa: E731
    rows = [lo.LoRA(8, 16, "all-linear"), lo.LoRAFA(8, 16, "all-linear"), lo.LaMDA(8, "all-linear"),
            lo.LaMDA(8, "all-linear", freeze_share=0.0), lo.VeRA(64, "all-linear"),
            lo.AFLoRA(8, "all-linear")]  # fmt: skip
    held = [plan(row).activations for row in rows]
    assert held[1] / held[0] == pytest.approx(0.7, abs=0.03) and held[1] == held[3] < held[2] < 1.02 * held[1]
    assert min(held[4], held[5]) > held[0]
    assert len({plan(row, checkpointing=True).activations for row in rows}) == 1  # "the same for all of them"


def test_what_the_page_says_about_whole_steps():
    tiny, _ = lo.load_model("tiny-gpt2")
    methods = lo.LoRA(8, 16, "all-linear"), lo.LaMDA(8, "all-linear")

    def ratio(model, length, **how):
        lora, lamda = (lo.memory.plan(model, row, batch=8, length=length, **how).total for row in methods)
        return lora / lamda

    assert ratio(tiny, 64) == pytest.approx(1.30, abs=0.01)
    assert ratio("gpt2", 512) == pytest.approx(1.12, abs=0.02)
    assert ratio("gpt2", 512, checkpointing=True) == pytest.approx(1.04, abs=0.01)


@pytest.mark.parametrize(("decay", "beta", "way"), [(0.1, 0.9, 0.036), (0.0, 0.9, 0.031), (0.1, 0.0, 0.005)])
def test_what_the_page_says_about_zeroed_gradients(decay, beta, way):
    B = torch.nn.Parameter(torch.ones(4, 3))
    optimizer = torch.optim.AdamW([B], lr=0.01, weight_decay=decay, betas=(beta, 0.999))
    stops = []
    for step in range(8):
        stops.append(B.detach().clone())
        B.grad = torch.ones(4, 3) if step < 3 else torch.zeros(4, 3)
        optimizer.step()
    assert (B.detach() - stops[3]).abs().max().item() == pytest.approx(way, abs=6e-4)


def test_the_figure_shows_the_file(results):
    figure = figures.freezing_front()
    runs, steps = front_page.recorded(results)
    assert figure.data["runs"]["lamda"] == runs["lamda"] and steps == 120 and len(runs["lamda as released"]) == 4
    assert path(front_page.stairs(runs["lamda"], steps)) in figure.stage
    assert [frozen for _, frozen, _ in runs["lamda"]] == list(range(9))
    for step, frozen, _ in runs["lamda"]:
        assert exercises.get("ch11-front").reference(step, 8, 36) == frozen
