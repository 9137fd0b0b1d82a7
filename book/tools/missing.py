"""404.html: a page like any other, with the menu and the search, which a host shows at whatever address was asked for.

What it loads is named from the book's root, so it must know the root first: a host may serve the book under /name/, a
missing address may lie folders deep, and a browser begins to load what it reads before any script has run. The page
therefore travels as a text in a small one, which writes it out when it has found the root.
"""

from __future__ import annotations

import json
import re
from html import escape

TITLE = "This page is not here"
BODY = """<section id="this-page-is-not-here"><h1>This page is not here</h1>
<p>Its rank is zero. The address may be misspelt, or the page has moved.</p>
<p><a href="{first}">Begin at the first page</a>, <a href="search.html">search the book</a>, or choose a page from
the menu.</p></section>"""
SMALL = """<!DOCTYPE html>
{root}<head><meta charset="utf-8">{title}
<script>{{
  // The root: the known address or, where the book is served elsewhere, the first folder where a file of it answers
  const home = {home}, folders = location.pathname.replace(/\\/+/g, "/").split("/").slice(0, -1);
  const answers = root => {{
    const asked = new XMLHttpRequest();
    asked.open("HEAD", root + "_static/menu.js", false);
    try {{ asked.send(); }} catch {{ return false; }}
    return asked.status === 200;
  }};
  const here = home && new URL(home).host === location.host;
  const root = here ? home : folders.map((_, n) => folders.slice(0, n + 1).join("/") + "/").find(answers);
  // A place on this page, such as that of the skip link, is not on the root's
  addEventListener("DOMContentLoaded", () => document.querySelectorAll("[href^='#']").forEach(link => {{
    link.setAttribute("href", location.pathname + location.search + link.getAttribute("href"));
  }}));
  document.write((root ? `<base href="${{root}}">` : "") + {rest});
}}</script></head><body><noscript>{plain}</noscript></body></html>
"""


def page(app):
    """The page as the theme renders it (Sphinx's event html-collect-pages)."""
    body = BODY.format(first=f"{app.config.root_doc}.html")
    yield "404", {"title": TITLE, "body": body, "metatags": '<meta name="robots" content="noindex" />'}, "page.html"


def at_any_depth(html: str, home: str) -> str:
    """The finished page inside the small one, put there once. `home`: the book's address, "" if unknown."""
    if "document.write" in html:
        return html
    before, rest = html.split("<head>", 1)
    title = re.search(r"<title>.*?</title>", rest, re.S)[0]
    inside = json.dumps(rest.replace(title, "", 1), ensure_ascii=False).replace("<", "\\u003c")
    links = f'<p><a href="{escape(home)}index.html">Begin at the first page</a>.</p>' if home else ""
    return SMALL.format(
        root=re.search(r"<html[^>]*>", before)[0],
        title=title,
        home=json.dumps(home),
        rest=inside,
        plain=f"<h1>{TITLE}</h1>{links}",
    )
