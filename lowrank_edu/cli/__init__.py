"""The `lowrank` command: finetune, merge, inspect, plan, generate, convert.

One module a command. Nothing heavy is imported before all flags have been read, so a typing error costs no time.
Exit codes: 0 done, 1 it did not work (the message says why), 2 a wrong flag, 130 stopped with Ctrl-C.
"""

import sys

__all__ = ["main"]


def main():
    """Run the command line. One sentence where the packages that draw it are not there."""
    try:
        from .app import main as run
    except ModuleNotFoundError as missing:
        if missing.name not in ("typer", "rich", "click"):
            raise
        print(f"lowrank needs {missing.name}, which is not installed: pip install typer rich", file=sys.stderr)
        raise SystemExit(1) from None
    run()
