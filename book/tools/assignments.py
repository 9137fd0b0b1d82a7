"""nbgrader assignments made from the book's code exercises: build/classroom/course/.

    python book/tools/assignments.py ch03 [--seed 7]

One assignment per chapter. This writes the source versions: each exercise with its card, the solution between
nbgrader's marks, one short example to try (`examples.py`), and hidden tests with fresh numbers (`marking.py`). nbgrader
then makes the release versions and its gradebook, from which submissions are marked.
"""

from __future__ import annotations

import argparse
import inspect
import os
import secrets
import shutil
import subprocess
import sys
from pathlib import Path

import examples
import marking
import nbformat
import numpy as np
from make_book import ROOT
from myst import blocks, plain
from notebooks import NOTEBOOK_METADATA, chapters, dumps

from lowrank_edu import exercises
from lowrank_edu.checks.comparing import close

OUT = ROOT / "build" / "classroom" / "course"
GRADER = ROOT / ".venv-classroom" / "bin" / "python"
POINTS = 4
OPENING = """\
# {title}

Write your functions where the cells say `YOUR CODE HERE`. The cell below each of them tries your function on one short
example and tells you what it gave and what was expected. Marks are given for other numbers, so what matters is the rule
and not the example. In the book, where you have its package, `lo.check("{id}", {name})` names a mistake."""
CONFIG = """\
c = get_config()
c.CourseDirectory.course_id = "low-rank"
c.ExecutePreprocessor.timeout = 60            # seconds for one cell
c.ExecutePreprocessor.interrupt_on_timeout = True
c.ClearSolutions.code_stub = {"python": "raise NotImplementedError()  # YOUR CODE HERE"}
# Feedback says what was wrong with a hidden case and leaves out the cases themselves.
c.GenerateFeedback.preprocessors = [
    "nbgrader.preprocessors.GetGrades",
    "nbgrader.preprocessors.ClearHiddenTests",
    "nbconvert.preprocessors.CSSHTMLHeaderPreprocessor",
]
"""


def gradable(exercise) -> bool:
    """Can numbers alone mark it? A function of arrays and numbers that needs nothing around it but numpy."""
    if not callable(exercise.reference) or exercise.run or exercise.may_change:
        return False
    if getattr(exercise.compare, "__qualname__", "") != getattr(close(), "__qualname__", ""):
        return False
    around = inspect.getclosurevars(exercise.reference)
    if {*around.globals, *around.nonlocals} - {"np"}:
        return False
    return all(isinstance(value, (int, float, list, np.ndarray)) for case in exercise.fresh_cases() for value in case)


def counted() -> str:
    """A table of what is marked in each chapter, as it stands in `book/classroom/grading.md`."""
    rows, total, marked = ["| chapter | exercises | marked | which |", "|---|---|---|---|"], 0, 0
    for name in exercises.chapters():
        all_of_it = exercises.chapter(name)
        chosen = [exercise.id for exercise in all_of_it if gradable(exercise)]
        total, marked = total + len(all_of_it), marked + len(chosen)
        rows.append(f"| {int(name[2:])} | {len(all_of_it)} | {len(chosen)} | {', '.join(f'`{c}`' for c in chosen)} |")
    return "\n".join([*rows, f"| all | {total} | {marked} | |"])


def _cell(make, source, grade_id, **flags):
    cell = make(source)
    cell.id = grade_id
    rules = {"grade": False, "locked": True, "solution": False, "task": False, **flags}
    cell.metadata["nbgrader"] = {"schema_version": 3, "grade_id": grade_id, **rules}
    return cell


def cards(path: Path) -> dict[str, str]:
    """{exercise id: its task as plain Markdown} from a chapter."""
    nb = nbformat.read(path, as_version=4)
    found = [block for cell in nb.cells if cell.cell_type == "markdown" for block in blocks(cell.source)]
    return {b.option("label"): plain(f"## {b.title}\n\n{b.body}") for b in found if b.kind == "exercise"}


def assignment(path: Path, rng):
    """The source version for one chapter, as a notebook; None when the chapter has nothing that numbers can mark."""
    markdown, code = nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell
    tasks, chosen = cards(path), [e for e in exercises.chapter(path.name[:4]) if gradable(e)]
    if not chosen:
        return None
    title = nbformat.read(path, as_version=4).cells[0].source.splitlines()[0].lstrip("# ")
    intro = OPENING.format(title=title, id=chosen[0].id, name=chosen[0].reference.__name__)
    cells = [_cell(markdown, intro, "opening"), _cell(code, marking.HELPER, "helper")]
    for exercise in chosen:
        cells += [
            _cell(markdown, tasks[exercise.id], f"{exercise.id}-task"),
            _cell(code, marking.solved(exercise.reference), f"{exercise.id}-answer", locked=False, solution=True),
            _cell(code, examples.cell(exercise), f"{exercise.id}-example"),
            _cell(code, marking.marked(exercise, rng), f"{exercise.id}-marked", grade=True, points=POINTS),
        ]
    return nbformat.v4.new_notebook(cells=cells, metadata=nbformat.from_dict(NOTEBOOK_METADATA))


def write(path: Path, out: Path, rng) -> Path | None:
    """One chapter's source version in `out/source/chNN/chNN.ipynb`."""
    nb = assignment(path, rng)
    if nb is None:
        return None
    name = path.name[:4]
    target = out / "source" / name / f"{name}.ipynb"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(dumps(nb), "utf-8")
    return target


def configure(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "submitted").mkdir(exist_ok=True)
    (out / "nbgrader_config.py").write_text(CONFIG, "utf-8")


def nbgrader(arguments: list[str], course: Path = OUT, python: Path = GRADER) -> str:
    """Run nbgrader in its own environment, where the book's package is not: what it said.  RuntimeError if it fails."""
    python = Path(os.path.abspath(python))
    if not python.exists():
        raise RuntimeError(f"{python} is not there: `make assignments` makes the environment for grading.")
    place = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    place["PATH"] = os.pathsep.join([str(python.parent), place.get("PATH", "")])  # it calls alembic by its name
    command = [str(python), "-m", "nbgrader", *arguments]
    done = subprocess.run(command, cwd=course, env=place, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"nbgrader {' '.join(arguments)} did not work:\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="chapters, such as ch03; none means every chapter")
    parser.add_argument("--seed", type=int, help="of the hidden numbers; without it nobody can repeat them")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--grader", type=Path, default=GRADER, help="the Python that has nbgrader")
    options = parser.parse_args(argv)
    configure(options.out)
    rng = np.random.default_rng(secrets.randbits(64) if options.seed is None else options.seed)
    for path in chapters(options.words):
        name = path.name[:4]
        shutil.rmtree(options.out / "source" / name, ignore_errors=True)
        if write(path, options.out, rng) is None:
            print(f"{name}: nothing that numbers alone can mark")
            continue
        nbgrader(["generate_assignment", name, "--force"], options.out, options.grader)
        print(f"{name}: source and release versions are in {options.out}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
