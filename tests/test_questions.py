"""The index of questions: every entry links to a page of the book, and names a section which that page has."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "book/questions.md").read_text(encoding="utf-8")
LINES = [line for line in TEXT.splitlines() if line.startswith("- ")]
ENTRY = re.compile(r"- \*\*(.+?)\*\* .+ \{doc\}`(.+?)`: \*(.+)\*$")


def headings(target):
    """The headings of the page that `target` (as written in book/) leads to; fails when there is no page."""
    base = (ROOT / "book" / target).resolve()
    if (page := base.with_suffix(".md")).exists():
        text = page.read_text(encoding="utf-8")
    else:
        cells = json.loads(base.with_suffix(".ipynb").read_text(encoding="utf-8"))["cells"]
        text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return {line.lstrip("#").strip() for line in text.splitlines() if line.startswith("#")}


def test_the_index_has_entries():
    assert len(LINES) >= 20


@pytest.mark.parametrize("line", LINES)
def test_every_entry_leads_to_a_section_that_exists(line):
    match = ENTRY.match(line)
    assert match, line
    _, target, section = match.groups()
    page = str((ROOT / "book" / target).resolve().relative_to(ROOT))
    assert f"- file: {page}\n" in (ROOT / "_toc.yml").read_text(encoding="utf-8")
    assert section in headings(target)


@pytest.mark.parametrize(
    "theme",
    """α|4-bit|faster|memory|parameter count|eval()|MergedLinear|c_attn|fan_in_fan_out|target_modules|loaded adapter
    Gradient checkpointing|model is unchanged|new tokens|several adapters|rank never changes|DoRA slower|NF4|paged|LoftQ
    dropout|Colab cells|missing in Colab|GPU|T4|numbers different|zero|transposed|merge twice|swapped|solutions|widgets
    Plotly|dark|screen reader|PDF|code in the page|drifting|translation""".replace("\n", "|").split("|"),
)
def test_what_people_ask_again_and_again_is_in_the_index(theme):
    assert theme.strip().lower() in "\n".join(LINES).lower()
