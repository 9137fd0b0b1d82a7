"""Forgetting `attach` must not be silent: whoever trains a scheduled method without its schedule is told.

Two counts are compared from one forward pass with gradients to the next, and when saving: torch's own count of changes
in place, which fused optimizers do not touch, and ours of optimizer steps, which a loop without an optimizer does
not touch. Where one of them has grown, the schedule must have moved. A fresh or loaded adapter may be run and
saved; a copy of the model counts anew. A compiled model is looked at only when saving.
"""

import functools

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.weak import WeakTensorKeyDictionary

from .schedules import places, skips

_STEPS = WeakTensorKeyDictionary()  # parameter of a scheduled adapter -> optimizer steps seen


def watch(model):
    """From now on, `remind` runs before the model's forward passes; called whenever an adapter is installed."""
    unwatch(model)
    if _scheduled(model):
        model.register_forward_pre_hook(remind)
        model.register_load_state_dict_post_hook(_loaded)
        _listen()
        for name in _scheduled(model):
            _counts(model, name)


def _scheduled(model):
    return [name for name, method in model.__dict__.get("lowrank_methods", {}).items() if method.scheduled]


def unwatch(model):
    """Take off what `watch` put on."""
    for hooks in (model._forward_pre_hooks, model._load_state_dict_post_hooks):
        for key in [key for key, hook in hooks.items() if hook in (remind, _loaded)]:
            del hooks[key]
    model.__dict__.pop("lowrank_seen", None)


def drop(model, name):
    """Forget adapter `name`, which has been removed."""
    kept = {key: s for key, s in model.__dict__.pop("lowrank_schedules", {}).items() if key != name}
    if kept:
        model.__dict__["lowrank_schedules"] = kept
    watch(model)


@functools.cache
def _listen():
    """Count the steps of every optimizer from now on, for the parameters in `_STEPS`; once per process."""
    register_optimizer_step_post_hook(_stepped)


def _stepped(optimizer, args, kwargs):
    if not skips(optimizer):
        for p in (p for group in optimizer.param_groups for p in group["params"]):
            if p in _STEPS and p.grad is not None:
                _STEPS[p] += 1


def _counts(model, name):
    """(changes in place, optimizer steps) of the adapter's parameters, and steps of its schedule or None."""
    schedule = model.__dict__.get("lowrank_schedules", {}).get(name)
    parameters = [p for holder in places(model, name).values() for p in holder.updates[name].parameters()]
    stepped = sum(_STEPS.setdefault(p, 0) for p in parameters)
    return sum(p._version for p in parameters), stepped, None if schedule is None else schedule.step


def check_followed(model, name):
    """Raise RuntimeError if adapter `name` has been trained since the last forward pass with gradients, but its
    schedule has not moved; or if an optimizer has moved it and there never was a schedule."""
    method, (owner, seen) = model.__dict__["lowrank_methods"][name], model.__dict__.get("lowrank_seen", (None, {}))
    if not method.scheduled:
        return
    changes, stepped, steps = _counts(model, name)
    if owner == id(model) and name in seen:
        changes_before, stepped_before, steps_before = seen[name]
        moved = stepped != stepped_before or changes_before not in (None, changes)
        forgotten = moved and steps == steps_before
    else:
        forgotten = stepped > 0 and steps is None
    if forgotten:
        raise RuntimeError(
            f"adapter {name!r} was trained without the schedule of {type(method).__name__}: its parameters changed, "
            "but its schedule did not move. Call lo.attach(model, optimizer) before the loop, with the optimizer "
            "that takes the steps (lo.train does it for you)."
        )


def remind(model, args):
    """A forward pre-hook: where gradients are wanted, look whether the schedules have followed since the last time.

    In eval mode only the steps of optimizers count: whoever changes weights by hand there is measuring, not training.
    """
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return
    _listen()
    for name in _scheduled(model):
        check_followed(model, name)
    new = {name: _counts(model, name) for name in _scheduled(model)}
    if not model.training:
        new = {name: (None, *counts[1:]) for name, counts in new.items()}
    model.__dict__["lowrank_seen"] = id(model), new


def _loaded(model, keys):
    """Loading a state dict changes parameters, too, and is no training."""
    model.__dict__.pop("lowrank_seen", None)
