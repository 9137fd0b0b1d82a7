"""`lowrank plan`: memory of a training step for each method, and the cards on which it fits."""

from typing import Annotated

import typer

from .flags import JSON, say_json, table
from .methods import known_method, make_method, targets

HELP = "Plan the memory of a training step, method by method, from shapes alone; nothing is downloaded."
EXAMPLES = "Example: lowrank plan llama-7b --batch-size 1 --length 512 --quantize nf4 --checkpointing"
CARDS = {"T4": 16e9, "L4": 24e9, "A100 40GB": 40e9, "A100 80GB": 80e9}
SPARE = 0.9  # of a card: our allowance for the CUDA context, workspaces and fragments
MODEL = Annotated[str, typer.Argument(help="gpt2, llama-7b, gpt3-175b, … (an unknown name lists them all)")]
METHODS = Annotated[str, typer.Option(help="Comma-separated; 'none' trains all weights in place.")]
CARD = Annotated[float | None, typer.Option(min=0.1, help="Memory of your own card in GB (10⁹ bytes).")]


def run(
    model: MODEL, methods: METHODS = "none,lora,lora-fa,dora,vera,adalora,lamda,bitfit",
    r: Annotated[int, typer.Option(min=1, help="Rank, or width of a bottleneck.")] = 8,
    target_modules: Annotated[str, typer.Option(help="all-linear, or names with commas.")] = "all-linear",
    batch_size: Annotated[int, typer.Option(min=1, help="Rows.")] = 1,
    length: Annotated[int, typer.Option(min=2, help="Tokens in a row.")] = 512,
    precision: Annotated[str, typer.Option(help="Of the frozen weights: fp32, bf16, fp16, mixed.")] = "bf16",
    quantize: Annotated[str | None, typer.Option(help="nf4, fp4, int4 or int8 for the linear layers.")] = None,
    optimizer: Annotated[str, typer.Option(help="adamw, adamw8, sgd, …")] = "adamw",
    checkpointing: Annotated[bool, typer.Option(help="Keep the inputs of blocks only.")] = False,
    shards: Annotated[int, typer.Option(min=1, help="Processes that share the frozen weights (--shard).")] = 1,
    memory: CARD = None, as_json: JSON = False,
):  # fmt: skip
    names = [name.strip() for name in methods.split(",")]
    for name in names:
        if name != "none":
            known_method(name)
    made = {name: None if name == "none" else make_method(name, r, None, targets(target_modules)) for name in names}
    from ..architectures import configuration
    from ..memory import plan

    configuration(model)  # an unknown name is one error, not one for each method

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
    rows = [
        (
            "all weights" if name == "none" else name, f"{p.trainable / 1e6:,.2f}",
            *(f"{n / 1e9:.2f}" for n in (p.parameters, p.gradients, p.optimizer)),
            *(f"{n / 1e9:.2f}" for n in (p.activations + p.recomputed, p.total)),
            f"{fits[name][0]} up" if fits[name] else "none",
        )
        for name, p in plans.items()
    ]  # fmt: skip
    headings = ("trained, M", "weights", "gradients", "optimizer", "activations", "total")
    columns = [("method", "left"), *((heading, "right") for heading in headings), ("fits on", "left")]
    table(f"{model}, {batch_size} × {length} tokens, {quantize or precision}; GB", columns, rows)
    print(f"A plan fits when it takes at most {SPARE:.0%} of a card; the rest is our allowance, not a measurement.")
    for name, why in refused.items():
        print(f"{name}: {why}")
