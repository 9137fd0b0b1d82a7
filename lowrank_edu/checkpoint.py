"""Adapters on disk, in PEFT's folder format, both ways.   huggingface/peft 0.21

A folder holds `adapter_config.json` and `adapter_model.safetensors`. Methods that PEFT does not know are
written as `lowrank_config.json` and `lowrank_model.safetensors` instead, which PEFT refuses to open. Loading
checks every key and shape before the model is touched; saving writes aside and renames.
"""

import dataclasses
import json
import os
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from . import peft_adalora, peft_format, peft_prompts, peft_vera
from .adapter_card import adapter_card, is_ours
from .adapting import check_free, holders, install, method_of
from .methods import METHODS, LoRA, require
from .methods.common import FOLDED, no_peft
from .reminding import check_followed

BASE = "base_model_name_or_path"  # PEFT's key for it, in both formats
PEFT = {
    "LORA": peft_format,
    "ADALORA": peft_adalora,
    "VERA": peft_vera,
    "PREFIX_TUNING": peft_prompts,
    "PROMPT_TUNING": peft_prompts,
}
"""PEFT's types that can be read and written, and the module of each: its `to_peft` and `from_peft`."""


def save_adapter(model, path, name="default", *, format=None):
    """Write adapter `name` to the folder `path`; returns the path.

    format "peft" writes a folder that PEFT loads with the same outputs; only keys that older readers of its
    format know are written. A residual start (PiSSA, OLoRA) is written as the plain LoRA of rank 2r that it
    equals, `blocks=` as the plain LoRA of rank n·r; so is every other low-rank method that PEFT has no type for
    (LaMDA, AFLoRA, LoRA-XS). All these come back as that plain LoRA. "own" writes a folder of ours, which keeps
    the method and all its settings. None takes PEFT's format where PEFT has a type for the method, else ours.

    Raises RuntimeError for an adapter that was trained without its schedule (`lo.attach`), and ValueError for one
    whose quantised base was made together with it, and where PEFT has no format for it.
    """
    method = method_of(model, name)
    if format not in (None, "peft", "own"):
        raise ValueError(f"format={format!r} is not 'peft', 'own' or None, which takes PEFT's where there is one.")
    check_followed(model, name)
    layers = {p: holder for p, holder in holders(model).items() if name in holder.updates}
    _refuse_folded(layers, name)
    if format == "peft" or (format is None and method.peft_type is not None):
        require(no_peft(method) is None, no_peft(method))
        if method.peft_type is None:
            method = LoRA(target_modules=list(layers), dropout=method.dropout)
        kind, (tensors, config) = "adapter", PEFT[method.peft_type].to_peft(model, method, layers, name)
    else:
        updates = {p: layer.updates[name] for p, layer in layers.items()}
        kind, tensors = "lowrank", _slots(updates)
        config = {"method": type(method).__name__, "seed": _seed(updates), **dataclasses.asdict(method)}
        config[BASE] = _base_of(model)
    tensors = {key: tensor.detach().cpu().clone().contiguous() for key, tensor in tensors.items()}
    numbers = sum(tensor.numel() for tensor in tensors.values())
    return _write(Path(path), kind, tensors, config, adapter_card(kind, config, _base_of(model), numbers))


def _base_of(model):
    """What the model calls itself, None where it has no name."""
    return getattr(getattr(model, "config", None), "name_or_path", None) or None


def _refuse_folded(layers, name):
    """An adapter that took a part of W0 out of its quantised base fits that base and no other."""
    if any(getattr(layer.updates[name], "folded", False) for layer in layers.values()):
        raise ValueError(f"{name!r} {FOLDED}")


def load_adapter(model, path, name="default", *, trainable=True):
    """Put the adapter in folder `path`, written by us or by PEFT, on the model under `name`; returns a
    Report.

    It is active and, unless `trainable=False`, its parameters have gradients. Raises one ValueError that
    lists every missing, unexpected or mis-shaped tensor, and leaves the model as it was; FileNotFoundError
    when there is no adapter.

    The folder holds weights, not the state of a schedule: what LaMDA or AFLoRA had frozen trains again, unless
    `schedule_of(model, name).load_state(state)` brings that back.
    """
    check_free(model, name)
    path = Path(path)
    kind, config, tensors = read_adapter(path)
    if kind == "adapter":
        method, updates, slots, finish = _peft_format(config, path).from_peft(model, config, tensors, path)
        _fill(slots, peft_format.without_copies(model, tensors, slots), path)
        finish()
    else:
        method, seed = _own_method(config, path)
        updates = method.build(model, seed)
        _fill(_slots(updates), tensors, path)
    report = install(model, method, name, updates)
    if not trainable:
        for update in updates.values():
            update.wake(False)
    return report


def _peft_format(config, path):
    kind = config.get("peft_type")
    if kind not in PEFT:
        known = ", ".join(map(repr, PEFT))
        raise ValueError(f"{path}: peft_type is {kind!r}; this reads {known}. Load it with PEFT itself.")
    return PEFT[kind]


