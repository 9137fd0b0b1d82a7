"""The book's own small Sphinx extension: what the configuration file cannot say."""

from __future__ import annotations

import re
from pathlib import Path

import address
import lift
import missing
import nbformat
import pages
from book_links import detached
from docstrings import as_rst
from docutils import nodes
from notebooks import cell_tags, dumps
from setup_cell import setup_cell


def without_live_code(app, page, template, context, doctree):
    """Leave out sphinx-thebe, which jupyter-book always adds: it names another host on every page, twice."""
    for key in ("script_files", "css_files"):
        context[key] = [item for item in context.get(key, []) if "thebe" not in described(item)]


def described(item) -> str:
    """A script's or stylesheet's file name and inline text, in lower case."""
    attributes = getattr(item, "attributes", {})
    return f"{getattr(item, 'filename', item)} {attributes.get('body', '')}".lower()


PACKAGE = "_downloads/lowrank-edu.zip"  # make_book.py puts it there


def buttons_lead_somewhere(app, config):
    """The theme's buttons to the repository and to Colab, where there is a repository; else none of them."""
    options, where = config.html_theme_options, address.found()
    options.pop("repository_url", None)  # jupyter-book's own, where the configuration names none
    if where is None or config.lowrank_students:
        return
    options |= {"repository_url": where.url, "repository_branch": where.branch}
    options |= {"use_repository_button": True, "use_issues_button": True}
    if where.on_github:
        options["launch_buttons"] = {**options.get("launch_buttons", {}), "colab_url": "https://colab.research.google.com"}


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
    where, notebook = address.found(), f"{page}.ipynb"
    download = f'<a href="{context["pathto"](f"_sources/{notebook}", 1)}" download>Download the notebook</a>'
    if app.config.lowrank_students:
        said = download
    elif where is None:
        package = f'<a href="{context["pathto"](PACKAGE, 1)}" download>the book\'s package</a>'
        said = f"{download} and {package}: on Colab or Kaggle, upload both, then run the first cell."
    else:
        colab = f'<a href="{where.colab(notebook)}">Run it on Colab</a> · ' if where.on_github else ""
        said = f'{colab}{download} · <a href="{where.file(notebook)}">See its source</a>'
    context["body"] = context["body"].replace(cost[0], f'{cost[0]}\n<p class="ways">{said}</p>', 1)


def papers_are_links(app, page, template, context, doctree):
    """In the bibliography an arXiv number leads to its paper."""
    if page.endswith("bibliography"):
        link = r'<a href="https://arxiv.org/abs/\1">arXiv:\1</a>'
        context["body"] = re.sub(r"arXiv:(\d{4}\.\d{4,5})", link, context["body"])


def downloads_travel_alone(app, exception):
    """A chapter that is downloaded has no neighbours: links and first cell use the book's address, if it has one."""
    if exception or app.builder.format != "html":
        return
    home = pages.address(app) or None
    for path in (Path(app.outdir) / "_sources" / "chapters").glob("*.ipynb"):
        nb = detached(nbformat.read(path, as_version=4), home)
        setup = next(cell for cell in nb.cells if "setup" in cell_tags(cell))
        setup.source = setup_cell(address.found())
        path.write_text(dumps(nb), "utf-8")


def setup(app):
    app.setup_extension("katex_math")
    app.connect("source-read", lift.lift_chapter)
    app.connect("env-get-updated", chapters_keep_their_numbers, priority=900)  # after Sphinx has counted
    app.connect("autodoc-process-docstring", readable_docstrings)
    app.add_config_value("lowrank_students", False, "html")  # an edition whose pages lead to no solution
    app.connect("config-inited", buttons_lead_somewhere)
    app.connect("config-inited", follow_the_reader)
    app.connect("config-inited", named)
    app.connect("html-page-context", without_live_code, priority=900)
    app.connect("html-collect-pages", missing.page)
    app.connect("html-page-context", pages.add_metadata)
    app.connect("html-page-context", ways_to_use)
    app.connect("html-page-context", papers_are_links)
    app.connect("build-finished", pages.finish, priority=900)
    app.connect("build-finished", downloads_travel_alone)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": False}
