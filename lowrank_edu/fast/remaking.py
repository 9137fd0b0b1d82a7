"""Outputs that are cheaper to make again than to keep: those of a norm and of a GELU.

Both keep their input for their own backward pass, so an adapter that reads the output needs to keep nothing more. A
tensor that such a module returns carries a note, `made_from` = (function, input), for the layer that reads it next.
"""

import torch
import torch.nn.functional as F
from torch import nn

NORMS = ("LayerNorm", "LlamaRMSNorm")
GELUS = ("GELUTanh", "GELUActivation", "GELU")
"""One operation each, which keeps its input: their outputs can be made again as they are."""
GELU = "NewGELUActivation"
"""The tanh-GELU that transformers writes out for GPT-2 in eight operations, four of which keep a tensor."""


def note(module, args, y):
    """A forward hook of a norm or a GELU: note on y what it was made from."""
    if torch.is_grad_enabled() and len(args) == 1:
        y.made_from = module.forward, args[0]


def source_of(x):
    """(function, input) that x was made by and from, or None."""
    return getattr(x, "made_from", None)


def fused_gelu(x):
    """x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³))) in one operation, which keeps x alone."""
    return F.gelu(x, approximate="tanh")


class FusedGELU(nn.Module):
    """In the place of `plain` while gradients are taken: the same function, its 16 bits left to `plain`."""

    def __init__(self, plain):
        super().__init__()
        self.plain = plain

    def forward(self, x):
        if not (torch.is_grad_enabled() and x.requires_grad and full_precision(x)):
            return self.plain(x)
        y = fused_gelu(x)
        y.made_from = fused_gelu, x
        return y


def full_precision(x):
    """Whether other kernels round x as finely as 1e-5 of its norm: 32 or 64 bits, no autocast."""
    return x.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled(x.device.type)
