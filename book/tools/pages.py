"""The finished pages: lighter, found by search engines, and readable by assistive technology.

The theme's templates cannot be told these things, so they are done to the HTML when the build ends. Doing them twice
changes nothing, because an unchanged page is kept from the last build.
"""

from __future__ import annotations

import functools
import hashlib
import re
from html import escape, unescape
from pathlib import Path

import missing
import sections
from address import Address
from unused import Words, needed

# (what the theme writes, what a page gets instead)
CHANGES = [
    # 0.5 MB of FontAwesome for a dozen icons: _static/icons.css draws these
    (r'\s*<script[^>]*src="[^"]*scripts/fontawesome\.js[^"]*"[^>]*></script>', ""),
    (r'\s*<link[^>]*href="[^"]*(?:fontawesome\.js|fa-[a-z]+-\d+\.woff2)[^"]*"[^>]*>', ""),
    # a stylesheet that only imports another one costs a journey to the server
    (r'_static/styles/theme\.css(?:\?digest=\w+)?"', '_static/basic.css"'),
    # scripts wait until the page is there
    (r"<script(?=[^>]*\ssrc=)(?![^>]*\b(?:defer|async)\b)", "<script defer"),
    (r'(\s*<meta name="viewport"[^>]*>)(?:\s*<meta name="viewport"[^>]*>)+', r"\1"),
    # light or dark before the first paint: the theme's script comes after it, and dark readers see a flash of light
    (r'(documentElement\.dataset\.theme = )localStorage\.getItem\("theme"\) \|\| "auto"',
     r'\1(mode => mode !== "auto" ? mode : matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")'
     "(document.documentElement.dataset.mode)"),
    # a name that hides the visible text of a button: the text is its name
    (r'(<button class="btn search-button-field[^>]*?) aria-label="Search"', r"\1"),
    (r'<summary aria-label="Toggle hidden content">', "<summary>"),
    # what the two buttons above a page are for (menu.js makes them work)
    (r'title="Toggle primary sidebar"', 'title="Menu"'),
    (r'title="Toggle secondary sidebar"', 'title="On this page"'),
    # the first page is called as the book is
    (r"<title>(.+?) &#8212; \1</title>", r"<title>\1</title>"),
    # without scripts a button that opens a dialog does nothing
    (r"(\.pst-js-only)( \{ display: none !important; \})", r"\1, .primary-toggle, .secondary-toggle\2"),
    # every part of a page lies in a landmark, every heading of a list of links is one
    (r'(<div id="pst-primary-sidebar") class=', r'\1 role="complementary" aria-label="Book" class='),
    # roles that are withdrawn or that promise a list that is none
    (r' role="doc-biblioentry"', ""),
    (r'<div role="list" class="citation-list">', '<div class="citation-list">'),
    (r'(<img src="[^"]*logo\.svg") class', r'\1 width="110" height="110" class'),
    # the first picture: its place is kept, and it is fetched before the scripts
    (r'(<img [^>]*class="landing")(?= src)', r'\1 width="1008" height="385" fetchpriority="high"'),
]  # fmt: skip
# The theme loads Sphinx's search on every page; only the search page searches, and it has its own (search.js)
SPHINX_SEARCH = re.compile(
    r'\s*<script[^>]*src="[^"]*(?:_static/searchtools|_static/language_data|(?<!\w)searchindex)\.js[^"]*"></script>'
)
SEARCH = "".join(
    f'\n    <script defer src="{name}"></script>'
    for name in ("_static/minisearch/minisearch.js", "_static/language_data.js", "sections.js", "_static/search.js")
)
# 20 kB of the theme's stylesheet that describe FontAwesome's glyphs, and its fonts
GLYPHS = [
    r"@font-face\{[^}]*Font ?Awesome[^}]*\}",
    r'(?:\.fa-[\w-]+(?:::?(?:before|after))?,?)+\{content:"[^"]*"\}',
]
# The stylesheets; those of formulas are only on pages that have some, and their fonts lie beside them
SHEET = re.compile(
    r'\s*<link (?=[^>]*rel="stylesheet")[^>]*href="([^"]*_static/)((?!katex/|sheets-)[^"?]+\.css)[^"]*"[^>]*>'
)
OPTIONS = re.compile(r'<script defer src="[^"]*_static/documentation_options\.js[^"]*"></script>')


def polished(html: str, options: str) -> str:
    """A page as it should be; `options` is the text of documentation_options.js, which later scripts need at once."""
    for pattern, instead in CHANGES:
        html = re.sub(pattern, instead, html)
    html = SPHINX_SEARCH.sub("", html.replace(SEARCH, ""))
    if 'id="search-results"' in html:
        html = html.replace("</head>", f"{SEARCH}</head>")
    return OPTIONS.sub(lambda _: f"<script>{options}</script>", html)


def bundled(html: str, sheet) -> str:
    """One stylesheet instead of a page's dozen; `sheet(names)` makes it and says what it is called."""
    found = list(SHEET.finditer(html))
    if not found:
        return html
    name = sheet(tuple(link[2] for link in found))
    one = f'\n    <link href="{found[0][1]}{name}" rel="stylesheet" />'
    return SHEET.sub("", html[: found[0].start()] + one + html[found[0].end() :])


