"""Cross-entropy over a frozen head, piece by piece: all logits at once are never there.

For n tokens and V words the logits are n · V numbers, and plain autograd keeps their log-softmax for the backward
pass: 98 MiB for 512 tokens of GPT-2. The head is frozen, so only the gradient of the hidden states is wanted, n · d
numbers. It is made in the forward pass, while a piece of the logits is there.
"""

from contextlib import contextmanager

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from ..front import front_length
from .products import linear, plainly_called
from .remaking import full_precision

KNOWN = ("GPT2LMHeadModel", "LlamaForCausalLM")
"""Models whose logits are head(hidden states) and nothing else."""
PIECE = 7 * 2**20
"""Most logits that are there at a time: 28 MiB in float32, small enough for the same memory to be used again (glibc
gives back what is larger than 32), and 128 tokens of GPT-2 in one."""


class HeadLoss(torch.autograd.Function):
    """h (n, d), W (V, d), b (V) or None, labels (n) -> the summed cross-entropy, in nats; W and b frozen."""

    @staticmethod
    def forward(ctx, h, W, b, labels, smoothing):
        dh = torch.empty_like(h) if ctx.needs_input_grad[0] else None
        pieces = -(-len(h) * len(W) // PIECE) or 1
        rows = -(-len(h) // pieces) or 1  # pieces of one size: a small rest would read all of W for a few rows
        room, loss = h.new_empty(min(rows, len(h)), len(W)), h.new_zeros(())
        for first in range(0, len(h), rows):
            part = slice(first, first + rows)
            loss += _piece(h[part], W, b, labels[part], smoothing, room, None if dh is None else dh[part])
        ctx.save_for_backward(dh)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx, dloss):
        (dh,) = ctx.saved_tensors
        return dh * dloss, None, None, None, None


def _piece(h, W, b, labels, smoothing, room, dh):
    """The loss of some rows; fills in their dh. With smoothing ε a share ε of the target is spread over all V words."""
    logits, right = linear(h, W, b, out=room[: len(h)]), labels[:, None]  # (rows, V)
    wanted = (1 - smoothing) * logits.gather(1, right)
    if smoothing:
        wanted += smoothing * logits.mean(1, keepdim=True)
    top = logits.amax(1, keepdim=True)
    weights = logits.sub_(top).exp_()  # softmax = weights / total
    total = weights.sum(1, keepdim=True)
    if dh is not None:
        if smoothing:
            weights.sub_(total * (smoothing / len(W)))
        weights.scatter_add_(1, right, total * (smoothing - 1))  # now total × the gradient of the logits
        torch.div(linear(weights, W.T, out=dh), total, out=dh)
    return (total.log() + top - wanted).sum()


def why_plain(model):
    """Why the loss of this model is computed from all logits at once, or None."""
    if type(model).__name__ not in KNOWN:
        return f"what follows the head of a {type(model).__name__} is not known here"
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear or not plainly_called(head):
        return "the head is not a plain linear layer"
    return "the head is trained" if any(p.requires_grad for p in head.parameters()) else None


def summed_loss(model, inputs, labels, smoothing=0.0):
    """What `token_loss` sums, without its logits: model(**inputs) with a head that hands its input through.

    labels (rows, tokens); position t predicts token t + 1, and −100 counts nowhere.
    """
    head = model.get_output_embeddings()
    if not front_length(model):
        inputs = inputs | {"use_cache": False}  # nothing reads it, and it would copy the keys and values of all layers
    with _handing_through(head):
        h = model(**inputs).logits[:, :-1]  # (rows, tokens - 1, d)
    labels = labels[:, 1:]
    wanted = labels != -100
    return HeadLoss.apply(h[wanted], head.weight, head.bias, labels[wanted], smoothing)


@contextmanager
def _handing_through(head):
    head.forward = lambda h: h
    try:
        yield
    finally:
        del head.forward


def usable(model, device):
    """Whether `summed_loss` may be asked now."""
    probe = torch.empty(0, dtype=model.get_input_embeddings().weight.dtype, device=device)
    return full_precision(probe) and why_plain(model) is None
