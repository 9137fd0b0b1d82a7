"""What is done to the finished pages: done once or twice, it is the same. Built pages are looked at in test_book."""

import gzip
import re
import threading
import urllib.request

import missing
import pages
import sections
import serve
import unused

RAW = """<head><meta name="viewport" content="a" /><meta name="viewport" content="b" />
<script defer src="../_static/scripts/fontawesome.js?digest=1"></script>
<script src="../_static/documentation_options.js?v=9"></script><script src="../_static/doctools.js?v=1"></script>
<script>DOCUMENTATION_OPTIONS.pagename = 'x'</script></head>
<div id="pst-primary-sidebar" class="bd"><img src="_static/logo.svg" class="logo" alt="x"></div>
<button class="btn search-button-field x" title="Search" aria-label="Search" data-y="">Search</button>
<div role="list" class="citation-list"><div class="citation" role="doc-biblioentry"></div></div>
<summary aria-label="Toggle hidden content"><p>Show</p></summary>"""


def test_a_page_gets_what_it_needs_and_twice_is_once():
    once = pages.polished(RAW, "const DOCUMENTATION_OPTIONS = {};")
    assert "fontawesome" not in once and "doc-biblioentry" not in once and 'role="list"' not in once
    assert "<script>const DOCUMENTATION_OPTIONS = {};</script><script defer src=" in once
    assert once.count("viewport") == 1 and 'role="complementary" aria-label="Book" class="bd"' in once
    assert 'title="Search" data-y' in once and "<summary><p>" in once and 'width="110" height="110"' in once
    assert pages.polished(once, "other") == once


def test_only_the_search_page_loads_a_search_and_the_first_page_is_named_once():
    names = ("_static/searchtools", "_static/language_data", "searchindex")
    theirs = "".join(f'<script src="../{name}.js"></script>' for name in names)
    plain = f"<head>{theirs}<title>Low-Rank &#8212; Low-Rank</title></head>"
    assert pages.polished(plain, "") == "<head><title>Low-Rank</title></head>"
    other = "<title>Notation &#8212; Low-Rank</title>"
    assert pages.polished(other, "") == other
    once = pages.polished(f'<head>{theirs}</head><div id="search-results"></div>', "")
    scripts = ["_static/minisearch/minisearch.js", "_static/language_data.js", "sections.js", "_static/search.js"]
    assert re.findall(r'<script defer src="(.*?)"', once) == scripts
    assert pages.polished(once, "") == once


PAGE = """<article class="bd-article"><section id="top"><h1>3. Name<a class="headerlink" href="#top">#</a></h1>
<div class="cost">20 minutes</div><p>One
sentence. <span class="math"><span class="katex-mathml"><math><mi>x</mi><annotation>x_tex</annotation></math></span>
<span class="katex-html">x</span></span></p><section id="in"><h2>3.1. Inner</h2><p>Second.</p>
<div class="exercise"><p class="admonition-title">Exercise</p><section id="exercise-content">
<p>Difficulty ●○○ · 6 minutes</p><p>Do it.</p></section></div><details class="hint"><p>An answer.</p></details>
<div class="highlight"><pre>print(1)</pre></div></section><p>Last.</p>
<dl class="glossary"><dt id="term-a">a<a class="headerlink">#</a></dt><dd><p>The first.</p></dd></dl>
<dl class="py function"><dt class="sig" id="p.f"><span class="pre">f</span></dt><dd><p>Does.</p></dd></dl>
</section></article>"""


def test_each_place_of_a_page_is_searched_with_its_own_words_and_without_the_page_s_machinery():
    found = {part.url: part for part in sections.of_page(PAGE, "a.html")}
    assert list(found) == ["a.html#top", "a.html#in", "a.html#term-a", "a.html#p.f"]
    assert [(part.title, part.kind, part.text, part.code) for part in found.values()] == [
        ("3. Name", "text", "One sentence. x\nLast.", ""),
        ("3.1. Inner", "text", "Second.\nDo it.", "print(1)"),
        ("a", "term", "The first.", ""),
        ("p.f", "name", "Does.", ""),
    ]
    assert {part.page for part in found.values()} == {"3. Name"}


