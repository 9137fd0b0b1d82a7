"""`lowrank finetune`: your data, your adapter. The same command again goes on where it was stopped."""

import os
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from .flags import JSON, MODEL, SEED, known_model, new_folder, say_json
from .methods import known_method, make_method, targets

HELP = "Train an adapter on a .txt, .md, .jsonl or .csv file. Run the same command again to resume after a stop."
EXAMPLES = "Example: lowrank finetune --model gpt2 --data my.jsonl --method lora --r 8 --steps 500 --out my-adapter"
FILE = Annotated[Path, typer.Option(help='.jsonl or .csv with "text" or "prompt" and "completion"; .txt, .md.')]
OUT = Annotated[Path, typer.Option(help="A new folder for the adapter.", callback=new_folder)]
CHECKPOINTS = Annotated[Path | None, typer.Option(help="Folder of the checkpoints; default: <out>.checkpoints")]
RANK = Annotated[  # torchrun takes --r for an abbreviation of its own flags
    int, typer.Option("--r", "--rank", min=1, help="Rank, or width of a bottleneck, or length of a prefix.")
]
PRECISIONS, SCHEDULES = ("auto", "fp32", "bf16", "fp16"), ("constant", "linear", "cosine")


def run(
    data: FILE, out: OUT, model: MODEL = "tiny-gpt2",
    method: Annotated[str, typer.Option(help="lora, dora, pissa, vera, adalora, lamda, …")] = "lora",
    r: RANK = 8,
    alpha: Annotated[float | None, typer.Option(help="Scale is alpha / r; default 2 r.")] = None,
    target_modules: Annotated[str, typer.Option(help="all-linear, or names with commas.")] = "all-linear",
    dropout: Annotated[float, typer.Option(min=0.0, max=0.99)] = 0.0,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimizer steps; or give --epochs.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1)] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows of one forward pass on each device.")] = 8,
    accumulate: Annotated[int, typer.Option(min=1, help="Forward passes in a step.")] = 1,
    lr: Annotated[float, typer.Option(help="Learning rate; adapters usually want 1e-4 to 1e-2.")] = 1e-3,
    schedule: Annotated[str, typer.Option(help="constant, linear or cosine.")] = "linear",
    warmup_steps: Annotated[int, typer.Option(min=0)] = 0,
    weight_decay: Annotated[float, typer.Option(min=0.0)] = 0.0,
    max_grad_norm: Annotated[float | None, typer.Option(help="Clip gradients at this norm.")] = None,
    label_smoothing: Annotated[float, typer.Option(min=0.0, max=0.99)] = 0.0,
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")] = "auto",
    gradient_checkpointing: Annotated[bool, typer.Option(help="Less memory, a third more time.")] = False,
    quantize: Annotated[str | None, typer.Option(help="nf4, fp4, int4 or int8 for the frozen layers.")] = None,
    max_length: Annotated[int | None, typer.Option(min=2, help="Most tokens of an example.")] = None,
    pack: Annotated[bool, typer.Option(help="Fill rows up to --max-length.")] = False,
    stream: Annotated[bool, typer.Option(help="Read the data while training; needs --steps.")] = False,
    eval_data: Annotated[Path | None, typer.Option(help="A file of the same kinds.")] = None,
    eval_every: Annotated[int | None, typer.Option(min=1, help="Steps between evaluations.")] = None,
    checkpoint_dir: CHECKPOINTS = None,
    checkpoint_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 50,
    plain: Annotated[bool, typer.Option(help="The book's plain path, not the fast one: equal to 1e-5.")] = False,
    shard: Annotated[bool, typer.Option(help="Spread the frozen weights over the processes of torchrun.")] = False,
    tensorboard: Annotated[Path | None, typer.Option(help="Folder for TensorBoard curves.")] = None,
    seed: SEED = 0, as_json: JSON = False,
):  # fmt: skip
    if (steps is None) == (epochs is None):
        raise typer.BadParameter("give --steps or --epochs, one of them.")
    if stream and steps is None:
        raise typer.BadParameter("--stream has no end to count epochs by: give --steps.")
    for flag, value, allowed in (("precision", precision, PRECISIONS), ("schedule", schedule, SCHEDULES)):
        if value not in allowed:
            raise typer.BadParameter(f"--{flag} {value}: one of {', '.join(allowed)}.")
    if not lr > 0:
        raise typer.BadParameter(f"--lr {lr}: a learning rate is > 0.")
    if pack and max_length is None:
        raise typer.BadParameter("--pack fills rows up to --max-length: give it.")
    known_model(model)
    known_method(method)
    row = make_method(method, r, alpha, targets(target_modules), dropout)
    _readable(data, eval_data)

    from .. import adapting, checkpoint, models, processes, training
    from ..data import Stream, read_data

    base, tok = models.load_model(model)
    shape = {"max_length": max_length or getattr(base.config, "max_position_embeddings", None), "pack": pack}
    examples = Stream(data, tok, **shape) if stream else read_data(data, tok, **shape)
    report = adapting.adapt(base, row, seed=seed, quantize=quantize)
    sharded = shard or os.environ.get("ACCELERATE_USE_FSDP") == "true"
    if sharded:
        processes.shard(base)
    kept = checkpoint_dir or out.with_name(out.name + ".checkpoints")
    settings = {
        "steps": steps, "epochs": epochs, "batch_size": batch_size, "accumulate": accumulate, "lr": lr, "seed": seed,
        "schedule": schedule, "warmup_steps": warmup_steps, "weight_decay": weight_decay,
        "max_grad_norm": max_grad_norm, "label_smoothing": label_smoothing, "precision": precision,
        "gradient_checkpointing": gradient_checkpointing,
        "eval_data": None if eval_data is None else read_data(eval_data, tok, max_length=shape["max_length"]),
        "eval_every": eval_every, "checkpoint_dir": kept, "checkpoint_every": checkpoint_every,
        "tensorboard": tensorboard, "progress": not as_json, "fast": not (plain or sharded),
    }  # fmt: skip
    first = processes.processes().is_main_process
    try:
        history = training.train(base, examples, **settings)
    except KeyboardInterrupt as stop:  # typer would say no more than "Aborted"
        if first:
            print(stop, file=sys.stderr)
        raise typer.Exit(130) from None
    if not first:
        return
    checkpoint.save_adapter(base, out)
    history.to_csv(out / "history.csv")
    if checkpoint_dir is None:
        shutil.rmtree(kept, ignore_errors=True)  # the adapter is there: nothing is left to resume
    told = {"out": out, "trained": report.trainable, "total": report.total, "steps": len(history.step)}
    told |= {"loss": history.loss[-1], "eval_loss": history.eval_loss[-1] if history.eval_loss else None}
    if as_json:
        say_json(told)
    else:
        after = "" if told["eval_loss"] is None else f", held out {told['eval_loss']:.4f}"
        print(f"{out}: {report.trainable:,} numbers after {told['steps']} steps; loss {told['loss']:.4f}{after}.")


def _readable(*files):
    """Every line of the files can be used; ValueError names the first that cannot."""
    from ..records import read_records

    for file in files:
        if file is not None and sum(1 for _ in read_records(file)) == 0:
            raise ValueError(f"{file} holds no record.")

