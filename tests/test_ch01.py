"""Chapter 1: its exercises name each mistake, its picture is what it says, its sentences are true."""

import ch01_picture
import numpy as np
import pytest
from helpers import assert_distinct_sentences, assert_notebook_shows

from lowrank_edu import exercises, factor, figures
from lowrank_edu.figures.picture import photograph


# ---- exercises: wrong answers as a learner would write them ------------------------------------------------
def test_a_matrix_from_patterns():
    def replaced(B, A):
        for b, a in zip(B.T, A, strict=True):
            W = b[:, None] * a[None, :]
        return W

    assert_distinct_sentences(
        exercises.get("ch01-outer"),
        wrong_answers={
            "first only": lambda B, A: B[:, :1] @ A[:1],
            "last only": replaced,
            "rows of B": lambda B, A: sum(b[:, None] * a for b, a in zip(B[: len(A)], A, strict=True)),
            "columns of A": lambda B, A: sum(np.outer(B[:, k], A[:, k]) for k in range(B.shape[1])),
            "sums first": lambda B, A: B.sum(axis=1, keepdims=True) @ A.sum(axis=0, keepdims=True),
            "mean": lambda B, A: B @ A / B.shape[1],
            "all pairs": lambda B, A: B.ravel()[:, None] * A.ravel(),
            "other order": lambda B, A: np.matmul(A, B),
            "transposed": lambda B, A: A.T @ B.T,
            "nothing added": lambda B, A: np.zeros((len(B), A.shape[1])),
        },
        right_answers=[
            lambda B, A: B @ A,
            lambda B, A: np.einsum("ik,kj->ij", B, A),
            lambda B, A: [[sum(B[i, k] * A[k, j] for k in range(len(A))) for j in range(A.shape[1])]
                          for i in range(len(B))],
        ],
    )  # fmt: skip


def test_the_best_copy():
    def parts(W):
        return np.linalg.svd(W, full_matrices=False)

    def without_s(W, r):
        U, _, Vt = parts(W)
        return U[:, :r] @ Vt[:r]

    def s_twice(W, r):
        U, S, Vt = parts(W)
        return U[:, :r] @ np.diag(S[:r] ** 2) @ Vt[:r]

    def weakest(W, r):
        U, S, Vt = parts(W)
        return U[:, -r:] @ np.diag(S[-r:]) @ Vt[-r:]

    def single(W, r):
        U, S, Vt = parts(W)
        return U[:, [r - 1]] @ Vt[[r - 1]] * S[r - 1]

    def vt_as_v(W, r):
        U, S, V = parts(W)
        return U[:, :r] @ np.diag(S[:r]) @ V[:, :r].T

    def masked(W, r):
        return np.where(np.arange(W.shape[1]) < r, W, 0)

    def eigen(W, r):  # a right answer without an SVD
        E = np.linalg.eigh(W @ W.T)[1][:, -r:]
        return E @ E.T @ W

    assert_distinct_sentences(
        exercises.get("ch01-best"),
        wrong_answers={
            "no S": without_s,
            "S twice": s_twice,
            "weakest": weakest,
            "one pattern": single,
            "r - 1": lambda W, r: factor.reconstruct(*factor.truncated_svd(W, r - 1)),
            "r + 1": lambda W, r: factor.reconstruct(*factor.truncated_svd(W, r + 1)),
            "everything": lambda W, r: W.copy(),
            "Vt read as V": vt_as_v,
            "first columns": masked,
            "first columns as building blocks": lambda W, r: W[:, :r] @ np.linalg.pinv(W[:, :r]) @ W,
            "sign": lambda W, r: -eigen(W, r),
        },
        right_answers=[eigen, lambda W, r: factor.reconstruct(*factor.truncated_svd(W, r))],
    )


def test_the_error_without_the_copy():
    assert_distinct_sentences(
        exercises.get("ch01-tail"),
        wrong_answers={
            "unsquared": lambda S, r: (np.sum(S[r:]), S[r]),
            "square of the sum": lambda S, r: (np.sum(S[r:]) ** 2, S[r]),
            "root": lambda S, r: (np.linalg.norm(S[r:]), S[r]),
            "kept": lambda S, r: (S[:r] @ S[:r], S[r]),
            "share": lambda S, r: (1 - S[:r] @ S[:r] / (S @ S), S[r]),
            "late": lambda S, r: (S[r + 1 :] @ S[r + 1 :], S[r + 1]),
            "early": lambda S, r: (S[r - 1 :] @ S[r - 1 :], S[r - 1]),
            "last": lambda S, r: (S[r:] @ S[r:], min(S)),
            "first": lambda S, r: (S[r:] @ S[r:], max(S)),
            "spectral squared": lambda S, r: (S[r:] @ S[r:], S[r] ** 2),
            "order": lambda S, r: (S[r], S[r:] @ S[r:]),
        },
        right_answers=[
            lambda S, r: factor.truncation_error(S, r),
            lambda S, r: [S @ S - S[:r] @ S[:r], max(S[r:])],
        ],
    )


def test_when_it_stops_paying():
    assert factor.break_even_rank(4096, 11008) == exercises.get("ch01-even").reference
    assert 4096 * 11008 // factor.parameter_count(4096, 11008, 8) == 373
    assert factor.parameter_count(4096, 11008, 2986) == 45_100_544 and 4096 * 11008 == 45_088_768
    assert factor.parameter_count(4096, 11008, 4096) == 61_865_984
    assert_distinct_sentences(
        exercises.get("ch01-even"),
        wrong_answers={
            "up": 2986, "side": 4096, "half": 2048, "one factor": 11008, "twice": 5970, "W": 45_088_768,
            "price": 15_104, "not whole": 4096 * 11008 / 15104,
        },
        right_answers=["2,985", 2985.0, np.int64(2985)],
    )  # fmt: skip


