"""`lowrank inspect`: what an adapter folder holds."""

from pathlib import Path
from typing import Annotated

import typer

from .flags import JSON, adapter_folder, say_json, table

HELP = "Look at an adapter folder, ours or PEFT's: modules, ranks, size of ΔW, warnings."
EXAMPLES = "Example: lowrank inspect my-adapter"
FOLDER = Annotated[Path, typer.Argument(help="The folder of the adapter.", callback=adapter_folder)]


def run(folder: FOLDER, as_json: JSON = False):
    from ..inspecting import inspect_adapter

    found = inspect_adapter(folder)
    if as_json:
        say_json(found.as_dict())
        return
    prefix, short = shortened([module.path for module in found.modules])
    rows = [
        (
            name,
            "" if module.shape is None else "{} × {}".format(*module.shape),
            "" if module.rank is None else module.rank,
            f"{module.numbers:,}",
            "" if module.norm is None else f"{module.norm:.3g}",
            "" if module.spectrum is None else " ".join(f"{s:.2g}" for s in module.spectrum[:4]),
        )
        for name, module in zip(short, found.modules, strict=True)
    ]
    columns = [("module", "left"), ("d_out × d_in", "right"), ("rank", "right"), ("numbers", "right")]
    columns += [("‖ΔW‖", "right"), ("singular values", "left")]
    where = f"; modules below {prefix}" if prefix else ""
    base = found.base or "a model it does not name"
    table(f"{found.method} for {base}, {found.numbers:,} numbers{where}", columns, rows)
    print("settings:", ", ".join(f"{key}={value}" for key, value in found.settings.items() if key != "target_modules"))
    for warning in found.warnings:
        print("warning:", warning)


def shortened(paths: list[str]) -> tuple[str, list[str]]:
    """What all paths begin with, in whole parts, and the rest of each: ("transformer.h.", ["0.attn.c_attn", …])."""
    parts = [path.split(".") for path in paths]
    shared = 0
    while parts and all(len(p) > shared + 1 and p[shared] == parts[0][shared] for p in parts):
        shared += 1
    prefix = "".join(f"{part}." for part in parts[0][:shared]) if parts else ""
    return prefix, [path.removeprefix(prefix) for path in paths]