def _slots(updates):
    """{path.key: tensor} of updates: parameters and the frozen starts. What several layers share is named once."""
    named = {}
    for path, update in updates.items():
        for key, tensor in update.state_dict(keep_vars=True).items():
            named[id(tensor)] = (f"{path}.{key}", tensor)
    return dict(named.values())


def _seed(updates):
    """The seed of updates that keep one: what is drawn from it is drawn again, not saved."""
    return next((u.seed for u in updates.values() if hasattr(u, "seed")), 0)


def _own_method(config, path):
    """(method, seed) of a folder in our own format."""
    kind, seed = config.pop("method", None), config.pop("seed", 0)
    config.pop(BASE, None)  # for people and for the command line
    try:
        return METHODS[kind](**config), seed
    except (KeyError, TypeError):
        raise ValueError(
            f"{_config(path, 'lowrank')} describes method={kind!r} with {sorted(config)}; this version reads "
            f"{', '.join(METHODS)}. Use the version of lowrank_edu that wrote it."
        ) from None


@torch.no_grad()
def _fill(slots, tensors, path):
    """Copy tensors into the parameters of the same name, or raise one error listing all that does not fit."""
    wrong = [f"missing: {key} {tuple(p.shape)}" for key, p in slots.items() if key not in tensors]
    wrong += [f"unexpected: {key} {tuple(t.shape)}" for key, t in tensors.items() if key not in slots]
    wrong += [
        f"shape: {key} is {tuple(tensors[key].shape)} in the file, {tuple(p.shape)} in the model"
        for key, p in slots.items()
        if key in tensors and tensors[key].shape != p.shape
    ]
    if wrong:
        raise ValueError(f"{path} does not fit this model; nothing was loaded.\n" + "\n".join(wrong))
    for key, parameter in slots.items():
        parameter.copy_(tensors[key])


def _config(path, kind):
    return path / f"{kind}_config.json"


def _nothing_here(path):
    below = sorted(
        p.name for p in path.glob("*/") if any(_config(p, k).exists() for k in ("adapter", "lowrank"))
    )
    hint = f" There are adapters in its folders {', '.join(below)}: name one of them." if below else ""
    return (
        f"{path} holds neither adapter_config.json (PEFT's format) nor lowrank_config.json (ours). "
        f"Name the folder that save_adapter or PEFT's save_pretrained wrote.{hint}"
    )


def read_adapter(path):
    """("adapter" for PEFT's format or "lowrank" for ours, config, tensors) of a folder; no model is needed.

    Raises FileNotFoundError where there is no adapter, and ValueError when its files are damaged.
    """
    kind = next((kind for kind in ("adapter", "lowrank") if _config(path, kind).exists()), None)
    if kind is None:
        raise FileNotFoundError(_nothing_here(path))
    file = path / f"{kind}_model.safetensors"
    if not file.exists():
        raise FileNotFoundError(
            f"{path} has a config but no {file.name}. Pickled adapters (.bin) are not read."
        )
    try:
        config, tensors = json.loads(_config(path, kind).read_text(encoding="utf-8")), load_file(file)
    except (ValueError, SafetensorError) as error:
        raise ValueError(f"{path} is damaged: {error}. Copy or save the adapter again.") from None
    if not tensors or not isinstance(config, dict):
        raise ValueError(f"{path} is damaged: it holds no tensors or no settings. Save the adapter again.")
    return kind, config, tensors


def _write(path, kind, tensors, config, card):
    """Write the files aside, then rename them into place; a failure puts back what was there."""
    other = "lowrank" if kind == "adapter" else "adapter"
    if _config(path, other).exists():
        raise ValueError(
            f"{path} holds an adapter in another format. Save to another folder, or empty it first."
        )
    path.mkdir(parents=True, exist_ok=True)
    names, replaced = [f"{kind}_model.safetensors", f"{kind}_config.json", "README.md"], []
    if (path / "README.md").exists() and not is_ours(path / "README.md"):
        names.remove("README.md")  # somebody's own words stay
    with tempfile.TemporaryDirectory(dir=path, prefix=".saving-") as aside:
        new, old = Path(aside, "new"), Path(aside, "old")
        new.mkdir()
        old.mkdir()
        save_file(tensors, new / names[0], metadata={"format": "pt"})
        text = json.dumps(config, indent=2, default=list)
        (new / names[1]).write_text(text + "\n", encoding="utf-8")
        (new / "README.md").write_text(card, encoding="utf-8")
        for name in names:
            if (path / name).exists():
                shutil.copy2(path / name, old / name)
        try:
            for name in names:
                os.replace(new / name, path / name)
                replaced.append(name)
        except BaseException:
            for name in replaced:
                os.replace(old / name, path / name) if (old / name).exists() else (path / name).unlink()
            raise
    return path
