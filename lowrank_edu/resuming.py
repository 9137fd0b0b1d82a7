"""What a run needs to go on after a stop, on disk: all of it or nothing, in safetensors and JSON.

A checkpoint is a folder step-000050 with state.safetensors (trained weights, optimizer moments, random state, what
schedules remember) and state.json (settings, history, plain values). It is written aside, synced and renamed, so a
stop at any moment leaves the one before whole; the last two are kept. A run goes on only where it would end as if it
had never been stopped: same settings, data, versions, processor and number of threads.
"""

import hashlib
import json
import os
import platform
import re
import shutil
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .data import Stream
from .history import History
from .processes import everyones, processes, whole

KEEP, EVERY = 2, 50


class Checkpoints:
    """The checkpoints of one run. Without a folder nothing is ever written."""

    def __init__(self, folder, model, optimizer, rates, scaler, schedules, data, history, settings, eval_data=None):
        self.folder = None if folder is None else Path(folder)
        self.model, self.optimizer, self.rates, self.scaler = model, optimizer, rates, scaler
        self.schedules = {} if schedules is None else schedules.schedules
        self.data, self.history = data, history
        if self.folder is not None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise OSError(f"checkpoint_dir={str(folder)!r} cannot be made: {error}") from error
            self.mark = fingerprint(model, data, settings, eval_data)

    def due(self, step, every, now):
        """Whether to write a checkpoint after this step."""
        return self.folder is not None and (bool(now) or step % (every or EVERY) == 0)

    def advice(self):
        return (
            f"The same call again continues from {self.folder}."
            if self.folder
            else "Nothing was kept: give checkpoint_dir= to be able to continue."
        )

    def save(self, step):
        """Write the state after `step`: the first process does, all have to call. OSError in all of them, with the
        checkpoints before untouched, where that is impossible."""
        random, problem = everyones({"cpu": torch.get_rng_state(), "cuda": _cuda_state()}), None
        if processes().is_main_process:
            try:
                self._write(step, random)
            except (OSError, SafetensorError) as error:  # safetensors has an error of its own for a full disk
                problem = error
        failed = next((text for text in everyones(None if problem is None else str(problem)) if text), None)
        if failed is not None:
            raise OSError(
                f"the checkpoint after step {step} could not be written to {self.folder}: {failed}. "
                "The ones before are whole."
            ) from problem

    def _write(self, step, random):
        values, tensors = apart(
            {
                "step": step,
                "mark": self.mark,
                "history": asdict(self.history),
                "weights": trained_state(self.model),
                "optimizer": self.optimizer.state_dict(),
                "rates": {k: v for k, v in self.rates.state_dict().items() if k != "lr_lambdas"},
                "scaler": None if self.scaler is None else self.scaler.state_dict(),
                "schedules": {name: schedule.state() for name, schedule in self.schedules.items()},
                "random": random,
                "stream": self.data.position if isinstance(self.data, Stream) else None,
            }
        )
        place = self.folder / f"step-{step:06d}"
        aside = self.folder / f".{place.name}.partial"
        shutil.rmtree(aside, ignore_errors=True)
        try:
            aside.mkdir()
            save_file(tensors, aside / "state.safetensors")
            (aside / "state.json").write_text(json.dumps(values), encoding="utf-8")
            for path in (*aside.iterdir(), aside):
                sync(path)
            if place.exists():
                shutil.rmtree(place)
            os.replace(aside, place)
            sync(self.folder)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        for old in found(self.folder)[:-KEEP]:
            shutil.rmtree(old, ignore_errors=True)

    def resume(self):
        """Put everything where the newest whole checkpoint left it; returns its step, 0 where there is none."""
        places = [] if self.folder is None else found(self.folder)
        if not places:
            return 0
        state = read(places[-1])
        different = [f"{key}: {state['mark'].get(key)} there, {value} here" for key, value in self.mark.items()
                     if state["mark"].get(key) != value]  # fmt: skip
        if different:
            raise ValueError(
                f"{places[-1]} is of another run, so it would not end as that one: {'; '.join(different)}. Make them "
                "equal, or name a new folder for checkpoints (checkpoint_dir)."
            )
        here = trained_state(self.model)
        if set(here) != set(state["weights"]):
            odd = sorted(set(here) ^ set(state["weights"]))
            raise ValueError(f"{places[-1]} holds other weights than this model trains, such as {odd[0]}.")
        self.model.load_state_dict(state["weights"], strict=False)
        for name, schedule in self.schedules.items():
            schedule.load_state(state["schedules"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.rates.load_state_dict(state["rates"] | {"lr_lambdas": [None] * len(self.rates.lr_lambdas)})
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])
        for key, value in vars(History(**state["history"])).items():
            setattr(self.history, key, value)
        random = state["random"][processes().process_index]
        torch.set_rng_state(random["cpu"])
        if random["cuda"] is not None:
            torch.cuda.set_rng_state(random["cuda"])
        if state["stream"] is not None:
            self.data.seek(state["stream"])
        return state["step"]


