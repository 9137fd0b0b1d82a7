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
    if r > min(d_out, d_in):
        raise ValueError(
            f"init={init!r} takes r={r} directions from a {d_out} × {d_in} weight, which has only "
            f"{min(d_out, d_in)}. Lower r, or choose init='kaiming'."
        )
    W = W0.detach().float().cpu()
    if not torch.isfinite(W).all():
        raise ValueError(f"init={init!r} factors the weight, which holds NaN or Inf. Choose init='kaiming'.")
    if init == "pissa":
        return pissa(W, r, scale)
    if init == "olora":
        return olora(W, r)
    raise ValueError(f"init={init!r} is not one of {', '.join(INITS)}.")


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
