"""`lowrank convert`: one format of adapter folders into another."""

from pathlib import Path
from typing import Annotated

import typer

from .bases import chosen
from .flags import BASE, JSON, adapter_folder, new_folder, say_json

HELP = "Write an adapter in another format: PEFT's, as the plain LoRA that it equals, or ours."
EXAMPLES = "Example: lowrank convert my-pissa --to peft --out my-lora"
FOLDER = Annotated[Path, typer.Argument(help="The folder of the adapter.", callback=adapter_folder)]
OUT = Annotated[Path, typer.Option(help="A new folder for the converted adapter.", callback=new_folder)]
TO = Annotated[str, typer.Option(help="peft or own.")]


def run(folder: FOLDER, out: OUT, to: TO = "peft", model: BASE = None, as_json: JSON = False):
    if to not in ("peft", "own"):
        raise typer.BadParameter(f"--to {to}: peft or own.")
    name = chosen(model, [folder])
    from .. import checkpoint, inspecting, models

    base, _ = models.load_model(name)
    checkpoint.load_adapter(base, folder, trainable=False)
    checkpoint.save_adapter(base, out, format=to)
    found = inspecting.inspect_adapter(out)
    if as_json:
        say_json({"out": out, "format": found.format, "method": found.method, "numbers": found.numbers})
    else:
        print(f"{out} holds {found.method} in {found.format} format, {found.numbers:,} numbers.")
