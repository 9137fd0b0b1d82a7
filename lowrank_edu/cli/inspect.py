"""`lowrank inspect`: what an adapter folder holds."""

from pathlib import Path
from typing import Annotated

import typer

from .flags import JSON, adapter_folder, say_json, table

HELP = "Look at an adapter folder, ours or PEFT's: method, modules, ranks, size of ΔW, spectrum, warnings."
EXAMPLES = "Example: lowrank inspect my-adapter"
FOLDER = Annotated[Path, typer.Argument(help="The folder of the adapter.", callback=adapter_folder)]


def run(folder: FOLDER, as_json: JSON = False):
    from ..inspecting import inspect_adapter

    found = inspect_adapter(folder)
    if as_json:
        say_json(found.as_dict())
        return
    rows = [
        (
            module.path,
            "" if module.shape is None else "{} × {}".format(*module.shape),
            "" if module.rank is None else module.rank,
            f"{module.numbers:,}",
            "" if module.norm is None else f"{module.norm:.3g}",
            "" if module.spectrum is None else " ".join(f"{s:.2g}" for s in module.spectrum[:6]),
        )
        for module in found.modules
    ]
    columns = [("module", "left"), ("d_out × d_in", "right"), ("rank", "right"), ("numbers", "right")]
    columns += [("‖ΔW‖", "right"), ("largest singular values of ΔW", "left")]
    table(f"{found.method} for {found.base or 'a model it does not name'}, {found.numbers:,} numbers", columns, rows)
    print("settings:", ", ".join(f"{key}={value}" for key, value in found.settings.items() if key != "target_modules"))
    for warning in found.warnings:
        print("warning:", warning)
