"""A frozen linear layer that keeps its weight as packed codes and unpacks it for the moment of each product.

    y = Ŵ x + b          dX = dY Ŵ          Dettmers et al. 2023 (QLoRA), §3; bitsandbytes' Linear4bit

Nothing of the size of W stays alive: the forward pass unpacks Ŵ, the backward pass unpacks it again, and W
itself never has a gradient.
"""

import copy

import torch
import torch.nn.functional as F
from torch import nn

from .quant import NESTED_BLOCK, QTensor, dequantize, quantize
from .updates import store_like, stored_transposed, weight_of


class _Product(torch.autograd.Function):
    """x (…, d_in) -> Ŵ x + b (…, d_out). For the backward pass only the packed codes are remembered."""

    @staticmethod
    def forward(ctx, x, bias, q):
        ctx.q = q
        return F.linear(x, dequantize(q, x.dtype), bias)

    @staticmethod
    def backward(ctx, dy):
        dx = db = None
        if ctx.needs_input_grad[0]:
            dx = dy @ dequantize(ctx.q, dy.dtype)  # (…, d_out) -> (…, d_in)
        if ctx.needs_input_grad[1]:
            db = dy.reshape(-1, dy.shape[-1]).sum(0)
        return dx, db, None


class Quantized(nn.Module):
    """In place of a Linear or a Conv1D, whose bias and sizes it keeps.

    The codes are those of W0 as (d_out, d_in), row by row, also for Conv1D: transformers quantises GPT-2 so.
    `weight` shows Ŵ in the orientation that the layer had. The codes are buffers: `packed` (uint8) and
    `absmax` (float32), with double quantisation `absmax` (uint8), `absmax2` and `offset` (float32). They are
    saved, copied and moved with the model, and keep their dtypes when it is cast. Products are made in
    `compute_dtype`, or in x's dtype when it is None, and come back in x's dtype. `W` (d_out, d_in) is stored
    instead of the layer's own weight when it is given.
    """

    def __init__(self, layer, kind="nf4", block_size=64, double_quant=True, compute_dtype=None, W=None):
        super().__init__()
        self.transposed = stored_transposed(layer)
        self.weight_dtype, self.compute_dtype = layer.weight.dtype, compute_dtype
        self.bias, self.dense_class = layer.bias, type(layer) if self.transposed else nn.Linear
        self.store(quantize(weight_of(layer) if W is None else W, kind, block_size, double_quant))
        self.train(layer.training)

    def store(self, q):
        """Keep this QTensor (d_out, d_in)."""
        self.kind, self.block_size, self.double_quant, self.shape = q.kind, q.block_size, q.double_quant, q.shape
        self.register_buffer("packed", q.packed)
        self.register_buffer("absmax", q.scales.packed if q.double_quant else q.scales)
        self.register_buffer("absmax2", q.scales.scales if q.double_quant else None)
        self.register_buffer("offset", q.offset)

    @property
    def codes(self):
        """The QTensor that the buffers hold."""
        scales = self.absmax
        if self.double_quant:
            scales = QTensor(scales, self.absmax2, None, "dynamic8", NESTED_BLOCK, scales.shape, torch.float32)
        return QTensor(self.packed, scales, self.offset, self.kind, self.block_size, self.shape, self.weight_dtype)

    @property
    def weight(self):
        """Ŵ in the layer's orientation, unpacked afresh at every reading: changing it changes nothing."""
        return store_like(self, dequantize(self.codes))

    @property
    def out_features(self):
        return self.shape[0]

    @property
    def in_features(self):
        return self.shape[1]

    nf, nx = out_features, in_features  # Conv1D's names for the two

    def with_weight(self, weight, dense):
        """A twin with this weight, in the orientation of `weight`: an ordinary layer, or quantised like this one.
        The bias is shared."""
        if dense:
            sizes = (self.out_features, self.in_features) if self.transposed else (self.in_features, self.out_features)
            with torch.device("meta"):  # no memory for numbers that are replaced at once
                twin = self.dense_class(*sizes)
            twin.weight, twin.bias = nn.Parameter(weight, requires_grad=False), self.bias
        else:
            twin = copy.copy(self)
            twin._buffers = dict(self._buffers)
            twin.store(quantize(store_like(self, weight), self.kind, self.block_size, self.double_quant))
        return twin.train(self.training)

    def forward(self, x):
        dtype = self.compute_dtype or x.dtype
        bias = None if self.bias is None else self.bias.to(dtype)
        return _Product.apply(x.to(dtype), bias, self.codes).to(x.dtype)

    def _apply(self, fn, recurse=True):
        """Moving moves the codes; casting the model casts the bias and what `weight` shows, never the codes."""
        before = {key: value for key, value in self._buffers.items() if value is not None}
        super()._apply(fn, recurse)
        for key, old in before.items():
            new = self._buffers[key]
            if new.dtype != old.dtype:
                self._buffers[key], self.weight_dtype = old.to(new.device), new.dtype
        return self

    def extra_repr(self):
        double = ", double_quant" if self.double_quant else ""
        return (
            f"{self.in_features} -> {self.out_features}, {self.kind}, block_size={self.block_size}{double}, "
            f"{self.codes.bits_per_parameter:.3f} bits per parameter"
        )
