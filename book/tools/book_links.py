"""Links from a chapter to other pages of the book: beside it, at the book's address, or as words.

A notebook in the repository links to its neighbours (`../book/glossary.md#term-rank`, `ch05_merge.ipynb`), which
Jupyter, VS Code and GitHub follow. Colab opens a notebook without its neighbours, so once the book has an address the
links lead there. A copy that travels alone, without an address, keeps the words.
"""

from __future__ import annotations

import copy
import re
from pathlib import Path

from myst import LINK

ROOT = Path(__file__).resolve().parents[2]
NEIGHBOUR = re.compile(r"^(?:\.\./)?((?:book/)?[\w/]+)\.(?:md|ipynb)(#[\w.-]+)?$")
PUBLISHED = re.compile(r"^https://\S+?/((?:book|chapters)/[\w/]+)\.html(#[\w.-]+)?$")


def to_neighbours(text: str) -> str:
    """Links to pages of the book, wherever it was published, as links to the files beside a chapter."""

    def changed(link):
        page = PUBLISHED.match(link[2])
        if not page or not (found := _file(page[1])):
            return link[0]
        place = found.name if found.suffix == ".ipynb" else f"../{found.relative_to(ROOT)}"
        return f"[{link[1]}]({place}{page[2] or ''})"

    return LINK.sub(changed, text)


def _file(page: str) -> Path | None:
    return next((file for ending in (".md", ".ipynb") if (file := ROOT / f"{page}{ending}").is_file()), None)


def addressed(text: str, home: str | None) -> str:
    """Links to the book's pages lead to `home` ("https://…/"); without one, to the files beside the chapter."""
    text = to_neighbours(text)
    return LINK.sub(lambda link: _elsewhere(link, home) or link[0], text) if home else text


def detached(nb, home: str | None):
    """A copy of a notebook that travels alone: its links lead to `home`, or are words where the book has no address."""
    new = copy.deepcopy(nb)
    for cell in new.cells:
        if cell.cell_type == "markdown":
            cell.source = LINK.sub(lambda link: _elsewhere(link, home) or link[0], to_neighbours(cell.source))
    return new


def _elsewhere(link, home: str | None) -> str | None:
    """A link to a neighbour as one to the page at `home`, or as its words; None for any other link."""
    page = NEIGHBOUR.match(link[2])
    if not page:
        return None
    path = page[1] if page[1].startswith("book/") else f"chapters/{page[1]}"
    return f"[{link[1]}]({home}{path}.html{page[2] or ''})" if home else link[1]
