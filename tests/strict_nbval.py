"""Run the chapters again and compare every output to the letter.

    python tests/strict_nbval.py                    all chapters
    python tests/strict_nbval.py chapters/ch01_rank.ipynb
    python tests/strict_nbval.py --old-processor    the same as an older processor would compute it

Two chapters run side by side, each in one process from its first cell to its last. A kernel that stalls is
given one more try; a difference is not.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Each library chooses its instructions by its own variable: all four, or little has changed.
OLD_PROCESSOR = {
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "MKL_CBWR": "COMPATIBLE",
    "OPENBLAS_CORETYPE": "Nehalem",
}
CELL_TIMEOUT, RUN_TIMEOUT = 300, 1200  # seconds
STALL = re.compile(r"Timeout of \d+ seconds exceeded|Kernel dead|Kernel died|the run timed out")


def run(
    paths: list[Path], environment: dict[str, str], python: str = sys.executable, quiet: bool = False
) -> int:
    """Strict nbval over `paths`, twice after a stall: pytest's exit code; prints what pytest says."""
    code, text = once(paths, environment, python)
    if code and STALL.search(text):
        print("a kernel stalled: one more try", flush=True)
        code, text = once(paths, environment, python)
    if code or not quiet:
        print(text, flush=True)
    return code


def once(paths: list[Path], environment: dict[str, str], python: str) -> tuple[int, str]:
    command = [
        *(python, "-m", "pytest", "-p", "tests.nbval_quiet", "--nbval", "-q", "-rf", "--color=no"),
        *("--nbval-cell-timeout", str(CELL_TIMEOUT), "--nbval-kernel-startup-timeout", "120"),
        *("-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(ROOT)),
        *(("-n", "2", "--dist", "loadfile") if len(paths) > 1 else ()),
        *map(str, paths),
    ]
    quiet = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    quiet["LOWRANK_PAGE"] = "1"  # the outputs of the page: no widgets, no file of a learner's progress
    quiet["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"  # the debugger of older kernels says a sentence at each start
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, **quiet, **environment},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=RUN_TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        return 124, "the run timed out"
    return done.returncode, done.stdout


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="*", type=Path)
    parser.add_argument("--old-processor", action="store_true")
    options = parser.parse_args()
    paths = options.paths or sorted((ROOT / "chapters").glob("*.ipynb"))
    if not paths:
        print("there is no chapter to run")
        return 1
    return run(paths, OLD_PROCESSOR if options.old_processor else {})


if __name__ == "__main__":
    sys.exit(main())
