"""A chapter's Markdown taken apart: its boxes, hints, solutions and predictions, in the order of the page."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OPEN = re.compile(r"^(:{3,}|`{3,})\{([\w:.-]+)\}\s*(.*)$")
CODE = re.compile(r"^(`{3,})(?!\{)")
OPTION = re.compile(r"^:([\w-]+):\s*(.*)$")
HEADING = re.compile(r"^(#{1,6}) (.+)$")


@dataclass(frozen=True)
class Block:
    """A piece of a cell. `kind`: "text", "heading", "code", "hint", or the directive's name ("exercise", …)."""

    kind: str
    raw: str
    title: str = ""  # what stands behind the directive's name; a heading's words
    options: tuple[tuple[str, str], ...] = ()
    body: str = ""
    level: int = 0  # of a heading

    def option(self, name: str) -> str:
        return dict(self.options).get(name, "")


def blocks(source: str) -> list[Block]:
    """The pieces of a Markdown cell; their `raw`, joined with newlines, is the cell.  ValueError for an open fence."""
    lines, found, text = source.split("\n"), [], []

    def keep(block=None):
        if text:
            found.append(Block("text", "\n".join(text), body="\n".join(text).strip()))
            text.clear()
        if block:
            found.append(block)

    at = 0
    while at < len(lines):
        line = lines[at]
        opened, coded, heading = OPEN.match(line), CODE.match(line), HEADING.match(line)
        hint = line.startswith('<details class="hint">')
        if not (opened or coded or heading or hint):
            text.append(line)
            at += 1
        elif heading:
            keep(Block("heading", line, heading[2], level=len(heading[1])))
            at += 1
        else:
            fence = "</details>" if hint else (opened or coded)[1]
            end = next((i for i in range(at + 1, len(lines)) if lines[i].rstrip() == fence), None)
            if end is None:
                raise ValueError(f"{line!r} is never closed: a line {fence!r} is missing.")
            keep(_block(lines[at : end + 1], opened, hint))
            at = end + 1
    keep()
    return found


def _block(lines, opened, hint) -> Block:
    """One fenced piece; its options are the lines `:name: value` that come first."""
    raw, body = "\n".join(lines), lines[1:-1]
    if not opened:
        title = re.sub(r"<[^>]+>", "", lines[0]) if hint else ""
        return Block("hint" if hint else "code", raw, title, body="\n".join(body).strip())
    options = []
    while body and (option := OPTION.match(body[0])):
        options.append((option[1], option[2]))
        body = body[1:]
    kind = "hint" if opened[2] == "dropdown" and re.search(r"\bhint\b", opened[3], re.I) else opened[2]
    return Block(kind, raw, opened[3], tuple(options), "\n".join(body).strip())


def joined(pieces: list[str]) -> str:
    """Pieces as a cell again, without heaps of empty lines where something was taken out."""
    return re.sub(r"\n{3,}", "\n\n", "\n".join(pieces)).strip("\n")


# ---- what the package's source brings into a page


def included(path: str, name: str) -> str:
    """The source of `name` in a file that a chapter includes ("../lowrank_edu/exercises/ch03.py")."""
    file = (ROOT / "chapters" / path).resolve()
    source = file.read_text("utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == name:
            return "\n".join(source.splitlines()[node.lineno - 1 : node.end_lineno])
    raise ValueError(f"{file.name} has no function or class {name!r}, which a chapter includes.")


def with_source(body: str) -> str:
    """`body` with each included function written out, so that it can be read outside the rendered book."""
    pieces = []
    for block in blocks(body):
        if block.kind == "literalinclude":
            pieces.append(f"```python\n{included(block.title, block.option('pyobject'))}\n```")
        else:
            pieces.append(block.raw)
    return joined(pieces)


def solutions(nb) -> dict[str, str]:
    """{exercise id: its solution with the code written out} of a chapter."""
    return {
        block.title: with_source(block.body)
        for cell in nb.cells
        if cell.cell_type == "markdown"
        for block in blocks(cell.source)
        if block.kind == "solution"
    }


# ---- without Sphinx: for slides and cards

ROLES = [
    (r"\{cite:t\}`([^`]+)`", lambda m: "the paper"),
    (r"\s*\{cite:?p?\}`([^`]+)`", lambda m: ""),
    (r"\{(?:term|doc|ref|numref)\}`([^`<]+?)\s*(?:<[^>]*>)?`", lambda m: m[1]),
    (r"\{py:\w+\}`~?([^`]+)`", lambda m: f"`{m[1]}`"),
    (r"\{eq\}`([^`]+)`", lambda m: "the equation"),
]


def plain(text: str) -> str:
    """Markdown that any notebook renders: MyST's roles become their words."""
    for pattern, word in ROLES:
        text = re.sub(pattern, word, text)
    return text
