"""Docstrings are written for people who read the source; this turns them into what Sphinx reads.

Plain paragraphs stay text, with `names` in code type and no sign taken for markup. Two columns, as for
arguments and their meanings, become definitions. An indented paragraph keeps its lines. Lists stay lists.
"""

from __future__ import annotations

import re
from itertools import groupby

LIST = re.compile(r"\s*[-*] ")
COLUMNS = re.compile(r"(\S.*?) {2,}(\S.*)")  # a name, a gap, and what it means
ROLE = re.compile(r":[a-z:]+:`[^`]+`")


def as_rst(lines: list[str]) -> list[str]:
    """The lines of a docstring as reStructuredText."""
    out: list[str] = []
    for blank, group in groupby(lines, key=lambda line: not line.strip()):
        if blank:
            continue
        paragraph = [line.rstrip() for line in group]
        indented = [line.startswith(" ") for line in paragraph]
        if LIST.match(paragraph[0]):
            out += ["", *listed(paragraph), ""]
        elif indented[0]:
            out += ["", ".. code-block:: text", "", *("    " + line for line in paragraph), ""]
        else:
            out += ["", *text_and_columns(paragraph), ""]
    return out


def text_and_columns(paragraph: list[str]) -> list[str]:
    """Lines of text joined to one; lines in columns, with indented continuations, as definitions."""
    in_columns = [bool(COLUMNS.fullmatch(line)) or line.startswith(" ") for line in paragraph]
    out: list[str] = []
    for columns, group in groupby(zip(in_columns, paragraph, strict=True), key=lambda pair: pair[0]):
        part = [line for _, line in group]
        if columns and len(part) > 1:
            for line in part:
                found = None if line.startswith(" ") else COLUMNS.fullmatch(line)
                if found or not out:
                    name, meaning = found.groups() if found else ("", line)
                    out += ["", f"``{name}``", f"    {inline(meaning)}"]
                else:
                    out += [f"    {inline(line.strip())}"]
            out.append("")
        else:
            out.append(inline(" ".join(line.strip() for line in part)))
    return out


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
