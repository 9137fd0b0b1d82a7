"""Where the small data files are that come with the package: trained adapters, and results of long runs.

`book/experiments/` makes them (`make experiments`); a chapter reads them and so runs in seconds everywhere.
"""

import json
from pathlib import Path

import numpy as np

ASSETS = Path(__file__).parent / "assets"


def adapter(name):
    """Folder of a shipped adapter, in PEFT's format: lo.load_adapter(model, shipped.adapter("pirate"), …)."""
    return _entry(ASSETS / "adapters", name, "")


def results(name):
    """The results of one experiment: a dict, as it was written."""
    return json.loads(_entry(ASSETS / "results", name, ".json").read_text(encoding="utf-8"))


def questions(chapter):
    """The questions of a chapter's quiz, as `figures.quiz` takes them: questions("ch01")."""
    return json.loads(_entry(ASSETS / "quizzes", chapter, ".json").read_text(encoding="utf-8"))


def weight(name):
    """A parameter of the book's tiny GPT-2 as a float64 array, read without torch.

    name: as in `model.named_parameters()`, such as "transformer.h.2.mlp.c_fc.weight", which Conv1D stores transposed,
    (d_in, d_out).

    ValueError: the model has no such parameter; the message lists those of the same kind.
    """
    with (ASSETS / "tiny-gpt2" / "model.safetensors").open("rb") as file:
        size = int.from_bytes(file.read(8), "little")  # the format: size of the index, index, numbers
        index = json.loads(file.read(size))
        if name not in index or name == "__metadata__":
            kind = str(name).rsplit(".", 1)[-1]
            there = [known for known in index if known.rsplit(".", 1)[-1] == kind] or [*index][1:]
            raise ValueError(f"tiny-gpt2 has no parameter {name!r}; there are: {', '.join(there)}.")
        entry = index[name]
        start, stop = entry["data_offsets"]
        file.seek(8 + size + start)
        numbers = np.frombuffer(file.read(stop - start), {"F16": "<f2", "F32": "<f4"}[entry["dtype"]])
    return numbers.reshape(entry["shape"]).astype(np.float64)


def _entry(folder, name, ending):
    path = folder / f"{name}{ending}"
    if not path.exists():
        there = sorted(p.name.removesuffix(ending) for p in folder.glob(f"*{ending}"))
        raise ValueError(
            f"nothing named {name!r} is shipped in {folder.name}; there are: {', '.join(there)}. "
            "Its script in book/experiments makes it: make experiments"
        )
    return path