def test_a_soft_count():
    def shares(S):
        p = S[S > 0] / S.sum()
        return p

    def careless(S):
        p = S / S.sum()
        return np.exp(-(p * np.log(p)).sum())

    assert_distinct_sentences(
        exercises.get("ch01-soft"),
        wrong_answers={
            "squared": lambda S: np.exp(-np.sum(shares(S**2) * np.log(shares(S**2)))),
            "entropy": lambda S: -np.sum(shares(S) * np.log(shares(S))),
            "bits": lambda S: np.exp(-np.sum(shares(S) * np.log2(shares(S)))),
            "zeros": careless,
            "no minus": lambda S: np.exp(np.sum(shares(S) * np.log(shares(S)))),
            "no shares": lambda S: np.exp(-np.sum(S[S > 0] * np.log(S[S > 0]))),
            "stable": lambda S: (S / S[0]) @ (S / S[0]),
            "participation": lambda S: S.sum() ** 2 / (S @ S),
            "count": lambda S: (S > 1e-9).sum(),
        },
        right_answers=[
            lambda S: factor.effective_rank(np.diag(S)),
            lambda S: 2 ** -np.sum(shares(S) * np.log2(shares(S))),
        ],
    )


def test_the_page_shows_every_exercise():
    assert_notebook_shows(exercises.chapter("ch01"), "ch01_rank.ipynb")


# ---- the picture -------------------------------------------------------------------------------------------
def test_the_photograph_is_the_one_matplotlib_ships():
    committed = np.load(ch01_picture.TARGET)
    assert committed.shape == (120, 100) and committed.dtype == np.uint8
    assert np.abs(committed.astype(int) - ch01_picture.picture()).max() <= 2  # JPEG decoders may round differently


def test_photograph_is_a_matrix_between_black_and_white():
    W = photograph()
    assert W.shape == (120, 100) and W.dtype == np.float64
    assert -1 <= W.min() < -0.9 and 0.9 < W.max() <= 1


def unpacked(packed):
    from base64 import b64decode

    return np.frombuffer(b64decode(packed["$packed"]), np.int8).reshape(packed["shape"]).astype(float)


@pytest.mark.parametrize("shape", [(120, 100), (30, 44)])
def test_the_page_carries_the_factors_of_every_rank(shape):
    W = photograph()[: shape[0], : shape[1]]
    figure = figures.rank_picture(W)
    B, A, scale = unpacked(figure.data["B"]), unpacked(figure.data["A"]), np.array(figure.data["scale"])
    assert B.shape == (shape[0], min(shape)) and A.shape == (min(shape), shape[1])
    for r in (1, 5, min(shape)):
        best = factor.reconstruct(*factor.truncated_svd(W, r))
        assert np.linalg.norm((B * scale)[:, :r] @ A[:r] - best) < 0.01 * np.linalg.norm(W)
    assert np.allclose(figure.data["kept"], factor.spectral_energy(W), atol=1e-4)


def test_the_bytes_do_not_depend_on_the_signs_of_an_svd(monkeypatch):
    W = photograph()
    expected = figures.rank_picture(W).html
    from lowrank_edu.figures import picture

    def negated(W, r):
        U, S, Vt = factor.truncated_svd(W, r)
        return -U, S, -Vt

    monkeypatch.setattr(picture, "truncated_svd", negated)
    assert figures.rank_picture(W).html == expected


def test_a_picture_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"holds 255.*between −1.*/ 127\.5"):
        figures.rank_picture(np.full((4, 5), 255.0))


# ---- what the prose says -----------------------------------------------------------------------------------
def test_numbers_in_the_prose():
    W = photograph()
    assert [factor.rank_for_energy(W, share) for share in (0.5, 0.9, 0.99)] == [1, 8, 33]
    assert factor.break_even_rank(120, 100) == 54
    assert factor.parameter_count(120, 100, 8) == 1760 and W.size == 12_000


def test_the_trained_weight_lies_between_photograph_and_noise():
    import lowrank_edu as lo

    W0 = lo.load_model("tiny-gpt2")[0].transformer.h[2].mlp.c_fc.weight.detach().double().numpy().T
    assert W0.shape == (768, 192)
    noise = np.random.default_rng(0).normal(0, W0.std(), W0.shape)
    kept = [factor.rank_for_energy(M, 0.9) / min(M.shape) for M in (photograph(), W0, noise)]
    assert kept[0] < 0.1 < 0.25 < kept[1] < 0.5 < 0.7 < kept[2]  # 8 of 100, about 70 and 150 of 192
    for count in (factor.effective_rank, factor.stable_rank):
        assert count(photograph()) < count(W0) < count(noise)


def test_a_copy_of_rank_80_still_tells_stories_and_one_of_rank_8_does_not():
    import torch

    import lowrank_edu as lo

    model, tok = lo.load_model("tiny-gpt2")
    stories = lo.tokenize(tok, lo.corpus.stories(8, seed=1))
    layers = [m for m in model.modules() if type(m).__name__ == "Conv1D"]
    assert len(layers) == 16
    whole = lo.evaluate(model, stories)
    losses = {}
    for r in (80, 8):
        for layer in layers:  # the copy of rank 8 is made from that of rank 80: their first 8 patterns agree
            copy = factor.reconstruct(*factor.truncated_svd(layer.weight, r))
            layer.weight.data.copy_(torch.from_numpy(copy))
        losses[r] = lo.evaluate(model, stories)
    assert losses[80] < whole + 0.1
    assert losses[8] > np.log(len(tok))  # worse than choosing blindly
