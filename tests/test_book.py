"""The rendered book: every link inside it leads somewhere, and a broken reference stops the build."""

import json
import re
from html import unescape
from pathlib import Path

import address
import pytest
import yaml
from make_book import fingerprint, forget_what_is_stale, render
from PIL import Image
from preview import stage

ROOT = Path(__file__).resolve().parents[1]
HTML = ROOT / "_build" / "html"
WHERE = address.found()
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8"))
PAGES = [TOC["root"], *(page["file"] for part in TOC["parts"] for page in part["chapters"])]


def html(page: str) -> str:
    path = HTML / f"{page}.html"
    assert path.exists(), f"{page}.html is not rendered: run `make book` first"
    return path.read_text("utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_links_inside_the_book_lead_somewhere(page):
    folder = (HTML / page).parent
    text = html(page)
    ids = {page: set(re.findall(r'\sid="([^"]+)"', text))}
    broken = []
    for link in re.findall(r'<a\s[^>]*href="([^"]+)"', text):
        if link.startswith(("http", "mailto:", "javascript:")):
            continue
        target, _, mark = link.partition("#")
        path = (folder / target.split("?")[0]).resolve() if target else HTML / f"{page}.html"
        if not path.exists():
            broken.append(link)
        elif mark and path.suffix == ".html":
            name = str(path)
            ids.setdefault(name, set(re.findall(r'\s(?:id|name)="([^"]+)"', path.read_text("utf-8"))))
            if mark not in ids[name]:
                broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("chapters/")])
def test_chapters_have_links_to_colab_to_their_notebook_and_to_its_source(page):
    ways = re.findall('href="([^"]*)"', re.search(r'<p class="ways">.*?</p>', html(page), re.S)[0])
    download = f"../_sources/{page}.ipynb"
    if WHERE:
        colab = [WHERE.colab(page + ".ipynb")] if WHERE.on_github else []
        assert ways == [*colab, download, WHERE.file(page + ".ipynb")]
    else:
        assert ways == [download, "../_downloads/lowrank-edu.zip"]


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("chapters/")])
def test_an_exercise_has_the_same_number_on_the_page_and_in_the_notebook(page):
    notebook = (ROOT / f"{page}.ipynb").read_text("utf-8")
    told = re.findall(r"</a>Exercise ([\d.]+): (.*?)\\n", notebook)
    shown = re.findall(r'<span class="caption-number">Exercise ([\d.]+) </span> \((.*?)\)</p>', html(page))
    assert [number for number, _ in shown] == [number for number, _ in told] and told
    for (_, title), (_, card) in zip(told, shown, strict=True):
        assert flat(title) == flat(card)


def flat(text: str) -> str:
    """Letters and digits only: no markup of Markdown or HTML."""
    return re.sub(r"[\W_]+", "", unescape(re.sub(r"<[^>]+>", "", text)))


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("chapters/")])
def test_a_downloaded_chapter_has_no_link_to_a_file_that_stayed_behind(page):
    """It is the chapter, outputs and all, and differs in links only."""
    nb = json.loads((HTML / "_sources" / f"{page}.ipynb").read_text("utf-8"))
    text = "\n".join("".join(cell["source"]) for cell in nb["cells"] if cell["cell_type"] == "markdown")
    assert not re.search(r"\]\((?!https?://|#)", text)
    ours = json.loads((ROOT / f"{page}.ipynb").read_text("utf-8"))
    assert [cell.get("outputs") for cell in nb["cells"]] == [cell.get("outputs") for cell in ours["cells"]]


def test_links_out_of_the_book_are_whole_and_lead_to_hosts_that_last():
    import links

    found = links.outside(HTML)
    lasting = re.compile(
        r"https://(arxiv\.org/abs/\d{4}\.\d{4,5}|doi\.org/10\.\d{4,}/\S+|github\.com/[\w.-]+/[\w.-]+(/(issues|pull|blob|tree)/\S+)?|"
        r"colab\.research\.google\.com/github/\S+|[\w-]+\.github\.io/\S+|nbgrader\.readthedocs\.io)"
    )
    assert [link for link in found if not lasting.fullmatch(link)] == []
    assert any("arxiv.org" in link for link in found)
    ours = {WHERE.name} if WHERE else set()
    assert not [link for link in found if "lowrank" in link and not any(name in link for name in ours)]


