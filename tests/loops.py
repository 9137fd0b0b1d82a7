"""A loop as anybody writes it, for methods with a schedule."""

import io

import torch
from models_zoo import TARGETS, batch, same_state, state, tiny

from lowrank_edu.schedules import schedule_of

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


def loop(model, optimizer, steps, look=None, clip=None, first=0):
    """Steps first to `steps` on changing batches; `look(step)` is called with gradients in place, before each step."""
    for step in range(first, steps):
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


def assert_resumes(fresh, steps, at, stranger=None):
    """A run that is stopped after `at` steps, saved, and taken up again ends bit for bit as one in a single go.

    `fresh()` gives (model, optimizer), attached; `stranger()` the pair that takes the run up. Returns both models.
    """
    straight, optimizer = fresh()
    loop(straight, optimizer, steps)
    half, optimizer = fresh()
    loop(half, optimizer, at)
    file = io.BytesIO()
    torch.save([half.state_dict(), optimizer.state_dict(), schedule_of(half).state()], file)
    file.seek(0)
    weights, moments, where = torch.load(file, weights_only=True)
    again, optimizer = (stranger or fresh)()
    again.load_state_dict(weights)
    schedule_of(again).load_state(where)
    optimizer.load_state_dict(moments)
    loop(again, optimizer, steps, first=at)
    assert same_state(again, state(straight)) and schedule_of(again).history == schedule_of(straight).history
    return straight, again
