"""PEFT's names and configuration for the LoRA family: adapter to tensors and back.   huggingface/peft 0.21

Keys are `base_model.model.<path>.lora_A.weight` (r, d_in) and `.lora_B.weight` (d_out, r), also for Conv1D;
embeddings use `.lora_embedding_A` (r, V) and `.lora_embedding_B` (d, r); DoRA adds `.lora_magnitude_vector`
(d_out).
"""

from collections import Counter

import torch
from torch import nn

from .inits import SPECTRAL
from .methods import LoRA, pattern_value, some
from .targets import leaves, resolve
from .updates import DoRA, LowRank, Whole, stored_transposed

PREFIX = "base_model.model."
UNSUPPORTED = (
    "alora_invocation_tokens arrow_config corda_config eva_config kasa_config layer_replication lora_bias "
    "lora_ga_config megatron_config monteclora_config target_parameters trainable_token_indices use_bdlora "
    "use_qalora velora_config"
).split()
NEEDS_OLD_BASE = ("pissa_niter", "corda", "loftq", "lora_ga")  # starts that change the base, unrecorded


def to_peft(model, method, layers, name):
    """(tensors, config) of adapter `name` on `layers` {path: AdaptedLayer}, as PEFT writes them."""
    tensors, ranks, alphas = {}, {}, {}
    for path, layer in layers.items():
        update, A, B = layer.updates[name], None, None
        if isinstance(update, LowRank):
            A, B = update.as_lora()
            r = ranks[path] = A.shape[0]
            alpha = round(update.scale * (r**0.5 if method.use_rslora else r), 12)
            alphas[path] = int(alpha) if alpha.is_integer() else alpha
        tensors |= _named(path, update, layer.base, A, B)
        if update.bias is not None:
            tensors[_bias_key(path, update)] = layer.original("bias") + update.bias
    r, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
    config = common_settings(model, method, {path: layers[path].base for path in ranks}) | {
        "alpha_pattern": _pattern(alphas, alpha),
        "bias": method.bias,
        "init_lora_weights": True,
        "lora_alpha": alpha,
        "lora_dropout": method.dropout,
        "modules_to_save": [p for p, layer in layers.items() if isinstance(layer.updates[name], Whole)]
        or None,
        "peft_type": "LORA",
        "r": r,
        "rank_pattern": _pattern(ranks, r),
    }
    config |= {key: True for key in ("use_rslora", "use_dora") if getattr(method, key)}
    return tensors, dict(sorted(config.items()))


def from_peft(model, config, tensors, path):
    """(method, updates, slots, finish) for a folder's config; the model is only read.

    `slots` {key: parameter} says where the tensors go; `finish()` is called when they are there.
    """
    _refuse_unsupported(config, path)
    init = config.get("init_lora_weights", True)
    low_rank = adapted_paths(model, config, tensors, ".lora_", path)
    patterns = {
        which: {k: v for k, v in (config.get(which) or {}).items() if _matches_any({k: True}, low_rank)}
        for which in ("rank_pattern", "alpha_pattern")
    }
    method = LoRA(
        r=config["r"],
        alpha=config["lora_alpha"],
        target_modules=sorted(low_rank),
        dropout=config.get("lora_dropout", 0.0),
        bias=config.get("bias", "none"),
        init=init if init in SPECTRAL else "kaiming",
        use_rslora=config.get("use_rslora", False),
        use_dora=config.get("use_dora", False),
        modules_to_save=_saved_whole(model, config),
        **patterns,
    )
    updates, slots, bases = method.build(model), {}, leaves(model)
    for p, update in updates.items():
        slots |= _named(p, update, bases[p], getattr(update, "A", None), getattr(update, "B", None))

    @torch.no_grad()
    def finish():  # PEFT stores the whole bias, we train its change
        for p, update in updates.items():
            if update.bias is not None:
                update.bias -= bases[p].bias.to(update.bias.dtype)

    return method, updates, slots, finish


def common_settings(model, method, bases):
    """What the configuration of every PEFT type says, for adapted layers `bases` {path: frozen layer}."""
    linear = [base for base in bases.values() if not isinstance(base, nn.Embedding)]
    return {
        "auto_mapping": None,
        "base_model_name_or_path": getattr(getattr(model, "config", None), "_name_or_path", None) or None,
        "fan_in_fan_out": any(stored_transposed(base) for base in linear),
        "inference_mode": True,
        "layers_pattern": None,
        "layers_to_transform": None,
        "revision": None,
        # PEFT reads a regular expression against every module, also those that hold other modules
        "target_modules": sorted(bases) if isinstance(method.target_modules, str) else method.target_modules,
        "task_type": task_type(model),
    }


