"""Slides of every chapter, made from the same notebooks: build/classroom/slides/chNN_name.html.

    python book/tools/slides.py [ch03]

Sections are slides; predictions, exercises, figures and code get a slide each; the prose waits in the speaker's notes
(press S). Hints and solutions are left out. nbconvert writes the pages; all that they load lies beside them.
"""

from __future__ import annotations

import re
import shutil
import sys
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
SHOWN = re.compile(r"^\s*(?:\||[-*] |\d+\. |>|\$\$)")  # tables, lists, quotations and formulas go on a slide


def deck(nb):
    """The notebook of a chapter's slides: cells with the kinds of slide that nbconvert reads."""
    new = nbformat.v4.new_notebook(metadata=nb.metadata)
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            new.cells += [made for block in blocks(cell.source) for made in _said(block)]
        elif "setup" not in cell_tags(cell) and "figures.try_yours(" not in cell.source:
            new.cells.append(_code(cell))
    return _opening(new)


def _code(cell):
    """A code cell with what it printed. The stub of an exercise stays on the slide of its exercise, unchecked."""
    stub = "lo.check(" in cell.source
    new = nbformat.v4.new_code_cell(cell.source, outputs=[] if stub else cell.outputs)
    new.metadata["slideshow"] = {"slide_type": "-" if stub else "subslide"}
    if any("<figure" in output.get("data", {}).get("text/html", "") for output in new.outputs):
        new.metadata["tags"] = ["figure"]  # shown without the line that draws it
    return new


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


def write(path: Path, out: Path = OUT) -> Path:
    """The slides of one chapter as a page in `out`."""
    exporter = SlidesExporter(
        extra_template_basedirs=[str(TEMPLATE.parent)],
        template_name=TEMPLATE.name,
        reveal_url_prefix="reveal",
        exclude_input_prompt=True,
        exclude_output_prompt=True,
    )
    exporter.register_preprocessor(TagRemovePreprocessor(remove_input_tags={"figure"}, enabled=True), enabled=True)
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
