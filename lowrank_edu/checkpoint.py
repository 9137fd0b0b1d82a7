"""Adapters on disk, in PEFT's folder format, both ways.   huggingface/peft 0.21

A folder holds `adapter_config.json` and `adapter_model.safetensors`. Methods that PEFT does not know are written as
`lowrank_config.json` and `lowrank_model.safetensors` instead, which PEFT refuses to open. Loading checks every key
and shape before the model is touched; saving writes aside and renames.
"""

import dataclasses
import json
import os
import tempfile
from collections import Counter
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from . import methods
from .adapting import adapted_layers, check_free, install, method_of
from .inits import SPECTRAL
from .methods import LoRA
from .targets import leaves, resolve
from .updates import DoRA, LowRank, Whole, stored_transposed

PREFIX = "base_model.model."
UNSUPPORTED = (
    "alora_invocation_tokens arrow_config corda_config eva_config kasa_config layer_replication lora_bias "
    "lora_ga_config megatron_config monteclora_config target_parameters trainable_token_indices use_bdlora "
    "use_qalora velora_config"
).split()


def save_adapter(model, path, name="default"):
    """Write adapter `name` to the folder `path`; returns the path.

    LoRA and its relatives become a folder that PEFT (and older readers of its format: only keys that they know are
    written) loads with the same outputs. A residual start (PiSSA, OLoRA) is written as the plain LoRA of rank 2r that
    it equals, `blocks=` as the plain LoRA of rank n·r that it equals; both come back as that plain LoRA.
    """
    method = method_of(model, name)
    layers = {p: layer for p, layer in adapted_layers(model).items() if name in layer.updates}
    if method.peft_type == "LORA":
        tensors, config = _to_peft(model, method, layers, name)
        return _write(path, {"adapter_model.safetensors": tensors, "adapter_config.json": config})
    tensors = {}
    for p, layer in layers.items():
        for key, value in layer.updates[name].named_parameters():
            tensors[f"{p}.{key}"] = value.detach().cpu().clone().contiguous()
    config = {"method": type(method).__name__, **dataclasses.asdict(method)}
    return _write(path, {"lowrank_model.safetensors": tensors, "lowrank_config.json": config})


def load_adapter(model, path, name="default", *, trainable=True):
    """Put the adapter in folder `path`, written by us or by PEFT, on the model under `name`; returns a Report.

    It is active and, unless `trainable=False`, its parameters have gradients. Raises one ValueError that lists every
    missing, unexpected or mis-shaped tensor, and leaves the model as it was; FileNotFoundError when there is none.
    """
    check_free(model, name)
    path = Path(path)
    if (path / "adapter_config.json").exists():
        config, tensors = _read(path, "adapter")
        method, updates = _from_peft(model, config, tensors, path)
    elif (path / "lowrank_config.json").exists():
        config, tensors = _read(path, "lowrank")
        kind = config.pop("method")
        method = getattr(methods, kind)(**config)
        updates = method.build(model)
        _fill({f"{p}.{k}": v for p, u in updates.items() for k, v in u.named_parameters()}, tensors, path)
    else:
        raise FileNotFoundError(
            f"{path} holds neither adapter_config.json (PEFT's format) nor lowrank_config.json (ours). "
            "Name the folder that save_adapter or PEFT's save_pretrained wrote."
        )
    report = install(model, method, name, updates)
    if not trainable:
        for layer in adapted_layers(model).values():
            if name in layer.updates:
                layer.updates[name].requires_grad_(False)
    return report


