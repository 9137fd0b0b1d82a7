"""The teacher's kit: editions, prediction cards, slides, and the book in a room without network."""

import html
import json
import re
from pathlib import Path

import editions
import myst
import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = sorted((ROOT / "chapters").glob("*.ipynb"))
STUDENT_PAGES = ROOT / "build" / "classroom" / "student" / "html"
every_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)


def read(path):
    return nbformat.read(path, as_version=4)


# ---- what a solution is, found without the code under test


def flat(text: str) -> str:
    """Words only: no markup of Markdown, no line breaks."""
    return re.sub(r"\s+", " ", re.sub(r"[`*$\\]", "", html.unescape(text))).strip()


def function(path: str, name: str) -> str:
    """The lines of a function below its signature and docstring."""
    text = (ROOT / "chapters" / path).resolve().read_text("utf-8")
    body = re.search(rf"^(?:def|class) {name}\b.*?:\n(.*?)(?=^\S|\Z)", text, re.M | re.S)[1]
    return re.sub(r'""".*?"""', "", body, count=1, flags=re.S)


def secrets(path) -> list[str]:
    """Every sentence and every function body that stands in a solution of a chapter."""
    found = []
    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        for box in re.findall(r"^:::\{solution\}.*?\n(.*?)^:::$", "".join(cell["source"]), re.M | re.S):
            for file, name in re.findall(r"\{literalinclude\} (\S+)\n:pyobject: (\w+)", box):
                found.append(flat(function(file, name)))
            prose = re.sub(r"^```.*?^```|^:class:.*?$", "", box, flags=re.M | re.S)
            prose = re.sub(r"\{[\w:]+\}`[^`]*`", "@", prose)
            found += [flat(part) for part in re.split(r"(?<=[.:])\s+|\n\n|@", prose)]
    return [text for text in found if len(text) > 25]


def shown(page: Path) -> str:
    """What a page holds, markup aside: its text, and nothing left out that is merely hidden."""
    return flat(re.sub(r"<[^>]+>", "", page.read_text("utf-8")))


@every_chapter
def test_the_solutions_are_in_the_chapter_and_not_in_the_students_notebook(path):
    hidden, before = secrets(path), read(path)
    assert len(hidden) >= 4
    after = flat("\n".join(cell.source for cell in editions.student(before).cells))
    assert [text for text in hidden if text in after] == []
    assert "{solution}" not in after


@every_chapter
def test_a_students_notebook_keeps_code_outputs_hints_and_predictions(path):
    before, after = read(path), editions.student(read(path))
    code = [[(cell.source, cell.outputs) for cell in nb.cells if cell.cell_type == "code"] for nb in (before, after)]
    assert code[0] == code[1]
    kinds = [
        [block.kind for cell in nb.cells if cell.cell_type == "markdown" for block in myst.blocks(cell.source)]
        for nb in (before, after)
    ]
    assert [kind for kind in kinds[0] if kind not in ("solution", "text")] == [k for k in kinds[1] if k != "text"]
    assert kinds[1].count("hint") == 2 * kinds[1].count("exercise")


def test_the_students_pages_hold_no_solution():
    """Every file a reader of the rendered student edition gets: pages, sources beside them, search index."""
    assert STUDENT_PAGES.exists(), "the students' pages are not rendered: run `make editions` first"
    taken = {}
    for page in sorted(STUDENT_PAGES.rglob("*")):
        if page.is_file() and page.suffix in (".html", ".ipynb", ".txt", ".md", ".js", ".json"):
            taken[page] = shown(page)
    everything = {path: secrets(path) for path in CHAPTERS}
    found = [
        (page.relative_to(STUDENT_PAGES), text)
        for page, words in taken.items()
        for path in CHAPTERS
        for text in everything[path]
        if text in words
    ]
    assert found == []
    assert {f"{path.stem}.html" for path in CHAPTERS} <= {page.name for page in taken}


def test_the_search_for_solutions_would_find_one():
    page = ROOT / "_build" / "html" / "chapters" / "ch03_lora.html"
    assert page.exists(), "the book is not rendered: run `make book` first"
    missed = [text for text in secrets(ROOT / "chapters" / "ch03_lora.ipynb") if text not in shown(page)]
    assert missed == []


@every_chapter
def test_the_instructor_sees_every_solution_open_and_written_out(path):
    text = "\n".join(cell.source for cell in editions.instructor(read(path)).cells)
    missed = [secret for secret in secrets(path) if secret not in flat(re.sub(r"\{[\w:]+\}`[^`]*`", "@", text))]
    assert missed == []
    assert "literalinclude} ../lowrank_edu/exercises" not in text
    assert text.count("\n:class: classroom\n") == 1 + len(myst.solutions(read(path)))


@every_chapter
def test_clean_is_headings_and_code(path):
    before, after = read(path), editions.clean(read(path))
    headings = [
        block.title
        for cell in before.cells
        if cell.cell_type == "markdown"
        for block in myst.blocks(cell.source)
        if block.kind == "heading"
    ]
    text = "\n".join(cell.source for cell in after.cells if cell.cell_type == "markdown")
    assert re.findall(r"^#+ (.*)$", text, re.M) == headings
    rest = [line for line in text.splitlines() if line and not line.startswith(("#", "**Exercise: "))]
    assert rest == []
    assert all(not cell.outputs for cell in after.cells if cell.cell_type == "code")


def test_a_cell_taken_apart_can_be_put_together_again():
    for path in CHAPTERS:
        for cell in read(path).cells:
            if cell.cell_type == "markdown":
                assert "\n".join(block.raw for block in myst.blocks(cell.source)) == cell.source
    with pytest.raises(ValueError, match="never closed"):
        myst.blocks(":::{solution} ch01-outer\nforgotten")
