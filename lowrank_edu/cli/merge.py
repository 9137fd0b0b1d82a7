"""`lowrank merge`: an adapter baked into its model."""

from pathlib import Path
from typing import Annotated

import typer

from .bases import chosen
from .flags import BASE, JSON, adapter_folder, new_folder, say_json

HELP = "Bake an adapter into its model and write a full model that transformers loads."
EXAMPLES = "Example: lowrank merge my-adapter --out my-model"
FOLDER = Annotated[Path, typer.Argument(help="The folder of the adapter.", callback=adapter_folder)]
OUT = Annotated[Path, typer.Option(help="A new folder for the merged model.", callback=new_folder)]


def run(folder: FOLDER, out: OUT, model: BASE = None, as_json: JSON = False):
    name = chosen(model, [folder])
    import os
    import shutil

    from .. import adapting, checkpoint, models, switching

    base, tok = models.load_model(name)
    checkpoint.load_adapter(base, folder, trainable=False)
    layers = len(adapting.adapted_layers(base))
    switching.merge(base, keep_base=False)
    switching.unwrap(base)
    aside = out.with_name(out.name + ".partial")  # all or nothing: a full disk leaves no half of a model
    shutil.rmtree(aside, ignore_errors=True)
    try:
        base.save_pretrained(aside)
        tok.save_pretrained(aside)
        if out.is_dir():
            out.rmdir()
        os.replace(aside, out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    size = sum(path.stat().st_size for path in out.iterdir())
    if as_json:
        say_json({"out": out, "layers": layers, "bytes": size})
    else:
        print(f"{layers} layers merged; {out} holds a full model of {size / 1e6:.1f} MB.")