def test_pages_name_no_other_host_to_load_from():
    loaded = re.compile(
        r'<(?:script|img|iframe|source)[^>]+src="(https?:)?//|<link(?![^>]*rel="canonical")[^>]+href="(https?:)?//'
    )
    assert [path.name for path in HTML.glob("**/*.html") if loaded.search(path.read_text("utf-8"))] == []


def test_the_whole_glossary_is_there():
    terms = re.findall(r"^(\S.*)\n    \S", (ROOT / "book" / "glossary.md").read_text("utf-8"), flags=re.M)
    assert len(terms) > 30
    text = html("book/glossary")
    assert [term for term in terms if f'id="term-{re.sub(r"[^A-Za-z0-9]+", "-", term).strip("-")}"' not in text] == []


# ---- a reference that leads nowhere stops the build

BROKEN = {
    "a term": ("See {term}`flux capacitor`.", "flux capacitor"),
    "a page": ("See {doc}`nowhere`.", "nowhere"),
    "a function of ours": ("See {py:func}`lowrank_edu.factor.no_such_name`.", "no_such_name"),
    "a citation": ("See {cite:t}`nobody1900nothing`.", "nobody1900nothing"),
    "a label": ("See {ref}`no-such-label`.", "no-such-label"),
    "a Markdown link": ("See [this](nowhere.md).", "nowhere.md"),
    "a formula": (r"See $1 + \nosuchcommand{x}$.", r"\nosuchcommand{x}"),
    "a formula of its own line": ("$$\n\\frac{1}{\n$$", r"\frac{1}{"),
}


@pytest.fixture(scope="module")
def broken_build(tmp_path_factory):
    """One build of the book's prose with every kind of broken reference on its first page."""
    folder = stage(tmp_path_factory.mktemp("broken"), words=("no chapter",))
    page = folder / "book" / "how_to.md"
    page.write_text("# A page\n\n" + "\n\n".join(text for text, _ in BROKEN.values()) + "\n", "utf-8")
    return render(folder, folder)


def test_broken_references_fail_the_build(broken_build):
    code, said = broken_build
    assert code != 0, said[-2000:]


@pytest.mark.parametrize("kind", BROKEN)
def test_each_kind_of_broken_reference_is_named(broken_build, kind):
    warnings = [line for line in broken_build[1].splitlines() if "WARNING" in line]
    assert any(BROKEN[kind][1] in line and "how_to.md" in line for line in warnings), "\n".join(warnings)


# ---- formulas are typeset when the book is built


def formulas(page: str) -> int:
    """How many formulas the source of a page holds; in code a dollar is a dollar."""
    path = ROOT / f"{page}.md"
    if path.exists():
        texts = [path.read_text("utf-8")]
    else:
        cells = json.loads((ROOT / f"{page}.ipynb").read_text("utf-8"))["cells"]
        texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    code = re.compile(r"^```(?!\{)[^\n]*\n.*?^```|`[^`\n]+`", re.S | re.M)
    return sum(len(re.findall(r"\$\$.+?\$\$|\$[^$\n]+\$", code.sub("", text), re.S)) for text in texts)


@pytest.mark.parametrize("page", PAGES)
def test_every_formula_is_typeset_with_mathml_and_no_page_runs_a_script_for_it(page):
    text = html(page)
    made = re.findall(r'<(?:span|div) class="math [^>]*>\s*(?:<span class="eqno">.*?</span>)?<span class="katex', text)
    assert len(made) == formulas(page) == text.count('<annotation encoding="application/x-tex">')
    assert text.count("<math ") == len(made)
    assert re.findall(r"<script[^>]*(?:katex|mathjax)", text, re.I) == []
    assert bool(re.search(r'<link [^>]*katex/katex\.min\.css', text)) == bool(made)


def test_formulas_are_counted():
    assert sum(map(formulas, PAGES)) > 100 and formulas("book/notation") > 20


def test_the_book_brings_the_fonts_of_formulas_and_no_script_for_them():
    folder = HTML / "_static" / "katex"
    named = re.findall(r"url\(([^)]+)\)", (folder / "katex.min.css").read_text("utf-8"))
    assert len(named) == 20 and all((folder / name).exists() for name in named)
    assert list(HTML.rglob("*katex*.js")) == list(HTML.rglob("*mathjax*")) == []


