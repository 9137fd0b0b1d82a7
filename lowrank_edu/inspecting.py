"""What an adapter folder holds, without its model: method, modules, ranks, how large ΔW is, and what looks wrong."""

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from .checkpoint import BASE, PEFT, read_adapter
from .factor import effective_rank
from .methods import METHODS, pattern_value
from .peft_format import PREFIX

QUIET, LOUD = 1 / 8, 16  # a scale outside is legal, and more often a slip


@dataclass(frozen=True)
class Module:
    """One adapted module. rank, scale, norm (‖ΔW‖_F) and spectrum (singular values of ΔW, falling) where the folder
    tells ΔW, as LoRA's and AdaLoRA's do; else None. `numbers` counts all of its tensors."""

    path: str
    numbers: int
    rank: int | None = None
    scale: float | None = None
    shape: tuple | None = None
    spectrum: tuple | None = None

    @property
    def norm(self):
        return None if self.spectrum is None else math.sqrt(sum(s * s for s in self.spectrum))


@dataclass(frozen=True)
class Inspection:
    """An adapter folder: `format` "peft" or "own", the method, its settings, a row per module, and warnings."""

    path: str
    format: str
    method: str
    base: str | None
    settings: dict
    modules: list[Module]
    warnings: list[str] = field(default_factory=list)

    @property
    def numbers(self):
        """How many numbers the folder holds."""
        return sum(module.numbers for module in self.modules)

    def as_dict(self):
        """All of it as plain data."""
        rows = [{**vars(module), "norm": module.norm} for module in self.modules]
        return {**vars(self), "numbers": self.numbers, "modules": rows}


def inspect_adapter(path):
    """Read the adapter folder `path`, ours or PEFT's, and look at it. Returns an Inspection; no model is loaded.

    Raises FileNotFoundError where there is no adapter, ValueError where its files are damaged.
    """
    path = Path(path)
    kind, config, tensors = read_adapter(path)
    if kind == "lowrank":
        return _own(path, config, tensors)
    groups, odd = _by_module(tensors)
    modules = [_module(config, module, parts) for module, parts in groups.items()]
    warnings = [*_wrong_numbers(tensors), *_wrong_pairs(groups), *_wrong_settings(config, groups), *_silent(modules)]
    warnings += [f"{key}: not a tensor of LoRA" for key in odd if config.get("peft_type") == "LORA"]
    settings = {k: v for k, v in config.items() if v not in (None, False, {}, [], "") and not k.startswith("megatron")}
    method = config.get("peft_type", "?") + (" with DoRA" if config.get("use_dora") else "")
    if config.get("peft_type") not in PEFT:
        warnings.append(f"peft_type {config.get('peft_type')!r}: load_adapter does not read it; PEFT may.")
    return Inspection(
        str(path), "peft", method, config.get("base_model_name_or_path"), settings, modules, warnings
    )


def _own(path, config, tensors):
    groups = {}
    for key, tensor in tensors.items():
        groups.setdefault(key.rpartition(".")[0], []).append(tensor)
    modules = [Module(module, sum(t.numel() for t in parts)) for module, parts in groups.items()]
    settings, warnings = dict(config), _wrong_numbers(tensors)
    method, base = settings.pop("method", "?"), settings.pop(BASE, None)
    if method not in METHODS:
        warnings.append(f"method {method!r}: this version reads {', '.join(METHODS)}.")
    return Inspection(str(path), "own", method, base, settings, modules, warnings)


FACTORS = {
    "lora_A.weight": "A", "lora_B.weight": "B", "lora_A": "A", "lora_B": "B", "lora_E": "E",
    "lora_embedding_A": "A", "lora_embedding_B": "B", "lora_magnitude_vector": "m",
}  # fmt: skip


