"""A `Front`: positions that stand before the text, put there by two hooks of the model itself.

Before the model reads a text, the hook fills the cache with the keys and values of the active prefix or prompt. To the
model they are positions that it has read already, so `generate`, labels and the length of the logits stay as they are.
"""

import inspect

import torch

from .layers import Holder
from .recomputing import is_on

PLACE = "lowrank_front"
"""Where a model holds its Front."""
LENGTH = "lowrank_front_length"  # on a cache: how many of its positions come from a Front


class Front(Holder):
    """Holds prefixes and prompts at the model itself, and the hooks that put the active one in front.

    The hooks are plain functions that look for the Front of the model they are called on, so a copy has its own.
    """

    def __init__(self, model):
        super().__init__()
        self.hooks = [
            model.register_forward_pre_hook(_put_in_front, with_kwargs=True),
            model.register_forward_hook(_hide_unwanted_cache, with_kwargs=True),
        ]

    @property
    def acting(self):
        """The prefix or prompt that acts now, or None. Inside `routed` none does."""
        return next(iter(self.acting_updates()), None) if self.enabled and self.rows is None else None

    def withdraw(self, model):
        for hook in self.hooks:
            hook.remove()
        delattr(model, PLACE)


def front_length(model):
    """How many positions of the model a prefix or prompt takes now."""
    front = getattr(model, PLACE, None)
    return 0 if front is None or front.acting is None else front.acting.length


def computed(model, E):
    """[(K, V)] of every layer, each (1, heads, length, d_head), after the model has read embeddings E (length, d)."""
    from transformers import DynamicCache

    front, cache = getattr(model, PLACE, None), DynamicCache(config=model.config)
    enabled = front is not None and front.enabled
    if enabled:
        front.enabled = False  # a model without a head is its own base_model: its hooks run again
    try:
        body = getattr(model, "base_model", model)
        body(inputs_embeds=E[None].to(_dtype(model)), past_key_values=cache, use_cache=True)
    finally:
        if enabled:
            front.enabled = True
    return [(layer.keys, layer.values) for layer in cache.layers]


def unable(model):
    """Why this model cannot have a prefix, or None: it must read its past from a cache that keeps all of it."""
    config = getattr(model, "config", None)
    causal = any(getattr(module, "is_causal", False) for module in model.modules())
    reads = "past_key_values" in inspect.signature(model.forward).parameters
    if config is None or getattr(config, "is_encoder_decoder", False) or not (causal and reads):
        return "it is not a decoder that reads its past from a cache"
    from transformers import DynamicCache

    return None if _plain(DynamicCache(config=config)) else "its cache does not keep all positions of all layers"


def _plain(cache):
    """Whether a cache keeps all keys and values; sliding windows and fixed sizes do not."""
    from transformers import DynamicCache

    return isinstance(cache, DynamicCache) and {type(layer).__name__ for layer in cache.layers} <= {"DynamicLayer"}


def _dtype(model):
    return model.get_input_embeddings().weight.dtype


def _put_in_front(model, args, kwargs):
    """Before the model reads: l positions in the cache, l ones in front of the mask, positions l further on."""
    front = getattr(model, PLACE, None)
    given = dict(zip(inspect.signature(model.forward).parameters, args, strict=False)) | kwargs
    cache, update = given.get("past_key_values"), front.acting
    made_with = getattr(cache, LENGTH, 0)
    if update is None:
        if made_with:
            raise ValueError(
                "this cache was filled behind a prefix that is not active now. Start again without the cache."
            )
        return None
    tokens = given.get("input_ids") if given.get("inputs_embeds") is None else given["inputs_embeds"]
    if tokens is None:
        return None  # the model has words of its own for that
    if model.training and is_on(model):
        raise ValueError(
            "gradient checkpointing throws the cache away, and a prefix or prompt lives there. "
            "Call model.gradient_checkpointing_disable(), or train LoRA."
        )
    (rows, n), length = tokens.shape[:2], update.length
    cache = _filled(model, cache, update, rows)
    past = cache.get_seq_length()
    room = getattr(model.config, "max_position_embeddings", None) or float("inf")
    if past + n > room:
        raise ValueError(
            f"{n} tokens after {past} positions, {length} of them the prefix, are more than this model sees ({room}). "
            "Shorten the text."
        )
    mask, positions = given.get("attention_mask"), given.get("position_ids")
    if mask is None and positions is not None and past > length and bool((positions[..., 0] + length != past).any()):
        raise ValueError(
            f"the cache ends at position {past - length} of the text, the new tokens start at another. After a cached "
            "part, pass the new tokens only, and an attention_mask for the cached and the new ones together."
        )
    given |= {"past_key_values": cache, "attention_mask": _longer_mask(mask, length, past + n)}
    for key in ("position_ids", "cache_position"):
        if given.get(key) is not None:
            given[key] = given[key] + length
    return (), given


def _filled(model, cache, update, rows):
    """A cache with the prefix in it: a new one, the empty one that was given, or one that has it already."""
    if cache is not None and not _plain(cache):
        raise ValueError(
            f"a prefix needs a DynamicCache that keeps all positions; this is {type(cache).__name__}. "
            "Leave past_key_values and cache_implementation out."
        )
    if cache is not None and cache.get_seq_length():
        if getattr(cache, LENGTH, 0) != update.length:
            raise ValueError("this cache was filled without the active prefix. Start again without the cache.")
        return cache
    if cache is None:
        from transformers import DynamicCache

        cache = DynamicCache(config=model.config)
    device, dtype = model.get_input_embeddings().weight.device, _dtype(model)
    if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
        dtype = torch.get_autocast_dtype(device.type)
    for i, states in enumerate(update.keys_values(model)):
        K, V = (state.to(device, dtype).expand(rows, -1, -1, -1) for state in states)
        cache.update(K, V, i)
    setattr(cache, LENGTH, update.length)
    return cache


def _longer_mask(mask, length, total):
    """The mask (rows, text) with a one for each of the prefix's positions in front."""
    if mask is None:
        return None
    if not isinstance(mask, torch.Tensor) or mask.dim() != 2 or mask.shape[1] + length != total:
        shape = tuple(mask.shape) if isinstance(mask, torch.Tensor) else type(mask).__name__
        raise ValueError(
            f"attention_mask is {shape}; behind a prefix of {length} it must be (rows, {total - length}): one entry "
            "for every token of the text, those in the cache included. After a cached part, pass the new tokens only."
        )
    return torch.cat([mask.new_ones(len(mask), length), mask], dim=1)


def _hide_unwanted_cache(model, args, kwargs, output):
    """Our cache is not handed out where none was asked for: `generate` would go on from it."""
    asked = kwargs.get("use_cache")
    asked = getattr(model.config, "use_cache", True) if asked is None else asked
    if asked or getattr(output, "past_key_values", None) is None or not front_length(model):
        return None
    return type(output)(**{key: value for key, value in output.items() if key != "past_key_values"})
