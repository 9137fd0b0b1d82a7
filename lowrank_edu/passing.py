"""Which exercises pass: one line each in a text file beside the notebook. Nothing is sent anywhere.

`lo.check` adds the id of an exercise that passes, `lo.progress()` shows them all. The file is called
`.lowrank-progress.txt`; the environment variable LOWRANK_PROGRESS names another folder for it, such as one on
Google Drive, or "off". Delete the file to begin again. A line is added in one piece, so that two chapters
open at once lose nothing, and a line that is no exercise is skipped and said.
"""

from __future__ import annotations

import html
import os
from dataclasses import dataclass
from pathlib import Path

from . import exercises
from .running import for_the_page

FILE, FOLDER = ".lowrank-progress.txt", "LOWRANK_PROGRESS"
_unwritten: set[str] = set()  # of this session: what passed where the file could not be written


def place() -> Path | None:
    """The file, whether it exists or not; None when nothing is to be kept."""
    folder = os.environ.get(FOLDER, "")
    return None if for_the_page() or folder.lower() == "off" else Path(folder or ".") / FILE


def record(exercise_id: str) -> None:
    """Keep that this exercise passes. A file that cannot be written never disturbs a check: the session remembers."""
    file = place()
    if file is None:
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        text = _text(file)
        if exercise_id in text.split():
            return
        line = f"{exercise_id}\n" if text == "" or text.endswith("\n") else f"\n{exercise_id}\n"
        with open(file, "ab", buffering=0) as out:  # one write at the end of the file: no other is overwritten
            out.write(line.encode())
    except OSError:
        _unwritten.add(exercise_id)


def chapter_line(exercise_id: str) -> str:
    """'2 of 5 exercises of chapter 1 pass: …' for the message of a check; '' when nothing is kept."""
    if place() is None:
        return ""
    found = next(chapter for chapter in progress().chapters if chapter.name == exercise_id.split("-")[0])
    return f"{found.count} of {len(found.passes)} exercises of {found.title} pass: `lo.progress()` shows all chapters."


@dataclass(frozen=True)
class Chapter:
    """One chapter's exercises. passes: {title: passed or not}, in the order of the page."""

    name: str  # "ch01"
    passes: dict[str, bool]

    @property
    def title(self) -> str:
        return f"chapter {int(self.name.removeprefix('ch'))}"

    @property
    def count(self) -> int:
        return sum(self.passes.values())


@dataclass(frozen=True)
class Progress:
    """What `progress` found: shown as a table in a notebook, as text elsewhere."""

    chapters: tuple[Chapter, ...]
    note: str  # where it is kept, or why it is not

    @property
    def passed(self) -> int:
        return sum(chapter.count for chapter in self.chapters)

    def __repr__(self):
        lines = [f"{self.passed} of {sum(len(c.passes) for c in self.chapters)} exercises pass. {self.note}"]
        for c in self.chapters:
            lines.append(f"{c.title.capitalize():<11}{''.join('○✓'[p] for p in c.passes.values())}")
        return "\n".join(lines)

    def _repr_mimebundle_(self, include=None, exclude=None):
        rows = "".join(
            f'<tr><th scope="row" style="text-align:left;white-space:nowrap">{c.title.capitalize()}</th>'
            f'<td style="white-space:nowrap">{c.count} of {len(c.passes)}</td><td style="text-align:left">'
            + " · ".join(f"{'✓' if p else '○'} {html.escape(title)}" for title, p in c.passes.items())
            + "</td></tr>"
            for c in self.chapters
        )
        head = html.escape(repr(self).splitlines()[0])
        table = f"<table><caption>{head}</caption>{rows}</table>"
        return {"text/plain": repr(self), "text/html": table}


def progress() -> Progress:
    """Which exercises of the book pass, by chapter. Reads the local file only; see the top of this module."""
    file, known = place(), exercises.ids()
    if file is None:
        passed, note = set(), "Nothing is kept here."
    else:
        passed, note = _read(file, set(known))
    chapters = {name: {e.title: e.id in passed for e in exercises.chapter(name)} for name in exercises.chapters()}
    return Progress(tuple(Chapter(name, passes) for name, passes in chapters.items()), note)


def _read(file: Path, known: set[str]) -> tuple[set[str], str]:
    try:
        words, note = set(_text(file).split()), f"Kept in {file}."
    except OSError:
        words, note = set(), ""
    if words - known:
        note += f" {len(words - known)} words in it are no exercises and were skipped; delete it to begin again."
    if _unwritten - words or not note:
        note = f"Kept for this session only: {file} cannot be written. Set {FOLDER} to another folder."
    return (words | _unwritten) & known, note


def _text(file: Path) -> str:
    return file.read_text("utf-8", errors="replace") if file.exists() else ""