def _by_module(tensors):
    """({module: {"A": …, "B": …}}, keys that are no factor); a key is <prefix><module>.<factor>."""
    groups, odd = {}, []
    for key, tensor in tensors.items():
        name = key.removeprefix(PREFIX)
        factor = next((f for f in FACTORS if name.endswith(f".{f}")), None)
        module = name.removesuffix(f".{factor}") if factor else name.rpartition(".")[0] or name
        groups.setdefault(module, {})[FACTORS[factor] if factor else name] = tensor
        if factor is None and not name.endswith((".weight", ".bias")):
            odd.append(key)
    return groups, odd


def _module(config, path, parts):
    numbers = sum(t.numel() for t in parts.values())
    if not {"A", "B"} <= set(parts) or any(not torch.isfinite(parts[f]).all() for f in "AB"):
        return Module(path, numbers)
    A, B = parts["A"].double(), parts["B"].double()
    if "E" in parts:
        A = A * parts["E"].double().reshape(-1, 1)
    scale = _scale(config, path, len(A))
    # thin QR of both factors: their triangles have the singular values of B A
    triangles = torch.linalg.qr(B).R @ torch.linalg.qr(A.T).R.T
    spectrum = torch.linalg.svdvals(scale * triangles).tolist()
    return Module(path, numbers, len(A), scale, (B.shape[0], A.shape[1]), tuple(spectrum))


def _scale(config, path, r):
    alpha = pattern_value(config.get("alpha_pattern") or {}, path, config.get("lora_alpha", 1))
    if config.get("peft_type") == "ADALORA":
        return alpha / (config.get("init_r", r) + 1e-5)  # PEFT never divides by what is left
    return alpha / (math.sqrt(r) if config.get("use_rslora") else r)


# ---- what looks wrong ----------------------------------------


def _wrong_numbers(tensors):
    bad = [key for key, t in tensors.items() if t.is_floating_point() and not torch.isfinite(t).all()]
    return [f"{key} holds NaN or infinity: the training had diverged." for key in bad]


def _wrong_pairs(groups):
    halves = {path: set(parts) & {"A", "B"} for path, parts in groups.items()}
    return [f"{path} has only {half.pop()}: the file is incomplete." for path, half in halves.items() if len(half) == 1]


def _wrong_settings(config, groups):
    found = []
    for which in ("rank_pattern", "alpha_pattern"):
        if config.get("peft_type") == "LORA":
            idle = [k for k in config.get(which) or {} if not any(pattern_value({k: True}, p, False) for p in groups)]
            found += [f"{which} names {key!r}, which fits no module in the file." for key in idle]
    for path, parts in groups.items():
        declared = pattern_value(config.get("rank_pattern") or {}, path, config.get("r"))
        if config.get("peft_type") == "LORA" and "A" in parts and len(parts["A"]) != declared:
            found.append(f"{path} has rank {len(parts['A'])} in the file, and {declared} in the settings.")
    if not config.get("base_model_name_or_path"):
        found.append("the settings do not name the base model; on another one the adapter is noise.")
    return found


def _silent(modules):
    found, known = [], [m for m in modules if m.spectrum is not None]
    still = [m.path for m in known if m.norm == 0]
    if still:
        where = "every module" if len(still) == len(known) else f"{len(still)} of {len(known)} modules, as {still[0]}"
        found.append(f"ΔW is exactly zero in {where}: B was never trained.")
    scales = {m.scale for m in known}
    for scale in sorted(s for s in scales if not QUIET <= s <= LOUD):
        found.append(f"the scale is {scale:.3g}: far from 1, so look at alpha and r again.")
    used = {m.path: effective_rank(np.diag(m.spectrum)) for m in known if m.rank >= 8 and m.norm}
    idle = [m for m in known if m.path in used and used[m.path] < m.rank / 4]
    if idle:
        found.append(
            f"{len(idle)} of {len(known)} modules use less than a quarter of their rank, such as {idle[0].path} "
            f"({used[idle[0].path]:.1f} of {idle[0].rank}): a smaller r may do."
        )
    return found

