"""What the experiments share: result files that belong to one model, and runs that can be stopped.

A script ends in `records.resume`, and can then be called in two ways:

    python book/experiments/ch04_scale_map.py            do what is missing; stops and resumes anywhere
    python book/experiments/ch04_scale_map.py --check    say what is missing, train nothing
"""

import argparse
import hashlib
import json
import platform
import time
from importlib.metadata import version

import torch

from lowrank_edu import shipped
from lowrank_edu.figures.page import rounded


def fingerprint(*settings):
    """16 digits that change with the tiny model, its tokenizer or the settings: results of two are never mixed."""
    digest = hashlib.sha256(repr(settings).encode())
    folder = shipped.ASSETS / "tiny-gpt2"
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("tokenizer.json")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def versions(*packages):
    """{"python": …, package: …}: what a result was made with."""
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


def load(name, empty):
    """The results so far; `empty` when there are none with its fingerprint."""
    path = shipped.ASSETS / "results" / f"{name}.json"
    found = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return found if found.get("fingerprint") == empty["fingerprint"] else empty | {"seconds": 0.0}


def save(name, results):
    """Write lowrank_edu/assets/results/<name>.json, whole or not at all; floats with 4 significant digits."""
    path = shipped.ASSETS / "results" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(lines(rounded(results)) + "\n", "utf-8")
    part.replace(path)


def lines(value):
    """JSON that breaks where a list or a dict is too long for a line; a row of numbers is never broken."""
    text = json.dumps(value, ensure_ascii=False)
    if len(text) <= 110 or not isinstance(value, list | dict):
        return text
    if isinstance(value, dict):
        return "{\n" + ",\n".join(f"{json.dumps(k, ensure_ascii=False)}: {lines(v)}" for k, v in value.items()) + "\n}"
    numbers = not any(isinstance(v, list | dict | str) for v in value)
    return text if numbers else "[\n" + ",\n".join(map(lines, value)) + "\n]"


def resume(doc, files, todo, perform):
    """Do what is missing and write the file after every run.  Returns 1 if --check finds something missing.

    files: {name: results}; todo: [(name, …)], a run each, or a function that lists them, asked after every run
    because one run may decide about the next; perform(files, name, …) adds to files[name] and may return a few words
    to print.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="say what is missing, train nothing")
    check = parser.parse_args().check
    torch.set_num_threads(1)
    spent = sum(results["seconds"] for results in files.values()) / 60
    left, n = todo() if callable(todo) else list(todo), 0
    print(f"{len(left)} runs to do; {spent:.1f} minutes spent so far.", flush=True)
    if check:
        for _, *run in left if callable(todo) else ():
            print("missing:", *run)
        return int(bool(left))
    while left:
        n, (name, *run) = n + 1, left[0]
        began = time.process_time()
        told = perform(files, name, *run)
        files[name]["seconds"] += time.process_time() - began
        save(name, files[name])
        left = todo() if callable(todo) else left[1:]
        print(f"{n}/{n + len(left)}", *run, *([told] if told else []), flush=True)
    return 0
