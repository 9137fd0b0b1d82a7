"""Freed memory that stays with the process. By default glibc hands large pieces back to the system, which fills them
with zeros before it gives them out again, page by page. Whom that meets is luck of the moment, so a row that compares
products takes it away for all contenders."""

from __future__ import annotations

import ctypes
import sys

from models import FULL, Size
from row import NotRun, Row

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # glibc's M_TRIM_THRESHOLD and M_MMAP_MAX


def keep_freed_memory() -> bool:
    """Let this process keep what it frees, up to 2 GB; False where the C library cannot be told."""
    tell = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform != "win32" else None
    return tell is not None and bool(tell(TRIM_THRESHOLD, 2**31 - 1)) and bool(tell(MMAP_MAX, 0))


def in_kept_memory(size: Size, make, title: str, note="", without=False) -> Row:
    """The row that `make` makes, for a process that keeps what it frees. A trial leaves its process alone.

    Where the C library cannot be told, the row is not run, or, `without`, run with memory as it comes; it says so.
    """
    told = size.d < FULL.d or keep_freed_memory()
    row = make(size)
    row.title, row.note = title, note or "what the row above is where no contender has to fetch freed memory again."
    if not told and without:
        row.note = "This C library has no mallopt: memory as it comes."
    elif not told:
        row.works["ours"] = NotRun("this C library has no mallopt")
    return row
