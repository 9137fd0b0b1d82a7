"""How many numbers does a matrix need?  numpy only · taught in chapter 1.

Every W (d_out × d_in) is a sum of outer products, W = Σ σ_k u_k v_kᵀ, with σ_1 ≥ σ_2 ≥ … ≥ 0. The first r
of them are the best copy of rank r there is, and what the copy loses can be read off the σ left out
(Eckart & Young 1936, Mirsky 1960). This file is that idea and what follows from it.

W is a finite, real, non-empty matrix: an array, a nested list, a tensor. Anything else is a ValueError before
any work. Singular values are float64; factors are float32 if W is float32, otherwise float64.
A zero matrix is allowed: all its ranks are 0.
"""

from typing import NamedTuple

import numpy as np


class Tail(NamedTuple):
    """What the best copy of rank r loses: ‖W − W_r‖_F² and ‖W − W_r‖_2."""

    squared_frobenius: float
    spectral: float


# ---- the best copy of rank r ----
def truncated_svd(W, r):
    """U (d_out, r), S (r,) falling, Vt (r, d_in) of the best rank-r copy.   Eckart & Young 1936.

    U has orthonormal columns, Vt orthonormal rows; the sign of a pair (u_k, v_k) is arbitrary. If W has
    less rank, S ends in zeros, up to rounding.  ValueError unless 1 ≤ r ≤ min(d_out, d_in).
    """
    W = _matrix(W)
    r = _rank(r, min(W.shape))
    U, S, Vt = np.linalg.svd(W, full_matrices=False)  # in float64 inside numpy, whatever the dtype
    return U[:, :r].copy(), S[:r].copy(), Vt[:r].copy()


def randomized_svd(W, r, oversample=10, power_iterations=2, rng=None):
    """truncated_svd, nearly as good and much faster when r ≪ min(W.shape).   Halko et al. 2011, alg. 4.4.

    r + oversample random mixtures of W's columns nearly span the largest u_k: work inside their span.
    Each power iteration applies W Wᵀ once more, which lets small σ fade; QR in between keeps their digits.
    rng: a seed, a numpy Generator, or None for seed 0. Global state is not touched. Computes in W's dtype.
    """
    W = _matrix(W)
    r = _rank(r, min(W.shape))
    k = min(r + _count(oversample, "oversample", 0), min(W.shape))
    steps, rng = _count(power_iterations, "power_iterations", 0), _generator(rng)
    Q, _ = _tall_qr(W @ rng.standard_normal((W.shape[1], k), dtype=W.dtype))  # (d_out, k)
    for _ in range(steps):
        P, _ = _tall_qr(W.T @ Q)  # to the rows of W
        Q, _ = _tall_qr(W @ P)  # and back
    P, R = _tall_qr(W.T @ Q)  # Qᵀ W = Rᵀ Pᵀ with R (k, k): so small that a full SVD is cheap
    U, S, Vt = np.linalg.svd(R.T)
    return Q @ U[:, :r], S[:r].copy(), Vt[:r] @ P.T


