"""Chapter 4: its exercises, its figures, its experiment."""

import ch04_scale_map as experiment
import numpy as np
import pytest
from helpers import assert_distinct_sentences, assert_notebook_shows

import lowrank_edu as lo
from lowrank_edu import exercises, figures, shipped
from lowrank_edu.figures.races import races
from lowrank_edu.figures.scale_map import best, gaps, table


# ---- exercises: each planted wrong answer gets its own sentence ----
def test_gradients_names_each_mistake():
    def loops(x, G, A, B, scale):
        grad_A, grad_B = np.zeros_like(A), np.zeros_like(B)
        for xi, gi in zip(x, G, strict=True):
            grad_A += scale * np.outer(B.T @ gi, xi)
            grad_B += scale * np.outer(gi, A @ xi)
        return grad_A, grad_B

    assert_distinct_sentences(
        exercises.get("ch04-gradients"),
        wrong_answers={
            "no scale": lambda x, G, A, B, scale: (B.T @ G.T @ x, G.T @ x @ A.T),
            "only A scaled": lambda x, G, A, B, scale: (scale * B.T @ G.T @ x, G.T @ x @ A.T),
            "only B scaled": lambda x, G, A, B, scale: (B.T @ G.T @ x, scale * G.T @ x @ A.T),
            "other order": lambda x, G, A, B, scale: loops(x, G, A, B, scale)[::-1],
            "transposed": lambda x, G, A, B, scale: tuple(g.T for g in loops(x, G, A, B, scale)),
            "averaged": lambda x, G, A, B, scale: tuple(g / x.shape[0] for g in loops(x, G, A, B, scale)),
            "of W": lambda x, G, A, B, scale: (scale * np.einsum("no,ni->oi", G, x),) * 2,
            "uphill": lambda x, G, A, B, scale: tuple(-g for g in loops(x, G, A, B, scale)),
        },
        right_answers=[
            loops,
            lambda x, G, A, B, scale: [
                np.einsum(",no,or,ni->ri", scale, G, B, x),
                np.einsum(",no,ri,ni->or", scale, G, A, x),
            ],
        ],
    )


def test_gradients_agree_with_autograd():
    import torch

    from lowrank_edu.exercises.ch04 import factor_gradients

    x, G, A, B = (torch.randn(s, dtype=torch.double) for s in [(6, 3), (6, 5), (2, 3), (5, 2)])
    A.requires_grad_(), B.requires_grad_()
    ((x @ A.T @ B.T) * 0.7).backward(G)  # G is the gradient that arrives at h
    ours = factor_gradients(x.numpy(), G.numpy(), A.detach().numpy(), B.detach().numpy(), 0.7)
    np.testing.assert_allclose(ours[0], A.grad.numpy(), rtol=1e-12)
    np.testing.assert_allclose(ours[1], B.grad.numpy(), rtol=1e-12)


def test_dead_names_each_mistake():
    assert_distinct_sentences(
        exercises.get("ch04-dead"),
        wrong_answers={str(n): n for n in (1, 2, 4, 5)},
        right_answers=[3, "3", " 3.", "(3)"],
    )


def test_alpha_names_each_mistake():
    assert_distinct_sentences(
        exercises.get("ch04-alpha"),
        wrong_answers={
            "kept": 16,
            "by r": 16 / 8 * 256,
            "the scale": 16 / 8,
            "√ in both": 16 / 8**0.5 * 256**0.5,
            "divided": 2 / 16,
            "r for √r": 32 * 256,
            "shrunk": 16 * 8 / 256,
        },
        right_answers=[32, "32", 16 / 8 * np.sqrt(256)],
    )


def _svd_start(weights, residual, order=1):
    def start(W0, r, scale):
        U, S, Vt = np.linalg.svd(W0, full_matrices=False)
        k = np.arange(len(S))[::order][:r]
        a, b = weights(S[k], scale)
        A, B = np.diag(a) @ Vt[k], U[:, k] @ np.diag(b)
        return A, B, residual(W0, A, B, scale)

    return start


def _rest(W0, A, B, scale):
    return W0 - scale * B @ A


