"""Run the chapters and write them back in one normal form.

    python book/tools/notebooks.py                 run, normalise and save every chapter
    python book/tools/notebooks.py ch03            only those whose name contains "ch03"
    python book/tools/notebooks.py --no-run        normalise and set the first cell, keep the outputs
    python book/tools/notebooks.py --check         change nothing; fail if a chapter is not in the normal form

The normal form has the generated first cell, exercises numbered in their order, the package's code as it is today
where a solution shows it, ids that follow from the cells' text, no times, no machine, no stderr: the same text run
again gives the same file, so a difference in `git diff` is one a reader would see.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the same order of additions, whatever else the machine is doing
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["LOWRANK_PAGE"] = "1"  # outputs for the page: no widgets, no file of a learner's progress

import address
import nbformat
from book_links import addressed
from myst import numbered, with_source
from nbclient import NotebookClient
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from setup_cell import ROOT, setup_cell, stale_files

CHAPTERS = ROOT / "chapters"
CELL_TIMEOUT = 300  # seconds; chapter 7 is the longest and takes 180 in all
STALLS = (
    CellTimeoutError,
    DeadKernelError,
    TimeoutError,
)  # a kernel that hangs or dies, not code that is wrong
KEPT_METADATA = ("cellView", "jupyter", "mystnb", "tags", "nbgrader")
NOTEBOOK_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {
        "file_extension": ".py",
        "mimetype": "text/x-python",
        "name": "python",
        "pygments_lexer": "ipython3",
    },
}
PROGRESS = re.compile(r"\d+%\||\bit/s\b|\bs/it\b|^\s*$")


def execute(nb: nbformat.NotebookNode, folder: Path = CHAPTERS, timeout: int = CELL_TIMEOUT) -> nbformat.NotebookNode:
    """A copy of `nb` with fresh outputs. A stalled kernel gets one more try; an error is raised."""
    for attempt in (1, 2):
        fresh = nbformat.from_dict(nb)
        client = NotebookClient(
            fresh,
            timeout=timeout,
            startup_timeout=120,
            kernel_name="python3",
            resources={"metadata": {"path": str(folder)}},
            record_timing=False,
            store_widget_state=False,
        )
        try:
            return client.execute()
        except STALLS as stall:
            if attempt == 2:
                raise
            print(f"  {type(stall).__name__}: trying once more", flush=True)
    raise AssertionError("unreachable")


def first_cell() -> nbformat.NotebookNode:
    cell = nbformat.v4.new_code_cell(setup_cell(address.written()))
    cell.metadata["tags"] = ["hide-input", "nbval-ignore-output", "setup"]  # it says where it installs from, if it does
    cell.metadata["cellView"] = "form"  # folded on Colab
    cell.metadata["jupyter"] = {"source_hidden": True}  # and in JupyterLab
    return cell


def with_setup(nb: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """`nb` with the generated cell first among its code, in place of the one tagged `setup`."""
    code = [i for i, cell in enumerate(nb.cells) if cell.cell_type == "code"]
    tagged = [i for i in code if "setup" in cell_tags(nb.cells[i])]
    new = first_cell()
    if tagged:
        old = nb.cells[tagged[0]]
        new.execution_count, new.outputs = old.execution_count, old.outputs
        nb.cells[tagged[0]] = new
    else:
        nb.cells.insert(code[0] if code else len(nb.cells), new)
    return nb


def cell_tags(cell) -> list[str]:
    return list(cell.metadata.get("tags", []))


def normalise(nb: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The normal form, in place: see the top of this file."""
    nb = with_setup(nb)
    told, where = [cell for cell in nb.cells if cell.cell_type == "markdown"], address.written()
    for cell, text in zip(told, numbered([with_source(cell.source) for cell in told]), strict=True):
        cell.source = addressed(text, where.home if where else None)
    nb.nbformat, nb.nbformat_minor = 4, 5
    nb.metadata = nbformat.from_dict(NOTEBOOK_METADATA)
    seen: dict[str, int] = {}
    for cell in nb.cells:
        cell.source = cell.source.strip("\n").rstrip()
        cell.metadata = nbformat.from_dict({k: cell.metadata[k] for k in KEPT_METADATA if k in cell.metadata})
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:10]
        seen[digest] = seen.get(digest, 0) + 1
        cell.id = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
        if cell.cell_type == "code":
            cell.outputs = normal_outputs(cell.outputs)
            for output in cell.outputs:
                if output.output_type == "execute_result":
                    output.execution_count = cell.execution_count
        else:
            cell.pop("attachments", None)
    return nb


def normal_outputs(outputs: list) -> list:
    """One stdout stream, then nothing that only a machine or a live kernel understands."""
    kept: list = []
    for output in outputs:
        if output.output_type == "stream":
            if output.name != "stdout":
                continue
            if kept and kept[-1].output_type == "stream":
                kept[-1].text += output.text
                continue
        elif output.output_type in ("display_data", "execute_result"):
            if "text/html" in output.data:
                output.data.pop("application/vnd.jupyter.widget-view+json", None)
            output.metadata = nbformat.from_dict({})
        kept.append(output)
    return kept


def said_on_stderr(nb: nbformat.NotebookNode) -> list[str]:
    """Lines that cells wrote to stderr, progress bars aside: dropped from the page, so the author is told."""
    text = "".join(
        output.text
        for cell in nb.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.output_type == "stream" and output.name == "stderr"
    )
    return [line for line in re.split(r"[\r\n]+", text) if not PROGRESS.search(line)]


def dumps(nb: nbformat.NotebookNode) -> str:
    nbformat.validate(nb)
    return nbformat.writes(nb, version=nbformat.NO_CONVERT).rstrip("\n") + "\n"


def chapters(words: list[str]) -> list[Path]:
    found = [p for p in sorted(CHAPTERS.glob("*.ipynb")) if not words or any(word in p.name for word in words)]
    if not found:
        have = ", ".join(p.stem for p in sorted(CHAPTERS.glob("*.ipynb"))) or "none yet"
        raise SystemExit(f"no chapter matches {' '.join(words) or '*'}; there are: {have}")
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="part of a chapter's file name; none means every chapter")
    parser.add_argument("--no-run", action="store_true", help="normalise only, keep the outputs")
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a chapter is not normal")
    options = parser.parse_args(argv)
    wrong = []
    for path in chapters(options.words):
        before = path.read_text("utf-8")
        nb = with_setup(nbformat.reads(before, as_version=4))
        if not (options.no_run or options.check):
            print(f"running {path.name}", flush=True)
            nb = execute(nb)
            for line in said_on_stderr(nb):
                print(f"  dropped from stderr: {line}")
        after = dumps(normalise(nb))
        if after == before:
            continue
        if options.check:
            wrong.append(path.name)
        else:
            path.write_text(after, "utf-8")
            print(f"  wrote {path.name}")
    wrong += stale_files(write=not options.check) if not options.words else []
    if options.check and wrong:
        print(f"not in the normal form: {', '.join(wrong)}. Run `make address` (it keeps outputs).")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
