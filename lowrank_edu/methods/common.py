"""What the rows of the table share: seeds, patterns, checks, and what a method is asked."""

import copy
import re
import zlib

import torch
from torch import nn

from ..targets import leaves, resolve
from ..updates import Update, Whole


class Method:
    """A row of the table. Rows are frozen dataclasses, checked when they are made.

    `build(model, seed)` turns a row into {module path: Update} for a model and changes nothing;
    `adapting.py` puts the updates in place.
    """

    peft_type = None
    """PEFT's name for the method, or None where PEFT has no such method."""

    def cannot(self, what):
        """Why adapters of this method cannot `what` ("merge", "route", "combine", "save"), or None if they can."""
        return None

    def build(self, model, seed=0):
        """{module path: Update}, in the model's order; the model is only read."""
        raise NotImplementedError

    def schedule(self, model, name, total_steps=None):
        """The `Schedule` that decides who trains when, for `attach`; None where all train all the time."""
        return None

    @property
    def scheduled(self):
        """Whether training this method without `attach` is an error."""
        return type(self).schedule is not Method.schedule


FOLDED = (
    "was started together with its quantised base, which is not q(W), and a folder holds no base. Save "
    "model.state_dict(), which holds both, and load it after the same call of adapt; or call "
    "merge(model, how='dequantise'), then unwrap(model), and save the dense model."
)
"""Why a start that took a part of W0 out of the codes is not saved as an adapter."""


def no_peft(method):
    """Why PEFT cannot have adapters of this method, or None. Updates that add up are products of two factors, and
    those are a LoRA at the least."""
    if method.peft_type is not None or method.cannot("combine") is None:
        return None
    way = "train LoRA" if method.cannot("merge") else "merge(model) and save the whole model, or train LoRA"
    return (
        f"PEFT has no format for {type(method).__name__}, and it is not a product of two factors. For PEFT, {way}; "
        "for this package, save_adapter(model, path, format='own')."
    )


def seeded(seed, path):
    """A generator of its own for every layer: adding a layer does not change the start of the others.

    Torch's CPU generator keeps 32 bits of its seed, so both are hashed together.
    """
    return torch.Generator().manual_seed(zlib.crc32(f"{seed} {path}".encode()))


def pattern_value(pattern, path, default):
    """The value of the first key that matches the end of the path, as PEFT reads its patterns."""
    return next((v for k, v in pattern.items() if re.match(rf"(.*\.)?({k})$", path)), default)


def check_used(method, targets, *patterns):
    """Every key of these patterns of the method ends the path of an adapted layer."""
    for what in patterns:
        for key in getattr(method, what):
            used = any(pattern_value({key: True}, path, False) for path in targets)
            require(used, f"{what} names {key!r}, but no adapted layer ends in that: {some(targets)}.")


def beside(W0, *factors):
    """The factors on W0's device, in float32 or, for a float64 W0, in float64."""
    dtype = torch.promote_types(W0.dtype, torch.float32)
    return [factor.to(W0.device, dtype).contiguous() for factor in factors]


def some(paths):
    """A few of the paths, for an error text."""
    paths = list(paths)
    return ", ".join(paths[:4]) + (f" and {len(paths) - 4} more" if len(paths) > 4 else "")


def require(condition, message):
    if not condition:
        raise ValueError(message)


def check_count(what, value, least=1, kind="a whole number"):
    """A whole number ≥ `least`."""
    good = isinstance(value, int) and not isinstance(value, bool) and value >= least
    require(good, f"{what}={value!r}: {kind} ≥ {least}.")


def check_rank(what, value):
    check_count(what, value, kind="a rank is a whole number")


def check_alpha(what, value):
    good = isinstance(value, (int, float)) and 0 < value < float("inf")
    require(good, f"{what}={value!r}: alpha is a number > 0; alpha = r makes the scale 1.")


def check_dropout(value):
    require(0 <= value < 1, f"dropout={value!r}: a share of inputs to drop, from 0 up to but not 1.")


def check_targets(method):
    """`target_modules` is there; a list becomes a tuple, so that the row cannot change any more."""
    target = method.target_modules
    require(
        target is not None,
        "target_modules is missing: name the layers, e.g. ['c_attn'], or say 'all-linear'.",
    )
    if not isinstance(target, str):
        object.__setattr__(method, "target_modules", tuple(target))
        require(
            method.target_modules,
            "target_modules=[] adapts nothing: name the layers, or say 'all-linear'.",
        )


def linear_targets(model, method):
    """{path: layer} of `target_modules`, which for this method must not hold embeddings."""
    targets = resolve(model, method.target_modules)
    for path, base in targets.items():
        require(
            not isinstance(base, torch.nn.Embedding),
            f"{type(method).__name__} is for linear layers; {path} is an embedding. Take it out of target_modules.",
        )
    return targets


def add_whole(model, updates, names):
    """Put a trainable copy beside every layer that `names` (modules_to_save) reaches, inside modules too."""
    for name in names:
        named = {p: m for p, m in leaves(model).items() if f".{name}." in f".{p}." and list(m.parameters())}
        require(named, f"modules_to_save names {name!r}; no module with parameters is called that here.")
        for path, base in named.items():
            taken = path in updates and not isinstance(updates[path], Whole)
            require(not taken, f"{path} is in target_modules and in modules_to_save; choose one.")
            updates.setdefault(path, Whole(copy.deepcopy(base)))


def add_biases(model, updates, chosen=None):
    """Let updates change the biases of the layers at the paths `chosen`, or of all layers that have one."""
    for path, base in leaves(model).items():
        if isinstance(getattr(base, "bias", None), nn.Parameter) and (chosen is None or path in chosen):
            if not isinstance(updates.setdefault(path, Update()), Whole):
                updates[path].train_bias(base.bias)
