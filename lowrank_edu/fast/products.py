"""The products of the fast path: y = W0 x + b for a frozen W0, and z = A x that keeps what x was made from.

Frozen means that nothing of a layer is kept for the backward pass but the weight itself, which is there anyway:
dx = W0ᵀ dy needs neither x nor y. So y may be changed in place, and all that the low-rank part keeps is z, r numbers
for each token, and x for the gradient of A: or, where x came out of a norm or a GELU, what went into that.
"""

import functools
import platform
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable


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


def _call(operator, x, W, b):
    return operator(x, W, b, "none", [], "")


def linear(x, W, b=None, out=None):
    """x Wᵀ + b without gradients, x (n, d_in), W (d_out, d_in): by oneDNN for float32 on a CPU, else by torch.

    `out` (n, d_out) is memory that the result may take instead of new memory; what is returned is the result.
    """
    kernel = onednn() if x.device.type == "cpu" and x.dtype == W.dtype == torch.float32 and len(x) else None
    if kernel is not None:
        return kernel(x, W, b)
    return torch.mm(x, W.T, out=out) if b is None else torch.addmm(b, x, W.T, out=out)


class Frozen(torch.autograd.Function):
    """x (n, d_in) -> x W0ᵀ + b (n, d_out), W0 and b frozen."""

    @staticmethod
    def forward(ctx, x, W0, b):
        ctx.save_for_backward(W0)
        return linear(x, W0, b)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        (W0,) = ctx.saved_tensors
        return linear(dy, W0.T), None, None  # dx = dy W0


class Project(torch.autograd.Function):
    """x (n, d_in) -> x Aᵀ (n, r), where x = remake(source): kept is the source, and x is made again when needed."""

    @staticmethod
    def forward(ctx, x, A, source, remake):
        ctx.save_for_backward(A, source if ctx.needs_input_grad[1] else None)
        ctx.remake, ctx.shape = remake, x.shape
        return F.linear(x, A)

    @staticmethod
    @once_differentiable
    def backward(ctx, dz):
        A, source = ctx.saved_tensors
        dx = dz @ A if ctx.needs_input_grad[0] else None
        dA = None if source is None else dz.T @ ctx.remake(source).reshape(ctx.shape)
        return dx, dA, None, None
