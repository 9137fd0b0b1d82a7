"""Walk a model, swap layers, freeze, count, report."""

import re
from collections import Counter
from dataclasses import dataclass, field

from torch import nn

from . import reminding, saving
from .fast import is_fast, switch_fast
from .layers import AdaptedLayer, Holder, swap
from .processes import refuse_scattered
from .quantized import Quantized
from .targets import leaves, refuse_peft
from .updates import Whole, weight_of


@dataclass(frozen=True)
class Report:
    """What `adapt` did: paths of the adapted modules, and parameters: trainable, and in total.

    The total counts the adapter, as PEFT does, and a layer that is trained whole once.
    """

    name: str
    modules: list[str]
    trainable: int
    total: int
    rows: list[tuple] = field(repr=False, default_factory=list)

    def __str__(self):
        lines = [f"{'layers':<34}{'count':>6}  {'d_out × d_in':>14}  {'trainable':>12}"]
        for what, count, shape, trainable in self.rows:
            lines.append(f"{what:<34}{count:>6}  {shape:>14}  {trainable:>12,}")
        share = 100 * self.trainable / self.total
        lines.append(f"{self.name!r} trains {self.trainable:,} of {self.total:,} parameters ({share:.2f} %).")
        return "\n".join(lines)

    __repr__ = __str__


def adapted_layers(model):
    """{path: AdaptedLayer} of the model, in order."""
    return {path: module for path, module in model.named_modules() if isinstance(module, AdaptedLayer)}


def bases(layers):
    """{path: the layer that computes now} of those holders that wrap one."""
    return {path: layer.base for path, layer in layers.items() if isinstance(layer, AdaptedLayer)}


def holders(model):
    """{path: Holder} of all places that hold updates: the adapted layers, and a prefix in front of the model."""
    return {path: module for path, module in model.named_modules() if isinstance(module, Holder)}


def method_of(model, name):
    """The method that made adapter `name`, or ValueError listing the names there are."""
    methods = model.__dict__.get("lowrank_methods", {})
    if name not in methods:
        raise ValueError(
            f"this model has no adapter {name!r}; it has {', '.join(map(repr, methods)) or 'none'}."
        )
    return methods[name]


def adapt(model, method, name="default", *, seed=0, quantize=None, fast=None):
    """Freeze the model, put `method`'s updates on it under `name`, make them active and trainable.

    Returns a Report. Raises ValueError, with the model as it was, when no layer matches, when the name is
    taken or is not a plain word, or while another adapter is merged. The same seed gives the same start,
    layer by layer.

    `quantize` ("nf4", or a `Quantization`) quantises the linear layers too, after the method has seen them in
    full precision. A spectral start (PiSSA, OLoRA, LaMDA) then takes its product out of the weight before
    that, and `init="loftq"` looks for the product that the codes miss; for both, `disabled` is the quantised
    rest, not W0.

    `fast=True` computes the same with less time and memory (see `lowrank_edu.fast`), `fast=False` takes that off
    again, and None leaves the model as it is in this respect.
    """
    check_free(model, name)
    if quantize is None:
        updates = method.build(model, seed)
    else:
        from .quantizing import build_quantised, replace

        layers, updates = build_quantised(model, method, seed, quantize)
        replace(model, layers)
    found = install(model, method, name, updates)
    if fast is not None:
        switch_fast(model, fast)
    return found


def check_free(model, name):
    if not isinstance(name, str) or not re.fullmatch(r"[\w-]+", name) or hasattr(nn.ModuleDict, name):
        raise ValueError(
            f"adapter name {name!r}: use letters, digits, '_' and '-', because it names files and modules; "
            "names that torch's ModuleDict uses itself, such as 'keys' and 'train', are taken."
        )
    if name in model.__dict__.get("lowrank_methods", {}):
        raise ValueError(
            f"adapter {name!r} exists already. Choose another name, or remove it first: "
            f"delete_adapter(model, {name!r})."
        )
    refuse_peft(model)
    refuse_scattered(dict(model.named_modules()), "adapt")
    merged = next((p for p, holder in holders(model).items() if holder.kept is not None), None)
    if merged is not None:
        raise ValueError(
            f"an adapter is merged into {merged}, so W0 is not there to build on. Call unmerge(model) first, "
            "or unwrap(model) to keep the merged weights for good."
        )


def install(model, method, name, updates):
    """Put finished updates {path: Update} in place; nothing here can fail half-way."""
    from .switching import set_adapter

    _refuse_on_codes(model, updates)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    places = holders(model)
    for path, update in updates.items():
        if path not in places:
            # an update that sits on no layer (a prefix) brings its own holder
            make = getattr(update, "seat", wrapper)
            places[path] = make(model, path)
        places[path].updates[name] = update.train(places[path].training)
    swap(model, {place.base: place for path, place in places.items() if model.get_submodule(path) is not place})
    model.__dict__.setdefault("lowrank_methods", {})[name] = method
    set_adapter(model, name)
    if is_fast(model):
        switch_fast(model)  # the new layers, too
    reminding.watch(model)
    saving.cover(model)
    return report(model, name)


def _refuse_on_codes(model, updates):
    """Starts that take their product out of W0, and layers trained whole, need W0 in full precision."""
    bases = leaves(model)
    for path, update in updates.items():
        if not isinstance(bases.get(path), Quantized):
            continue
        if getattr(update, "residual", False):
            raise ValueError(
                f"{path} is quantised already, and this start takes its product out of the full-precision weight. "
                "Load the model again and let the method see it first: adapt(model, method, quantize='nf4')."
            )
        if isinstance(update, Whole):
            raise ValueError(f"{path} is quantised, so it cannot be trained whole. Leave it out when quantising.")


def wrapper(model, path):
    """An AdaptedLayer for the layer at `path`, not yet in its place."""
    base = model.get_submodule(path)
    return AdaptedLayer(base).train(base.training)


def report(model, name="default"):
    """Count again what `adapt` reported for adapter `name`."""
    method_of(model, name)
    layers = {p: holder for p, holder in holders(model).items() if name in holder.updates}
    kinds, numbers, seen = Counter(), Counter(), set()
    for path, layer in layers.items():
        weight = getattr(getattr(layer, "base", None), "weight", None)
        shape = "" if weight is None or weight.dim() != 2 else _shape(layer.base)
        key = (re.sub(r"\.\d+\.", ".*.", path), shape)
        kinds[key] += 1
        own = [p for p in layer.updates[name].trained().values() if id(p) not in seen]
        seen |= {id(p) for p in own}
        numbers[key] += sum(p.numel() for p in own)
    replaced = {
        id(p)
        for layer in layers.values()
        if isinstance(layer.updates[name], Whole)
        for p in layer.base.parameters()
    }
    return Report(
        name,
        list(layers),
        sum(numbers.values()),
        sum(p.numel() for p in model.parameters() if id(p) not in replaced)
        + sum(layer.shape.numel() for layer in model.modules() if isinstance(layer, Quantized)),
        [(what, kinds[what, shape], shape, numbers[what, shape]) for what, shape in kinds],
    )


def _shape(base):
    return "{} × {}".format(*weight_of(base).shape)
