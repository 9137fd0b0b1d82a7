"""The byte ledger: where the memory of a training step goes, measured (`ledger`) or planned from shapes (`plan`).

Both count the same things (`accounting.py`), with the same code wherever they can.
"""

from contextlib import nullcontext
from dataclasses import replace as replace_in

import torch
import torch.nn.functional as F
from torch import nn

from .accounting import Ledger, Saved, found_in, make_ledger, unique_bytes
from .adapting import adapt, holders
from .architectures import skeleton, unfuse, without_content
from .claims import claims
from .quantizing import Quantization, replace, to_quantize
from .rates import parameter_groups
from .recomputing import switch_on
from .schedules import attach
from .targets import block_paths

__all__ = ["OPTIMIZERS", "PRECISIONS", "Ledger", "claims", "ledger", "plan"]


def ledger(step_fn, model, optimizer=None):
    """Run `step_fn()`, one training step of `model`, and measure where its bytes are. Returns a Ledger.

    step_fn     forward, backward and optimizer step; it is your real step, so it moves the weights
    optimizer   the one that step_fn uses; without it, its bytes are left out

    Weights, buffers and the optimizer's state are measured after the step; gradients when the optimizer takes
    its step; activations at the end of the forward pass, exactly as `accounting.Saved` says. The working memory
    of single operations is not counted. Hooks go away even if the step raises, and its error comes through.
    """
    if not callable(step_fn) or not isinstance(model, nn.Module):
        raise ValueError(
            f"ledger(step_fn, model, optimizer) got a {type(step_fn).__name__} and a {type(model).__name__}: the "
            "first is a function without arguments that runs one step, the second is the model."
        )
    gradients, saved = [0], Saved(model)

    def look(*_):
        gradients.append(unique_bytes(p.grad for p in model.parameters() if p.grad is not None))

    while not hasattr(optimizer, "_optimizer_step_pre_hooks") and hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer  # accelerate wraps it
    handle = None if optimizer is None else optimizer.register_step_pre_hook(look)
    try:
        with saved.listening():
            step_fn()
    finally:
        if handle is not None:
            handle.remove()
    look()
    state = [*found_in(getattr(optimizer, "state", {})), *_schedules(model, saved.own)]
    return make_ledger(model, max(gradients), unique_bytes(state), saved)


def _schedules(model, own):
    """Tensors that the model's schedules remember, apart from the model's own."""
    for schedule in model.__dict__.get("lowrank_schedules", {}).values():
        yield from (t for t in found_in(vars(schedule)) if t.untyped_storage()._cdata not in own)


