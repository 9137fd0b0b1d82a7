"""Chapter 4: its exercises, its figures, its experiment."""

import numpy as np
import pytest
from helpers import assert_distinct_sentences, assert_notebook_shows

from lowrank_edu import exercises


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
    ((x @ A.T @ B.T) * 0.7).backward(G)  # G is the gradient that arrives at y
    ours = factor_gradients(x.numpy(), G.numpy(), A.detach().numpy(), B.detach().numpy(), 0.7)
    np.testing.assert_allclose(ours[0], A.grad.numpy(), rtol=1e-12)
    np.testing.assert_allclose(ours[1], B.grad.numpy(), rtol=1e-12)


def test_dead_names_each_mistake():
    assert_distinct_sentences(
        exercises.get("ch04-dead"),
        wrong_answers={letter: letter for letter in "ABDE"},
        right_answers=["c", " C.", "(C)"],
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
