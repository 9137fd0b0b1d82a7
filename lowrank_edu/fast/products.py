"""The product of the fast path: a frozen layer and its low-rank update in one, y = W0 x + b + scale · B A x.

Frozen means that the backward pass needs W0 alone, which is there anyway, and neither x nor y. So y may be changed in
place, and all that is kept is for the low-rank part: z = A x, r numbers for each token, and x. Where x came out of a
norm or a GELU not even that, but what went in there, which norm and GELU keep already.
"""

import functools
import platform
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

ENOUGH = 2**18
"""Multiplications from which oneDNN is asked for a product with a factor: 43 tokens of GPT-2 at r = 8."""


@functools.cache
def onednn():
    """oneDNN's linear as (x, W, b) -> y, or None where torch's own is to be taken.

    That is so where this torch lacks it or it computes something else: it is a private operator of torch
    (`mkldnn._linear_pointwise`), so it is tried on a small product, both ways round. And it is so on an Intel
    processor, for which torch's own product, Intel's MKL, is made; on others MKL takes a slower way.
    """
    if torch.backends.mkl.is_available() and "GenuineIntel" in processor():
        return None
    try:
        operator = torch.ops.mkldnn._linear_pointwise
        x, W, b = torch.linspace(-1, 1, 15).view(3, 5), torch.linspace(2, -1, 35).view(5, 7).T, torch.arange(7.0)
        there = operator(x, W, b, "none", [], "")
        back = operator(there, W.T, None, "none", [], "")
    except (AttributeError, RuntimeError, NotImplementedError, TypeError):
        return None
    right = torch.allclose(there, F.linear(x, W, b)) and torch.allclose(back, there @ W)
    return functools.partial(_call, operator) if right else None


def processor():
    """What the system says of its processor."""
    told = Path("/proc/cpuinfo")
    return told.read_text("utf-8", "replace") if told.exists() else platform.processor()


def plainly_called(module):
    """Whether a call runs the forward of its class and nothing else: no hook, and no forward of its own, as accelerate
    gives one to a module whose weights lie elsewhere. Only then may the weights be read in its stead."""
    return not (module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__)


def _call(operator, x, W, b):
    return operator(x, W, b, "none", [], "")


def linear(x, W, b=None, out=None):
    """x Wᵀ + b without gradients, x (n, d_in), W (d_out, d_in): by oneDNN for float32 on a CPU, else by torch.

    `out` (n, d_out) is memory that the result may take instead of new memory; what is returned is the result.
    """
    kernel, n = None if torch.compiler.is_compiling() else onednn(), x.shape[0]  # a compiler chooses by itself
    if kernel is not None and n and x.is_cpu and x.dtype == W.dtype == torch.float32:
        if n > 1 or W.stride(1) == 1:  # one row of x with a Conv1D's turned W: torch's own reads W in its order
            return kernel(x, W, b)
    return torch.mm(x, W.T, out=out) if b is None else torch.addmm(b, x, W.T, out=out)


def thin(x, W):
    """x Wᵀ with a side of r: as `linear` if there is enough to do, for a call of oneDNN takes longer than of torch."""
    return linear(x, W) if x.numel() * len(W) >= ENOUGH else torch.mm(x, W.T)


def added(x, A, B, scale, W0, b):
    """(W0 x + b + scale · B A x (n, d_out), A x (n, r)) without gradients."""
    y, z = linear(x, W0, b), torch.mm(x, A.T)
    return y.addmm_(z, B.T, alpha=scale), z


class AdaptedProduct(torch.autograd.Function):
    """x (n, d_in) -> W0 x + b + scale · B A x (n, d_out), W0 and b frozen; and chapter 3's gradients, by hand:

    dz = scale · Bᵀ dy     dx = W0ᵀ dy + Aᵀ dz     dA = dz xᵀ     dB = scale · dy zᵀ     with z = A x

    x = remake(source): the source is kept, and x is made again for dA. Both sums are taken in place. Left to itself,
    autograd finds the same numbers with two more passes over dy and dx.
    """

    @staticmethod
    def forward(ctx, x, A, B, scale, W0, b, source, remake):
        y, z = added(x, A, B, scale, W0, b)
        _, for_A, for_B = ctx.needs_input_grad[:3]
        ctx.save_for_backward(A, B, W0, z if for_B else None, source if for_A else None)
        ctx.scale, ctx.remake = scale, remake
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        A, B, W0, z, source = ctx.saved_tensors
        dx = dA = dB = None
        dz = thin(dy, B.T).mul_(ctx.scale)  # (n, d_out) -> (n, r)
        if ctx.needs_input_grad[0]:
            dx = linear(dy, W0.T).addmm_(dz, A)
        if source is not None:
            dA = thin(dz.T, ctx.remake(source).reshape(len(dz), -1).T)
        if z is not None:
            dB = thin(z.T, dy.T).mul_(ctx.scale).T  # read row by row: twice as fast as dyᵀ z
        return dx, dA, dB, None, None, None, None, None