PRECISIONS = {"fp32": torch.float32, "mixed": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def _eight_bits(n, size):
    """Two moments of 8 bits with one float32 for each 256 entries; a small tensor keeps 32 bits."""
    return 8 * n if n < 4096 else 2 * (n + 4 * -(-n // 256))


OPTIMIZERS = {
    "sgd": lambda n, size: 0,
    "sgd-momentum": lambda n, size: n * size,
    "adamw": lambda n, size: 2 * n * size + 4,  # torch: two moments in the weight's own dtype, and a step count
    "adamw-master": lambda n, size: 8 * n + (4 * n if size < 4 else 0),  # float32 moments, a float32 copy of the weight
    "adamw32": lambda n, size: 8 * n,  # bitsandbytes: float32 moments for any weight
    "adamw8": _eight_bits,
    "paged-adamw32": lambda n, size: 8 * n,  # paged: as many bytes, but they may leave the GPU
    "paged-adamw8": _eight_bits,
}
"""Bytes that an optimizer keeps for a tensor of n entries of `size` bytes each."""

CODEBOOKS = {"adamw8": 2048, "paged-adamw8": 2048}
"""Bytes that an optimizer keeps once: two 8-bit codebooks."""


def plan(
    model,
    method=None,
    *,
    optimizer="adamw",
    precision=None,
    quantize=None,
    double_quant=True,
    batch=1,
    length=None,
    checkpointing=False,
    loss=None,
    shards=1,
):
    """What a training step will hold, from shapes alone: a Ledger. Nothing is downloaded, no weight allocated.

    model           a name of `architectures.ARCHITECTURES`, a transformers configuration, or a model, only read
    method          a row of the table of methods; None trains all weights in place, as without this package
    optimizer       a key of OPTIMIZERS
    precision       of the model's weights: "fp32", "bf16" or "fp16"; "mixed" is fp32 under bfloat16 autocast. None:
                    as the model or its configuration says. Adapters are fp32 in any case (`methods.common.beside`)
    quantize        None, or what the linear layers are packed to, such as "nf4", with double_quant
    batch, length   rows, and tokens in each. Without a length activations are not planned (None)
    checkpointing   keep the inputs of the blocks only, and compute each block again in the backward pass
    loss            loss(model, ids), for models that do not read token ids, or predict something else
    shards          processes over which `processes.shard` spreads the frozen weights: what one of them holds

    The method is built on the meta device. The forward pass then runs in training mode, without padding, on
    tensors without content, and what autograd saves is counted as in `ledger`. The CPU's kernels decide; a GPU may
    choose others, above all for attention with dropout. A GPT-2 asked for "q", "k" or "v" gets them as layers of
    their own, as papers count them; blocks={"c_attn": ...} plans its fused layer as it is.
    """
    _check(optimizer, precision, batch, length, shards)
    model = skeleton(model, PRECISIONS.get(precision))
    names = getattr(method, "target_modules", None)
    if isinstance(names, (list, tuple)) and {"q", "k", "v"} & set(names):
        unfuse(model)
    scheduled = _adapt(model, method, quantize and Quantization(quantize, double_quant=double_quant))
    trained = [p for p in model.parameters() if p.requires_grad]
    gradients = sum(p.nbytes for p in trained)
    state = sum(OPTIMIZERS[optimizer](p.numel(), p.element_size()) for p in trained) + CODEBOOKS.get(optimizer, 0)
    state += scheduled
    if length is None:
        return spread(make_ledger(model, gradients, state), model, shards)
    room = getattr(getattr(model, "config", None), "max_position_embeddings", length)
    if length > room:
        raise ValueError(f"length={length} is more than this model sees: {room} tokens.")
    with without_content(model):
        autocast = torch.autocast("cpu", torch.bfloat16) if precision == "mixed" else nullcontext()
        with autocast:
            ids = torch.zeros(batch, length, dtype=torch.long)
            saved, again = _forward(model, loss or token_loss, ids), 0
            if checkpointing:
                again = saved.block()
                switch_on(model)
                saved = _forward(model, loss or token_loss, ids)
    return spread(make_ledger(model, gradients, state, saved, again), model, shards)


def spread(plan, model, shards):
    """The plan for one of `shards` processes: 1/n of the frozen parameters, and what it borrows while it computes.

    Borrowed are the parameters outside the blocks, for the whole step, and two blocks, the one in use and the next.
    """
    if shards == 1:
        return plan
    frozen = {p for name, p in model.named_parameters() if ".updates." not in f".{name}"}
    blocks = [frozen & set(model.get_submodule(path).parameters()) for path in block_paths(model)]
    sizes = [sum(p.nbytes for p in block) for block in blocks]
    base = sum(p.nbytes for p in frozen)
    own, borrowed = -(-base // shards), base - sum(sizes) + sum(sorted(sizes)[-2:])
    held = plan.held | {"base, frozen": plan.held["base, frozen"] - base + own, "base, borrowed": borrowed}
    return replace_in(plan, parameters=plan.parameters - base + own + borrowed, held=held)


def _adapt(model, method, quantize):
    """Quantise and adapt a skeleton, and let a schedule begin; returns the bytes that the schedule will remember."""
    if method is None:
        if quantize is not None:
            replace(model, {path: quantize.layer(base) for path, base in to_quantize(model, quantize).items()})
        return 0
    adapt(model, method, "planned" if holders(model) else "default", quantize=quantize)
    if not method.scheduled:
        return 0
    optimizer = torch.optim.SGD(parameter_groups(model, 1.0))
    length_of_run = getattr(method, "total_steps", None) or 10**9
    with attach(model, optimizer, length_of_run) as attachment:
        return sum(schedule.will_keep() for schedule in attachment.schedules.values())


def _check(optimizer, precision, batch, length, shards):
    for what, value, allowed in [("optimizer", optimizer, OPTIMIZERS), ("precision", precision, [None, *PRECISIONS])]:
        if value not in allowed:
            raise ValueError(f"{what}={value!r} is not one of {', '.join(map(str, allowed))}.")
    for what, value in [("batch", batch), ("length", 1 if length is None else length), ("shards", shards)]:
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{what}={value!r}: a whole number ≥ 1.")


def token_loss(model, ids):
    """Cross-entropy of the next token everywhere, as `train` computes it, or of one label where a row has one."""
    more = {"decoder_input_ids": ids} if getattr(model.config, "is_encoder_decoder", False) else {}
    logits = model(input_ids=ids, **more).logits
    if logits.dim() == 2:
        return F.cross_entropy(logits.float(), ids[:, 0])
    return F.cross_entropy(logits[:, :-1].float().flatten(0, 1), ids[:, 1:].flatten(), reduction="sum")


def _forward(model, loss, ids):
    """A `Saved` that has listened to one forward pass."""
    saved = Saved(model)
    with saved.listening():
        kept = loss(model.train(), ids)
        saved.look()
    del kept
    return saved
