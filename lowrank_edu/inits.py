"""Question 2, *start*: what are A (r × d_in) and B (d_out × r) at step 0?

Two families. A *zero* start makes one factor random and the other zero, so ΔW = 0. A *spectral* start fills
both from W0 itself; the product is then taken away again (a residual start), so ΔW = 0 as well.
"""

import math

import torch

SPECTRAL = ("pissa", "olora")
INITS = ("kaiming", "gaussian", "orthogonal", *SPECTRAL, "loftq")


def initial_factors(init, W0, r, scale, generator):
    """(A, B) for a layer with weight W0 (d_out, d_in), float32, on the CPU; whether the start is residual is
    `init in SPECTRAL`.

    init        A                                   B                        source
    kaiming     U(±1/√d_in)                         0                        loralib; PEFT's default
    gaussian    N(0, 1/r²)                          0                        PEFT; the paper says "Gaussian"
    orthogonal  random, rows orthogonal to B's      random, B A = 0          PEFT; needs an even r
    pissa       √(S_r/scale) V_rᵀ                   U_r √(S_r/scale)         Meng et al. 2024, eqs. 2-3
    olora       R_r of W0 = Q R                     Q_r                      Büyükakyüz 2024
    loftq       as PiSSA, from what the codes of W0 miss: `loftq` in quantizing.py, Li et al. 2023
    """
    d_out, d_in = W0.shape
    if W0.is_meta:  # shapes alone, for counting
        return W0.new_empty(r, d_in), W0.new_empty(d_out, r)
    if init == "kaiming":
        return uniform((r, d_in), 1 / math.sqrt(d_in), generator), torch.zeros(d_out, r)
    if init == "gaussian":
        return torch.randn(r, d_in, generator=generator) / r, torch.zeros(d_out, r)
    if init == "orthogonal":
        return orthogonal(d_out, d_in, r, generator)
    W = factorable(W0, r, f"init={init!r}", "choose init='kaiming'")
    if init == "pissa":
        return pissa(W, r, scale)
    if init == "olora":
        return olora(W, r)
    raise ValueError(f"init={init!r} is not one of {', '.join(INITS)}.")


def factorable(W0, r, what, instead):
    """W0 as a finite float32 matrix on the CPU with at least r directions, or a ValueError."""
    d_out, d_in = W0.shape
    if r > min(d_out, d_in):
        raise ValueError(
            f"{what} takes r={r} directions from a {d_out} × {d_in} weight, which has only "
            f"{min(d_out, d_in)}. Lower r, or {instead}."
        )
    W = W0.detach().float().cpu()
    if not torch.isfinite(W).all():
        raise ValueError(f"{what} factors the weight, which holds NaN or Inf. {instead.capitalize()}.")
    return W


DIRECTIONS = ("top", "bottom", "random")


def directions(W0, r, which, generator):
    """U (d_out, r), S (r) falling, Vt (r, d_in): r directions on both sides of W0, float32, on the CPU.

    top      singular vectors of the r largest singular values, and those values
    bottom   the same for the r smallest
    random   random orthonormal vectors, with the r largest singular values: only the directions differ from "top"
    """
    d_out, d_in = W0.shape
    if W0.is_meta:
        return W0.new_empty(d_out, r), W0.new_empty(r), W0.new_empty(r, d_in)
    W = factorable(W0, r, f"directions={which!r}", "leave this layer out")
    U, S, Vt = torch.linalg.svd(W, full_matrices=False)
    if which == "random":
        U, V = (torch.linalg.qr(torch.randn(n, r, generator=generator)).Q for n in (d_out, d_in))
        return U, S[:r], V.T
    part = slice(len(S) - r, None) if which == "bottom" else slice(r)
    return U[:, part], S[part], Vt[part]


def pissa(W, r, scale):
    """A (r, d_in), B (d_out, r) with scale · B A = the best rank-r copy of W.   Meng et al. 2024."""
    U, S, Vt = torch.linalg.svd(W, full_matrices=False)
    root = (S[:r] / scale).sqrt()  # each factor takes half of σ and half of the scale
    return root[:, None] * Vt[:r], U[:, :r] * root


def olora(W, r):
    """A = first r rows of R, B = first r columns of Q, where W = Q R.   Büyükakyüz 2024."""
    Q, R = torch.linalg.qr(W)
    return R[:r].contiguous(), Q[:, :r].contiguous()


def embedding_factors(V, d, r, generator):
    """A (r, V) = 0 and B (d, r) ~ N(0, 1): embeddings start the other way round (loralib, PEFT)."""
    return torch.zeros(r, V), torch.randn(d, r, generator=generator)


def uniform(shape, bound, generator):
    return (torch.rand(shape, generator=generator) * 2 - 1) * bound


def orthogonal(d_out, d_in, r, generator):
    """A and B whose inner bases are odd and even rows of one orthogonal matrix: both random, B A = 0."""
    Q, _ = torch.linalg.qr(torch.randn(r, r, generator=generator))
    A = Q[0::2].T @ torch.randn(r // 2, d_in, generator=generator) / 10
    B = torch.randn(d_out, r // 2, generator=generator) @ Q[1::2] / 10
    return A, B