def adapted_paths(model, config, tensors, marker, path):
    """Paths of the layers that a folder adapts: those with tensors, and those that its config names."""
    paths = {key.removeprefix(PREFIX).split(marker)[0] for key in tensors if marker in key}
    unknown = sorted(paths - set(leaves(model)))
    if unknown:
        raise ValueError(
            f"{path} adapts modules that this model does not have: {some(unknown)}. "
            "Is it an adapter for another model?"
        )
    if config.get("layers_to_transform") is None and not config.get("exclude_modules"):
        paths |= set(resolve(model, config["target_modules"]))  # a layer that the file lacks must be reported
    return paths


def without_copies(model, tensors, slots):
    """The tensors without the copies that PEFT adds: the weight of an adapted embedding or head if it is the
    model's own; and with bias="all", biases of saved modules again, and the second names of tied biases."""
    kept, bases = {}, leaves(model)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    held = {id(p) for base in bases.values() for p in base.parameters()}
    for key, value in tensors.items():
        module, _, kind = key.removeprefix(PREFIX).rpartition(".")
        module = module.removesuffix(".base_layer")
        again = module.endswith((".original_module", ".modules_to_save"))
        alias = module not in bases and id(parameters.get(f"{module}.{kind}")) in held
        own = getattr(bases.get(module), kind, None) if key not in slots else None
        if again or alias or (own is not None and torch.equal(own.cpu(), value.to(own.dtype))):
            continue
        kept[key] = value
    return kept


def _named(path, update, base, A, B):
    """{PEFT's key: tensor} of one layer's update, with these factors."""
    key, named = PREFIX + path, {}
    if isinstance(update, Whole):
        named = {f"{key}.{n}": p for n, p in update.copy.named_parameters()}
    if isinstance(update, LowRank):
        embedding = isinstance(base, nn.Embedding)
        named[f"{key}.lora_{'embedding_A' if embedding else 'A.weight'}"] = A
        named[f"{key}.lora_{'embedding_B' if embedding else 'B.weight'}"] = B
    if isinstance(update, DoRA):
        named[f"{key}.lora_magnitude_vector"] = update.m
    if update.bias is not None:
        named[_bias_key(path, update)] = update.bias
    return named


def task_type(model):
    """What PEFT calls the task of such a model, or None."""
    return "CAUSAL_LM" if type(model).__name__.endswith(("ForCausalLM", "LMHeadModel")) else None


def _bias_key(path, update):
    return f"{PREFIX}{path}{'.base_layer' if isinstance(update, LowRank) else ''}.bias"


def _pattern(values, default):
    """{path: value} of the exceptions to `default`, longest path first: PEFT takes the first key that ends a
    path."""
    odd = {p: v for p, v in sorted(values.items(), key=lambda item: -len(item[0])) if v != default}
    misread = {p: v for p, v in values.items() if pattern_value(odd, p, default) != v}
    return misread | odd


def _matches_any(pattern, paths):
    return any(pattern_value(pattern, path, False) for path in paths)


def _saved_whole(model, config):
    """modules_to_save that this model has: PEFT adds the names of classifiers on its own."""
    names = config.get("modules_to_save") or []
    return tuple(n for n in names if any(f".{n}." in f".{p}." for p in leaves(model)))


def _refuse_unsupported(config, path):
    missing = [key for key in ("r", "lora_alpha", "target_modules") if config.get(key) is None]
    if missing:
        raise ValueError(f"{path}/adapter_config.json has no {', '.join(missing)}; PEFT always writes them.")
    used = [key for key in UNSUPPORTED if config.get(key)]
    if used:
        raise ValueError(
            f"{path} uses {', '.join(used)}, which this package does not implement. Use PEFT for it."
        )
    init = config.get("init_lora_weights", True)
    if isinstance(init, str) and init.startswith(NEEDS_OLD_BASE):
        raise ValueError(
            f"{path} was trained from init_lora_weights={init!r}, which changes the base weights in a way "
            "that the file does not record. In PEFT, save it again with "
            "path_initial_model_for_weight_conversion=…: that writes the plain LoRA it equals."
        )
