"""Every page of the rendered book in a real browser: network off, by keyboard, light and dark, on a phone.

`make book` renders the pages first. Each rule is proved at the end on a page that breaks it.
"""

import re
from pathlib import Path
from urllib.parse import quote

import pytest
from browser import read_through, served, settle, watched

from lowrank_edu import methods

HTML = Path(__file__).resolve().parents[1] / "_build" / "html"
EVERY = sorted(str(path.relative_to(HTML)) for path in HTML.glob("**/*.html") if "_static" not in path.parts)
PAGES = [page for page in EVERY if page != "index.html"]  # that one only leads to the landing page
CHAPTERS = [page for page in PAGES if page.startswith("chapters/")]
DESK, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}
TWICE = {"width": 640, "height": 450}  # a desk at 200 %
KEYS = {"range": ("ArrowRight", "ArrowLeft"), "radio": ("ArrowRight",), "select": ("ArrowDown", "ArrowUp")}

CHECKS = Path(__file__).with_name("page_checks.js").read_text("utf-8")


def ask(page, check, argument=None):
    """The answer of one function of page_checks.js on this page or element."""
    return page.evaluate(f"argument => (\n{CHECKS}\n).{check}(argument)", argument)


def figures_that_stay(page) -> list[str]:
    """Controls that, moved by keyboard, change nothing that a person sees."""
    dead = []
    for figure in page.query_selector_all("figure.lo-fig"):
        name = figure.get_attribute("id")
        for control in figure.query_selector_all("[data-control]"):
            kind = control.get_attribute("type") or control.evaluate("el => el.tagName.toLowerCase()")
            if kind == "radio" and not control.is_checked():
                continue  # arrows move through the group from the one that is chosen
            keys = KEYS.get(kind, ("Space",))
            before = ask(page, "seen", figure)
            for key in keys:
                control.focus()
                page.keyboard.press(key)
                if ask(page, "seen", figure) != before:
                    break
            else:
                dead.append(f"{name}: {control.get_attribute('data-control')} ({kind})")
    return dead


@pytest.mark.parametrize("address", PAGES)
def test_page_is_whole_with_the_network_off(browser, home, address):
    """No request to another host, nothing missing, no error, mathematics typeset, figures alive."""
    with watched(browser, home, viewport=DESK, color_scheme="light", reduced_motion="reduce") as (
        page,
        watch,
    ):
        page.goto(home + address)
        settle(page)
        assert ask(page, "untypeset") == []
        assert figures_that_stay(page) == []
        for button in page.query_selector_all("details:not([open]) > summary"):
            button.evaluate("el => { el.parentElement.open = true; }")
        settle(page)
        assert watch.defects() == []


@pytest.mark.parametrize(
    ("size", "scheme"), [(PHONE, "light"), (PHONE, "dark"), (TWICE, "light")], ids=["phone-light", "phone-dark", "200%"]
)
@pytest.mark.parametrize("address", PAGES)
def test_page_fits_a_small_window_and_can_be_read(browser, home, address, size, scheme):
    """No sideways scrolling on a phone or at 200 %; figures and our own boxes have ink that stands out."""
    with watched(browser, home, viewport=size, color_scheme=scheme) as (page, watch):
        page.goto(home + address)
        settle(page)
        page.wait_for_timeout(80)  # figures follow the theme a moment later
        if "bd-article" in page.content():
            assert page.evaluate("document.documentElement.dataset.theme") == scheme
        assert ask(page, "wide") == []
        boxes = "figure.lo-fig, .lo-quiz, .cost, .admonition, .exercise, details.hint, .lo-check, .lo-card"
        assert ask(page, "faint", boxes) == []
        assert watch.defects() == []


def test_every_chapter_was_opened_and_has_a_figure_that_moves(browser, home):
    assert CHAPTERS
    for address in CHAPTERS:
        with watched(browser, home) as (page, _):
            page.goto(home + address)
            assert page.query_selector_all("figure.lo-fig [data-control]"), (
                f"{address} has no figure that moves"
            )


def test_the_front_door_leads_to_the_landing_page(browser, home):
    with watched(browser, home) as (page, watch):
        page.goto(home)
        page.wait_for_url("**/book/intro.html")
        assert watch.defects() == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_is_light_or_dark_before_the_theme_s_script_runs(browser, home, scheme):
    with watched(browser, home, color_scheme=scheme) as (page, _):
        page.route("**/*.js*", lambda route: route.abort())
        page.goto(home + CHAPTERS[0])
        red = int(re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))[0])
        assert red < 60 if scheme == "dark" else red > 200
        page.evaluate("localStorage.setItem('mode', 'light')")  # what a reader has chosen goes before the system's
        page.reload()
        assert page.evaluate("document.documentElement.dataset.theme") == "light"


SOUGHT = ["rank", "intrinsic dimension", "merge", "quantile", "checkpointing", "forgetting", "importance"]


def test_search_finds_terms_and_every_method(browser, home):
    with watched(browser, home) as (page, watch):
        for words in [*SOUGHT, *(row.name for row in methods.table())]:
            page.goto(home + "search.html?q=" + quote(words))
            page.wait_for_selector("#search-results li", timeout=10_000)
        assert watch.defects() == []