def sheet(static: Path, names: tuple[str, ...], words: Words) -> str:
    """Write one sheet for these of `static`, without what `words` show to be unused. Its name tells its content."""
    texts = [(static / name).read_text("utf-8").removeprefix('@charset "UTF-8";') for name in names]
    whole = needed(re.sub("|".join(GLYPHS), "", "\n".join(texts)), words)
    name = f"sheets-{hashlib.sha256(whole.encode()).hexdigest()[:10]}.css"
    (static / name).write_text(whole, "utf-8")
    return name


def address(app) -> str:
    """Where the book will be read: `html_baseurl`, or GitHub's pages of the repository."""
    url = app.config.html_theme_options.get("repository_url")
    return app.config.html_baseurl or (Address(url).home if url else None) or ""


# Pages that Sphinx makes by itself
LISTS = {
    "genindex": "Every function, class, method and term of the book and its package, from A to Z.",
    "py-modindex": "The modules of the package lowrank_edu, and where each of them is described.",
    "search": "Search every page of the book: chapters, glossary, questions that people ask, and the package.",
}


def described(doctree) -> str:
    """The answer or first paragraph of a page, as one plain line."""
    from docutils import nodes

    for node in doctree.findall(nodes.paragraph) if doctree else ():
        text = re.sub(r"\s+", " ", node.astext()).strip()
        if len(text) > 40:
            return text if len(text) <= 180 else text[:180].rsplit(" ", 1)[0] + " …"
    return ""


def add_metadata(app, page, template, context, doctree):
    """Description and social card of a page."""
    text = described(doctree) or LISTS.get(page, "")
    home, title = address(app), re.sub(r"<[^>]+>", "", context.get("title", ""))
    if not text:
        return
    card = {
        "og:title": title, "og:description": text, "og:type": "article" if page.startswith("chapters/") else "website",
        "og:site_name": app.config.html_title,
    }  # fmt: skip
    if home:  # these have to be whole addresses
        card |= {"og:url": f"{home}{page}.html", "og:image": f"{home}_static/cover.png"}
    tags = [f'<meta name="description" content="{escape(text)}" />']
    tags += [f'<meta property="{key}" content="{escape(str(value))}" />' for key, value in card.items()]
    if home:
        tags += ['<meta name="twitter:card" content="summary_large_image" />']
        tags += [f'<link rel="canonical" href="{home}{page}.html" />']
    context["metatags"] = context.get("metatags", "") + "\n    ".join(["", *tags])


def finish(app, exception):
    """Polish every page of the build and write sitemap.xml, robots.txt and llms.txt beside them."""
    if exception or app.builder.format != "html":
        return
    out = Path(app.outdir)
    options = (out / "_static" / "documentation_options.js").read_text("utf-8")
    # once a build: the next one may have other sheets and other words
    one_sheet = functools.cache(lambda names: sheet(out / "_static", names, Words.of(out)))
    for path in out.rglob("*.html"):
        if "_static" not in path.parts:
            rewrite(path, lambda html: bundled(polished(html, options), one_sheet))
    rewrite(out / "404.html", lambda html: missing.at_any_depth(html, address(app)))
    sections.write(out, app.env.found_docs)
    home, pages = address(app), told(out, app.env.found_docs)
    urls = "".join(f"<url><loc>{escape(home)}{page}.html</loc></url>\n" for page in sorted(pages))
    site = "http://www.sitemaps.org/schemas/sitemap/0.9"
    sitemap = f'<?xml version="1.0" encoding="UTF-8"?>\n<urlset xmlns="{site}">\n{urls}</urlset>\n'
    files = {"sitemap.xml": sitemap} if home else {}  # it has to hold whole addresses
    files |= {
        "robots.txt": "User-agent: *\nAllow: /\n" + (f"Sitemap: {home}sitemap.xml\n" if home else ""),
        "llms.txt": listed(app, home, pages),
    }
    for name, text in files.items():
        (out / name).write_text(text, "utf-8")


def told(out, docs) -> dict[str, tuple[str, str]]:
    """{page: (title, description)}, read from the pages themselves: a build writes only those that have changed."""
    found = {}
    for page in docs:
        path = out / f"{page}.html"
        text = path.read_text("utf-8") if path.exists() else ""
        tags = [re.search(rf'<meta property="og:{key}" content="([^"]*)"', text) for key in ("title", "description")]
        if all(tags):
            found[page] = tuple(unescape(tag[1]) for tag in tags)
    return found


def rewrite(path, change):
    """Change a text file, and leave it untouched where nothing changes."""
    text = path.read_text("utf-8")
    better = change(text)
    if better != text:
        path.write_text(better, "utf-8")


def listed(app, home, pages) -> str:
    """llms.txt: what the book is, and a line for each page, in the order of the contents."""
    order = [page for page in app.env.toctree_includes.get(app.config.root_doc, []) if page in pages]
    lines = [f"- [{pages[p][0]}]({home}{p}.html): {pages[p][1]}" for p in (app.config.root_doc, *order) if p in pages]
    about = "An interactive book on low-rank adaptation and the Python package that it is made of."
    return "\n".join([f"# {app.config.html_title}", "", f"> {about}", "", "## Pages", "", *lines, ""])
