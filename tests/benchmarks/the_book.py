"""The book's own times, from a copy in a temporary folder: each chapter, rendering, and a second build."""

from __future__ import annotations

import re
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "book" / "tools"))
from make_book import render  # noqa: E402
from preview import stage  # noqa: E402

# seconds on two quiet cores
CHAPTER, LONGER, BUILD, AGAIN = 40, {"ch07_real": 180}, 15 * 60, 60


def book_times(smoke: bool) -> dict:
    """{"rows": [{"what", "seconds", "limit"}]} of the book, or of a toy with one chapter."""
    with tempfile.TemporaryDirectory(prefix="lowrank-benchmark-") as made:
        folder = toy(Path(made)) if smoke else stage(Path(made) / "book", execute="cache")
        return {"rows": measured(folder)}


def measured(folder: Path) -> list[dict]:
    nothing, again = built(folder), built(folder)
    chapters = executed(folder / "_build" / ".jupyter_cache")
    rows = [(name, spent, LONGER.get(name, CHAPTER)) for name, spent in chapters.items()]
    rows += [("rendering, the chapters' time left out", nothing - sum(chapters.values()), None),
             ("the book, from nothing", nothing, BUILD), ("the book, unchanged", again, AGAIN)]  # fmt: skip
    return [dict(zip(("what", "seconds", "limit"), row, strict=True)) for row in rows]


def built(folder: Path) -> float:
    """Seconds of one build; RuntimeError with its first complaint if it fails."""
    began = time.perf_counter()
    code, text = render(folder, folder)
    if code:
        said = [line for line in text.splitlines() if re.search(r"(WARNING|ERROR|Error): ", line)]
        raise RuntimeError(f"the book does not build: {(said or [f'exit code {code}'])[0]}")
    return time.perf_counter() - began


def executed(cache: Path) -> dict[str, float]:
    """{chapter: seconds that its cells took}, as jupyter-cache noted them."""
    from jupyter_cache import get_cache

    records = get_cache(cache).list_cache_records()
    return dict(sorted((Path(record.uri).stem, record.data["execution_seconds"]) for record in records))


def toy(folder: Path) -> Path:
    """A book of one page and one chapter."""
    config = {"title": "toy", "execute": {"execute_notebooks": "cache"}, "only_build_toc_files": True,
              "sphinx": {"config": {"html_context": {"default_mode": "auto"}}}}  # fmt: skip
    toc = {"format": "jb-book", "root": "intro", "chapters": [{"file": "ch00_toy"}]}
    cells = [nbformat.v4.new_markdown_cell("# Toy"), nbformat.v4.new_code_cell("1 + 1")]
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    (folder / "_config.yml").write_text(yaml.safe_dump(config), "utf-8")
    (folder / "_toc.yml").write_text(yaml.safe_dump(toc), "utf-8")
    (folder / "intro.md").write_text("# A toy\n", "utf-8")
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / "ch00_toy.ipynb")
    return folder
