"""See pages in seconds: the whole book as it stands, with the outputs that the notebooks already hold.

    python book/tools/preview.py           every page that exists
    python book/tools/preview.py ch03      the same, but only the chapters whose name contains "ch03"

The book is built in a temporary folder from copies, so nothing that others use is touched. Chapters that are
not written yet are left out; every other warning is an error, as in `make book`.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import nbformat
import yaml
from make_book import ROOT, render, report
from notebooks import dumps, normalise


def stage(folder: Path, words: tuple[str, ...] = (), execute: str = "off") -> Path:
    """Copy what the book is made of into `folder`, chapters limited to `words`, execution as asked."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(ROOT / "book", folder / "book", ignore=shutil.ignore_patterns("__pycache__", "experiments"))
    (folder / "chapters").mkdir()
    for path in sorted((ROOT / "chapters").glob("*")):
        if path.suffix != ".ipynb":
            shutil.copytree(path, folder / "chapters" / path.name) if path.is_dir() else shutil.copy(
                path, folder / "chapters"
            )
        elif not words or any(word in path.name for word in words):
            nb = normalise(nbformat.read(path, as_version=4))  # a draft may not be in the normal form yet
            (folder / "chapters" / path.name).write_text(dumps(nb), "utf-8")
    config = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))
    config["execute"]["execute_notebooks"] = execute
    (folder / "_config.yml").write_text(yaml.safe_dump(config), "utf-8")
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8"))
    for part in toc["parts"]:
        part["chapters"] = [page for page in part["chapters"] if _exists(folder, page["file"])]
    toc["parts"] = [part for part in toc["parts"] if part["chapters"]]
    (folder / "_toc.yml").write_text(yaml.safe_dump(toc), "utf-8")
    return folder


def _exists(folder: Path, page: str) -> bool:
    return any((folder / f"{page}{ending}").exists() for ending in (".md", ".ipynb"))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*")
    options = parser.parse_args(argv)
    folder = stage(Path(tempfile.mkdtemp(prefix="lowrank-preview-")), tuple(options.words))
    code, text = render(folder, folder)
    if code:
        return report(text)
    pages = sorted((folder / "_build" / "html" / "chapters").glob("*.html")) or [
        folder / "_build" / "html" / "index.html"
    ]
    print(*pages, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
