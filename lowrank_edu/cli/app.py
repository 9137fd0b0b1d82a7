"""The application that the commands hang on, and what a failure looks like."""

import os
import sys
from typing import Annotated

import typer

from .. import __version__
from . import convert, finetune, generate, inspect, merge, plan

HELP = """LoRA and its relatives from the command line.

Train an adapter, look at it, try it, bake it into its model, or plan its memory."""
EXAMPLE = """Example: lowrank finetune --data my.jsonl --steps 200 --out my-adapter

The book "Low-Rank" explains every method. Its source lies beside this package; `make serve` shows it."""
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
)
for command in (finetune, generate, inspect, merge, convert, plan):
    name = command.__name__.rpartition(".")[2]
    app.command(name, help=command.HELP, epilog=command.EXAMPLES)(command.run)


def _version(asked: bool):
    if asked:
        print(f"lowrank {__version__}")
        raise typer.Exit


@app.callback(help=HELP, epilog=EXAMPLE)
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which version this is.")
    ] = False,
):
    """The flags that stand before a command."""


def main():
    """Run the command line; an error that has a message prints the message, not a traceback.

    LOWRANK_TRACEBACK=1 in the environment shows the traceback as well.
    """
    try:
        app()
    except (ValueError, RuntimeError, OSError, FloatingPointError, NotImplementedError) as error:
        _fail(str(error))
    except Exception as error:  # nothing that we foresaw
        _fail(f"something unforeseen, {type(error).__name__}: {error}. LOWRANK_TRACEBACK=1 shows where it happened.")
    finally:
        _part()


def _fail(sentence: str):
    if os.environ.get("LOWRANK_TRACEBACK"):
        raise
    if os.environ.get("RANK", "0") == "0":  # of several processes one speaks
        print(f"lowrank: {sentence}", file=sys.stderr)
    raise SystemExit(1) from None


def _part():
    """Leave the group of processes, if there is one, so that none of them waits for another."""
    if "torch" in sys.modules and os.environ.get("WORLD_SIZE", "1") != "1":
        from torch import distributed

        if distributed.is_initialized():
            distributed.destroy_process_group()
