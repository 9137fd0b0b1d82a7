"""Slides of every chapter, made from the same notebooks: build/classroom/slides/chNN_name.html.

    python book/tools/slides.py [ch03]

Sections are slides; predictions, exercises, figures, code and the questions of a quiz get a slide each; the prose waits
in the speaker's notes (press S). What a cell printed comes one press after its code, so that a guess has its time.
Hints and solutions are left out. Every slide fits a stage of 1280 × 800 (`fit.js`). nbconvert writes the pages; all
that they load lies beside them.
"""

from __future__ import annotations

import html
import re
import shutil
import sys
from math import ceil
from pathlib import Path

import katex_math
import nbformat
from make_book import ROOT
from myst import blocks, plain
from nbconvert import SlidesExporter
from nbconvert.preprocessors import TagRemovePreprocessor
from notebooks import cell_tags, chapters

OUT = ROOT / "build" / "classroom" / "slides"
TEMPLATE = ROOT / "book" / "tools" / "slide_template"
STAGE, CODE_LINE, OUTPUT_LINE, PICTURE = 680, 27, 27, 18  # pixels, and how many lines a plotted picture stands for
LONGEST = 30  # lines of output on one slide
SHOWN = re.compile(r"^\s*(?:\||[-*] |\d+\. |>|\$\$)")  # tables, lists, quotations and formulas go on a slide


def deck(nb):
    """The notebook of a chapter's slides: cells with the kinds of slide that nbconvert reads."""
    new = nbformat.v4.new_notebook(metadata=nb.metadata)
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            new.cells += [made for block in blocks(cell.source) for made in _said(block)]
        elif "setup" not in cell_tags(cell) and "figures.try_yours(" not in cell.source:
            new.cells += _run(cell)
    return _explained(_opening(new))


def _run(cell) -> list:
    """The slides of a code cell: figures and quizzes at once and without the line that draws them, outputs after it.

    The stub of an exercise stays on the slide of its exercise, unchecked.
    """
    drawn = "".join(output.get("data", {}).get("text/html", "") for output in cell.outputs)
    if "lo.check(" in cell.source:
        return [_code(cell, [], "-")]
    if "<figure" in drawn:
        captions = re.findall(r"<figcaption>(.*?)</figcaption>", drawn, re.S)
        notes = [_cell("notes", html.unescape(caption)) for caption in captions]
        return [_code(cell, cell.outputs, "subslide", "alone"), *notes]
    if "lo-quiz" in drawn:
        return [_code(cell, _shown_html(question), "subslide", "alone") for question in questions(drawn)]
    if fits(cell.source, printed(cell.outputs)):
        return [_code(cell, cell.outputs, "subslide", "after" if cell.outputs else "")]
    later = [_code(cell, part, "subslide", "alone") for part in parts(cell.outputs)]
    return [_code(cell, [], "subslide"), *later]


def _code(cell, outputs, kind: str, tag: str = ""):
    """A code cell. `alone`: its outputs without its code; `after`: its outputs one press after its code."""
    new = nbformat.v4.new_code_cell(cell.source, outputs=outputs)
    new.metadata = nbformat.from_dict({"slideshow": {"slide_type": kind}, "tags": [tag] if tag else []})
    return new


def _shown_html(text: str) -> list:
    return [nbformat.v4.new_output("display_data", data={"text/html": text})]


def questions(quiz: str) -> list[str]:
    """A quiz of the page as one quiz for each of its questions, with ids of their own."""
    head, *middle = re.split(r"(?=<fieldset>)", quiz)
    last, end = middle[-1].split("</fieldset>")
    sets = [*middle[:-1], f"{last}</fieldset>"]
    whole = [head + one + end for one in sets]
    named = [re.sub(r'"(quiz-ch\d+)(-title)?"', rf'"\1-slide{n}\2"', one) for n, one in enumerate(whole, 1)]
    return [one.replace("<section", '<div role="group"').replace("</section>", "</div>") for one in named]  # no slide


def printed(outputs) -> str:
    """What a cell printed, and the text of its last value; a picture counts as `PICTURE` lines."""
    said = [o.get("text") or o.get("data", {}).get("text/plain", "") for o in outputs]
    return "\n".join(
        "\n" * PICTURE if "image/png" in o.get("data", {}) else t.rstrip() for o, t in zip(outputs, said, strict=True)
    )


def lines(text: str, width: int) -> int:
    """The lines that `text` takes where `width` characters fit on one."""
    return sum(max(1, ceil(len(line) / width)) for line in text.splitlines())


