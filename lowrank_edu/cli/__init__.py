"""The `lowrank` command: finetune, merge, inspect, plan, generate, convert.

One module a command. Nothing heavy is imported before all flags have been read, so a typing error costs no time.
Exit codes: 0 done, 1 it did not work (the message says why), 2 a wrong flag, 130 stopped with Ctrl-C.
"""

from .app import app, main

__all__ = ["app", "main"]
