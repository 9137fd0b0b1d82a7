"""Activation checkpointing with a frozen base: keep the inputs of the blocks, compute the rest again."""

from contextlib import contextmanager


def switch_on(model):
    """Under the name that this version of transformers has for it. Without re-entry: a re-entrant checkpoint drops
    the gradient where no input of a block has one, as behind a frozen embedding, and B silently stays 0."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def is_on(model):
    """Whether the model recomputes; asked under the newer name where there is one, for the older one warns there."""
    newer = "is_activation_checkpointing"
    return getattr(model, newer if hasattr(type(model), newer) else "is_gradient_checkpointing", False)


@contextmanager
def recomputing(model, wanted=True):
    """Checkpointing for as long as the block lasts. ValueError where the model has none."""
    if not wanted:
        yield
        return
    if not hasattr(model, "gradient_checkpointing_enable"):
        raise ValueError("gradient_checkpointing=True: this model has no checkpointing. Leave it out.")
    switch_on(model)
    try:
        yield
    finally:
        disable = getattr(model, "activation_checkpointing_disable", None) or model.gradient_checkpointing_disable
        disable()