def _to_peft(model, method, layers, name):
    """(tensors, config) of a LoRA-family adapter, as PEFT writes them."""
    tensors, ranks, scales, whole = {}, {}, {}, []
    for path, layer in layers.items():
        update, key = layer.updates[name], PREFIX + path
        if isinstance(update, Whole):
            whole.append(path)
            tensors.update({f"{key}.{n}": p for n, p in update.copy.named_parameters()})
        if isinstance(update, LowRank):
            if isinstance(update, DoRA):
                (A, B), r = update.factors(), update.A.shape[0]
                if update.start() is not None:
                    A, B, r = LowRank.as_lora(update)
                tensors[f"{key}.lora_magnitude_vector"] = update.m
            else:
                A, B, r = update.as_lora()
            ranks[path], scales[path] = r, update.scale
            names = (
                ("lora_embedding_A", "lora_embedding_B")
                if isinstance(layer.base, nn.Embedding)
                else ("lora_A.weight", "lora_B.weight")
            )
            tensors[f"{key}.{names[0]}"], tensors[f"{key}.{names[1]}"] = A, B
        if update.bias is not None:
            inner = ".base_layer" if isinstance(update, LowRank) else ""
            old = (layer.kept or {}).get("bias", layer.base.bias)
            tensors[f"{key}{inner}.bias"] = old.to(update.bias.device) + update.bias
    tensors = {k: t.detach().cpu().clone().contiguous() for k, t in tensors.items()}
    r = Counter(ranks.values()).most_common(1)[0][0]
    alphas = {path: scales[path] * (rank**0.5 if method.use_rslora else rank) for path, rank in ranks.items()}
    alphas = {path: int(a) if float(a).is_integer() else a for path, a in alphas.items()}
    alpha = Counter(alphas.values()).most_common(1)[0][0]
    targets = method.target_modules
    transposed = [
        stored_transposed(layers[p].base) and not isinstance(layers[p].base, nn.Embedding) for p in ranks
    ]
    config = {
        "alpha_pattern": {p: a for p, a in alphas.items() if a != alpha},
        "auto_mapping": None,
        "base_model_name_or_path": getattr(getattr(model, "config", None), "_name_or_path", None) or None,
        "bias": method.bias,
        "fan_in_fan_out": any(transposed),
        "inference_mode": True,
        "init_lora_weights": True,
        "layers_pattern": None,
        "layers_to_transform": None,
        "lora_alpha": alpha,
        "lora_dropout": method.dropout,
        "modules_to_save": whole or None,
        "peft_type": "LORA",
        "r": r,
        "rank_pattern": {p: n for p, n in ranks.items() if n != r},
        "revision": None,
        "target_modules": sorted(ranks) if targets == "all-linear" else targets,
        "task_type": "CAUSAL_LM" if type(model).__name__.endswith(("ForCausalLM", "LMHeadModel")) else None,
    }
    config |= {key: True for key in ("use_rslora", "use_dora") if getattr(method, key)}
    return tensors, dict(sorted(config.items()))


def _from_peft(model, config, tensors, path):
    """(method, updates filled with the file's tensors); the model is only read."""
    kind = config.get("peft_type")
    if kind != "LORA":
        raise ValueError(f"{path}: peft_type is {kind!r}; this reads 'LORA'. Load it with PEFT itself.")
    missing = [key for key in ("r", "lora_alpha", "target_modules") if config.get(key) is None]
    if missing:
        raise ValueError(f"{path}/adapter_config.json has no {', '.join(missing)}; PEFT always writes them.")
    used = [key for key in UNSUPPORTED if config.get(key)]
    if used:
        raise ValueError(
            f"{path} uses {', '.join(used)}, which this package does not implement. Use PEFT for it."
        )
    init = config.get("init_lora_weights", True)
    if isinstance(init, str) and (init.startswith(("pissa_niter", "corda", "loftq")) or init == "lora_ga"):
        raise ValueError(
            f"{path} was trained from init_lora_weights={init!r}, which changes the base weights in a way that the "
            "file does not record. In PEFT, save it again with path_initial_model_for_weight_conversion=…: that "
            "writes the plain LoRA it equals."
        )
    if not tensors:
        raise ValueError(f"{path}/adapter_model.safetensors holds no tensors.")
    low_rank = sorted({k.removeprefix(PREFIX).split(".lora_")[0] for k in tensors if ".lora_" in k})
    free = config.get("layers_to_transform") is None and not config.get("exclude_modules")
    targets = config["target_modules"]
    if free:  # a module that the config names and the file lacks must not stay silently unadapted
        low_rank = sorted({*low_rank, *resolve(model, targets)})
    unknown = [p for p in low_rank if p not in leaves(model)]
    if unknown:
        raise ValueError(
            f"{path} adapts modules that this model does not have: {', '.join(unknown[:4])} "
            f"({len(unknown)} in all). Is it an adapter for another model?"
        )
    method = LoRA(
        r=config["r"],
        alpha=config["lora_alpha"],
        target_modules=low_rank,
        dropout=config.get("lora_dropout", 0.0),
        bias=config.get("bias", "none"),
        init=init if init in SPECTRAL else "kaiming",
        use_rslora=config.get("use_rslora", False),
        use_dora=config.get("use_dora", False),
        rank_pattern=config.get("rank_pattern") or {},
        alpha_pattern=config.get("alpha_pattern") or {},
        modules_to_save=_saved_whole(config, tensors),
    )
    updates = method.build(model)
    slots, biases, bases = {}, {}, leaves(model)
    for p, update in updates.items():
        if isinstance(update, Whole):
            slots |= {f"{PREFIX}{p}.{n}": value for n, value in update.copy.named_parameters()}
        if isinstance(update, LowRank):
            embedding = isinstance(bases[p], nn.Embedding)
            slots[f"{PREFIX}{p}.lora_{'embedding_A' if embedding else 'A.weight'}"] = update.A
            slots[f"{PREFIX}{p}.lora_{'embedding_B' if embedding else 'B.weight'}"] = update.B
            if isinstance(update, DoRA):
                slots[f"{PREFIX}{p}.lora_magnitude_vector"] = update.m
        if update.bias is not None:
            inner = ".base_layer" if isinstance(update, LowRank) else ""
            slots[f"{PREFIX}{p}{inner}.bias"], biases[p] = update.bias, update
    _fill(slots, _without_base_copies(tensors, slots, bases), path)
    with torch.no_grad():
        for p, update in biases.items():  # PEFT stores the whole bias, we train its change
            update.bias -= bases[p].bias.to(update.bias.dtype)
    return method, updates


