"""Everything that decides which updates act: swap, disable, route, merge, combine, remove. All or nothing."""

import math
import warnings
from contextlib import contextmanager

import torch
from torch import nn

from . import reminding, saving
from .adapting import adapted_layers, bases, check_free, holders, install, method_of
from .fast import switch_fast
from .layers import DROPPED
from .merging import merge_report, weights_to_merge_into
from .processes import refuse_scattered
from .targets import leaves, tied
from .updates import DoRA, LowRank


def adapter_names(model):
    """Names of the adapters on the model, in the order in which they came."""
    return list(model.__dict__.get("lowrank_methods", {}))


def set_adapter(model, names):
    """Make one adapter (or several, whose updates add up) active and trainable; all others sleep, frozen.

    Several adapters may be of different methods, on the same or on different layers: LoRA on the attention and a
    bottleneck behind the feed-forward part, or LoRA and a prefix. So a method per group of layers is one `adapt`
    per group, then `set_adapter(model, ["attention", "feed_forward"])`. Only updates that replace a layer, and
    prefixes, stand alone at their place: ValueError.
    """
    names = [names] if isinstance(names, str) else list(dict.fromkeys(names))
    for name in names:
        method_of(model, name)
    layers = holders(model)
    _refuse_merged(layers, "swap adapters")
    for path, layer in layers.items():
        here = [n for n in names if n in layer.updates]
        alone = [layer.updates[n].alone for n in here if layer.updates[n].alone]
        if len(here) > 1 and alone:
            raise ValueError(f"{here} meet at {path}, where one of them {alone[0]}. Activate one at a time.")
    for layer in layers.values():
        layer.active = tuple(names)
        for name, update in layer.updates.items():
            update.wake(name in names)


@contextmanager
def disabled(model):
    """The base model, bit for bit, for as long as the `with` block lasts; merged adapters step aside too."""
    layers = holders(model)
    refuse_dropped(layers)
    before = {path: layer.enabled for path, layer in layers.items()}
    for path, layer in layers.items():
        if layer.kept and before[path]:
            layer.exchange()
        layer.enabled = False
    try:
        yield model
    finally:
        for path, layer in layers.items():
            if layer.kept and before[path]:
                layer.exchange()
            layer.enabled = before[path]


@contextmanager
def routed(model, names):
    """One batch, an adapter per row: `names[i]` (or None for the base model) acts on row i."""
    layers, names = holders(model), list(names)
    refuse_unable(model, [name for name in names if name is not None], "route")
    _refuse_merged(layers, "route rows")
    before = {path: layer.rows for path, layer in layers.items()}
    for layer in layers.values():
        layer.rows = names
    try:
        yield model
    finally:
        for path, layer in layers.items():
            layer.rows, layer.stacked = before[path], None


def merge(model, *, how=None, weights=None, keep_base=True):
    """Bake the active adapters into the weights. Explicit only; `train()` and `eval()` never do it.

    The replaced weights are kept (on the CPU when the model is elsewhere), so `unmerge` restores W0 bit for
    bit, which subtracting could not: W + Δ − Δ ≠ W in floating point. `keep_base=False` drops them and makes
    unmerge impossible. Raises ValueError, with every layer as it was, if something is merged already,
    nothing is active, the weights are sharded, or a merged value would be NaN or Inf. Merging one end of a
    tied pair of weights unties it; a UserWarning says so with the bytes.

    A quantised layer cannot take ΔW up without a choice, so there `how` is needed:

    dequantise  a dense layer Ŵ + ΔW: the model that was trained, in the size of the dense model
    full        a dense layer W + ΔW, with W from `weights`: the model before quantising, or its state_dict
    requantise  Ŵ + ΔW quantised again: stays small, and what is smaller than a step of the codes is lost

    Returns None, or a MergeReport of what the merged weights are away from Ŵ + ΔW.
    """
    return bake(model, how, weights, keep_base)


def bake(model, how=None, weights=None, keep_base=True, rooms=None):
    """`merge`; `rooms` are layers that were merged a moment ago, {path: memory for the new weight, or None}."""
    layers, rooms = holders(model), rooms or {}
    refuse_scattered(bases(layers), "merge")
    active = {path: [n for n in layer.active if n in layer.updates] for path, layer in layers.items()}
    merged = next((p for p, layer in layers.items() if layer.kept is not None), None)
    if merged is not None:
        raise ValueError(
            f"{list(layers[merged].merged_names)} is merged already: a second merge would add ΔW twice. "
            "Call unmerge(model) first."
        )
    if not any(active.values()):
        raise ValueError(
            "no adapter is active, so there is nothing to merge. Call adapt or set_adapter first."
        )
    refuse_unable(model, {name for names in active.values() for name in names}, "merge")
    originals, new = weights_to_merge_into(layers, active, how, weights), {}
    for path, names in active.items():
        if names:
            try:
                new[path] = layers[path].merge_values(names, originals.get(path), rooms.get(path))
            except ValueError as error:
                raise ValueError(f"{path}: {error} Nothing was merged.") from None
    shared = tied(model)
    fresh = {path: values for path, values in new.items() if path not in rooms}  # of the others it was said before
    _warn_untied(model, shared, fresh)
    _warn_gained(layers, fresh)
    memo = {}
    twins = {path: layers[path].merged(values, memo, how) for path, values in new.items()}
    report = merge_report(layers, active, twins, originals, how) if originals else None
    for path, twin in twins.items():
        layers[path].put(twin, active[path], keep_base, shared)
    return report


