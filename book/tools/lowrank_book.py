"""The book's own small Sphinx extension: what the configuration file cannot say."""

from __future__ import annotations

import re
from pathlib import Path

import missing
import pages
from docstrings import as_rst
from docutils import nodes
from setup_cell import address, colab_link


def without_live_code(app, page, template, context, doctree):
    """Leave out sphinx-thebe, which jupyter-book always adds: it names another host on every page, twice."""
    for key in ("script_files", "css_files"):
        context[key] = [item for item in context.get(key, []) if "thebe" not in described(item)]


def described(item) -> str:
    """A script's or stylesheet's file name and inline text, in lower case."""
    attributes = getattr(item, "attributes", {})
    return f"{getattr(item, 'filename', item)} {attributes.get('body', '')}".lower()


def follow_the_reader(app, config):
    """Light or dark as the reader's device asks. Without a value the theme logs an error on every page."""
    config.html_context.setdefault("default_mode", "auto")


def named(app, config):
    """The book's name beside its logo, and on a narrow window, where the menu is closed, beside the button for it."""
    config.templates_path.append(str(Path(__file__).parent / "templates"))
    config.html_theme_options["logo"] = {"text": config.html_title.split(":")[0]}
    config.html_theme_options["article_header_start"] = ["toggle-primary-sidebar.html", "book-name.html"]


def readable_docstrings(app, what, name, obj, options, lines):
    """Hand docstrings to Sphinx in its own markup."""
    lines[:] = as_rst(lines)


def chapters_keep_their_numbers(app, env):
    """A chapter's number is that of its file. Sphinx counts pages, and not every chapter is written yet."""
    for page in env.toc_secnumbers:
        found = re.search(r"/ch(\d+)_", page)
        if not found:
            continue
        chapter = int(found[1])
        numbers = env.toc_secnumbers[page]
        env.toc_secnumbers[page] = {mark: (chapter, *rest[1:]) if rest else rest for mark, rest in numbers.items()}
        for node in (*env.tocs[page].findall(nodes.reference), env.titles[page]):
            if node.get("secnumber"):
                node["secnumber"] = [chapter, *node["secnumber"][1:]]
    return []


def ways_to_use(app, page, template, context, doctree):
    """Under a chapter's cost: the same chapter on Colab, as a file, and as its source."""
    cost = re.search(r'<div class="cost docutils">.*?</div>', context.get("body", ""), re.S)
    if not (page.startswith("chapters/") and cost):
        return
    url, branch = address()
    ways = {
        "Run it on Colab": colab_link(url, branch, f"{page}.ipynb"),
        "Download the notebook": context["pathto"](f"_sources/{page}.ipynb", 1),
        "See its source": f"{url}/blob/{branch}/{page}.ipynb",
    }
    if not (app.config.html_theme_options.get("launch_buttons") or {}).get("colab_url"):
        ways = {"Download the notebook": ways["Download the notebook"]}  # students' pages
    mark = {"Download the notebook": " download"}
    links = " · ".join(f'<a href="{link}"{mark.get(text, "")}>{text}</a>' for text, link in ways.items())
    context["body"] = context["body"].replace(cost[0], f'{cost[0]}\n<p class="ways">{links}</p>', 1)


def papers_are_links(app, page, template, context, doctree):
    """In the bibliography an arXiv number leads to its paper."""
    if page.endswith("bibliography"):
        link = r'<a href="https://arxiv.org/abs/\1">arXiv:\1</a>'
        context["body"] = re.sub(r"arXiv:(\d{4}\.\d{4,5})", link, context["body"])


def setup(app):
    app.setup_extension("katex_math")
    app.connect("env-get-updated", chapters_keep_their_numbers, priority=900)  # after Sphinx has counted
    app.connect("autodoc-process-docstring", readable_docstrings)
    app.connect("config-inited", follow_the_reader)
    app.connect("config-inited", named)
    app.connect("html-page-context", without_live_code, priority=900)
    app.connect("html-collect-pages", missing.page)
    app.connect("html-page-context", pages.add_metadata)
    app.connect("html-page-context", ways_to_use)
    app.connect("html-page-context", papers_are_links)
    app.connect("build-finished", pages.finish, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": False}
