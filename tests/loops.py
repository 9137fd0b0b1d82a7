"""A loop as anybody writes it, for methods with a schedule."""

import torch
from models_zoo import TARGETS, batch, tiny

QUIET = {"gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}, "llama": {}}

OPTIMIZERS = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1),
    "adamw, foreach": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1, foreach=True),
    "adam with l2": lambda p: torch.optim.Adam(p, lr=1e-2, weight_decay=0.1, amsgrad=True),
    "sgd with momentum": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, nesterov=True, weight_decay=0.1),
}


def quiet(name, **changes):
    """A tiny model in training mode, without dropout, and the layers that the tests adapt."""
    return tiny(name, **QUIET[name], **changes).train(), TARGETS[name]


def trained(model):
    return [p for p in model.parameters() if p.requires_grad]


def loop(model, optimizer, steps, look=None, clip=None):
    """`steps` steps on changing batches; `look(step)` is called with gradients in place, before each step."""
    for step in range(steps):
        ids = (batch(2, 9) + 7 * step) % 90 + 3
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(trained(model), clip)
        if look:
            look(step)
        optimizer.step()


def copies(tensors):
    """{key: copy} of tensors, or of a model's parameters."""
    tensors = dict(tensors.named_parameters()) if hasattr(tensors, "named_parameters") else tensors
    return {key: value.detach().clone() for key, value in tensors.items()}
