"""`make lab`: a copy of the chapters to work in, trusted, in JupyterLab.

    python book/tools/my_chapters.py [folder]     copy and trust; then start JupyterLab there
    python book/tools/my_chapters.py --no-lab     copy and trust only

The copy lies in my-chapters/, which git ignores, so that working through the book changes no tracked file. What a
reader has changed there is never overwritten: a chapter that has changed in the book meanwhile is only named.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COPIED = ".copied.json"  # what each copy was made from, so that a reader's own changes are known
NO_NEWS = {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False}}


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def copy(source: Path, folder: Path) -> list[str]:
    """Bring every chapter of `source` into `folder`: the names of those that both the book and the reader changed."""
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / COPIED
    made = json.loads(record.read_text("utf-8")) if record.is_file() else {}
    kept = []
    for chapter in sorted(source.glob("*.ipynb")):
        mine, now = folder / chapter.name, digest(chapter)
        touched = mine.is_file() and digest(mine) != made.get(chapter.name)
        if touched and made.get(chapter.name) != now:
            kept.append(chapter.name)
        elif not touched and (not mine.is_file() or made.get(chapter.name) != now):
            mine.write_bytes(chapter.read_bytes())
            made[chapter.name] = now
    record.write_text(json.dumps(made, indent=1) + "\n", "utf-8")
    return kept


def trust(folder: Path) -> None:
    """Sign the notebooks, so that their figures move before they are run."""
    notebooks = [str(path) for path in sorted(folder.glob("*.ipynb"))]
    subprocess.run([sys.executable, "-m", "jupyter", "trust", *notebooks], check=True, stdout=subprocess.DEVNULL)


def no_news(prefix: Path = Path(sys.prefix)) -> None:
    """JupyterLab of this environment asks nobody for news or updates, and asks the reader nothing about them."""
    settings = prefix / "share" / "jupyter" / "lab" / "settings" / "overrides.json"
    settings.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(settings.read_text("utf-8")) if settings.is_file() else {}
    settings.write_text(json.dumps(known | NO_NEWS, indent=1) + "\n", "utf-8")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "my-chapters")
    parser.add_argument("--no-lab", action="store_true", help="do not start JupyterLab")
    options = parser.parse_args(argv)
    kept = copy(ROOT / "chapters", options.folder)
    trust(options.folder)
    print(f"Your copy of the chapters is in {os.path.relpath(options.folder)}.")
    if kept:
        print(f"You have changed {', '.join(kept)}, and so has the book: yours stays. Rename it to get the book's.")
    if options.no_lab:
        return 0
    no_news()
    return subprocess.call([sys.executable, "-m", "jupyterlab", str(options.folder)])


if __name__ == "__main__":
    sys.exit(main())
