"""A chapter's Markdown taken apart: its boxes, hints, solutions and predictions, in the order of the page.

Chapters are written in plain Markdown and HTML that every viewer of notebooks renders. A light convention tells the
parts of a page from each other:

    **Cost** · 20 minutes, and 30 more …                               what the chapter costs
    > **Predict first**                                                a box; its title tells what it is (`BOXES`)
    ### <a id="ch03-forward"></a>Exercise 3.1: The forward pass        an exercise, up to the next part or end
    <details class="hint"><summary>Hint 1</summary>                    a hint
    <details class="solution" id="solution-ch03-forward"><summary>…    the solution of an exercise
    <details class="source"><summary>…                                 code of the package, for comparison
    ```python from lowrank_edu.factor import truncated_svd             the package's code, written there by a tool
"""

from __future__ import annotations

import ast
import itertools
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HEADING = re.compile(r"^(#{1,6}) (.+)$")
EXERCISE = re.compile(r'^### <a id="([\w-]+)"></a>Exercise [\d.]+: (.+)$')
DETAILS = re.compile(r'^<details class="(hint|solution|source)"(?: id="solution-([\w-]+)")?>')
CODE = re.compile(r"^(`{3,})")
BOX = re.compile(r"^> \*\*([^*]+)\*\*$")
COST = re.compile(r"^\*\*Cost\*\* · ")
SUMMARY = re.compile(r"<summary>(.*?)</summary>")
SOURCE = re.compile(r"^```python from ([\w.]+) import (\w+)\n.*?^```$", re.M | re.S)
BOXES = {  # the title of a box, up to its colon, and the class that the book's stylesheet gives it
    "Predict first": "predict",
    "Three takeaways": "takeaways",
    "Five questions, without looking back": "recall",
    "Note": "note",
    "For the teacher": "classroom",
}


@dataclass(frozen=True)
class Block:
    """A piece of a cell. `kind`: text, heading, code, hint, exercise, solution, admonition, dropdown or div (the cost).

    `title` is a heading's words, the title of an exercise or box, a solution's exercise. Options: an exercise has its
    `label`, an admonition its `class`.
    """

    kind: str
    raw: str
    title: str = ""
    options: tuple[tuple[str, str], ...] = ()
    body: str = ""
    level: int = 0  # of a heading

    def option(self, name: str) -> str:
        return dict(self.options).get(name, "")


def blocks(source: str) -> list[Block]:
    """The pieces of a Markdown cell; their `raw`, joined with newlines, is the cell.

    Raises ValueError for a fence or a `<details>` that is never closed and for a box whose title is none of `BOXES`.
    """
    lines, found, text, at = source.split("\n"), [], [], 0
    while at < len(lines):
        end = _end(lines, at)
        if end is None:
            text.append(lines[at])
            at += 1
            continue
        if text:
            found.append(_text(text))
            text = []
        found.append(_block(lines[at:end]))
        at = end
    return found + ([_text(text)] if text else [])


def _text(lines: list[str]) -> Block:
    return Block("text", "\n".join(lines), body="\n".join(lines).strip())


def _end(lines: list[str], at: int) -> int | None:
    """The line after the piece that begins at `at`; None where a paragraph stands."""
    line = lines[at]
    if details := DETAILS.match(line):
        return _closed(lines, at, "</details>", details[0])
    if fence := CODE.match(line):
        return _closed(lines, at, fence[1], line)
    if EXERCISE.match(line):
        return _end_of_exercise(lines, at + 1)
    if HEADING.match(line):
        return at + 1
    if BOX.match(line) and lines[at + 1 : at + 2] == [">"]:  # else a quotation that is wholly bold: a chapter's answer
        return next((i for i in range(at, len(lines)) if not lines[i].startswith(">")), len(lines))
    if COST.match(line):
        return next((i for i in range(at, len(lines)) if not lines[i].strip()), len(lines))
    return None


def _closed(lines, at, fence, opened) -> int:
    end = next((i for i in range(at + 1, len(lines)) if lines[i].rstrip() == fence), None)
    if end is None:
        raise ValueError(f"{opened!r} is never closed: a line {fence!r} is missing.")
    return end + 1