def _tall_qr(Y, most=8192):
    """np.linalg.qr for many rows and few columns: in blocks of rows, then of all their R's.   Demmel et al. 2012.

    A block of at most 8192 numbers is left to one thread. On two, OpenBLAS's threads mostly wait for each other.
    """
    (m, k), rows = Y.shape, most // Y.shape[1]
    if m <= rows or rows <= 2 * k:  # one block, or blocks whose R's are not much smaller than they are
        return np.linalg.qr(Y)
    n = -(-m // rows)
    left = m - m % n  # fewer than n rows are over: they join the R's as they are
    Q, R = np.linalg.qr(Y[:left].reshape(n, -1, k))  # Q (n, left/n, k), R (n, k, k)
    Q2, R = _tall_qr(np.concatenate([R.reshape(-1, k), Y[left:]]), most)
    return np.concatenate([(Q @ Q2[:n * k].reshape(n, k, k)).reshape(-1, k), Q2[n * k:]]), R


def reconstruct(U, S, Vt):
    """Σ_k S[k] · outer(U[:, k], Vt[k]): (d_out, r), (r,), (r, d_in) -> (d_out, d_in).

    With B = U * S and A = Vt this is B @ A.  ValueError: the three disagree about r.
    """
    U, S, Vt = _matrix(U, "U"), np.asarray(S), _matrix(Vt, "Vt")
    if S.ndim != 1 or not U.shape[1] == len(S) == len(Vt):
        raise ValueError(f"U {U.shape}, S {S.shape} and Vt {Vt.shape} must be (d_out, r), (r,), (r, d_in). "
                         "Pass the three results of one truncated_svd.")
    return (U * S) @ Vt  # scales the columns of U: no diagonal matrix is built


def truncation_error(W, r):
    """What the best rank-r copy loses, without forming it: (Σ_{k>r} σ_k², σ_{r+1}).   Mirsky 1960.

    W: the matrix or, in one dimension, its singular values. No rank-r matrix does better in either norm.
    """
    S = _spectrum(W) if np.ndim(W) == 1 else singular_values(W)
    tail = S[_rank(r, len(S)):]
    return Tail(float(np.sum(tail[::-1] ** 2)), float(tail[0]) if len(tail) else 0.0)


# ---- how many directions are in use ----
def singular_values(W):
    """All min(d_out, d_in) singular values of W, falling, float64."""
    return np.linalg.svd(_matrix(W).astype(np.float64, copy=False), compute_uv=False)


def numerical_rank(W, tol=None):
    """How many σ_k exceed tol; by default max(W.shape) · eps · σ_1: what rounding in W's dtype can fake."""
    W = _matrix(W)
    S = singular_values(W)
    if tol is None:
        tol = max(W.shape) * np.finfo(W.dtype).eps * S[0]
    elif not (isinstance(tol, (int, float, np.number)) and 0 <= tol < np.inf):
        raise ValueError(f"tol={tol!r} must be a number ≥ 0, in the units of W. Leave it out if unsure.")
    return int(np.count_nonzero(S > tol))


def effective_rank(W):
    """exp(−Σ p ln p) with p = σ/Σσ: between 1 and the rank, without a threshold.   Roy & Vetterli 2007.

    Four equal σ give 4; one dominant σ gives about 1. The scale of W does not matter. Zero matrix: 0.
    """
    S = _relative(singular_values(W))
    p = S[S > 0] / max(S.sum(), 1.0)  # 0 ln 0 counts as 0
    return float(np.exp(-np.sum(p * np.log(p)))) if len(p) else 0.0


def stable_rank(W):
    """Σσ² / σ_1² = ‖W‖_F² / ‖W‖_2²: the energy, counted in strongest directions. Zero matrix: 0."""
    return float(np.sum(_relative(singular_values(W)) ** 2))


def spectral_energy(W):
    """Share of Σσ² in the first 1, 2, … values: (min(d_out, d_in),), rising to 1. Zero matrix: ones.

    energy[r − 1] = 1 − ‖W − W_r‖_F² / ‖W‖_F². The squares matter: the share of Σσ is another, smaller number.
    """
    energy = np.cumsum(_relative(singular_values(W)) ** 2)
    return energy / energy[-1] if energy[-1] > 0 else np.ones_like(energy)


def rank_for_energy(W, share):
    """The smallest r whose best copy keeps at least `share` of the energy, 0 < share ≤ 1. Zero matrix: 0.

    Rounding does not decide: a share missed by 16 eps of W's dtype is reached; 1 is the numerical rank.
    """
    if not (isinstance(share, (int, float, np.number)) and 0 < share <= 1):
        raise ValueError(f"share={share!r} must lie in (0, 1]: a part of all. For 90 % pass 0.9.")
    W = _matrix(W)
    rank = numerical_rank(W)
    missed = int(np.sum(spectral_energy(W) + 16 * np.finfo(W.dtype).eps < share))
    return rank if share == 1 else min(missed + 1, rank)


# ---- comparing the rows of two matrices ----
def subspace_similarity(A1, A2, i, j):
    """φ = ‖V1_iᵀ V2_j‖_F² / min(i, j) of the top i and j right-singular directions.   Hu et al. 2021, eq. 4.

    A1 (r1, d), A2 (r2, d). 1: one span holds the other; 0: orthogonal; random spans average max(i, j) / d.
    ValueError: different d, or i or j beyond the numerical rank, where directions are rounding noise.
    """
    V1, V2 = _row_spaces(A1, A2, i, j)
    return min(1.0, float(np.sum((V1 @ V2.T) ** 2)) / min(len(V1), len(V2)))


def principal_angles(A1, A2, i=None, j=None):
    """The min(i, j) angles between the row spaces, rising, radians in [0, π/2].   Björck & Golub 1973.

    i and j as in subspace_similarity; by default the whole row spaces. φ is the mean of their cos².
    """
    small, large = sorted(_row_spaces(A1, A2, i, j), key=len)
    cos = np.linalg.svd(small @ large.T, compute_uv=False)
    sin = np.linalg.svd(small - small @ large.T @ large, compute_uv=False)[::-1]  # what sticks out
    # arccos loses half its digits near 0 and arcsin near π/2: use each where it is sharp.
    return np.where(cos ** 2 > 0.5, np.arcsin(np.clip(sin, 0, 1)), np.arccos(np.clip(cos, 0, 1)))


def grassmann_distance(A1, A2, i=None):
    """√Σθ² over the principal angles: how far one row space must turn to become the other.

    i: compare the top i directions of both.  ValueError: the row spaces differ in dimension.
    """
    V1, V2 = _row_spaces(A1, A2, i, i)
    if len(V1) != len(V2):
        raise ValueError(f"the row spaces have dimensions {len(V1)} and {len(V2)}; they must be equal. "
                         f"Pass i ≤ {min(len(V1), len(V2))}, or use principal_angles.")
    return float(np.linalg.norm(principal_angles(V1, V2)))


# ---- what a factorisation costs ----
def parameter_count(d_out, d_in, r):
    """Numbers in B (d_out, r) and A (r, d_in): r · (d_out + d_in). Any r ≥ 1 can be counted."""
    return _count(r, "r") * (_count(d_out, "d_out") + _count(d_in, "d_in"))


def break_even_rank(d_out, d_in):
    """The largest r at which B and A hold fewer numbers than W: r (d_out + d_in) < d_out d_in."""
    return (_count(d_out, "d_out") * _count(d_in, "d_in") - 1) // (d_out + d_in)


def product_flops(d_out, d_in, r=None, n=1):
    """Multiplications and additions for n vectors x: W x without r, B (A x) with r. m products count 2m."""
    W_count = _count(d_out, "d_out") * _count(d_in, "d_in")
    return 2 * _count(n, "n") * (W_count if r is None else parameter_count(d_out, d_in, r))


# ---- guards ----
def _matrix(W, name="W"):
    """W as a finite, non-empty (d_out, d_in) array of float32 or float64, without a copy where possible."""
    if hasattr(W, "detach"):  # a torch tensor, without importing torch; numpy knows no bfloat16
        W = W.detach().cpu() if W.dtype.itemsize > 2 else W.detach().cpu().float()
    W = np.asarray(W)
    if W.dtype.kind not in "buif":
        raise ValueError(f"{name} has dtype {W.dtype}; it must hold real numbers. "
                         "Convert it with np.asarray(…, float).")
    if W.ndim != 2 or W.size == 0:
        raise ValueError(f"{name} has shape {W.shape}; it must be a non-empty matrix (d_out, d_in). "
                         "Reshape it: a vector v to v[None, :], a convolution K to K.reshape(len(K), -1).")
    W = W if W.dtype == np.float32 else W.astype(np.float64, copy=False)
    if not np.isfinite(W).all():
        row, column = np.argwhere(~np.isfinite(W))[0]
        raise ValueError(f"{name}[{row}, {column}] is {W[row, column]}; every entry must be finite. "
                         "Look for the step that made it: a diverged training run, an overflow in fp16?")
    return W


def _spectrum(S):
    S = _matrix(np.asarray(S)[None], "[S]")[0]
    if (S < 0).any() or (np.diff(S) > 0).any():
        raise ValueError("W has one dimension and is read as singular values, which must be ≥ 0 and falling. "
                         "Pass the matrix, or np.sort(S)[::-1].")
    return S


def _whole(value, least, most=np.inf):
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and least <= value <= most


def _count(value, name, least=1):
    if not _whole(value, least):
        raise ValueError(f"{name}={value!r} must be a whole number ≥ {least}. Pass an int.")
    return int(value)


def _rank(r, most, name="r"):
    if not _whole(r, 1, most):
        raise ValueError(f"{name}={r!r} must be a whole number from 1 to {most}, the directions there are. "
                         f"Pass {name}={most} to keep all.")
    return int(r)


def _generator(rng):
    if not (rng is None or _whole(rng, 0) or isinstance(rng, np.random.Generator)):
        raise ValueError(f"rng={rng!r} must be a seed ≥ 0, a Generator or None. Pass rng=0.")
    return np.random.default_rng(0 if rng is None else rng)  # a Generator passes through


def _relative(S):
    return S / S[0] if S[0] > 0 else S  # squares of σ/σ_1 neither overflow nor vanish


def _row_spaces(A1, A2, i, j):  # -> (i, d), (j, d): orthonormal rows, float64
    A1, A2, spans = _matrix(A1, "A1"), _matrix(A2, "A2"), []
    if A1.shape[1] != A2.shape[1]:
        raise ValueError(f"A1 {A1.shape} and A2 {A2.shape} must have rows of one length to share a space. "
                         "To compare columns, pass the transposes.")
    for A, k, name, count in ((A1, i, "A1", "i"), (A2, j, "A2", "j")):
        rank = numerical_rank(A)
        if rank == 0:
            raise ValueError(f"{name} is zero and has no direction; it must have one. Is it still untrained?")
        k = rank if k is None else _rank(k, rank, count)
        spans.append(np.linalg.svd(A.astype(np.float64), full_matrices=False)[2][:k])
    return spans
