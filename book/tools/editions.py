"""The chapters for a class: student, instructor and clean editions, written to build/classroom/.

    python book/tools/editions.py                     notebooks of every chapter, and the students' pages
    python book/tools/editions.py ch03                only these chapters, and no pages

Each edition is a plain function, notebook -> notebook. Nothing is written twice: timing and teacher's notes come from
the exercises of the package, solutions from the chapters.
"""

from __future__ import annotations

import argparse
import copy
import re
import shutil
import sys
import tempfile
from pathlib import Path

import address
import nbformat
import yaml
from book_links import detached
from make_book import ROOT, render, report
from myst import blocks, box, joined
from notebooks import chapters, dumps, normalise
from preview import stage

OUT = ROOT / "build" / "classroom"
GONE = "*Solved it another way, or stuck after both hints? Ask: the solutions are in the teacher's edition.*"


def changed(nb, change):
    """A copy of `nb` with `change(block) -> text or None` applied to every piece of its Markdown cells."""
    new = copy.deepcopy(nb)
    for cell in new.cells:
        if cell.cell_type == "markdown":
            pieces = [change(block) for block in blocks(cell.source)]
            cell.source = joined([piece for piece in pieces if piece is not None])
    new.cells = [cell for cell in new.cells if cell.source.strip()]
    return new


def student(nb):
    """The chapter without its solutions. Figures, hints, stubs and checks stay."""
    return changed(nb, lambda block: GONE if block.kind == "solution" else block.raw)


def instructor(nb):
    """The chapter with solutions open and written out, the minutes of its exercises, and a note on each of them."""
    from lowrank_edu import exercises

    ids = []

    def teach(block):
        if block.kind == "solution":
            ids.append(block.title)
            return f"**Solution: {block.title}**\n\n{block.body}\n\n{note(exercises.get(block.title))}"
        return block.raw

    new = changed(nb, teach)
    if ids:
        new.cells[0].source += "\n\n" + timing([exercises.get(name) for name in ids])
    return new


def note(exercise) -> str:
    """What a teacher wants beside a solution: minutes, and the mistakes that the check knows, in its words."""
    known = "\n".join(f"- **{one_line(m.name)}**: {one_line(m.sentence)}" for m in exercise.mistakes)
    told = f"Afterwards a learner knows {exercise.know}. The check recognises:\n\n{known or '- no particular mistake'}"
    return box(f"For the teacher: {exercise.minutes} minutes", told)


def one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def timing(found: list) -> str:
    """The exercises of a chapter with their minutes, hardest marked: what to leave out when time is short."""
    rows = [f"| {e.title} | `{e.id}` | {'●' * e.difficulty + '○' * (3 - e.difficulty)} | {e.minutes} |" for e in found]
    table = "\n".join(["| exercise | id | difficulty | minutes |", "|---|---|---|---|", *rows])
    total = sum(e.minutes for e in found)
    advice = "The minutes are those on the cards, for one reader. Short of time? Keep those with ●○○."
    return box(f"For the teacher: {len(found)} exercises, {total} minutes", f"{advice}\n\n{table}")


def clean(nb):
    """Headings, titles of exercises, and code without outputs: to project, and to fill together."""

    def bare(block):
        if block.kind == "heading":
            return block.raw
        return f"**Exercise: {block.title}**" if block.kind == "exercise" else None

    new = changed(nb, bare)
    for cell in new.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return new


EDITIONS = {"student": student, "instructor": instructor, "clean": clean}


def write(edition: str, paths: list[Path], out: Path = OUT) -> list[Path]:
    """One edition of these chapters as notebooks in `out/<edition>/chapters`: the files written."""
    folder = out / edition / "chapters"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    where = address.found()
    home, written = where.home if where else None, []
    for path in paths:
        nb = normalise(EDITIONS[edition](nbformat.read(path, as_version=4)))
        (folder / path.name).write_text(dumps(detached(nb, home)), "utf-8")
        written.append(folder / path.name)
    return written


def keep_inside(path: Path) -> None:
    """No button to Colab or the repository: both show the chapter with its solutions."""
    config = yaml.safe_load(path.read_text("utf-8"))
    config["sphinx"]["config"]["lowrank_students"] = True
    path.write_text(yaml.safe_dump(config), "utf-8")


def pages(edition: str, out: Path = OUT) -> tuple[int, str]:
    """The whole book rendered from one edition's notebooks, into `out/<edition>/html`: exit code, what was said."""
    with tempfile.TemporaryDirectory(prefix="lowrank-edition-") as folder:
        staged = stage(Path(folder))
        for path in (staged / "chapters").glob("*.ipynb"):
            path.write_text(dumps(normalise(EDITIONS[edition](nbformat.read(path, as_version=4)))), "utf-8")
        if edition == "student":
            keep_inside(staged / "_config.yml")
        code, text = render(staged, staged)
        if code == 0:
            shutil.rmtree(out / edition / "html", ignore_errors=True)
            shutil.copytree(staged / "_build" / "html", out / edition / "html")
    return code, text


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="part of a chapter's file name; none means every chapter")
    options = parser.parse_args(argv)
    for edition in EDITIONS:
        written = write(edition, chapters(options.words))
        print(f"{edition}: {len(written)} notebooks in {written[0].parent.relative_to(ROOT)}", flush=True)
    if not options.words:
        code, text = pages("student")
        if code:
            return report(text)
        print(f"student: pages in {(OUT / 'student' / 'html').relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
