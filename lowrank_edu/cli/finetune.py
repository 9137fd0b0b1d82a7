"""`lowrank finetune`: your data, your adapter. The same command again goes on where it was stopped."""

import os
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from .flags import DATA, JSON, MEMORY, METHOD, MODEL, OUTPUT, SEED, TRAINING, flag, known_model, new_folder, say_json
from .methods import NAMES, known_method, make_method, targets
from .unseen import warn_of_unseen

HELP = "Train an adapter on your own text. The same command again goes on where it was stopped."
EXAMPLES = "Example: lowrank finetune --model gpt2 --data my.jsonl --r 8 --steps 500 --out my-adapter"
PRECISIONS, SCHEDULES = ("auto", "fp32", "bf16", "fp16"), ("constant", "linear", "cosine")
FILE = Annotated[Path, flag(DATA, metavar="FILE", help=".jsonl, .json, .csv, .txt or .md: text, prompts, chats.")]
OUT = Annotated[Path, flag(OUTPUT, metavar="FOLDER", help="A new folder for the adapter.", callback=new_folder)]
RANK = Annotated[  # torchrun takes --r for an abbreviation of its own flags
    int, flag(METHOD, "--r", "--rank", min=1, metavar="N", help="Rank, or width of a bottleneck, or prefix length.")
]
Whole = int | None


def run(
    data: FILE, out: OUT, model: MODEL = "tiny-gpt2",
    max_length: Annotated[Whole, flag(DATA, min=2, metavar="N", help="Most tokens of an example.")] = None,
    pack: Annotated[bool, flag(DATA, "--pack", help="Fill rows up to --max-length.")] = False,
    stream: Annotated[bool, flag(DATA, "--stream", help="Read while training; needs --steps.")] = False,
    eval_data: Annotated[Path | None, flag(DATA, metavar="FILE", help="Held-out text of the same kinds.")] = None,
    method: Annotated[str, flag(METHOD, metavar="NAME", help=f"One of {', '.join(NAMES)}.")] = "lora",
    r: RANK = 8,
    alpha: Annotated[float | None, flag(METHOD, metavar="X", help="The scale is alpha / r; default: 2 r.")] = None,
    target_modules: Annotated[str, flag(
        METHOD, metavar="NAMES", help="all-linear, or names with commas.")] = "all-linear",
    dropout: Annotated[float, flag(METHOD, min=0.0, max=0.99, metavar="X", help="Of the adapter's input.")] = 0.0,
    steps: Annotated[Whole, flag(TRAINING, min=1, metavar="N", help="Optimizer steps; or give --epochs.")] = None,
    epochs: Annotated[Whole, flag(TRAINING, min=1, metavar="N", help="Passes over the data.")] = None,
    batch_size: Annotated[int, flag(TRAINING, min=1, metavar="N", help="Rows of a forward pass, per device.")] = 8,
    accumulate: Annotated[int, flag(TRAINING, min=1, metavar="N", help="Forward passes in a step.")] = 1,
    lr: Annotated[float, flag(TRAINING, metavar="X", help="Learning rate; adapters usually want 1e-4 to 1e-2.")] = 1e-3,
    schedule: Annotated[str, flag(TRAINING, metavar="NAME", help="constant, linear or cosine rate.")] = "linear",
    warmup_steps: Annotated[int, flag(TRAINING, min=0, metavar="N", help="Steps in which the rate rises.")] = 0,
    weight_decay: Annotated[float, flag(TRAINING, min=0.0, metavar="X", help="AdamW's.")] = 0.0,
    max_grad_norm: Annotated[float | None, flag(TRAINING, metavar="X", help="Clip gradients at this norm.")] = None,
    label_smoothing: Annotated[float, flag(TRAINING, min=0.0, max=0.99, metavar="X", help="0 is none.")] = 0.0,
    eval_every: Annotated[Whole, flag(TRAINING, min=1, metavar="N", help="Steps between evaluations.")] = None,
    seed: SEED = 0,
    precision: Annotated[str, flag(MEMORY, metavar="NAME", help="auto, fp32, bf16 or fp16.")] = "auto",
    quantize: Annotated[str | None, flag(
        MEMORY, metavar="NAME", help="nf4, fp4, int4 or int8 for the frozen layers.")] = None,
    gradient_checkpointing: Annotated[bool, flag(
        MEMORY, "--gradient-checkpointing", help="Less memory, a third more time.")] = False,
    shard: Annotated[bool, flag(MEMORY, "--shard", help="Spread frozen weights over torchrun's processes.")] = False,
    plain: Annotated[bool, flag(MEMORY, "--plain", help="The book's plain path, not the fast one.")] = False,
    checkpoint_dir: Annotated[Path | None, flag(
        OUTPUT, metavar="FOLDER", help="For checkpoints; default: OUT.checkpoints")] = None,
    checkpoint_every: Annotated[int, flag(OUTPUT, min=1, metavar="N", help="Steps between checkpoints.")] = 50,
    tensorboard: Annotated[Path | None, flag(OUTPUT, metavar="FOLDER", help="For TensorBoard's curves.")] = None,
    as_json: JSON = False,
):  # fmt: skip
    if (steps is None) == (epochs is None):
        raise typer.BadParameter("give --steps or --epochs, one of them.")
    if stream and steps is None:
        raise typer.BadParameter("--stream has no end to count epochs by: give --steps.")
    for name, value, allowed in (("precision", precision, PRECISIONS), ("schedule", schedule, SCHEDULES)):
        if value not in allowed:
            raise typer.BadParameter(f"--{name} {value}: one of {', '.join(allowed)}.")
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
    if model == "tiny-gpt2" and not stream:
        warn_of_unseen(examples)
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
        print(f"Try it: lowrank generate --adapter {out}")


def _readable(*files):
    """Every line of the files can be used; ValueError names the first that cannot."""
    from ..records import read_records

    for file in files:
        if file is not None and sum(1 for _ in read_records(file)) == 0:
            raise ValueError(f"{file} holds no record.")

