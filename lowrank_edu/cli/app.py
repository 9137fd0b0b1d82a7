"""The application that the commands hang on, and what a failure looks like."""

import os
import sys

import typer

from . import convert, finetune, generate, inspect, merge, plan

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="LoRA and its relatives from the command line: train an adapter, look at it, merge it, plan its memory.",
)
for command in (finetune, merge, inspect, plan, generate, convert):
    name = command.__name__.rpartition(".")[2]
    app.command(name, help=command.HELP, epilog=command.EXAMPLES)(command.run)


def main():
    """Run the command line; an error that has a message prints the message, not a traceback.

    LOWRANK_TRACEBACK=1 in the environment shows the traceback as well.
    """
    try:
        app()
    except (ValueError, RuntimeError, OSError, FloatingPointError) as error:
        if os.environ.get("LOWRANK_TRACEBACK"):
            raise
        if os.environ.get("RANK", "0") == "0":  # of several processes one speaks
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    finally:
        _part()


def _part():
    """Leave the group of processes, if there is one, so that none of them waits for another."""
    if "torch" in sys.modules and os.environ.get("WORLD_SIZE", "1") != "1":
        from torch import distributed

        if distributed.is_initialized():
            distributed.destroy_process_group()
