"""PEFT's folders for prefix and prompt tuning: one tensor, `prompt_embeddings`.   huggingface/peft 0.21

For a prompt it is E (length, d). For a prefix it is (length, 2·L·heads·d_head): key, value, key, value, … layer by
layer. A prefix that PEFT made through its MLP (`prefix_projection`) is saved after the MLP, as ours is.
"""

from .front import PLACE
from .methods import PrefixTuning, PromptTuning
from .peft_format import task_type

TENSOR = "prompt_embeddings"
METHODS = {method.peft_type: method for method in (PrefixTuning, PromptTuning)}


def to_peft(model, method, layers, name):
    """(tensors, config) of adapter `name`, as PEFT writes them."""
    table = layers[PLACE].updates[name].table()
    prefix = method.peft_type == "PREFIX_TUNING"
    heads = table.shape[3] if prefix else model.config.num_attention_heads
    config = {
        "auto_mapping": None,
        "base_model_name_or_path": getattr(model.config, "_name_or_path", None) or None,
        "inference_mode": True,
        "num_attention_heads": heads,
        "num_layers": model.config.num_hidden_layers,
        "num_transformer_submodules": 1,
        "num_virtual_tokens": len(table),
        "peft_type": method.peft_type,
        "revision": None,
        "task_type": task_type(model),
        "token_dim": heads * table.shape[4] if prefix else table.shape[1],
    }
    config |= {"encoder_hidden_size": None, "prefix_projection": False} if prefix else {"prompt_tuning_init": "RANDOM"}
    return {TENSOR: table.flatten(1)}, dict(sorted(config.items()))


def from_peft(model, config, tensors, path):
    """(method, updates, slots, finish) for a folder's config; the model is only read."""
    length, submodules = config.get("num_virtual_tokens"), config.get("num_transformer_submodules")
    if not isinstance(length, int) or submodules not in (None, 1):
        raise ValueError(
            f"{path} has num_virtual_tokens={length!r} and num_transformer_submodules={submodules!r}; this reads a "
            "whole number of tokens in front of one decoder. Load it with PEFT itself."
        )
    method = METHODS[config["peft_type"]](length=length, init="random")
    updates = method.build(model)
    return method, updates, {TENSOR: updates[PLACE].table().detach().flatten(1)}, lambda: None
