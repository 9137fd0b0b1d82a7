"""Freed memory that stays with the process. By default glibc hands large pieces back to the system, which fills them
with zeros before it gives them out again, page by page. Whom that meets is luck of the moment, so a row that compares
products takes it away for all contenders."""

from __future__ import annotations

import ctypes
import sys

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # glibc's M_TRIM_THRESHOLD and M_MMAP_MAX


def keep_freed_memory() -> bool:
    """Let this process keep what it frees, up to 2 GB; False where the C library cannot be told."""
    tell = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform != "win32" else None
    return tell is not None and bool(tell(TRIM_THRESHOLD, 2**31 - 1)) and bool(tell(MMAP_MAX, 0))