def _saved_whole(config, tensors):
    """modules_to_save that the file really holds (PEFT adds names for classifiers on its own)."""
    names = config.get("modules_to_save") or []
    return tuple(n for n in names if any(f".{n}." in key for key in tensors))


def _without_base_copies(tensors, slots, bases):
    """PEFT also saves the weight of an adapted embedding or head; it is dropped if it is the model's own."""
    kept = {}
    for key, value in tensors.items():
        module = key.removeprefix(PREFIX).removesuffix(".weight").removesuffix(".base_layer")
        plain = key.endswith(".weight") and key not in slots
        own = getattr(bases.get(module), "weight", None) if plain else None
        if own is not None and own.shape == value.shape and torch.equal(own.cpu(), value.to(own.dtype)):
            continue
        kept[key] = value
    return kept


@torch.no_grad()
def _fill(slots, tensors, path):
    """Copy tensors into the parameters of the same name, or raise one error that lists all that does not fit."""
    wrong = [f"missing: {key} {tuple(p.shape)}" for key, p in slots.items() if key not in tensors]
    wrong += [f"unexpected: {key} {tuple(t.shape)}" for key, t in tensors.items() if key not in slots]
    wrong += [
        f"shape: {key} is {tuple(tensors[key].shape)} in the file, {tuple(p.shape)} in the model"
        for key, p in slots.items()
        if key in tensors and tensors[key].shape != p.shape
    ]
    if wrong:
        more = f"\n… and {len(wrong) - 12} more" if len(wrong) > 12 else ""
        raise ValueError(
            f"{path} does not fit this model; nothing was loaded.\n" + "\n".join(wrong[:12]) + more
        )
    for key, parameter in slots.items():
        parameter.copy_(tensors[key])


def _read(path, kind):
    file = path / f"{kind}_model.safetensors"
    if not file.exists():
        raise FileNotFoundError(
            f"{path} has a config but no {file.name}. Pickled adapters (.bin) are not read."
        )
    try:
        config = json.loads((path / f"{kind}_config.json").read_text(encoding="utf-8"))
        return config, load_file(file)
    except (json.JSONDecodeError, SafetensorError) as error:
        raise ValueError(f"{path} is damaged: {error}. Copy or save the adapter again.") from None


def _write(path, files):
    """Write all files aside first, then rename them into place, so that a failure leaves what was there."""
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path, prefix=".saving-") as aside:
        for name, content in files.items():
            if name.endswith(".json"):
                text = json.dumps(content, indent=2, default=list) + "\n"
                Path(aside, name).write_text(text, encoding="utf-8")
            else:
                save_file(content, Path(aside, name), metadata={"format": "pt"})
        for name in files:
            os.replace(Path(aside, name), path / name)
    return path
