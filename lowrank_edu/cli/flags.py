"""Flags that several commands share, how they are checked, and the ways of printing."""

import json
from pathlib import Path
from typing import Annotated

import typer

from .bases import is_model

DATA, METHOD, TRAINING, MEMORY, OUTPUT = (
    "The data and the model",
    "The method",
    "Training",
    "Memory and speed",
    "What is written",
)


def flag(panel, *names, help, **more):
    """A flag in one of the help's panels. A truth value with its one name given has no --no-… beside it."""
    return typer.Option(*names, help=help, rich_help_panel=panel, **more)


JSON = Annotated[bool, flag(OUTPUT, "--json", help="Print one JSON object.")]
MODELS = "tiny-gpt2, gpt2 to gpt2-xl, smollm2-135m, owner/name on the hub, or a folder."
MODEL = Annotated[str, flag(DATA, metavar="NAME", help=MODELS)]
BASE = Annotated[
    str | None, typer.Option("--model", metavar="NAME", help="Default: the base that the adapter names.")
]
SEED = Annotated[int, flag(TRAINING, min=0, metavar="N", help="Of everything random.")]


def adapter_folder(path: Path):
    """The folder of an adapter, or a wrong flag."""
    if not any((path / f"{kind}_config.json").is_file() for kind in ("adapter", "lowrank")):
        raise typer.BadParameter(f"{path} holds no adapter: no adapter_config.json and no lowrank_config.json.")
    return path


def new_folder(path: Path):
    """A folder to write to: absent, or empty."""
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise typer.BadParameter(f"{path} exists and is not empty; name a new folder.")
    return path


def known_model(name: str):
    """A name that load_model can try; the model itself is not touched."""
    from ..models import NAMES

    if not is_model(name):
        raise typer.BadParameter(
            f"{name} is none of {', '.join(NAMES)}, no owner/name on the hub, and no folder with a config.json."
        )
    return name


def say_json(value):
    """Print one JSON object: paths and tuples as text and lists, no NaN."""
    print(json.dumps(value, indent=2, default=str, allow_nan=False))


def table(title, columns, rows):
    """Print a table; a column is (heading, "left" or "right")."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    shown = Table(title=title, title_justify="left", padding=0, pad_edge=False, box=SIMPLE_HEAD)
    for heading, side in columns:
        shown.add_column(heading, justify=side, overflow="fold")
    for row in rows:
        shown.add_row(*map(str, row))
    Console().print(shown)
