"""Where the small data files are that come with the package: trained adapters, and results of long runs.

`book/experiments/` makes them (`make experiments`); a chapter reads them and so runs in seconds everywhere.
"""

import json
from pathlib import Path

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


def _entry(folder, name, ending):
    path = folder / f"{name}{ending}"
    if not path.exists():
        there = sorted(p.name.removesuffix(ending) for p in folder.glob(f"*{ending}"))
        raise ValueError(
            f"nothing named {name!r} is shipped in {folder.name}; there are: {', '.join(there)}. "
            "Its script in book/experiments makes it: make experiments"
        )
    return path
