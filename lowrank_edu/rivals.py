"""The rivals that are no ΔW: a bottleneck behind a layer, a prefix or a prompt in front of the text.

A bottleneck is an update like any other. A prefix and a prompt belong to no layer: a `Front` seats them at the model.
"""

import torch
import torch.nn.functional as F
from torch import nn

from .front import Front, computed
from .updates import Update

ACTIVATIONS = {"gelu": F.gelu, "relu": F.relu, "silu": F.silu, "tanh": torch.tanh}
NONLINEAR = "a bottleneck is not linear, so no weight can take it up. LoRA can be merged: then inference costs nothing."


class Bottleneck(Update):
    """y + W2 act(W1 y + b1) + b2 behind the frozen layer's output y (…, d).   Houlsby et al. 2019, §2.1.

    W1 (b, d), b1 (b), W2 (d, b), b2 (d). `layer_norm=True` normalises what the bottleneck reads, with a gain and a
    shift (d) of its own: Lin et al. 2020. It sees the frozen layer's output, not what other updates add to it.
    """

    def __init__(self, W1, W2, activation="gelu", layer_norm=False):
        super().__init__()
        self.W1, self.b1 = nn.Parameter(W1), nn.Parameter(W1.new_zeros(len(W1)))
        self.W2, self.b2 = nn.Parameter(W2), nn.Parameter(W2.new_zeros(len(W2)))
        self.activation = activation
        self.norm_gain = nn.Parameter(W2.new_ones(len(W2))) if layer_norm else None
        self.norm_shift = nn.Parameter(W2.new_zeros(len(W2))) if layer_norm else None

    def change(self, x, y, base):
        h = y.to(self.W1.dtype)
        if self.norm_gain is not None:
            h = F.layer_norm(h, h.shape[-1:], self.norm_gain, self.norm_shift)
        h = ACTIVATIONS[self.activation](F.linear(h, self.W1, self.b1))  # (…, d) -> (…, b)
        return F.linear(h, self.W2, self.b2)  # (…, b) -> (…, d)

    def delta(self, base, room=None):
        raise ValueError(NONLINEAR)


class InFront(Update):
    """What stands in front of the text: `table()` is what is trained, `keys_values(model)` what attention sees."""

    alone = "puts its own positions in front of the text"

    @property
    def length(self):
        """How many positions it takes."""
        return len(self.E if self.E is not None else self.KV)

    def seat(self, model, path):
        model.add_module(path, Front(model))
        return model.get_submodule(path).train(model.training)


class Prefix(InFront):
    """Trained keys and values for every layer, in front of those of the text.   Li and Liang 2021, §4.

    KV (length, L, 2, heads, d_head), with the heads that grouped-query attention has. With `mlp` = (W1, b1, W2, b2),
    KV = W2 tanh(W1 e + b1) + b2 is made from embeddings E (length, d) while it is trained (their §4.3).
    """

    def __init__(self, KV, E=None, mlp=()):
        super().__init__()
        self.shape = KV.shape
        self.KV, self.E = (nn.Parameter(KV), None) if E is None else (None, nn.Parameter(E))
        self.mlp = nn.ParameterList(mlp)

    def table(self):
        if self.E is None:
            return self.KV
        W1, b1, W2, b2 = self.mlp
        return F.linear(torch.tanh(F.linear(self.E, W1, b1)), W2, b2).view(self.shape)

    def keys_values(self, model):
        return [(K[None], V[None]) for K, V in self.table().permute(1, 2, 3, 0, 4)]


class Prompt(InFront):
    """Trained input embeddings E (length, d) in front of those of the text.   Lester et al. 2021, §2.

    A prompt is a prefix whose keys and values the model computes: it reads the prompt once per batch, with gradients,
    which equals putting E in front of every text.
    """

    def __init__(self, E):
        super().__init__()
        self.E = nn.Parameter(E)

    def table(self):
        return self.E

    def keys_values(self, model):
        return computed(model, self.E)
