"""`lowrank plan`: memory of a training step for each method, and the cards on which it fits."""

from pathlib import Path
from typing import Annotated

import typer

from .bases import base_of
from .flags import DATA, JSON, MEMORY, METHOD, TRAINING, flag, say_json, table
from .methods import known_method, make_method, targets

HELP = "Plan the memory of a training step, method by method, from shapes alone."
EXAMPLES = "Example: lowrank plan llama-3.1-8b --length 512 --quantize nf4 --checkpointing"
CARDS = {"T4": 16e9, "L4": 24e9, "A100 40GB": 40e9, "A100 80GB": 80e9}
SPARE = 0.9  # of a card: our allowance for the CUDA context, workspaces and fragments
USUAL = "none,lora,lora-fa,dora,vera,adalora,lamda,bitfit"
NAME = "A name (an unknown one lists all names), owner/name on the hub, or a folder with a config.json."
MODEL = Annotated[str | None, typer.Argument(metavar="MODEL", help=NAME)]
FLAG = Annotated[str | None, flag(DATA, "--model", metavar="NAME", help="The same as MODEL.")]


def run(
    model: MODEL = None, same: FLAG = None,
    batch_size: Annotated[int, flag(DATA, min=1, metavar="N", help="Rows.")] = 1,
    length: Annotated[int | None, flag(DATA, min=2, metavar="N", help="Tokens in a row; default: 512 at most.")] = None,
    methods: Annotated[str, flag(
        METHOD, metavar="NAMES", show_default=False, help="With commas; none trains all weights in place.")] = USUAL,
    r: Annotated[int, flag(METHOD, min=1, metavar="N", help="Rank, or width of a bottleneck.")] = 8,
    target_modules: Annotated[str, flag(
        METHOD, metavar="NAMES", help="all-linear, or names with commas.")] = "all-linear",
    optimizer: Annotated[str, flag(TRAINING, metavar="NAME", help="adamw, adamw8, sgd and others.")] = "adamw",
    precision: Annotated[str, flag(MEMORY, metavar="NAME", help="fp32, bf16, fp16 or mixed.")] = "bf16",
    quantize: Annotated[str | None, flag(MEMORY, metavar="NAME", help="nf4, fp4, int4 or int8 linear layers.")] = None,
    checkpointing: Annotated[bool, flag(MEMORY, "--checkpointing", help="Keep the inputs of blocks only.")] = False,
    shards: Annotated[int, flag(MEMORY, min=1, metavar="N", help="Processes that share frozen weights.")] = 1,
    memory: Annotated[float | None, flag(MEMORY, min=0.1, metavar="GB", help="Of your own card, in 10⁹ bytes.")] = None,
    as_json: JSON = False,
):  # fmt: skip
    if model and same and model != same:
        raise typer.BadParameter(f"the model is {model} and --model is {same}: name one.")
    model = model or same
    if model is None:
        raise typer.BadParameter("name a model: lowrank plan gpt2")
    if any((Path(model) / f"{kind}_config.json").is_file() for kind in ("adapter", "lowrank")):
        base = base_of(Path(model)) or "its model"
        raise typer.BadParameter(f"{model} is an adapter, and a plan is of a model: lowrank plan {base}")
    names = [name.strip() for name in methods.split(",")]
    for name in names:
        if name != "none":
            known_method(name)
    made = {name: None if name == "none" else make_method(name, r, None, targets(target_modules)) for name in names}
    from ..architectures import configuration
    from ..memory import plan

    sees = getattr(configuration(model), "max_position_embeddings", 512)  # an unknown name is one error, not many
    length = length or min(512, sees)

    cards = CARDS if memory is None else {f"{memory:g} GB": memory * 1e9}
    settings = {"batch": batch_size, "length": length, "precision": precision, "optimizer": optimizer}
    settings |= {"quantize": quantize, "checkpointing": checkpointing, "shards": shards}
    plans, refused = {}, {}
    for name, method in made.items():
        try:
            everything = name in ("none", "full", "lisa")  # what is trained is neither packed nor spread
            own = {"quantize": None, "shards": 1} if everything else {}
            plans[name] = plan(model, method, **settings | own)
        except (ValueError, NotImplementedError) as error:
            if len(made) == 1:
                raise
            refused[name] = str(error)
    fits = {name: [card for card, room in cards.items() if p.total <= SPARE * room] for name, p in plans.items()}
    if as_json:
        parts = ("parameters", "gradients", "optimizer", "activations", "recomputed", "total", "trainable")
        rows = {n: {part: getattr(p, part) for part in parts} | {"fits": fits[n]} for n, p in plans.items()}
        say_json({"model": model, **settings, "r": r, "methods": rows, "refused": refused})
        return
    unit, called = (1e9, "GB (10⁹ bytes)") if max(p.total for p in plans.values()) > 1e8 else (1e6, "MB (10⁶ bytes)")
    rows = [
        (
            "all weights" if name == "none" else name, f"{p.trainable / 1e6:,.2f}",
            *(f"{n / unit:.2f}" for n in (p.parameters, p.gradients, p.optimizer)),
            *(f"{n / unit:.2f}" for n in (p.activations + p.recomputed, p.total)),
            f"{fits[name][0]} up" if fits[name] else "none",
        )
        for name, p in plans.items()
    ]  # fmt: skip
    headings = ("trained M", "weights", "grads", "optim", "activ", "total")
    columns = [("method", "left"), *((heading, "right") for heading in headings), ("fits on", "left")]
    table(f"{model}, {batch_size} × {length} tokens, {quantize or precision}; {called}", columns, rows)
    print(f"A plan fits when it takes at most {SPARE:.0%} of a card; the rest is our allowance, not a measurement.")
    for name, why in refused.items():
        print(f"{name}: {why}")
