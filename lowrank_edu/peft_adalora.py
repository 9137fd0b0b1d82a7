"""PEFT's names and configuration for AdaLoRA: adapter to tensors and back.   huggingface/peft 0.21

Keys are `base_model.model.<path>.lora_A` (r, d_in), `.lora_B` (d_out, r) and `.lora_E` (r, 1), without ".weight".
Once the choice is final only the rows that stayed are written, and `rank_pattern` says which they were:
{"<path>.lora_E": [true, false, …]} with init_r entries. A layer may have none left.
"""

from torch import nn

from .methods import AdaLoRA
from .peft_format import PREFIX, adapted_paths, common_settings

NAMES = {"target_r": "target_r", "init_r": "init_r", "warmup_steps": "tinit", "final_steps": "tfinal",
         "every": "deltaT", "beta1": "beta1", "beta2": "beta2", "orth_weight": "orth_reg_weight",
         "alpha": "lora_alpha", "dropout": "lora_dropout"}  # fmt: skip
UNSUPPORTED = "modules_to_save alpha_pattern layer_replication megatron_config use_rslora target_parameters".split()


def to_peft(model, method, layers, name):
    """(tensors, config) of adapter `name` on `layers` {path: AdaptedLayer}, as PEFT writes them."""
    updates = {path: layer.updates[name] for path, layer in layers.items()}
    schedule = model.__dict__.get("lowrank_schedules", {}).get(name)
    final = dict(schedule.kept or {}) if schedule is not None else {}
    tensors, pattern, pruned = {}, {}, any(u.A.shape[0] < method.init_r for u in updates.values())
    for path, update in updates.items():
        rows = final[path].tolist() if path in final else [True] * update.A.shape[0]
        tensors |= {key: tensor[rows] for key, tensor in _rows_first(path, update).items()}
        if final or pruned:  # rows that a loaded folder had lost already count at the end
            pattern[f"{path}.lora_E"] = rows + [False] * (method.init_r - len(rows))
    tensors = {key: tensor.T if key.endswith("lora_B") else tensor for key, tensor in tensors.items()}
    total = method.total_steps if schedule is None else schedule.total_steps
    config = common_settings(model, method, {path: layer.base for path, layer in layers.items()}) | {
        **{theirs: getattr(method, ours) for ours, theirs in NAMES.items()},
        "bias": "none",
        "init_lora_weights": True,
        # in mode="paper" the scale is 1: PEFT divides by init_r + 1e-5
        "lora_alpha": method.alpha if method.mode == "reference" else method.init_r + 1e-5,
        "modules_to_save": None,
        "peft_type": "ADALORA",
        "rank_pattern": pattern or None,
        # PEFT refuses a run without a length: the shortest that it takes stands for "not known"
        "total_step": total or method.warmup_steps + method.final_steps + 1,
    }
    return tensors, dict(sorted(config.items()))


def from_peft(model, config, tensors, path):
    """(method, updates, slots, finish) for a folder's config; the model is only read.

    `slots` {key: tensor} says where the tensors go; there is nothing left to finish. A run length in which the budget
    cannot fall is read as not known.
    """
    missing = [key for key in ("init_r", "target_r", "lora_alpha", "target_modules") if config.get(key) is None]
    if missing:
        raise ValueError(f"{path}/adapter_config.json has no {', '.join(missing)}; PEFT always writes them.")
    used = [key for key in UNSUPPORTED if config.get(key)] + ["bias"] * (config.get("bias", "none") != "none")
    if used:
        raise ValueError(f"{path} uses {', '.join(used)} with AdaLoRA, which this package does not. Use PEFT for it.")
    settings = {ours: config[theirs] for ours, theirs in NAMES.items() if config.get(theirs) is not None}
    method = AdaLoRA(target_modules=sorted(adapted_paths(model, config, tensors, ".lora_", path)), **settings)
    try:
        total = config.get("total_step")
        method.check_total(total)
        if total > method.warmup_steps + method.final_steps + 1:
            method = AdaLoRA(**{**vars(method), "total_steps": total})
    except ValueError:
        pass
    updates, slots = method.build(model), {}
    for p, update in updates.items():
        rows = (config.get("rank_pattern") or {}).get(f"{p}.lora_E")
        if rows is not None:
            _prune(update, sum(rows))
        slots |= {key: t.T if key.endswith("lora_B") else t for key, t in _rows_first(p, update).items()}
    return method, updates, slots, lambda: None


def _rows_first(path, update):
    """{PEFT's key: view of a factor (r, …)} of one layer."""
    named = {"lora_A": update.A, "lora_B": update.B.T, "lora_E": update.core[:, None]}
    return {f"{PREFIX}{path}.{key}": tensor.detach() for key, tensor in named.items()}


def _prune(update, r):
    """Leave r triplets; which ones does not matter, because they are filled from the file."""
    for key, tensor in {"A": update.A[:r], "B": update.B[:, :r], "core": update.core[:r]}.items():
        setattr(update, key, nn.Parameter(tensor.detach().clone()))
