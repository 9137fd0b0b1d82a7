"""A chapter's plain Markdown lifted to what Sphinx knows: numbered exercises, boxes, hovers, citations.

The notebooks hold plain Markdown with ordinary links, so that JupyterLab, Colab, VS Code and GitHub show them well.
When the book is built, each Markdown cell passes through `lifted`: parts of the page become directives, and links to
the glossary, to the package's reference and to papers become roles. `written` makes those links from their keys.
"""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path

from book_links import to_neighbours
from myst import LINK, blocks

ROOT = Path(__file__).resolve().parents[2]
GLOSSARY, API, BIBLIOGRAPHY = "../book/glossary.md#", "../book/api.md#", "../book/bibliography.md#"
CHAPTER = re.compile(r"chapters/ch\d+_\w+$")
ONE = r"\[[^\[\]]+\]\([^()\s]+\)"
PIECE = re.compile(  # code stays as it is; one pair of brackets around links to papers; any other link
    rf"(?P<code>^```.*?^```$|`[^`\n]+`)|\((?P<cited>{ONE}(?:; {ONE})*)\)|(?P<link>{LINK.pattern})", re.M | re.S
)


# ---- what can be linked to


@functools.cache
def terms() -> dict[str, str]:
    """{anchor on the glossary page: term}, with the anchors that Sphinx gives them."""
    from sphinx.util.nodes import _make_id

    text = (ROOT / "book" / "glossary.md").read_text("utf-8")
    listed = re.search(r"```\{glossary\}\n(.*?)^```", text, re.M | re.S)[1]
    names = [line for line in listed.splitlines() if re.match(r"[^\s:]", line)]
    return {_make_id(f"term-{name}"): name for name in names}


@functools.cache
def papers() -> dict[str, tuple[str, str, str]]:
    """{key: (its address, "Hu et al.", year)} of the bibliography. What has no number of its own leads to its entry."""
    from pybtex.database import parse_file

    found = {}
    for key, entry in parse_file(ROOT / "book" / "references.bib").entries.items():
        fields = entry.fields
        number = re.search(r"arXiv:(\d{4}\.\d{4,5})", fields.get("note", ""))
        address = f"https://arxiv.org/abs/{number[1]}" if number else fields.get("url")
        address = address or (f"https://doi.org/{fields['doi']}" if "doi" in fields else BIBLIOGRAPHY + key)
        found[key] = (address, _names(entry.persons["author"]), fields["year"])
    return found


def _names(people) -> str:
    last = [" ".join(map(str, person.rich_prelast_names + person.rich_last_names)) for person in people]
    return f"{last[0]} et al." if len(last) > 2 else " and ".join(last)


# ---- writing links


def written(role: str, content: str) -> str:
    """The plain link for a role: ("term", "nats <nat>") → "[nats](../book/glossary.md#term-nat)".

    Raises KeyError for a paper or a term that the book does not have.
    """
    words, target = re.fullmatch(r"(.*?)(?:\s*<([^<>]+)>)?", content, re.S).groups()
    if role == "cite:p":
        made = ["[{1}, {2}]({0})".format(*papers()[key.strip()]) for key in content.split(",")]
        return f"({'; '.join(made)})"
    if role == "cite:t":
        return "[{1} ({2})]({0})".format(*papers()[content])
    if role == "term":
        anchor = {name.lower(): key for key, name in terms().items()}[(target or words).lower()]
        return f"[{words}]({GLOSSARY}{anchor})"
    raise KeyError(role)


# ---- lifting


def lifted(text: str) -> str:
    """A Markdown cell of a chapter as MyST."""
    return re.sub(r"\n{3,}", "\n\n", "\n".join(_directive(block) for block in blocks(text)))


def _directive(block) -> str:
    body = _roles(block.body)
    if block.kind == "exercise":
        return f"\n:::{{exercise}} {block.title}\n:label: {block.option('label')}\n\n{body}\n:::\n"
    if block.kind == "solution":
        return f"\n:::{{solution}} {block.title}\n:class: dropdown\n\n{_unmarked(body)}\n:::\n"
    if block.kind == "dropdown":
        return f"\n:::{{dropdown}} {block.title}\n{_unmarked(body)}\n:::\n"
    if block.kind == "admonition":
        return f"\n:::{{admonition}} {block.title}\n:class: {block.option('class')}\n\n{body}\n:::\n"
    if block.kind == "div":
        return f"\n:::{{div}} cost\n{body}\n:::\n"
    return block.raw if block.kind == "code" else _roles(block.raw)


def _unmarked(body: str) -> str:
    """A fence that names where its code comes from is an ordinary fence for Sphinx."""
    return re.sub(r"^```python from .*$", "```python", body, flags=re.M)


def _roles(text: str) -> str:
    """Links to the glossary, the package and the papers as roles."""
    return PIECE.sub(_role, text)


def _role(match) -> str:
    if match["cited"]:
        keys = [_paper(*link.groups(), "{1}, {2}") for link in LINK.finditer(match["cited"])]
        return f"({_roles(match['cited'])})" if None in keys else f"{{cite:p}}`{','.join(keys)}`"
    if match["code"]:
        return match[0]
    words, target = LINK.fullmatch(match["link"]).groups()
    if target.startswith(GLOSSARY):
        return f"{{term}}`{words} <{terms()[target.removeprefix(GLOSSARY)]}>`"
    if target.startswith(API):
        return f"{{py:obj}}`{words.strip('`')} <{target.removeprefix(API)}>`"
    key = _paper(words, target, "{1} ({2})")
    return f"{{cite:t}}`{key}`" if key else match[0]


def _paper(words: str, address: str, form: str) -> str | None:
    """The key of the paper that a link cites in this form, if it does."""
    return next((key for key, paper in papers().items() if (form.format(*paper), paper[0]) == (words, address)), None)


def lift_chapter(app, docname: str, source: list[str]) -> None:
    """Sphinx's `source-read`: the Markdown cells of a chapter, lifted."""
    if not CHAPTER.match(docname):
        return
    notebook = json.loads(source[0])
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = lifted(to_neighbours("".join(cell["source"])))
    source[0] = json.dumps(notebook)