def test_the_fingerprint_follows_every_file(tmp_path):
    (tmp_path / "a.py").write_text("x = 1\n")
    before = fingerprint(tmp_path)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "a.pyc").write_text("noise")
    assert fingerprint(tmp_path) == before
    (tmp_path / "a.py").write_text("x = 2\n")
    assert fingerprint(tmp_path) != before


def test_only_what_is_stale_is_forgotten(tmp_path):
    """A new package empties the outputs, a new style sheet the pages; nothing new keeps both."""
    for folder in ("book/_static", "_build/.jupyter_cache", "_build/html", "_build/.doctrees"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "book" / "_static" / "book.css").write_text("a {}")
    forget_what_is_stale(tmp_path, tmp_path)
    kept = [tmp_path / "_build" / name for name in (".jupyter_cache", "html", ".doctrees")]
    assert not any(path.exists() for path in kept)  # nothing was known about them
    for path in kept:
        path.mkdir()
    forget_what_is_stale(tmp_path, tmp_path)
    assert all(path.exists() for path in kept)
    (tmp_path / "book" / "_static" / "book.css").write_text("b {}")
    forget_what_is_stale(tmp_path, tmp_path)
    assert [path.exists() for path in kept] == [True, False, False]


def test_every_page_is_described_and_listed():
    listed = (HTML / "llms.txt").read_text("utf-8")
    home = WHERE.home if WHERE and WHERE.home else ""
    for page in PAGES:
        description = unescape(re.search(r'<meta name="description" content="([^"]+)"', html(page))[1])
        assert 40 < len(description) <= 185
        assert f"]({home}{page}.html): {description}" in listed
    assert (HTML / "sitemap.xml").exists() == bool(home), "a sitemap has to hold whole addresses"


def test_a_book_with_an_address_says_it_where_it_is_asked_for(tmp_path, monkeypatch):
    """The same sources, built by a workflow of a repository on GitHub."""
    monkeypatch.setenv("GITHUB_REPOSITORY", "someone/some-book")
    staged = stage(tmp_path / "book")
    code, text = render(staged, staged)
    assert code == 0, text[-2000:]
    out, home = staged / "_build" / "html", "https://someone.github.io/some-book/"
    urls = re.findall(r"<loc>(.*?)</loc>", (out / "sitemap.xml").read_text("utf-8"))
    assert f"{home}chapters/ch01_rank.html" in urls and len(urls) > 10
    for url in urls:
        assert f'<meta property="og:url" content="{url}"' in (out / url.removeprefix(home)).read_text("utf-8")
    assert f"Sitemap: {home}sitemap.xml" in (out / "robots.txt").read_text("utf-8")
    assert home in (out / "404.html").read_text("utf-8")
    page = (out / "chapters" / "ch01_rank.html").read_text("utf-8")
    there = "github.com/someone/some-book"
    colab = "https://colab.research.google.com/github/someone/some-book/blob/main/chapters/ch01_rank.ipynb"
    assert page.count(colab) == 2 and f"https://{there}/issues" in page and "executablebooks" not in page
    notebook = (out / "_sources" / "chapters" / "ch01_rank.ipynb").read_text("utf-8")
    assert f"{home}book/glossary.html#term-rank" in notebook
    assert f"https://{there}/archive/refs/heads/main.zip" in notebook, "the first cell of the download knows it too"


@pytest.mark.parametrize("page", ["genindex", "py-modindex", "search"])
def test_pages_that_sphinx_makes_by_itself_are_described(page):
    assert len(re.search(r'<meta name="description" content="([^"]+)"', html(page))[1]) > 40


def test_no_table_has_an_empty_header():
    empty = re.compile(r"<th[^>]*>\s*(?:<p>\s*</p>)?\s*</th>")
    pages = [path for path in HTML.rglob("*.html") if "_static" not in path.parts]
    assert [path.name for path in pages if empty.search(path.read_text("utf-8"))] == []


def test_the_picture_of_the_first_page_is_light_and_its_place_is_kept():
    image = re.search(r'<img [^>]*class="landing"[^>]*>', html("book/intro"))[0]
    assert 'width="1008" height="385" fetchpriority="high"' in image and "loading=" not in image
    path = HTML / "book" / re.search('src="([^"]+)"', image)[1]
    assert path.stat().st_size < 30_000 and Image.open(path).size == (1008, 385)
