"""Docstrings are written for people who read the source; this turns them into what Sphinx reads.

Plain paragraphs stay text, with `names` in code type and no sign taken for markup. A paragraph that is set out
by hand, indented or in columns, keeps its lines exactly. Lists stay lists.
"""

from __future__ import annotations

import re
from itertools import groupby

LIST = re.compile(r"\s*[-*] ")
COLUMNS = re.compile(r"\S {2,}\S")  # two words with a gap between them, as in a table made by hand
ROLE = re.compile(r":[a-z:]+:`[^`]+`")


def as_rst(lines: list[str]) -> list[str]:
    """The lines of a docstring as reStructuredText."""
    out: list[str] = []
    for blank, group in groupby(lines, key=lambda line: not line.strip()):
        if blank:
            continue
        paragraph = [line.rstrip() for line in group]
        if all(LIST.match(line) or line.startswith("  ") for line in paragraph) and LIST.match(paragraph[0]):
            out += ["", *listed(paragraph), ""]
        else:
            for laid_out, part in groupby(paragraph, key=is_laid_out):
                text = list(part)
                out += ["", *(literal(text) if laid_out else [inline(" ".join(text))]), ""]
    return out


def is_laid_out(line: str) -> bool:
    return line.startswith(" ") or bool(COLUMNS.search(line))


def literal(part: list[str]) -> list[str]:
    return ["::", "", *("    " + line for line in part)]


def listed(paragraph: list[str]) -> list[str]:
    """A list whose items may go over several lines, one item a line."""
    items: list[str] = []
    for line in paragraph:
        if LIST.match(line):
            items.append("- " + LIST.sub("", line, count=1).strip())
        else:
            items[-1] += " " + line.strip()
    return [inline(item[:2], item[2:]) for item in items]


def inline(*pieces: str) -> str:
    """One line of text: roles and ``code`` as they are, `names` as code, every other sign as itself."""
    *head, text = pieces
    out = []
    for part in re.split(rf"({ROLE.pattern}|``[^`]+``|`[^`]+`)", text):
        if ROLE.fullmatch(part) or part.startswith("``"):
            out.append(part)
        elif part.startswith("`"):
            out.append(f"`{part}`")
        else:
            out.append(re.sub(r"([*|\\]|_(?!\w))", r"\\\1", part))
    return "".join(head) + guarded(out)


def guarded(parts: list[str]) -> str:
    """The parts joined, with an empty space where code touches a letter: else Sphinx misses its end."""
    joined = ""
    for part in parts:
        touches = joined[-1:].isalnum() or part[:1].isalnum()
        both = "`" in (joined[-1:], part[:1])
        joined += ("\\ " if touches and both and joined and part else "") + part
    return joined
