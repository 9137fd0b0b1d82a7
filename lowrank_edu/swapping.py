"""One merged adapter makes room for another: the same weights as taking out and merging again, in the same memory."""

from collections import Counter

from .adapting import bases, holders
from .processes import refuse_scattered
from .quantized import Quantized
from .switching import bake, refuse_dropped, refuse_unable, set_adapter, unmerge


def swap_merged(model, names):
    """Take the merged adapters out and bake others in: `unmerge`, `set_adapter` and `merge` in one.

    Every weight comes out as these three would make it, bit for bit, but W0 + ΔW is written into the memory of the
    weights that go. Where the allocator keeps no freed memory, as in a fresh process, fetching new memory takes longer
    than the sums. So a merged weight that you hold on to changes with the model; clone it first.

    All or nothing: if it fails, the adapters that were merged are merged again. Raises ValueError if nothing is merged,
    if the weights were merged with `keep_base=False` or are quantised, and where `set_adapter` or `merge` would.
    """
    layers = holders(model)
    merged = {path: layer for path, layer in layers.items() if layer.kept is not None}
    if not merged:
        raise ValueError("nothing is merged, so there is nothing to swap. set_adapter(model, names) is enough here.")
    refuse_dropped(layers)
    coded = next((path for path, layer in merged.items() if isinstance(layer.kept[0], Quantized)), None)
    if coded is not None:
        raise ValueError(
            f"{coded} is quantised, and merging it needs a choice: call unmerge(model), set_adapter(model, names) and "
            "merge(model, how=...)."
        )
    names = [names] if isinstance(names, str) else list(dict.fromkeys(names))
    refuse_unable(model, names, "merge")
    refuse_scattered(bases(layers), "merge")
    before = list(dict.fromkeys(name for layer in layers.values() for name in layer.active))
    rooms = _rooms(merged)
    unmerge(model)
    try:
        set_adapter(model, names)
        bake(model, rooms=rooms)
    except BaseException:
        set_adapter(model, before)
        bake(model, rooms=rooms)
        raise


def _rooms(merged):
    """{path: memory of the merged weight, or None where it is not that layer's alone}."""
    both = [module for layer in merged.values() for module in (layer.base, layer.kept[0])]
    owners = Counter(id(parameter) for module in both for parameter in module.parameters())
    weights = {path: getattr(layer.base, "weight", None) for path, layer in merged.items()}
    return {path: W.detach() if owners[id(W)] == 1 else None for path, W in weights.items()}