def test_pissa_names_each_mistake():
    def half(S, s):
        return (S / s) ** 0.5, (S / s) ** 0.5

    def flipped(W0, r, scale):
        A, B, rest = _svd_start(half, _rest)(W0, r, scale)
        sign = np.where(np.arange(r) % 2, 1.0, -1.0)
        return sign[:, None] * A, B * sign, rest

    def by_eigen(W0, r, scale):
        values, V = np.linalg.eigh(W0.T @ W0)
        V, S = V[:, ::-1][:, :r], np.sqrt(values[::-1][:r])
        A, B = np.sqrt(S / scale)[:, None] * V.T, W0 @ V / np.sqrt(S * scale)
        return A, B, W0 - scale * B @ A

    assert_distinct_sentences(
        exercises.get("ch04-pissa"),
        wrong_answers={
            "scale forgotten": _svd_start(lambda S, s: (S**0.5, S**0.5), _rest),
            "all in B": _svd_start(lambda S, s: (S**0, S / s), _rest),
            "all in A": _svd_start(lambda S, s: (S / s, S**0), _rest),
            "no root": _svd_start(lambda S, s: (S / s, S / s), _rest),
            "scale out of the root": _svd_start(lambda S, s: (S**0.5 / s, S**0.5 / s), _rest),
            "smallest": _svd_start(half, _rest, order=-1),
            "no residual": _svd_start(half, lambda W0, A, B, s: W0),
            "residual unscaled": _svd_start(half, lambda W0, A, B, s: W0 - B @ A),
            "residual added": _svd_start(half, lambda W0, A, B, s: W0 + s * B @ A),
        },
        right_answers=[flipped, by_eigen],
    )


def test_the_package_starts_where_the_exercise_does():
    import torch

    from lowrank_edu.exercises.ch04 import pissa_start
    from lowrank_edu.inits import pissa

    W0 = np.random.default_rng(4).normal(size=(7, 5))
    A, B = (m.numpy() for m in pissa(torch.tensor(W0), 3, 0.5))
    mine = pissa_start(W0, 3, 0.5)
    np.testing.assert_allclose(B @ A, mine[1] @ mine[0], rtol=1e-10)
    np.testing.assert_allclose(A @ A.T, mine[0] @ mine[0].T, atol=1e-10)
    np.testing.assert_allclose(np.linalg.norm(mine[2], 2), np.linalg.svd(W0)[1][3])  # the next σ is the largest left


def test_bug_names_each_mistake():
    def as_given(x, W0, A, B, A0, B0, alpha, r):
        scale = alpha / r
        h = scale * x @ A.T
        update = scale * h @ B.T - scale * x @ A0.T @ B0.T
        return x @ W0.T + update

    def from_weights(W):
        return lambda x, W0, A, B, A0, B0, alpha, r: x @ W(W0, B @ A, B0 @ A0, alpha, r).T

    assert_distinct_sentences(
        exercises.get("ch04-bug"),
        wrong_answers={
            "as given": as_given,
            "both twice": from_weights(lambda W0, now, start, a, r: W0 + (a / r) ** 2 * (now - start)),
            "α alone": from_weights(lambda W0, now, start, a, r: W0 + a * (now - start)),
            "no scale": from_weights(lambda W0, now, start, a, r: W0 + now - start),
            "no start": from_weights(lambda W0, now, start, a, r: W0 + a / r * now),
            "start unscaled": from_weights(lambda W0, now, start, a, r: W0 + a / r * now - start),
            "start added": from_weights(lambda W0, now, start, a, r: W0 + a / r * (now + start)),
            "no W0": from_weights(lambda W0, now, start, a, r: a / r * (now - start)),
        },
        right_answers=[from_weights(lambda W0, now, start, a, r: W0 + a / r * (now - start))],
    )


def test_the_page_shows_every_exercise():
    assert_notebook_shows(exercises.chapter("ch04"), "ch04_start_scale.ipynb")


# ---- the committed results, and what the page says about them ----
@pytest.fixture(scope="module")
def results():
    return shipped.results("ch04_scale_map")


def test_the_results_are_complete_and_of_this_model(results):
    assert results["fingerprint"] == experiment.fingerprint(), "run: make experiments only=ch04"
    assert set(results["map"]) == {experiment.key(cell) for cell in experiment.map_cells()}
    assert set(results["starts"]) == {experiment.key(cell) for cell in experiment.start_runs()}
    assert 0 < results["seconds"] < 20 * 60
    assert results["versions"]["torch"] and results["seeds"] == experiment.SEEDS


def _columns(results, rule, alpha):
    """Which column is best, for each rank."""
    return [best(row) for row in table(results)[3][rule][alpha]]


