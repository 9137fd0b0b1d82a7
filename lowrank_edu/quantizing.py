"""Quantise a whole model: before an adapter comes, or together with it."""

from dataclasses import dataclass
from dataclasses import replace as changed

import torch

from .adapting import holders
from .inits import pissa
from .layers import swap
from .processes import refuse_scattered
from .quant import KINDS, check, dequantize
from .quantized import Quantized
from .targets import is_linear, resolve, tied
from .updates import LowRank, Whole, weight_of, widened


@dataclass(frozen=True)
class Quantization:
    """How frozen weights are kept. The defaults are QLoRA's: NF4, blocks of 64, double quantisation.

    kind            "nf4", "fp4", "int4" or "int8"
    double_quant    keep the absmax of the blocks in 8 bits as well
    block_size      values that share one absmax
    compute_dtype   dtype of the products, such as torch.bfloat16; None: that of the input
    target_modules  which linear layers: "all-linear" (all but the head), names, or a regular expression
    """

    kind: str = "nf4"
    double_quant: bool = True
    block_size: int = 64
    compute_dtype: torch.dtype | None = None
    target_modules: tuple[str, ...] | str = "all-linear"

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"kind={self.kind!r} is not one of {', '.join(KINDS)}.")
        check(self.kind, self.block_size)
        dtype = self.compute_dtype
        if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise ValueError(f"compute_dtype={dtype!r}: a floating dtype such as torch.bfloat16, or None.")
        if not isinstance(self.target_modules, str):
            object.__setattr__(self, "target_modules", tuple(self.target_modules))

    def layer(self, base, W=None):
        """A `Quantized` in place of this layer; it holds W (d_out, d_in) instead of the layer's if given."""
        return Quantized(base, self.kind, self.block_size, self.double_quant, self.compute_dtype, W)


@dataclass(frozen=True)
class QuantizationReport:
    """What `quantize` did: paths of the quantised layers, bytes of the whole model, bits per quantised weight."""

    modules: list[str]
    bytes_before: int
    bytes_after: int
    bits_per_parameter: float

    def __str__(self):
        return (
            f"{len(self.modules)} layers quantised to {self.bits_per_parameter:.3f} bits per weight; the model takes "
            f"{self.bytes_after:,} of {self.bytes_before:,} bytes ({100 * self.bytes_after / self.bytes_before:.1f} %)."
        )

    __repr__ = __str__


def quantize(model, kind="nf4", *, double_quant=True, block_size=64, compute_dtype=None, target_modules="all-linear"):
    """Replace linear layers by frozen quantised ones, in place; embeddings, norms, biases and head stay.

    The arguments are those of `Quantization`. Returns a QuantizationReport. Raises ValueError, with the model
    as it was, for unknown settings, for layers that are not linear, quantised already or tied to another one,
    for NaN or Inf in a weight, and when the model has adapters.
    """
    settings = Quantization(kind, double_quant, block_size, compute_dtype, target_modules)
    before = model_bytes(model)
    layers = {path: settings.layer(base) for path, base in to_quantize(model, settings).items()}
    replace(model, layers)
    return report(model, layers, before)


def to_quantize(model, settings):
    """{path: linear layer} that `settings` name, or ValueError when the model is not ready for it."""
    refuse_scattered(dict(model.named_modules()), "quantize")
    if holders(model):
        raise ValueError(
            "this model has adapters, which were made for the weights as they are. Quantise first, then adapt; "
            "or do both at once: adapt(model, method, quantize=...)."
        )
    found, everything = resolve(model, settings.target_modules), settings.target_modules == "all-linear"
    held_twice = {path for homes in tied(model).values() for path, _ in homes}
    for path, base in found.items():
        if isinstance(base, Quantized):
            raise ValueError(f"{path} is quantised already, as {base.kind}. Load the model again to start anew.")
        if not is_linear(base):
            raise ValueError(f"{path} is a {type(base).__name__}; only linear layers are quantised. Leave it out.")
        if path in held_twice and not everything:
            raise ValueError(f"{path} shares its weight with another layer; quantising would untie them. Leave it out.")
    return {path: base for path, base in found.items() if path not in held_twice}


def replace(model, layers):
    """Put the layers {path: Quantized} in place."""
    swap(model, {model.get_submodule(path): layer for path, layer in layers.items()})


def report(model, layers, before):
    """The QuantizationReport of these layers, given the model's bytes before."""
    codes = [layer.codes for layer in layers.values()]
    bits = 8 * sum(q.nbytes for q in codes) / sum(q.shape.numel() for q in codes)
    return QuantizationReport(list(layers), before, model_bytes(model), bits)


def model_bytes(model):
    """Bytes of all parameters and buffers, shared ones once."""
    return sum(t.nbytes for t in [*model.parameters(), *model.buffers()])


@torch.no_grad()
def build_quantised(model, method, seed, settings):
    """({path: Quantized}, {path: Update}) for `adapt(quantize=)`: the method sees W, then W is quantised.

    A residual start leaves its product in the factors and the base keeps q(W − scale · B A). The model is only
    read. Layers that the method trains whole are not quantised.
    """
    settings = settings if isinstance(settings, Quantization) else Quantization(settings)
    rounds = method.loftq_iterations if getattr(method, "init", None) == "loftq" else 0
    updates = (changed(method, init="kaiming") if rounds else method).build(model, seed)
    whole = {path for path, update in updates.items() if isinstance(update, Whole)}
    chosen = {path: base for path, base in to_quantize(model, settings).items() if path not in whole}
    if not chosen:
        raise ValueError(f"{type(method).__name__} trains these layers whole, so none is left to quantise.")
    left_out = [path for path, update in updates.items() if isinstance(update, LowRank) and path not in chosen]
    if rounds and left_out:
        raise ValueError(f"init='loftq' needs a quantised layer, but {left_out[0]} is not one. Leave it out.")
    layers = {}
    for path, base in chosen.items():
        update = updates.get(path)
        if rounds and isinstance(update, LowRank):
            layers[path] = loftq(update, base, settings, rounds)
        elif getattr(update, "residual", False):
            layers[path] = settings.layer(base, widened(weight_of(base)) - update.fold())
        else:
            layers[path] = settings.layer(base)
        if update is not None:
            update.settle(layers[path])
    return layers, updates


def loftq(update, base, settings, rounds):
    """Fill the factors with scale · B A = the best rank-r copy of W − Q; returns the layer that holds Q.

    Q = q(W − scale · B A) and the factors are found in turn, `rounds` times, from B A = 0.   Li et al. 2023,
    algorithm 1, with the scale counted in (there, and in PEFT, it is left out: right for α = r alone).
    """
    W, product = widened(weight_of(base)), 0.0
    r = update.A.shape[0]
    if r > min(W.shape):
        raise ValueError(f"init='loftq' takes r={r} directions from a {W.shape[0]} × {W.shape[1]} weight. Lower r.")
    for _ in range(rounds):
        layer = settings.layer(base, W - product)
        missed = W - dequantize(layer.codes, W.dtype)
        missed = missed if missed.is_meta else missed.cpu()  # as all starts: a GPU's SVD may turn a pair's signs
        A, B = pissa(missed, r, update.scale)
        product = (update.scale * (B @ A)).to(W.device)
    update.A.copy_(A)
    update.B.copy_(B)
    update.folded = True
    return layer
