"""Formulas, typeset when a page is built: KaTeX runs here, not in the reader's browser.

Readers load a stylesheet and a few fonts, and screen readers find MathML. There are no macros of our own: what is
written must also show in Jupyter and on Colab. KaTeX lies in book/_vendor/_static/katex.
"""

from __future__ import annotations

import functools
import re
import shutil
from html import escape
from pathlib import Path

KATEX = Path(__file__).resolve().parents[1] / "_vendor" / "_static" / "katex"
STYLE = "katex/katex.min.css"  # beside the pages
TYPESET = """function typeset(tex, displayMode) {
  try { return {html: katex.renderToString(tex, {displayMode, output: "htmlAndMathml", strict: "error"})}; }
  catch (problem) { return {problem: problem.message.replace("KaTeX parse error: ", "")}; }
}"""
NUMBERED = re.compile(r"\\(begin|end)\{(equation|align|gather|alignat)\}")


class BadFormula(ValueError):
    """A formula that KaTeX cannot read."""


@functools.cache
def engine():
    """A JavaScript engine with KaTeX in it; it starts in a tenth of a second, once."""
    from py_mini_racer import MiniRacer  # here: pages without a formula need none

    found = MiniRacer()
    found.eval((KATEX / "katex.min.js").read_text("utf-8"))
    found.eval(TYPESET)
    return found


@functools.cache
def typeset(tex: str, display: bool = False) -> str:
    """A formula as HTML with MathML inside.  BadFormula names it and says where it breaks."""
    made = engine().call("typeset", tex, display)
    if "problem" in made:
        raise BadFormula(f"the formula {tex.strip()!r} cannot be typeset: {made['problem']}")
    return made["html"]


def rows(tex: str) -> str:
    """What Sphinx does with a block: an empty line or a double backslash begins a row, & lines rows up."""
    parts = [part.strip() for part in tex.split("\n\n") if part.strip()]
    parts = [rf"\begin{{split}}{part}\end{{split}}" if r"\\" in part else part for part in parts]
    return parts[0] if len(parts) == 1 else r"\begin{aligned}" + r" \\ ".join(parts) + r"\end{aligned}"


def starred(tex: str) -> str:
    """An environment that numbers itself, without its number: Sphinx counts."""
    return NUMBERED.sub(r"\\\1{\2*}", tex)


# ---- in the book: what Sphinx calls for each formula


def _made(translator, node, tex: str, display: bool) -> str:
    """The formula; a bad one is a warning with its page and line, which fails the build."""
    from sphinx.util import logging

    try:
        return typeset(tex, display)
    except BadFormula as problem:
        logging.getLogger(__name__).warning("%s", problem, location=node)
        return f"<code>{escape(tex)}</code>"


def visit_inline(translator, node):
    from docutils.nodes import SkipNode

    made = _made(translator, node, node.astext(), False)
    translator.body += [translator.starttag(node, "span", "", CLASS="math notranslate nohighlight"), made, "</span>"]
    raise SkipNode


def visit_block(translator, node):
    from docutils.nodes import SkipNode
    from sphinx.util.math import get_node_equation_number

    translator.body.append(translator.starttag(node, "div", CLASS="math notranslate nohighlight"))
    if node["number"]:
        translator.body.append(f'<span class="eqno">({get_node_equation_number(translator, node)})')
        translator.add_permalink_ref(node, "Link to this equation")
        translator.body.append("</span>")
    whole = node["nowrap"] or "amsmath" in node["classes"]  # it is an environment of its own
    tex = starred(node.astext()) if whole else rows(node.astext())
    translator.body += [_made(translator, node, tex, True), "</div>\n"]
    raise SkipNode


def styled(app, page, template, context, doctree):
    """Only a page with a formula loads the stylesheet."""
    if 'class="katex' in context.get("body", ""):
        app.add_css_file(STYLE)


def setup(app):
    app.add_html_math_renderer("katex", (visit_inline, None), (visit_block, None))
    app.connect("html-page-context", styled)
    # A second process would inherit the engine without its threads.
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": False}


# ---- without Sphinx: slides and cards


def beside(out: Path) -> None:
    """Copy what a page in `out` loads as `STYLE`."""
    unused = shutil.ignore_patterns("*.js", "*.txt")
    shutil.copytree(KATEX, out / "katex", ignore=unused, dirs_exist_ok=True)


def markdown(text: str) -> str:
    """Markdown as HTML, its formulas typeset."""
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    class Typeset(IPythonRenderer):
        def inline_math(self, body):
            return typeset(body)

        def block_math(self, body):
            return typeset(rows(body), display=True)

        def latex_environment(self, name, body):
            return typeset(starred(rf"\begin{{{name}}}{body}\end{{{name}}}"), display=True)

    return MarkdownWithMath(renderer=Typeset(escape=False, exclude_anchor_links=True)).render(text)
