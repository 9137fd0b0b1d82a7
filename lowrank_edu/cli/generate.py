"""`lowrank generate`: the base model and its adapters, side by side."""

from pathlib import Path
from typing import Annotated

import typer

from .bases import chosen
from .flags import BASE, JSON, adapter_folder, say_json

HELP = "Continue a prompt with the base model and with each adapter."
EXAMPLES = 'Example: lowrank generate --adapter pirate --adapter poet --prompt "The ship"'
ADAPTERS = Annotated[
    list[Path] | None, typer.Option("--adapter", metavar="FOLDER", help="Of an adapter; may be repeated.")
]
PROMPT = Annotated[str, typer.Option(metavar="TEXT", help="Text to continue; empty: from the beginning.")]
NUMBER = Annotated[int, typer.Option("-n", min=1, metavar="N", help="How many continuations of each.")]
LENGTH = Annotated[int, typer.Option(min=1, metavar="N", help="Most new tokens.")]
HEAT = Annotated[float, typer.Option(min=0.0, metavar="X", help="0 takes the most likely token each time.")]

DRAWN = Annotated[int, typer.Option("--seed", min=0, metavar="N", help="Of the random draws.")]


def run(
    model: BASE = None, adapter: ADAPTERS = None, prompt: PROMPT = "", n: NUMBER = 1,
    max_new_tokens: LENGTH = 80, temperature: HEAT = 1.0, seed: DRAWN = 0, as_json: JSON = False,
):  # fmt: skip
    folders = [adapter_folder(folder) for folder in adapter or []]
    name = chosen(model, folders)
    from .. import checkpoint, models, switching, training

    base, tok = models.load_model(name)
    for number, folder in enumerate(folders):
        checkpoint.load_adapter(base, folder, f"adapter{number}", trainable=False)
    how = {"n": n, "max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
    with switching.disabled(base):
        told = {"base" if folders else name: training.sample(base, tok, prompt, **how)}
    for number, folder in enumerate(folders):
        switching.set_adapter(base, f"adapter{number}")
        told[str(folder)] = training.sample(base, tok, prompt, **how)
    if as_json:
        say_json({"model": name, "prompt": prompt, "seed": seed, "texts": told})
        return
    for who, texts in told.items():
        for text in texts:
            print(f"[{who}] {text}")
