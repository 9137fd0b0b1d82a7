"""`make experiments`: run the scripts behind the book's long comparisons, one after the other.

    python book/tools/experiments.py          all of them, in the order of the chapters
    python book/tools/experiments.py ch04     only those whose name contains "ch04"

Each script writes its small result file under lowrank_edu/assets, with seed, versions and time. Pretraining is not
among them: `make pretrain`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def scripts(words: list[str]) -> list[Path]:
    found = sorted((ROOT / "book" / "experiments").glob("ch[0-9][0-9]_*.py"))
    chosen = [path for path in found if not words or any(word in path.stem for word in words)]
    if not chosen:
        raise SystemExit(f"no experiment matches {' '.join(words)}; there are: {', '.join(p.stem for p in found)}")
    return chosen


def main() -> int:
    failed = []
    for path in scripts(sys.argv[1:]):
        print(f"==> {path.stem}", flush=True)
        began = time.monotonic()
        quiet = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        if subprocess.run([sys.executable, str(path)], cwd=ROOT, env=quiet).returncode:
            failed.append(path.stem)
        print(f"    {time.monotonic() - began:.0f} s", flush=True)
    if failed:
        print(f"these did not finish: {', '.join(failed)}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
