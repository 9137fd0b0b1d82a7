"""What the search page searches: every section, glossary entry and name of the package, as plain text in sections.js.

Sphinx's own index knows which page holds a word, not where, and its script fetches every hit once more for an excerpt.
book/_static/search.js reads this one file instead.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from pathlib import Path

from bs4 import BeautifulSoup, Tag

# The page's machinery, what is drawn, a formula's second form, and answers that a reader opens by choice
UNREAD = (
    "script, style, svg, button, select, input, output, label, .headerlink, .katex-html, annotation, "
    ".admonition-title, summary, noscript, .cost, p.ways, figure.lo-fig, details.hint, .solution, "
    ".lo-quiz, .lo-check, .lo-live"
)
CODE = "div[class*=highlight]"
BLOCKS = "p, li, dt, dd, th, td, caption, figcaption, div, section, table, blockquote"
PLACES = "section[id]:has(> :is(h1, h2, h3, h4, h5, h6)), dl.glossary > dt[id], dl.py > dt[id]"
CARD = "Difficulty ●"  # the line under an exercise's title
END = "\x1e"  # of a paragraph: line breaks of the source are none


@dataclass(frozen=True)
class Section:
    """One place that a search can lead to. The order of these is that of a row in sections.js."""

    url: str  # from the book's root, with the anchor
    title: str
    page: str  # the title of its page
    kind: str  # "text", "term" of the glossary or "name" of the package
    text: str  # what is read, a line for each paragraph
    code: str


def words(text: str) -> str:
    return " ".join(text.split())


def read(element: Tag | None) -> str:
    """The text of an element, a line for each paragraph."""
    if element is None:
        return ""
    for block in element.select(BLOCKS):
        block.insert(0, END)
        block.append(END)
    return "\n".join(line for line in map(words, element.get_text().split(END)) if line and not line.startswith(CARD))


def taken(element: Tag, selector: str) -> str:
    """The text of what `selector` finds in an element, which then no longer has it."""
    found = [part.extract() for part in element.select(selector)]
    return "\n".join(words(part.get_text()) for part in found if part.get_text(strip=True))


def title_of(place: Tag) -> str:
    """A section's heading, which it then no longer has; an entry's word; the full name of a part of the package."""
    if place.name == "dt":
        return place["id"] if "sig" in place.get("class", ()) else words(place.get_text())
    return taken(place, ":scope > :is(h1, h2, h3, h4, h5, h6)")


def of_page(html: str, address: str) -> list[Section]:
    """The places of a page in their order; each has its own text, without that of the places inside it."""
    article = BeautifulSoup(html, "html.parser").select_one("article.bd-article")
    if not article or not article.h1:
        return []
    for unread in article.select(UNREAD):
        unread.extract()
    page, found = words(article.h1.get_text()), []
    for place in reversed(article.select(PLACES)):  # the inner ones first: what is taken away is not read again
        title = title_of(place)
        body = place.find_next_sibling("dd") if place.name == "dt" else place
        kind = "text" if body is place else "name" if "sig" in place.get("class", ()) else "term"
        code = taken(body, CODE) if body else ""
        text = read(body)
        if text or code or kind != "text":  # a heading with nothing of its own below it has no sentence to show
            found.append(Section(f"{address}#{place['id']}", title, page, kind, text, code))
        for done in {id(part): part for part in (place, body) if part}.values():
            done.extract()
    return found[::-1]


def write(out: Path, pages: Iterable[str]) -> None:
    """Write sections.js, what search.js searches, for these pages of a built book."""
    rows = []
    for page in sorted(pages):
        path = out / f"{page}.html"
        rows += of_page(path.read_text("utf-8"), f"{page}.html") if path.exists() else []
    text = ",\n".join(json.dumps(astuple(row), ensure_ascii=False, separators=(",", ":")) for row in rows)
    (out / "sections.js").write_text(f"const SECTIONS = [\n{text}\n];\n", "utf-8")