def test_the_page_for_a_missing_address_is_put_inside_a_small_one_once():
    page = '<html lang="en"><head>\n<title>Missing</title><script src="x.js"></script></head><body></body></html>'
    once = missing.at_any_depth(page, "https://a.example/b/")
    assert missing.at_any_depth(once, "https://a.example/b/") == once
    assert once.count("<title>Missing</title>") == 1 and '<a href="https://a.example/b/index.html">' in once
    assert 'src="x.js"' not in once  # a browser that reads ahead must not load it from the wrong folder
    assert "example" not in missing.at_any_depth(page, "")


def test_glyphs_leave_the_stylesheet_and_nothing_else_does():
    fonts = "@font-face{font-family:Font Awesome\\ 6 Free;src:url(x)}"
    css = fonts + '.fa-bars:before,.fa-navicon:before{content:"\\f0c9"}a{b:c}'
    assert re.sub("|".join(pages.GLYPHS), "", css) == "a{b:c}"


def test_a_served_page_is_compressed_and_whole(tmp_path):
    (tmp_path / "a.html").write_text("<p>x</p>" * 500)
    with serve.server(tmp_path) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{found.server_port}/a.html"
        asked = urllib.request.Request(address, headers={"Accept-Encoding": "gzip"})
        body = urllib.request.urlopen(asked).read()
        assert len(body) < 200 and gzip.decompress(body).decode() == "<p>x</p>" * 500
        assert urllib.request.urlopen(address).read().decode() == "<p>x</p>" * 500
        found.shutdown()


def test_small_stylesheets_are_one_in_their_order_and_the_formulas_stay_apart(tmp_path):
    sheets = {"a.css": "a{x:1}", "styles/b.css": '@charset "UTF-8";b{x:2}', "c.css": "a{x:3}"}
    (tmp_path / "styles").mkdir()
    for name, text in sheets.items():
        (tmp_path / name).write_text(text)
    link = '\n<link rel="stylesheet" type="text/css" href="../_static/{}?v=1" />'.format
    page = "<head>" + "".join(map(link, ["a.css", "styles/b.css", "katex/katex.min.css", "c.css"])) + "</head>"
    words = unused.Words(frozenset(), ())

    def sheet(names):
        return pages.sheet(tmp_path, names, words)

    once = pages.bundled(page, sheet)
    name = re.search(r'<link href="\.\./_static/(sheets-\w+\.css)" rel="stylesheet" />', once)[1]
    assert (tmp_path / name).read_text() == "a{x:1}\nb{x:2}\na{x:3}"
    assert once.count("<link") == 2 and link("katex/katex.min.css") in once
    assert pages.bundled(once, sheet) == once
    (tmp_path / "a.css").write_text("a{x:4}")  # as in the next build of one process
    assert "a{x:4}" in (tmp_path / sheet(tuple(sheets))).read_text()


CSS = """@charset "UTF-8";/*! licence */p,.gone{a:1}.gone p,#away{a:2}.kept:not(.gone){a:3}
@media (width>1px){.gone{a:4}.bs-tooltip-auto{a:5}}@media print{.gone{a:6}}@font-face{font-family:x}
[data-x=".gone"]{a:7}"""


def test_rules_for_what_is_on_no_page_are_left_out(tmp_path):
    (tmp_path / "a.html").write_text('<p class="kept">and a word</p>')
    (tmp_path / "b.js").write_text("name = `bs-${kind}-auto`; a - b")
    (tmp_path / "searchindex.js").write_text("gone")
    short = unused.needed(CSS, unused.Words.of(tmp_path)).replace("\n", "")
    assert short == (
        '@charset "UTF-8";/*! licence */p{a:1}.kept:not(.gone){a:3}@media (width>1px){.bs-tooltip-auto{a:5}}'
        '@font-face{font-family:x}[data-x=".gone"]{a:7}'
    )
    (tmp_path / "c.html").write_text("<p id='away'>gone</p>")  # a word of the prose is enough to keep a rule
    assert unused.needed(CSS, unused.Words.of(tmp_path)).count("gone") > short.count("gone")


def test_a_stylesheet_that_only_imports_one_is_left_out():
    raw = '<link href="../_static/styles/theme.css?digest=12ab" rel="stylesheet" />'
    assert pages.polished(raw, "") == '<link href="../_static/basic.css" rel="stylesheet" />'