def unmerge(model):
    """Take merged adapters out again: the very weights that merge replaced return, bit for bit."""
    layers = holders(model)
    merged = [layer for layer in layers.values() if layer.kept is not None]
    if not merged:
        raise ValueError("nothing is merged, so there is nothing to unmerge.")
    refuse_dropped(layers)
    for layer in merged:
        layer.restore()


@torch.no_grad()
def combine(model, weights, name):
    """A new adapter whose update is exactly the weighted sum Σ w · ΔW of existing ones. Ranks add up.

    Averaging the A's and the B's instead is something else: (B₁+B₂)(A₁+A₂) has cross terms that neither
    learnt. Raises ValueError for updates that are not low-rank (DoRA, whole layers), and for changed biases
    or whole modules.
    """
    from .methods import LoRA

    check_free(model, name)
    refuse_unable(model, weights, "combine")
    for source, w in weights.items():
        if not math.isfinite(w):
            raise ValueError(f"weights={weights!r}: the weight of {source!r} is not a finite number.")
    updates = {}
    for path, layer in adapted_layers(model).items():
        parts = [(w, layer.updates[s]) for s, w in weights.items() if s in layer.updates]
        if not parts:
            continue
        if any(not isinstance(u, LowRank) or isinstance(u, DoRA) or u.bias is not None for _, u in parts):
            raise ValueError(
                f"{path}: only plain low-rank updates add up, not DoRA, biases or whole layers. "
                "Merge one adapter, or route rows instead."
            )
        factors = [(w * u.scale, *u.as_lora()) for w, u in parts]
        A = torch.cat([A for _, A, _ in factors])
        B = torch.cat([s * B for s, _, B in factors], dim=1)
        if len(A):  # AdaLoRA may have left a layer no rank at all
            updates[path] = LowRank(A, B, scale=1.0)
            updates[path].folded = any(u.folded for _, u in parts)  # fits this quantised base alone, as they do
    if not updates:
        raise ValueError(f"weights={weights!r}: name at least one adapter, as in {{'a': 0.5, 'b': 0.5}}.")
    ranks = {path: update.A.shape[0] for path, update in updates.items()}
    r = max(ranks.values())
    odd = {path: rank for path, rank in ranks.items() if rank != r}
    method = LoRA(r=r, alpha=r, target_modules=list(updates), rank_pattern=odd, alpha_pattern=odd)
    return install(model, method, name, updates)


def delete_adapter(model, name):
    """Remove an adapter; layers without any update left become the plain layers they were."""
    method_of(model, name)
    layers = holders(model)
    _refuse_merged(layers, f"delete {name!r}")
    for layer in layers.values():
        if name in layer.updates:
            del layer.updates[name]
        layer.active = tuple(n for n in layer.active if n != name)
        if not layer.updates:
            layer.withdraw(model)
    del model.__dict__["lowrank_methods"][name]
    reminding.drop(model, name)
    if not adapter_names(model):
        switch_fast(model, False)
        saving.uncover(model)


def unwrap(model):
    """The plain model again, wrappers gone: with the adapters baked in if they are merged, else the base
    model.

    Where merging untied two weights, `config.tie_word_embeddings` becomes False and weights that are still
    tied get copies of their own, so that saving keeps all of them.
    """
    switch_fast(model, False)
    for holder in holders(model).values():
        holder.withdraw(model)
    for name in list(model.__dict__.pop("lowrank_methods", {})):
        reminding.drop(model, name)
    saving.uncover(model)
    model.requires_grad_(True)
    ties = [
        [model.get_parameter(name) for name in pair]
        for pair in getattr(model, "all_tied_weights_keys", {}).items()
    ]
    if any(one is not other for one, other in ties):
        model.config.tie_word_embeddings = False
        for name in model.all_tied_weights_keys:
            path, _, key = name.rpartition(".")
            setattr(model.get_submodule(path), key, nn.Parameter(model.get_parameter(name).detach().clone()))
        model.all_tied_weights_keys = {}
    return model


def _warn_untied(model, shared, new):
    """One warning per tied group whose members will no longer be one weight once `new` is in place."""
    for homes in shared.values():
        if not any(path in new for path, _ in homes):
            continue
        old = getattr(leaves(model)[homes[0][0]], homes[0][1])
        copies = len({id(new.get(path, {}).get(key, old)) for path, key in homes})
        if copies > 1:
            names = " and ".join(f"{path}.{key}" for path, key in homes)
            warnings.warn(
                f"{names} share one weight. Merging unties them: the model now holds "
                f"{copies} copies, {(copies - 1) * old.numel() * old.element_size():,} bytes more.",
                stacklevel=4,
            )


def _warn_gained(layers, new):
    """One warning for layers that get a bias they did not have: a saved model needs a configuration with biases."""
    gained = [p for p, values in new.items() if "bias" in values and getattr(layers[p].base, "bias", None) is None]
    if gained:
        warnings.warn(
            f"{gained[0]} and {len(gained) - 1} more layers now hold a bias that they did not have. Before you save "
            "the merged model, let its configuration say so (Llama: attention_bias=True, mlp_bias=True), or loading "
            "it leaves them out.",
            stacklevel=4,
        )


def refuse_unable(model, names, what):
    for name in names:
        method = method_of(model, name)
        reason = method.cannot(what)
        if reason is not None:
            raise ValueError(f"adapter {name!r} ({type(method).__name__}) cannot {what}: {reason}")


def _refuse_merged(layers, what):
    merged = next((layer for layer in layers.values() if layer.kept is not None), None)
    if merged is not None:
        raise ValueError(f"{list(merged.merged_names)} is merged: call unmerge(model) before you {what}.")


def refuse_dropped(layers):
    if any(layer.kept == () for layer in layers.values()):
        raise ValueError(DROPPED)
