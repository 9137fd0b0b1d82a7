"""`make book`: run what changed, render, and say where the book is.

Chapters are run by jupyter-cache, which looks at their code only; a change in the package has to be noticed
here. A kernel that stalls is given one more try; everything that already ran is kept.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD_TIMEOUT = 1200  # seconds for one try; the whole book takes a few minutes
STALL = re.compile(r"CellTimeoutError|DeadKernelError|Kernel didn't respond|timed out", re.I)
RUNS = re.compile(r"reading sources\.\.\. \[ *\d+%\] (chapters/\S+)")  # then myst-nb runs it, if it has changed
ANSI = re.compile(r"\x1b\[[0-9;]*m")


def fingerprint(*places: Path) -> str:
    """A hash of every file in these files and folders, by name and content."""
    digest = hashlib.sha256()
    for place in places:
        for path in sorted([place, *place.rglob("*")]):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(str(path.relative_to(place.parent)).encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()


def forget_what_is_stale(source: Path, out: Path) -> None:
    """Other code may give other outputs: run again. Another look or setting: render every page again."""
    book, build = source / "book", out / "_build"
    look = (book / "_static", book / "_vendor", book / "tools", source / "_config.yml", source / "_toc.yml")
    build.mkdir(parents=True, exist_ok=True)
    for name, inputs, results in (
        ("package", (ROOT / "lowrank_edu",), (".jupyter_cache",)),
        ("look", look, ("html", ".doctrees")),
    ):
        mark, now = build / f".{name}", fingerprint(*inputs)
        if mark.exists() and mark.read_text("utf-8") == now:
            continue
        for result in results:
            shutil.rmtree(build / result, ignore_errors=True)
        mark.write_text(now, "utf-8")


def render(source: Path, out: Path) -> tuple[int, str]:
    """Run jupyter-book once, warnings as errors, references checked: its exit code and what it said."""
    command = [
        *(sys.executable, "-c", "from jupyter_book.cli.main import main; main()"),
        *("build", str(source), "--path-output", str(out)),
        *("-W", "-n", "--keep-going"),
    ]
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "LOWRANK_PAGE": "1",  # no widgets, no file of a learner's progress
    }
    lines, late = [], False
    process = subprocess.Popen(
        command, env=environment, text=True, errors="replace", stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    ends = threading.Timer(BUILD_TIMEOUT, process.kill)
    ends.start()
    try:
        for line in process.stdout:
            lines.append(ANSI.sub("", line))
            if told := progress(lines[-1], source):
                print(told, flush=True)
        code = process.wait()
    finally:
        late = not ends.is_alive()
        ends.cancel()
    return (124, "".join(lines) + "\nthe build timed out") if late else (code, "".join(lines))


def progress(line: str, source: Path) -> str | None:
    """"chapter 4 of 13: ch04_start_scale" for the line with which jupyter-book begins to run a chapter, else None."""
    begun = RUNS.search(line)
    if not begun:
        return None
    chapters = [path.stem for path in sorted((source / "chapters").glob("*.ipynb"))]
    name = Path(begun[1]).name.removesuffix(".ipynb")
    return f"  chapter {chapters.index(name) + 1} of {len(chapters)}: {name}" if name in chapters else None


def offer_package(target: Path) -> None:
    """The package as a zip that pip installs, for readers of a book whose repository has no address."""
    files = [ROOT / name for name in ("pyproject.toml", "README.md", "LICENSE")]
    files += [file for file in (ROOT / "lowrank_edu").rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as packed:
        for file in sorted(files):
            packed.write(file, Path("lowrank-edu", file.relative_to(ROOT)))


def report(text: str) -> int:
    """Print why a build failed: first everything, then the lines that matter."""
    said = [line for line in text.splitlines() if re.search(r"WARNING|ERROR|Error:", line)]
    print(text, "The book was not built:", *(said or text.splitlines()[-20:]), sep="\n  ")
    return 1


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, default=ROOT)
    parser.add_argument("--out", type=Path, default=ROOT, help="the folder that gets _build")
    options = parser.parse_args(argv)
    began = time.monotonic()
    forget_what_is_stale(options.source, options.out)
    code, text = render(options.source, options.out)
    if code and STALL.search(text):
        print("a kernel stalled: building once more", flush=True)
        code, text = render(options.source, options.out)
    if code:
        return report(text)
    index = options.out / "_build" / "html" / "index.html"
    offer_package(index.parent / "_downloads" / "lowrank-edu.zip")
    print(f"the book is ready after {time.monotonic() - began:.0f} s: open {os.path.relpath(index)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