def _end_of_exercise(lines, at) -> int:
    """An exercise holds paragraphs and code, up to the next heading, box, hint or solution."""
    while at < len(lines):
        end = _end(lines, at)
        if end is not None and not CODE.match(lines[at]):
            break
        at = end or at + 1
    return at


def _block(lines: list[str]) -> Block:
    raw, first = "\n".join(lines), lines[0]
    if details := DETAILS.match(first):
        kind = {"hint": "hint", "solution": "solution", "source": "dropdown"}[details[1]]
        body = SUMMARY.sub("", "\n".join([first[len(details[0]) :], *lines[1:-1]]), count=1).strip()
        return Block(kind, raw, details[2] or SUMMARY.search(first)[1], body=body)
    if CODE.match(first):
        return Block("code", raw, body="\n".join(lines[1:-1]).strip())
    if exercise := EXERCISE.match(first):
        return Block("exercise", raw, exercise[2], (("label", exercise[1]),), "\n".join(lines[1:]).strip())
    if heading := HEADING.match(first):
        return Block("heading", raw, heading[2], level=len(heading[1]))
    if box := BOX.match(first):
        return _box(raw, box[1], "\n".join(re.sub("^> ?", "", line) for line in lines[1:]).strip())
    return Block("div", raw, "cost", body=COST.sub("", raw).strip())


def _box(raw: str, words: str, body: str) -> Block:
    name, _, rest = words.partition(": ")
    if name not in BOXES:
        raise ValueError(f"a box has the title {words!r}; it has to begin with one of {', '.join(BOXES)}.")
    title = rest if name == "Note" else words
    return Block("admonition", raw, title, (("class", BOXES[name]),), body)


def box(title: str, body: str) -> str:
    """A box in a chapter's plain form; `title` begins with one of `BOXES`."""
    return "\n".join([f"> **{title}**", ">", *(f"> {line}".rstrip() for line in body.strip().split("\n"))])


def joined(pieces: list[str]) -> str:
    """Pieces as a cell again, without heaps of empty lines where something was taken out."""
    return re.sub(r"\n{3,}", "\n\n", "\n".join(pieces)).strip("\n")


# ---- what a tool writes into the chapters


def source_of(module: str, name: str) -> str:
    """The source of a function or class of the package, such as ("lowrank_edu.factor", "truncated_svd")."""
    file = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    if not file.exists():
        raise ValueError(f"a chapter shows {name} of {module}, and there is no {file.relative_to(ROOT)}.")
    source = file.read_text("utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == name:
            return "\n".join(source.splitlines()[node.lineno - 1 : node.end_lineno])
    raise ValueError(f"{file.name} has no function or class {name!r}, which a chapter shows.")


def with_source(text: str) -> str:
    """`text` with the package's code as it is today in every fence that names its origin."""
    return SOURCE.sub(lambda m: f"```python from {m[1]} import {m[2]}\n{source_of(m[1], m[2])}\n```", text)


def numbered(texts: list[str]) -> list[str]:
    """The Markdown cells of a chapter with its exercises numbered in their order: 3.1, 3.2, …"""
    opening = re.compile(r'^(### <a id="ch(\d+)-[\w-]+"></a>)Exercise [\d.]+: ', re.M)
    count = itertools.count(1)
    return [opening.sub(lambda m: f"{m[1]}Exercise {int(m[2])}.{next(count)}: ", text) for text in texts]


def solutions(nb) -> dict[str, str]:
    """{exercise id: its solution with the code written out} of a chapter."""
    return {
        block.title: block.body
        for cell in nb.cells
        if cell.cell_type == "markdown"
        for block in blocks(cell.source)
        if block.kind == "solution"
    }


# ---- on paper and on slides

LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\[\]]*\])+)\]\(([^()\s]+)\)")


def plain(text: str) -> str:
    """`text` with the words of its links in place of the links."""
    return LINK.sub(r"\1", text)
