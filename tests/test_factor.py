"""factor.py against oracles that share no code with it: eigenvalues, lstsq, known angles, brute force."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowrank_edu import factor

SHAPES = [(7, 4), (3, 8), (1, 6), (6, 1), (1, 1), (5, 5)]
FUNCTIONS = {
    "truncated_svd": lambda W: factor.truncated_svd(W, 1),
    "randomized_svd": lambda W: factor.randomized_svd(W, 1),
    "truncation_error": lambda W: factor.truncation_error(W, 1),
    "singular_values": factor.singular_values,
    "numerical_rank": factor.numerical_rank,
    "effective_rank": factor.effective_rank,
    "stable_rank": factor.stable_rank,
    "spectral_energy": factor.spectral_energy,
    "rank_for_energy": lambda W: factor.rank_for_energy(W, 0.9),
    "subspace_similarity": lambda W: factor.subspace_similarity(W, W, 1, 1),
    "principal_angles": lambda W: factor.principal_angles(W, W),
    "grassmann_distance": lambda W: factor.grassmann_distance(W, W),
}
STATISTICS = [factor.effective_rank, factor.stable_rank, factor.spectral_energy, factor.numerical_rank]


def normal(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def rotation(n, seed=0):
    return np.linalg.qr(normal((n, n), seed))[0]


def with_spectrum(d_out, d_in, S, seed=0):
    """A matrix whose singular values are known because it was built from them."""
    k = len(S)
    return rotation(d_out, seed)[:, :k] * np.asarray(S, float) @ rotation(d_in, seed + 1)[:k]


@st.composite
def matrices(draw):
    d_out, d_in, seed = draw(st.integers(1, 9)), draw(st.integers(1, 9)), draw(st.integers(0, 10**6))
    rank = draw(st.integers(1, min(d_out, d_in)))
    return normal((d_out, rank), seed) @ normal((rank, d_in), seed + 1) * 10.0 ** draw(st.integers(-3, 3))


def eigenvalues(W):
    """σ² by another road: the eigenvalues of the smaller Gram matrix, falling."""
    return np.maximum(np.linalg.eigvalsh(W @ W.T if W.shape[0] <= W.shape[1] else W.T @ W)[::-1], 0)


# ---- the best copy ----
@given(matrices(), st.data())
def test_truncated_factors_are_orthonormal_sorted_and_lose_exactly_the_tail(W, data):
    r = data.draw(st.integers(1, min(W.shape)))
    U, S, Vt = factor.truncated_svd(W, r)
    assert (U.shape, S.shape, Vt.shape) == ((W.shape[0], r), (r,), (r, W.shape[1]))
    assert np.allclose(U.T @ U, np.eye(r)) and np.allclose(Vt @ Vt.T, np.eye(r))
    assert (S >= 0).all() and (np.diff(S) <= 0).all()
    lost = W - factor.reconstruct(U, S, Vt)
    energy = np.sum(W**2)
    assert np.isclose(np.sum(lost**2), eigenvalues(W)[r:].sum(), rtol=1e-9, atol=1e-12 * energy)
    squared, spectral = factor.truncation_error(W, r)
    assert np.isclose(np.sum(lost**2), squared, atol=1e-12 * energy)
    assert np.isclose(np.linalg.norm(lost, 2), spectral, atol=1e-9 * energy**0.5)


@pytest.mark.parametrize("shape", [(4, 2), (2, 5), (3, 3)])
def test_no_other_matrix_of_that_rank_comes_closer(shape):
    """Brute force: a thousand random row spaces, each with its best B; twenty are polished in turns."""
    W, rng, r = normal(shape, 3), np.random.default_rng(4), 1
    best_squared, best_spectral = factor.truncation_error(W, r)
    for trial in range(1000):
        A = rng.standard_normal((r, shape[1]))
        for _ in range(30 if trial < 20 else 0):
            B = np.linalg.lstsq(A.T, W.T, rcond=None)[0].T
            A = np.linalg.lstsq(B, W, rcond=None)[0]
        B = np.linalg.lstsq(A.T, W.T, rcond=None)[0].T
        assert np.sum((W - B @ A) ** 2) >= best_squared * (1 - 1e-12)
        assert np.linalg.norm(W - B @ A, 2) >= best_spectral * (1 - 1e-12)
        if trial < 20:  # polishing ends at the optimum, so the bound is reached and not just low
            assert np.isclose(np.sum((W - B @ A) ** 2), best_squared, rtol=1e-3)


def test_truncation_error_of_a_known_spectrum():
    S = [5, 4, 2, 1]
    for W in (with_spectrum(9, 6, S), with_spectrum(4, 11, S), np.array(S), np.array(S, np.float32)):
        assert np.allclose(factor.truncation_error(W, 2), (2**2 + 1**2, 2))
        assert np.allclose(factor.truncation_error(W, 1), (4**2 + 2**2 + 1**2, 4))
    assert factor.truncation_error(np.array(S), 4) == (0.0, 0.0)
    error = factor.truncation_error(np.array(S), 3)
    assert error.squared_frobenius == 1.0 and error.spectral == 1.0


def test_a_tail_of_tiny_values_is_not_lost_behind_the_large_ones():
    error = factor.truncation_error(np.array([1e8, 1e-4, 1e-4]), 1)
    assert error.squared_frobenius == pytest.approx(2e-8, rel=1e-12)


@given(matrices())
def test_full_rank_gives_the_matrix_back(W):
    copy = factor.reconstruct(*factor.truncated_svd(W, min(W.shape)))
    assert np.allclose(copy, W, atol=1e-12 * np.abs(W).max())


def test_reconstruct_is_a_sum_of_outer_products():
    U, S, Vt = normal((4, 2)), np.array([3.0, 2.0]), normal((2, 5), 1)
    by_hand = [[sum(S[k] * U[i, k] * Vt[k, j] for k in range(2)) for j in range(5)] for i in range(4)]
    assert np.allclose(factor.reconstruct(U, S, Vt), by_hand)


def test_the_worked_example_of_chapter_1():
    """4 × 2 times 2 × 5: the last row is (7, 8); one printing of the source has (6, 8) there."""
    B, A = np.array([[1, 2], [3, 4], [5, 6], [7, 8]]), np.array([[1, 0, 1, 0, 1], [0, 1, 0, 1, 0]])
    W = factor.reconstruct(B, np.ones(2), A)
    assert W.shape == (4, 5) and W[3].tolist() == [7, 8, 7, 8, 7]
    assert factor.numerical_rank(W) == 2
    assert factor.parameter_count(4, 5, 2) == B.size + A.size == 18 and W.size == 20
    assert np.allclose(factor.reconstruct(*factor.truncated_svd(W, 2)), W)


# ---- randomized ----
@pytest.mark.parametrize("shape", [(300, 120), (120, 300), (200, 200)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_randomized_is_within_a_thousandth_of_the_best_on_a_decaying_spectrum(shape, dtype):
    W = with_spectrum(*shape, 0.9 ** np.arange(120)).astype(dtype)
    U, S, Vt = factor.randomized_svd(W, 12, rng=1)
    assert {F.dtype for F in (U, S, Vt)} == {np.dtype(dtype)}
    assert (U.shape, S.shape, Vt.shape) == ((shape[0], 12), (12,), (12, shape[1]))
    assert np.allclose(U.T @ U, np.eye(12), atol=1e-5) and np.allclose(Vt @ Vt.T, np.eye(12), atol=1e-5)
    residual = np.linalg.norm(W.astype(np.float64) - factor.reconstruct(U, S, Vt).astype(np.float64))
    best = factor.truncation_error(W, 12).squared_frobenius ** 0.5
    assert best * (1 - 1e-6) <= residual <= 1.001 * best


def test_power_iterations_and_oversampling_each_lower_the_error_on_a_slow_spectrum():
    W = with_spectrum(150, 90, 1 / np.sqrt(np.arange(1, 91)))

    def error(**options):
        return np.mean([np.sum((W - factor.reconstruct(*factor.randomized_svd(W, 8, rng=s, **options))) ** 2)
                        for s in range(8)])

    plain = error(oversample=0, power_iterations=0)
    assert error(oversample=10, power_iterations=0) < 0.95 * plain
    assert error(oversample=0, power_iterations=2) < 0.95 * plain
    assert error(oversample=10, power_iterations=4) < 1.01 * factor.truncation_error(W, 8).squared_frobenius


def test_many_power_iterations_keep_small_singular_values():
    """Two power iterations without QR leave 10^-45 of 10^-9, which float64 cannot hold beside 1."""
    W = with_spectrum(40, 30, np.logspace(0, -9, 7))
    S = factor.randomized_svd(W, 7)[1]
    assert np.allclose(S, np.logspace(0, -9, 7), rtol=1e-5, atol=0)


@given(matrices())
def test_randomized_is_exact_when_its_sample_covers_the_rank(W):
    r = min(W.shape)
    assert np.allclose(factor.reconstruct(*factor.randomized_svd(W, r)), W, atol=1e-10 * np.abs(W).max())


@pytest.mark.parametrize("dtype, atol", [(np.float32, 1e-5), (np.float64, 1e-13)])
@pytest.mark.parametrize("shape", [(130, 63), (2000, 63), (1000, 80), (9001, 1), (158, 52), (4001, 42), (3, 3)])
@pytest.mark.parametrize("rank", [0, 1, 5, None])
def test_qr_in_blocks_is_a_qr(shape, dtype, atol, rank):
    """Also where the columns depend on each other: then the extra columns of Q are arbitrary, but orthonormal."""
    m, k = shape
    Y = normal(shape) if rank is None else normal((m, rank)) @ normal((rank, k), 1)
    Q, R = factor._tall_qr(Y.astype(dtype))
    assert (Q.shape, R.shape, Q.dtype, R.dtype) == (shape, (k, k), dtype, dtype)
    assert np.abs(Q.T @ Q - np.eye(k)).max() < atol and np.abs(np.tril(R, -1)).max() == 0
    assert np.abs(Q @ R - Y).max() < atol * max(1, np.linalg.norm(Y))
    expected = np.linalg.qr(Y).R  # R is unique up to the signs of its rows if the columns are independent
    if rank is None:
        assert np.allclose(np.abs(R), np.abs(expected), atol=20 * atol)


def test_randomized_gives_numpys_qr_only_blocks_that_one_thread_takes(monkeypatch):
    seen, qr = [], np.linalg.qr
    monkeypatch.setattr(np.linalg, "qr", lambda Y: seen.append(Y.shape) or qr(Y))
    factor.randomized_svd(normal((4001, 500)), 32)
    assert len(seen) > 6 and all(rows * columns <= 8192 for *_, rows, columns in seen), seen


def test_same_seed_same_bits_and_the_global_state_is_left_alone():
    W = normal((30, 20))
    np.random.seed(5)
    before = np.random.get_state()[1].copy()
    default, seed_0 = factor.randomized_svd(W, 3), factor.randomized_svd(W, 3, rng=0)
    generator = factor.randomized_svd(W, 3, rng=np.random.default_rng(0))
    other = factor.randomized_svd(W, 3, rng=1)
    for a, b, c in zip(default, seed_0, generator, strict=True):
        assert np.array_equal(a, b) and np.array_equal(a, c)
    assert not np.array_equal(default[0], other[0])
    assert np.array_equal(np.random.get_state()[1], before)
    shared = np.random.default_rng(0)
    first, second = (factor.randomized_svd(W, 3, rng=shared)[0] for _ in range(2))
    assert not np.array_equal(first, second)


# ---- ranks and energy ----
@given(matrices())
def test_statistics_from_eigenvalues(W):
    squares = eigenvalues(W)
    squares[squares < 1e-12 * squares[0]] = 0
    p = np.sqrt(squares) / np.sqrt(squares).sum()
    entropy = -sum(x * np.log(x) for x in p if x > 0)
    assert factor.effective_rank(W) == pytest.approx(np.e**entropy, rel=1e-4)
    assert factor.stable_rank(W) == pytest.approx(squares.sum() / squares[0])
    assert np.allclose(factor.spectral_energy(W), np.cumsum(squares) / squares.sum())
    assert np.allclose(factor.singular_values(W) ** 2, squares, atol=1e-10 * squares[0])
    assert factor.numerical_rank(W) == np.linalg.matrix_rank(W)
    assert 1 <= factor.stable_rank(W) * (1 + 1e-12)
    assert factor.effective_rank(W) <= factor.numerical_rank(W) * (1 + 1e-9)


def test_effective_rank_in_closed_form():
    assert factor.effective_rank(with_spectrum(9, 6, [2, 2, 2, 2])) == pytest.approx(4)
    assert factor.effective_rank(np.diag([3.0, 1.0])) == pytest.approx(4 / 27**0.25)  # p = 3/4, 1/4
    assert factor.effective_rank(np.ones((3, 5))) == pytest.approx(1)
    assert factor.stable_rank(np.diag([3.0, 1.0])) == pytest.approx(10 / 9)
    assert factor.spectral_energy(np.diag([3.0, 1.0])) == pytest.approx([0.9, 1.0])


@given(matrices(), st.integers(-200, 150))
def test_transpose_rotation_and_scale_change_nothing(W, power):
    with np.errstate(over="raise", invalid="raise"):
        for f in STATISTICS:
            value = f(W)
            assert np.allclose(f(W.T), value)
            assert np.allclose(f(rotation(W.shape[0], 8) @ W @ rotation(W.shape[1], 9)), value)
            assert np.allclose(f(W * 10.0**power), value)
    lost, scaled = factor.truncation_error(W, 1), factor.truncation_error(-3 * W, 1)
    assert np.allclose(scaled, (9 * lost[0], 3 * lost[1]), atol=1e-12 * np.sum(W**2))


@given(matrices(), st.floats(0.01, 1))
def test_rank_for_energy_is_the_smallest_that_keeps_the_share(W, share):
    r, energy = factor.rank_for_energy(W, share), factor.spectral_energy(W)
    assert 1 <= r <= factor.numerical_rank(W)
    assert energy[r - 1] >= share - 1e-12
    assert r == 1 or energy[r - 2] < share


def test_rank_for_energy_does_not_depend_on_the_last_digit():
    W = with_spectrum(60, 40, [3, 1])
    assert [factor.rank_for_energy(W, s) for s in (0.1, 0.9, 0.91, 1.0, 1)] == [1, 1, 2, 2, 2]
    for dtype in (np.float32, np.float64):
        low = (normal((40, 5)) @ normal((5, 30), 1)).astype(dtype)
        assert factor.rank_for_energy(low, 1.0) == factor.numerical_rank(low) == 5
        equal = rotation(100).astype(dtype)
        assert [factor.rank_for_energy(equal, k / 100) for k in range(1, 101)] == list(range(1, 101))
    # The second value holds 1e-18 of the energy: real, although the share of the first rounds to 1.
    assert factor.rank_for_energy(np.diag([1, 1e-9]), 1.0) == 2
    assert factor.rank_for_energy(np.diag([1, 1e-9]), 1 - 1e-12) == 1


def test_numerical_rank_follows_the_dtype_and_the_tolerance():
    W = np.diag([1.0, 1e-3, 1e-10])
    assert factor.numerical_rank(W) == 3 and factor.numerical_rank(W.astype(np.float32)) == 2
    assert factor.numerical_rank(W, tol=1e-3 + 1e-9) == 1 and factor.numerical_rank(W, tol=0) == 3
    assert factor.numerical_rank(1000 * W, tol=1e-3 + 1e-9) == 2  # tol is absolute


# ---- subspaces ----
def lines_at(angles, d=9):
    """Two spans in R^d with these principal angles, hidden behind a rotation and a mixing of their rows."""
    k, turn = len(angles), rotation(d, 5)
    first, second = np.eye(d)[:k], np.zeros((k, d))
    second[:, :k], second[:, k:2 * k] = np.diag(np.cos(angles)), np.diag(np.sin(angles))
    return normal((k, k), 6) @ first @ turn, normal((k, k), 7) @ second @ turn


@pytest.mark.parametrize("angles", [[0.1, 0.5, 1.2], [0, np.pi / 4, np.pi / 2], [1e-9, 1e-5, 1.57079]])
def test_angles_known_by_construction(angles):
    A1, A2 = lines_at(angles)
    assert np.allclose(factor.principal_angles(A1, A2), angles, rtol=0, atol=1e-13)
    assert factor.grassmann_distance(A1, A2) == pytest.approx(np.sqrt(np.sum(np.square(angles))))
    assert factor.subspace_similarity(A1, A2, 3, 3) == pytest.approx(np.mean(np.cos(angles) ** 2))


@given(st.integers(2, 7), st.integers(2, 7), st.data())
def test_similarity_by_projectors(r1, r2, data):
    """‖V1ᵀV2‖_F² = trace(P1 P2), with projectors from eigenvectors of AᵀA instead of an SVD."""
    A1, A2, d = normal((r1, 11), r1), normal((r2, 11), 50 + r2), 11
    i, j = data.draw(st.integers(1, r1)), data.draw(st.integers(1, r2))
    (E1, E2) = (np.linalg.eigh(A.T @ A)[1][:, d - k:] for A, k in ((A1, i), (A2, j)))
    expected = np.trace(E1 @ E1.T @ E2 @ E2.T) / min(i, j)
    assert factor.subspace_similarity(A1, A2, i, j) == pytest.approx(expected)
    assert factor.subspace_similarity(A2, A1, j, i) == pytest.approx(expected)
    angles = factor.principal_angles(A1, A2, i, j)
    assert len(angles) == min(i, j) and (np.diff(angles) >= 0).all()
    assert np.mean(np.cos(angles) ** 2) == pytest.approx(expected)


def test_similarity_compares_rows_and_the_strongest_first():
    A = with_spectrum(4, 10, [4, 3, 2, 1])
    mixed = normal((6, 4)) @ A  # the same row space
    assert factor.subspace_similarity(A, mixed, 4, 4) == pytest.approx(1)
    assert factor.subspace_similarity(A, A, 2, 4) == pytest.approx(1)  # contained, so divided by the smaller
    assert factor.grassmann_distance(A, mixed) == pytest.approx(0, abs=1e-7)
    weak_first = np.diag([1.0, 2.0]) @ np.eye(2, 5)
    assert factor.subspace_similarity(weak_first, np.eye(5)[[1]], 1, 1) == pytest.approx(1)
    assert factor.subspace_similarity(weak_first, np.eye(5)[[0]], 1, 1) == pytest.approx(0)


def test_random_spans_average_the_larger_dimension_over_d():
    phi = [factor.subspace_similarity(normal((2, 20), s), normal((5, 20), 999 - s), 2, 5) for s in range(200)]
    assert np.mean(phi) == pytest.approx(5 / 20, abs=0.02)


# ---- costs ----
@given(st.integers(1, 60), st.integers(1, 60))
def test_costs_by_counting(d_out, d_in):
    r = factor.break_even_rank(d_out, d_in)
    assert r == max([k for k in range(1, 61) if k * d_out + k * d_in < d_out * d_in], default=0)
    assert factor.parameter_count(d_out, d_in, 3) == np.zeros((d_out, 3)).size + np.zeros((3, d_in)).size
    assert factor.product_flops(d_out, d_in) == 2 * sum(1 for _ in range(d_out) for _ in range(d_in))
    assert factor.product_flops(d_out, d_in, r=2, n=7) == 7 * (2 * 2 * d_in + 2 * d_out * 2)


def test_counts_of_the_paper():
    """GPT-3: r = 4 on q and v of 96 layers, 12288 wide: 18,874,368 (Hu et al. 2021)."""
    assert 96 * 2 * factor.parameter_count(12288, 12288, 1) == 4_718_592
    assert 96 * 2 * factor.parameter_count(12288, 12288, 4) == 18_874_368
    assert factor.break_even_rank(12288, 12288) == 6143  # 6144 is a draw


# ---- what goes in, what comes out ----
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_shape_is_welcome_and_left_unchanged(name, shape):
    W = normal(shape)
    before = W.copy()
    FUNCTIONS[name](W)
    assert np.array_equal(W, before)


@pytest.mark.parametrize("shape", SHAPES)
def test_zero_matrix(shape):
    Z = np.zeros(shape)
    for svd in (factor.truncated_svd, factor.randomized_svd):
        U, S, Vt = svd(Z, 1)
        assert S.tolist() == [0] and np.allclose([U.T @ U, Vt @ Vt.T], 1)
    assert factor.truncation_error(Z, 1) == (0, 0)
    assert [f(Z) for f in (factor.numerical_rank, factor.effective_rank, factor.stable_rank)] == [0, 0, 0]
    assert factor.spectral_energy(Z).tolist() == [1] * min(shape)
    assert factor.rank_for_energy(Z, 1.0) == factor.rank_for_energy(Z, 0.5) == 0


@pytest.mark.parametrize("given_dtype", [np.float32, np.float64, np.float16, np.int64, np.uint8, np.bool_])
def test_dtype_in_and_out(given_dtype):
    expected = np.float32 if given_dtype is np.float32 else np.float64
    W = (normal((6, 4)) > 0).astype(given_dtype)
    for svd in (factor.truncated_svd, factor.randomized_svd):
        assert {F.dtype for F in svd(W, 2)} == {np.dtype(expected)}
    assert factor.singular_values(W).dtype == np.float64
    assert np.allclose(factor.singular_values(W) ** 2, eigenvalues(W.astype(float)), atol=1e-9)
    assert type(factor.effective_rank(W)) is type(factor.stable_rank(W)) is float
    assert type(factor.rank_for_energy(W, 0.9)) is type(factor.numerical_rank(W)) is int


def test_float32_factors_are_rounded_only_once():
    W = with_spectrum(30, 20, np.logspace(0, -3, 20)).astype(np.float32)
    assert np.array_equal(factor.truncated_svd(W, 20)[1], factor.singular_values(W).astype(np.float32))


def test_lists_and_tensors():
    import torch  # only here: the rest of this file needs numpy alone

    W = normal((5, 3))
    expected = factor.effective_rank(W)
    assert factor.effective_rank(W.tolist()) == expected
    assert factor.effective_rank(torch.nn.Parameter(torch.tensor(W))) == expected
    half = torch.tensor(W).to(torch.bfloat16)
    assert factor.effective_rank(half) == pytest.approx(factor.effective_rank(half.double().numpy()))


# ---- errors: the value, the rule, the fix ----
def refuses(call, *words):
    with pytest.raises(ValueError) as error:
        call()
    message = str(error.value)
    assert all(word in message for word in words), message
    assert "must" in message and re.search(r"\. [A-Z].*[.?]$", message), f"no rule or no fix: {message}"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_bad_matrices(name):
    f, hole = FUNCTIONS[name], normal((4, 3))
    for bad in (np.nan, np.inf, -np.inf):
        hole[2, 1] = bad
        refuses(lambda: f(hole), "[2, 1]", str(bad), "finite")
        refuses(lambda: f(hole.astype(np.float32)), "[2, 1]", str(bad))
    refuses(lambda: f(np.zeros((0, 3))), "(0, 3)", "non-empty")
    refuses(lambda: f(np.zeros((3, 0))), "(3, 0)", "non-empty")
    refuses(lambda: f(np.zeros((2, 3, 4))), "(2, 3, 4)", "Reshape")
    refuses(lambda: f(np.float64(3)), "()", "matrix")
    refuses(lambda: f(np.ones((4, 3)) * 1j), "complex128", "real")
    refuses(lambda: f(np.array([["a", "b"]])), "dtype", "real")
    if name != "truncation_error":  # reads one dimension as singular values
        refuses(lambda: f(np.ones(3)), "(3,)", "v[None, :]")


@pytest.mark.parametrize("f", [factor.truncated_svd, factor.randomized_svd, factor.truncation_error])
@pytest.mark.parametrize("r", [0, -1, 4, 10**9, 1.5, 2.0, "2", None, True, np.nan])
def test_bad_ranks(f, r):
    refuses(lambda: f(normal((5, 3)), r), f"r={r!r}", "from 1 to 3", "r=3")


@pytest.mark.parametrize("share", [0, -0.1, 1.0000001, 90, np.nan, None, "0.9", [0.9]])
def test_bad_shares(share):
    refuses(lambda: factor.rank_for_energy(normal((5, 3)), share), f"share={share!r}", "(0, 1]", "0.9")


def test_bad_options():
    W = normal((5, 3))
    refuses(lambda: factor.randomized_svd(W, 2, oversample=-1), "oversample=-1", "≥ 0")
    refuses(lambda: factor.randomized_svd(W, 2, power_iterations=0.5), "power_iterations=0.5", "≥ 0")
    for rng in (-1, "0", 0.5, np.random.RandomState(0), True):
        refuses(lambda rng=rng: factor.randomized_svd(W, 2, rng=rng), "rng=", "Generator", "rng=0")
    for tol in (-1, np.nan, np.inf, "0"):
        refuses(lambda tol=tol: factor.numerical_rank(W, tol=tol), f"tol={tol!r}", "≥ 0")
    for call in (factor.break_even_rank, factor.product_flops, lambda o, i: factor.parameter_count(o, i, 1)):
        refuses(lambda call=call: call(0, 3), "d_out=0", "≥ 1")
        refuses(lambda call=call: call(3, 2.5), "d_in=2.5", "≥ 1")
    refuses(lambda: factor.parameter_count(4, 5, 0), "r=0", "≥ 1")
    refuses(lambda: factor.product_flops(4, 5, n=0), "n=0", "≥ 1")


def test_bad_factors_and_spectra():
    U, S, Vt = factor.truncated_svd(normal((5, 4)), 2)
    refuses(lambda: factor.reconstruct(U, S[:1], Vt), "(5, 2)", "(1,)", "(2, 4)", "truncated_svd")
    refuses(lambda: factor.reconstruct(U, np.diag(S), Vt), "(2, 2)", "(r,)")
    refuses(lambda: factor.truncation_error(np.array([1.0, 2.0]), 1), "falling", "sort")
    refuses(lambda: factor.truncation_error(np.array([1.0, -2.0]), 1), "≥ 0")
    refuses(lambda: factor.truncation_error(np.array([np.nan, 1.0]), 1), "nan", "finite")


def test_bad_subspaces():
    A, low = normal((4, 9)), normal((4, 2)) @ normal((2, 9), 1)
    def similarity(a, b):
        return factor.subspace_similarity(a, b, 1, 1)

    for f in (similarity, factor.principal_angles, factor.grassmann_distance):
        refuses(lambda f=f: f(A, normal((4, 8))), "(4, 9)", "(4, 8)", "transposes")
        refuses(lambda f=f: f(A, np.zeros((4, 9))), "A2 is zero")
        refuses(lambda f=f: f(np.zeros((4, 9)), A), "A1 is zero")
    refuses(lambda: factor.subspace_similarity(A, low, 1, 3), "j=3", "from 1 to 2", "j=2")
    refuses(lambda: factor.subspace_similarity(A, low, 5, 1), "i=5", "from 1 to 4")
    refuses(lambda: factor.grassmann_distance(A, low), "4", "2", "principal_angles")
    assert factor.grassmann_distance(A, low, i=2) > 0
