"""Prediction cards to print: every "predict first" of the book, two on a sheet, in build/classroom/cards.html.

    python book/tools/cards.py

For a room without a screen for everyone: choose before the run, write it down, compare afterwards.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import nbformat
from katex_math import STYLE, beside, markdown
from make_book import ROOT
from myst import blocks, plain
from notebooks import chapters

OUT = ROOT / "build" / "classroom"
MARKED = re.compile(r"\*\*Predict\b")


@dataclass(frozen=True)
class Card:
    chapter: int
    section: str  # the heading under which it stands
    question: str  # Markdown


def predictions(nb, chapter: int) -> list[Card]:
    """The predictions of a chapter in its order: boxes, exercises of kind "predict", and marked paragraphs."""
    from lowrank_edu import exercises

    found, section, top, first = [], "", "", False
    for cell in nb.cells:
        for block in blocks(cell.source) if cell.cell_type == "markdown" else ():
            if block.kind == "heading":
                top = top or block.title
                first = block.title == "Predict first"
                section = top if first else block.title
            elif block.kind == "admonition" and block.option("class") == "predict":
                found.append(Card(chapter, section, plain(block.body)))
            elif block.kind == "exercise" and (exercises.get(block.option("label")).kind == "predict" or first):
                body = re.sub(r"\*\*Difficulty\*\*.*\n", "", block.body).strip()
                found.append(Card(chapter, section, plain(f"**{block.title}**\n\n{body}")))
            elif block.kind == "text":
                parts = [part for part in re.split(r"\n\s*\n", block.body) if MARKED.search(part)]
                found += [Card(chapter, section, plain(asked(part))) for part in parts]
    return found


def asked(paragraph: str) -> str:
    """A paragraph that asks for a prediction, up to its last question mark: what follows describes the run."""
    end = paragraph.rfind("?")
    return paragraph[: end + 1] if end > MARKED.search(paragraph).start() else paragraph.rstrip(": ") + "."


FRONT = """<article class="card">
<header>Chapter {chapter} · {section}</header>
<div class="question">{question}</div>
<p class="line">I predict</p><p class="line">because</p>
<p class="sure">Sure?&ensp;<span>○ a guess</span> <span>○ fairly</span> <span>○ I would bet</span></p>
<p class="line">It came out as</p>
</article>
"""
PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Prediction cards</title>
<style>
:root {{ color-scheme: light }}
body {{ font: 13pt/1.4 system-ui, sans-serif; margin: 1rem auto; max-width: 190mm; color: #000; background: #fff }}
.card {{ border: 1px solid #777; border-radius: 4mm; padding: 7mm 9mm; margin: 0 0 8mm; height: 132mm;
  box-sizing: border-box; display: flex; flex-direction: column; break-inside: avoid }}
.card header {{ font-size: 10pt; color: #333; border-bottom: 2px solid #b45309; padding-bottom: 1mm }}
.question {{ flex: 1; font-size: 12.5pt }}
.question pre, .question table {{ font-size: 10pt }}
.line {{ border-bottom: 1px solid #777; margin: 0 0 4mm; height: 8mm; display: flex; align-items: flex-end; color: #333;
  font-size: 10pt }}
.sure {{ font-size: 10pt; margin: 0 0 2mm }} .sure span {{ margin-right: 6mm; white-space: nowrap }}
@page {{ size: A4; margin: 11mm }}
@media print {{ .screen {{ display: none }} body {{ margin: 0 }} .card {{ margin: 0 0 7mm }}
  .card:nth-of-type(even) {{ break-after: page; margin: 0 }} .card:last-of-type {{ break-after: auto }} }}
</style>
<link rel="stylesheet" href="{style}"></head>
<body><p class="screen">{count} cards, two on a sheet of A4. Print, cut once across the middle.</p>
{cards}</body></html>
"""


def sheet(cards: list[Card]) -> str:
    """All cards as one page."""
    fronts = [
        FRONT.format(chapter=card.chapter, section=markdown_line(card.section), question=markdown(card.question))
        for card in cards
    ]
    return PAGE.format(count=len(cards), style=STYLE, cards="".join(fronts))


def markdown_line(text: str) -> str:
    """One line of Markdown as HTML, without the paragraph around it."""
    return re.sub(r"^<p>|</p>\s*$", "", markdown(plain(text)).strip())


def collect(words: list[str]) -> list[Card]:
    return [
        card for path in chapters(words) for card in predictions(nbformat.read(path, as_version=4), int(path.name[2:4]))
    ]


def main(words: list[str], out: Path = OUT) -> int:
    cards = collect(words)
    out.mkdir(parents=True, exist_ok=True)
    beside(out)
    (out / "cards.html").write_text(sheet(cards), "utf-8")
    print(f"{len(cards)} prediction cards: {os.path.relpath(out / 'cards.html')}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