def test_the_map_shows_what_the_page_says(results):
    upright, leaning, alone = (_columns(results, rule, 8) for rule in ("r", "root", "one"))
    assert max(upright) - min(upright) <= 1, "under α/r the line stands nearly upright"
    assert leaning[0] - leaning[-1] >= 1, "under α/√r it leans to the left"
    assert alone[0] - alone[-1] > leaning[0] - leaning[-1], "under α alone it leans further"
    for columns in (leaning, alone):
        assert sorted(columns, reverse=True) == columns, "to the left at every rank"
    for rule in ("r", "root", "one"):
        quiet, loud = np.mean(_columns(results, rule, 2)), np.mean(_columns(results, rule, 32))
        assert loud < quiet, "a larger α moves the frames to the left"
        for small, large in ((2, 8), (8, 32)):
            pairs = zip(_columns(results, rule, small), _columns(results, rule, large), strict=True)
            assert all(left >= right for left, right in pairs), "none moves to the right"
    ranks, _, rates, rows = table(results)
    column, base = rates.index(6.4e-3), results["base"] - results["floor"]
    loud = {r: row[column] for r, row in zip(ranks, rows["one"][32], strict=True)}
    assert loud[4] < 0.1 * base and (loud[64] is None or loud[64] > base), "one column down: learns, then diverges"
    cliff = rows["r"][32][0][-1]
    assert cliff is None or cliff > base, "at α = 32 the cliff is in view"
    rows = rows["r"][8]
    assert np.allclose(rows[1][:3], rows[3][:3], rtol=0.2), "under α/r the rows look alike"


def test_the_race_shows_what_the_page_says(results):
    table = races(results)
    end = {lr: {s: np.mean([np.inf if e is None else e for e in ends]) for s, (_, ends) in starts.items()}
           for lr, starts in table.items()}  # fmt: skip
    small, large = end[min(end)], max(end)
    assert max(small["pissa"], small["olora"]) < 0.8 * min(small["kaiming"], small["mirrored"]), "far ahead"
    assert small["mirrored"] < small["kaiming"], "at the smallest rate A = 0 is faster"
    lowest = {s: min(end[lr][s] for lr in end) for s in small}
    assert min(lowest["pissa"], lowest["olora"]) > 0.8 * min(lowest["kaiming"], lowest["mirrored"])
    assert lowest["mirrored"] < 1.25 * lowest["kaiming"], "A = 0 learns as well"
    for lr in end:
        for start in ("pissa", "olora"):
            curve = table[lr][start][0]
            climbs = not curve or max(curve) > curve[0]
            assert climbs == (lr == large), "at the largest rate alone it first climbs above the untrained model"


def test_a_sample_of_the_runs_comes_out_again(results):
    """Bands as wide as the seeds differ: another processor takes another path."""
    train, held_out, floor = experiment.data()
    assert abs(floor - results["floor"]) < 1e-4
    model, _ = lo.load_model("tiny-gpt2")
    for cell in ({"r": 4, "scale": 2.0, "lr": 6.4e-3}, {"r": 64, "scale": 0.125, "lr": 1.6e-3}):
        loss, _ = experiment.run(model, train, held_out, **cell)
        gap, before = loss - floor, results["map"][experiment.key(cell)] - floor
        assert 0.75 * before < gap < 1.33 * before
    cell = {"start": "pissa", "lr": 1.6e-3, "seed": 1}
    loss, curve = experiment.run(model, train, held_out, r=results["start_rank"], scale=1.0, **cell)
    before = results["starts"][experiment.key(cell)]
    assert 0.75 * (before["loss"] - floor) < loss - floor < 1.33 * (before["loss"] - floor)
    np.testing.assert_allclose(curve[:3], before["curve"][:3], rtol=0.02)  # the first steps have not parted yet


def test_the_floor_of_the_pirate_poet_is_exact():
    """Restyling twice is one to one: it can be undone, so plain and told stories are equally likely."""
    plain, told = experiment.verses(40, 5)
    back = told
    for style in reversed(experiment.STYLES):
        back = [lo.corpus.unstyle(text, style) for text in back]
    assert back == plain


# ---- the figures ----
def test_the_map_figure_reads_one_scale_under_each_rule(results):
    ranks, alphas, rates, rows = table(results)
    assert (ranks, alphas) == ([1, 4, 16, 64], [2, 8, 32])
    found = gaps(results)
    for i, r in enumerate(ranks):
        for j, lr in enumerate(rates):
            assert rows["r"][8][i][j] == found[r, 8 / r, lr]
            assert rows["root"][32][i][j] == found[r, 32 / r**0.5, lr]
            assert rows["one"][2][i][j] == found[r, 2, lr]


def test_the_figures_stand_without_scripts(results):
    page = figures.learning_map(results)
    assert page.stage.count("<rect") == 20 and page.stage.count(" top") == 4
    assert f"{results['base'] - results['floor']:.2f}" in page.alt
    race = figures.start_race(results)
    assert race.stage.count("stroke-dasharray") >= 5 and "ends lowest" in race.alt


def test_a_mirrored_start_changes_nothing_and_learns_through_A():
    model, _ = lo.load_model("tiny-gpt2")
    lo.adapt(model, lo.LoRA(r=2, alpha=2, target_modules=["c_attn"]), name="run")
    experiment.mirror(model)
    for layer in lo.adapted_layers(model).values():
        update = layer.updates["run"]
        assert not update.A.any() and update.B.abs().max() <= 2**-0.5 and update.B.std() > 0.3
        assert not layer.delta("run").any()
