"""Flags that several commands share, how they are checked, and the two ways of printing."""

import json
from pathlib import Path
from typing import Annotated

import typer

JSON = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]
MODEL = Annotated[
    str,
    typer.Option(help="tiny-gpt2, gpt2, gpt2-medium, …, smollm2-135m, or a folder that transformers can load."),
]
SEED = Annotated[int, typer.Option(min=0, help="Seed of everything random.")]


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
    """A name that load_model knows, or a folder with a model; the model itself is not touched."""
    from ..models import NAMES

    if name not in NAMES and not (Path(name) / "config.json").is_file():
        raise typer.BadParameter(f"{name} is none of {', '.join(NAMES)}, and no folder with a config.json.")
    return name


def say_json(value):
    """Print one JSON object: paths and tuples as text and lists, no NaN."""
    print(json.dumps(value, indent=2, default=str, allow_nan=False))


def table(title, columns, rows):
    """Print a table; a column is (heading, "left" or "right")."""
    from rich.console import Console
    from rich.table import Table

    shown = Table(title=title, title_justify="left")
    for heading, side in columns:
        shown.add_column(heading, justify=side, overflow="fold")
    for row in rows:
        shown.add_row(*map(str, row))
    Console().print(shown)