def test_mathematics_can_be_read_aloud(browser, home):
    with watched(browser, home) as (page, _):
        page.goto(home + "book/notation.html")
        settle(page)
        count = "document.querySelectorAll('{}').length"
        seen = page.evaluate(count.format(".katex-html[aria-hidden=true]"))
        assert page.evaluate(count.format(".katex-mathml math")) == seen > 0


def test_a_wide_formula_begins_at_its_beginning_and_scrolls(browser, home):
    with watched(browser, home, viewport=PHONE) as (page, _):
        page.goto(home + "chapters/ch10_adalora.html")
        settle(page)
        boxes = page.query_selector_all(".katex-display")
        wide = [box for box in boxes if box.evaluate("el => el.scrollWidth > el.clientWidth")]
        assert wide, "no formula of chapter 10 is wider than a phone: choose another chapter"
        for box in wide:
            left = "el => el.querySelector('.base').getBoundingClientRect().left - el.getBoundingClientRect().left"
            assert box.evaluate(left) >= 0
            box.evaluate("el => { el.scrollLeft = 40; }")
            assert box.evaluate("el => el.scrollLeft") > 0


@pytest.mark.parametrize(("size", "wide"), [(PHONE, True), (DESK, False)])
def test_a_formula_is_reached_by_keyboard_if_it_scrolls_and_only_then(browser, home, size, wide):
    with watched(browser, home, viewport=size) as (page, _):
        page.goto(home + "chapters/ch10_adalora.html")
        settle(page)
        read_through(page)
        told = "all => all.map(el => [el.scrollWidth > el.clientWidth, el.getAttribute('tabindex') === '0'])"
        found = page.eval_on_selector_all(".katex-display", told)
        assert all(scrolls == reached for scrolls, reached in found) and [wide, wide] in found
        if wide:
            page.focus(".katex-display[tabindex]")
            page.keyboard.press("ArrowRight")
            page.wait_for_function("document.activeElement.scrollLeft > 0", timeout=3000)


def test_a_link_into_a_chapter_leads_to_its_place_on_a_phone(browser, home):
    """What is far below is laid out late; the link must hit it all the same."""
    with watched(browser, home, viewport=PHONE) as (page, _):
        page.goto(home + CHAPTERS[0])
        marks = page.evaluate("[...document.querySelectorAll('.bd-article section section')].map(el => el.id)")
        for mark in marks[1::3]:
            page.goto("about:blank")
            page.goto(home + CHAPTERS[0] + "#" + mark)
            settle(page)
            page.wait_for_timeout(200)
            assert -5 < page.evaluate("id => document.getElementById(id).getBoundingClientRect().top", mark) < 370, mark


# ---- each rule can fail

GOOD = """<figure class="lo-fig" id="fig-x"><div><p data-el="out">1</p></div>
<input type="range" data-control="r" min="1" max="3" value="1" {on}></figure>"""
MOVES = "oninput=\"document.querySelector('[data-el=out]').textContent = this.value\""


@pytest.fixture
def one_page(tmp_path, browser):
    """Serve one page with this body; return the open page and its record."""
    opened = []

    def show(body, **options):
        (tmp_path / "page.html").write_text(f"<!doctype html><html><body>{body}</body></html>", "utf-8")
        site = served(tmp_path)
        home = site.__enter__()
        watching = watched(browser, home, **options)
        page, watch = watching.__enter__()
        opened.extend([(watching, site)])
        page.goto(home + "page.html")
        page.wait_for_timeout(100)
        watch.missing[:] = [url for url in watch.missing if "favicon" not in url]
        watch.errors[:] = [text for text in watch.errors if "404" not in text or watch.missing]
        return page, watch

    yield show
    for watching, site in opened:
        watching.__exit__(None, None, None)
        site.__exit__(None, None, None)


def test_a_request_to_another_host_is_seen(one_page):
    _, watch = one_page('<img src="https://example.org/x.png" alt="x">')
    assert watch.foreign == ["https://example.org/x.png"]


def test_a_missing_file_and_an_error_are_seen(one_page):
    _, watch = one_page('<script src="none.js"></script><script>throw new Error("broken")</script>')
    assert any("none.js" in url for url in watch.missing)
    assert any("broken" in text for text in watch.errors)


def test_a_dead_control_is_seen(one_page):
    assert figures_that_stay(one_page(GOOD.format(on=MOVES))[0]) == []
    assert figures_that_stay(one_page(GOOD.format(on=""))[0]) == ["fig-x: r (range)"]


def test_raw_mathematics_is_seen(one_page):
    assert ask(one_page('<span class="math">\\(x^2\\)</span>')[0], "untypeset") == ["\\(x^2\\)"]
    assert ask(one_page(r"<p>so \frac{1}{2}</p>")[0], "untypeset") == [r"so \frac{1}{2}"]


def test_a_wide_table_is_seen(one_page):
    page, _ = one_page('<div style="width:500px">wide</div>', viewport=PHONE)
    assert ask(page, "wide")


def test_faint_text_is_seen(one_page):
    page, _ = one_page('<figure class="lo-fig" style="background:#fff;color:#999">pale</figure>')
    assert ask(page, "faint", "figure.lo-fig") == ["pale: 2.8"]