def found(folder):
    """Whole checkpoints of a folder, the oldest first."""
    return sorted(p for p in folder.glob("step-*") if re.fullmatch(r"step-\d{6,}", p.name) and p.is_dir())


def read(place):
    """The state in a checkpoint folder; ValueError if it is damaged."""
    try:
        return together(json.loads((place / "state.json").read_text("utf-8")), load_file(place / "state.safetensors"))
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        told = f"{place} is damaged ({error}). Delete it, and the run continues from the one before."
        raise ValueError(told) from None


def sync(path):
    """Wait until a file or folder is on the disk, where the system can say so."""
    if os.name == "nt" and path.is_dir():
        return
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def trained_state(model):
    """{name: tensor} of all that training may have changed: what has gradients, and all of every update."""
    state = model.state_dict(keep_vars=True)
    return {
        key: value.detach()
        for key, value in state.items()
        if value.requires_grad or re.search(r"(^|\.)updates\.", key)
    }


def _cuda_state():
    return torch.cuda.get_rng_state() if torch.cuda.is_available() else None


# ---- plain values and tensors, apart and together ----------------------------------------


def apart(value, at="", tensors=None):
    """(value with tensors replaced by their keys, {key: tensor}); dicts with other keys than text become pairs."""
    tensors = {} if tensors is None else tensors
    if isinstance(value, torch.Tensor):
        tensors[at] = value.detach().cpu().clone().contiguous()
        return {"$tensor": at}, tensors
    if isinstance(value, dict):
        parts = {k: apart(v, f"{at}/{k}", tensors)[0] for k, v in value.items()}
        return (parts if all(isinstance(k, str) for k in parts) else {"$pairs": list(parts.items())}), tensors
    if isinstance(value, list | tuple):
        return [apart(v, f"{at}/{i}", tensors)[0] for i, v in enumerate(value)], tensors
    return value, tensors


def together(value, tensors):
    """The other way round."""
    if isinstance(value, dict):
        if "$tensor" in value:
            return tensors[value["$tensor"]]
        if "$pairs" in value:
            return {k: together(v, tensors) for k, v in value["$pairs"]}
        return {k: together(v, tensors) for k, v in value.items()}
    return [together(v, tensors) for v in value] if isinstance(value, list) else value


# ---- is it the same run? ----------------------------------------


def fingerprint(model, data, settings, eval_data=None):
    """What must be equal for two runs to end alike."""
    methods = {name: repr(method) for name, method in model.__dict__.get("lowrank_methods", {}).items()}
    return {key: repr(value) for key, value in settings.items()} | {
        "adapters": repr(methods),
        "data": data_mark(data),
        "evaluation data": "none" if eval_data is None else data_mark(eval_data),
        "frozen weights": frozen_mark(model),
        "torch": torch.__version__,
        "transformers": _version("transformers"),
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "threads": str(torch.get_num_threads()),
        "device": next(model.parameters()).device.type,
        "processes": str(processes().num_processes),
    }


def _version(package):
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"


def frozen_mark(model):
    """16 digits of all weights and buffers that training does not change."""
    digest, changing = hashlib.sha256(), trained_state(model)
    for key, value in model.state_dict().items():
        if key not in changing:
            digest.update(key.encode())
            digest.update(whole(value.detach()).cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def data_mark(data):
    """16 digits of the examples, or what a stream reads."""
    if isinstance(data, Stream):
        if isinstance(data.source, str | Path):
            with open(data.source, "rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()[:16]
        else:
            content = getattr(data.source, "_fingerprint", "a dataset")  # what `datasets` knows its content by
        return f"{content} {data.max_length} {data.pack}"
    digest = hashlib.sha256()
    for example in data:
        for key in sorted(example):
            digest.update(example[key].contiguous().numpy())
    return digest.hexdigest()[:16]