def fits(code: str, output: str) -> bool:
    """Do a cell and what it printed stand on one slide, both in letters of the usual size?"""
    return lines(code, 98) * CODE_LINE + lines(output, 98) * OUTPUT_LINE <= STAGE


def parts(outputs) -> list:
    """Outputs as slides: text of more than `LONGEST` lines is cut into equal parts."""
    found = []
    for output in outputs:
        rows = output.get("text", "").splitlines(keepends=True)
        count = ceil(len(rows) / LONGEST) or 1
        size = ceil(len(rows) / count)
        pieces = ["".join(rows[k * size : (k + 1) * size]) for k in range(count)]
        found += [[{**output, "text": piece}] for piece in pieces] if count > 1 else [[output]]
    return [[nbformat.from_dict(output) for output in part] for part in found]


def _cell(kind: str, text: str):
    return nbformat.v4.new_markdown_cell(plain(text), metadata={"slideshow": {"slide_type": kind}})


def _box(name: str, title: str, body: str) -> str:
    return f'<div class="box {name}"><b>{title}</b>\n\n{body}\n\n</div>'


def _said(block) -> list:
    """The slides of one piece of prose: what the room sees, and what the speaker says."""
    if block.kind == "heading":
        return [_cell("slide" if block.level < 3 else "subslide", block.raw)]
    if block.kind == "exercise":
        return [_cell("subslide", _box("exercise", f"Exercise: {block.title}", block.body))]
    if block.kind == "admonition":
        name = block.option("class")
        seen = name in ("predict", "takeaways", "recall")
        return [_cell("subslide" if seen else "notes", _box(name, block.title, block.body))]
    if block.kind == "div":
        return [_cell("-", f'<div class="cost">\n\n{block.body}\n\n</div>')]
    if block.kind in ("text", "code"):
        parts = [block.raw] if block.kind == "code" else re.split(r"\n\s*\n", block.body)
        return [_cell("-" if block.kind == "code" or SHOWN.match(part) else "notes", part) for part in parts if part]
    return []  # hints, solutions, and code that is only compared


def _opening(nb):
    """A section shows more than its heading: the first paragraph below it, or the code or question that follows."""
    for here, after in zip(nb.cells, nb.cells[1:], strict=False):
        kinds = [cell.metadata["slideshow"]["slide_type"] for cell in (here, after)]
        if kinds[0] == "slide" and kinds[1] in ("notes", "subslide"):
            after.metadata["slideshow"]["slide_type"] = "-"
    return nb


def _explained(nb):
    """What is said about an output has a slide of its own: it would answer before the output is there."""
    ran = False
    for cell in nb.cells:
        kind = cell.metadata["slideshow"]["slide_type"]
        if cell.cell_type == "code" or kind in ("slide", "subslide"):
            ran = bool(cell.get("outputs"))
        elif ran and kind == "-":
            cell.metadata["slideshow"]["slide_type"], ran = "subslide", False
    return nb


def write(path: Path, out: Path = OUT) -> Path:
    """The slides of one chapter as a page in `out`."""
    exporter = SlidesExporter(
        extra_template_basedirs=[str(TEMPLATE.parent)],
        template_name=TEMPLATE.name,
        reveal_url_prefix="reveal",
        exclude_input_prompt=True,
        exclude_output_prompt=True,
    )
    exporter.register_preprocessor(TagRemovePreprocessor(remove_input_tags={"alone"}, enabled=True), enabled=True)
    exporter.register_filter("markdown2html", katex_math.markdown)
    nb = deck(nbformat.read(path, as_version=4))
    nb.metadata["title"] = nb.cells[0].source.lstrip("# ")
    page, _ = exporter.from_notebook_node(nb)
    page = re.sub(r'\s*<link[^>]*href="reveal/dist/theme/[^>]*>', "", page)
    target = out / f"{path.stem}.html"
    target.write_text(page.replace("reveal/dist/reveal.css", "reveal/reveal.css"), "utf-8")
    return target


def beside(out: Path = OUT) -> None:
    """What the pages load: reveal.js, and what shows formulas."""
    out.mkdir(parents=True, exist_ok=True)
    shutil.copytree(TEMPLATE / "reveal", out / "reveal", dirs_exist_ok=True)
    katex_math.beside(out)


def main(words: list[str]) -> int:
    beside()
    for path in chapters(words):
        print(f"slides: {write(path).relative_to(ROOT)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
