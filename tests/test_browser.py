"""Every page of the rendered book in a real browser: network off, by keyboard, light and dark, on a phone.

`make book` renders the pages first. Each rule is proved at the end on a page that breaks it.
"""

import re
from pathlib import Path
from urllib.parse import quote

import pytest
from browser import answering, read_through, served, settle, watched
from search_cases import LEADS, MACHINERY

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


def hits_of(page, words) -> list[tuple[str, str, bool]]:
    """(address, excerpt, whether a word is marked) of each hit for these words, typed into the open search page."""
    page.locator(".bd-search-container input").fill(words)
    row = "el => [el.querySelector('a').getAttribute('href'), "
    row += "el.querySelector('p').textContent, !!el.querySelector('mark')]"
    return page.eval_on_selector_all("#search-results li", f"all => all.map({row})")


def test_search_leads_to_sections_and_shows_their_sentences(browser, home):
    with watched(browser, home) as (page, watch):
        page.goto(home + "search.html")
        astray, torn = {}, []
        for words, wanted in LEADS.items():
            hits = hits_of(page, words)
            first = [address for address, _, marked in hits[:5] if marked]
            if wanted not in first:
                astray[words] = first
            torn += [hit for hit in hits if not hit[1] or any(word in hit[1] for word in MACHINERY)]
        assert astray == {} and torn == [] and watch.defects() == []
    for wanted in LEADS.values():
        address, mark = wanted.split("#")
        assert f'id="{mark}"' in (HTML / address).read_text("utf-8")


def test_a_search_says_what_it_found_and_follows_the_typing(browser, home):
    with watched(browser, home) as (page, watch):
        page.goto(home + "search.html")
        box, said = page.locator(".bd-search-container input"), page.locator("#search-results .search-summary")
        for words, told in (("zzzzqq", "Nothing"), ("merge zzzzqq", "No section has all"), ("rank", "Found")):
            box.fill(words)
            assert said.inner_text().startswith(told)
            assert page.locator("#search-results li").count() == (0 if told.startswith("Nothing") else 40)
        box.fill("")
        assert said.inner_text() == "" and page.locator("#search-results li").count() == 0
        left = "el => parseFloat(getComputedStyle(el).paddingLeft) + el.getBoundingClientRect().left"
        glass = page.locator(".bd-search-container .fa-magnifying-glass").bounding_box()
        assert box.evaluate(left) >= glass["x"] + glass["width"]  # the glass is not on the first letter
        assert watch.defects() == []


def test_a_hit_marks_its_words_where_it_leads(browser, home):
    with watched(browser, home) as (page, _):
        page.goto(home + "search.html?q=forget compute again")
        page.locator("#search-results li a").first.click()
        page.wait_for_url("**/chapters/ch08_memory.html#forget-and-compute-again")
        page.wait_for_selector("#forget-and-compute-again span.highlighted")
        assert -5 < page.locator("#forget-and-compute-again").bounding_box()["y"] < 300


# ---- the menu, and what is on a page: by finger, mouse and keyboard

NARROW = {"phone": {"width": 390, "height": 844}, "tablet": {"width": 820, "height": 1180}}
OPENED = ["book/intro.html", "chapters/ch03_lora.html", "book/api.html"]
LISTS = {"primary": "How to use this book", "secondary": ""}
FOCUSED = "el => el === document.activeElement || el.contains(document.activeElement)"


def press(page, button, way):
    """Press a button as a finger, a mouse or a keyboard does; a keyboard has to reach it first."""
    if way == "tap":
        return button.tap()
    if way == "click":
        return button.click()
    page.evaluate("document.activeElement.blur()")
    for _ in range(150):
        page.keyboard.press("Tab")
        if button.evaluate("el => el === document.activeElement"):
            return page.keyboard.press(way)
    raise AssertionError("the button cannot be reached by keyboard")


def leave(page, dialog, way):
    """Close a dialog: by its button with a finger, by a click beside it, or with Esc."""
    if way == "tap":
        return dialog.locator(".lo-close").tap()
    if way == "click":
        box, width = dialog.bounding_box(), page.viewport_size["width"]
        return page.mouse.click(width - 10 if box["x"] < 10 else 10, 400)
    return page.keyboard.press("Escape")


@pytest.mark.parametrize("way", ["tap", "click", "Enter", "Space"])
@pytest.mark.parametrize("kind", ["primary", "secondary"])
@pytest.mark.parametrize("size", NARROW)
@pytest.mark.parametrize("address", OPENED)
def test_the_menu_opens_and_closes_on_a_narrow_window(browser, home, address, size, kind, way):
    with watched(browser, home, viewport=NARROW[size], has_touch=way == "tap") as (page, watch):
        page.goto(home + address)
        settle(page)
        button, dialog = page.locator(f".{kind}-toggle:visible"), page.locator(f"#pst-{kind}-sidebar-modal")
        assert button.count() == 1
        for _ in range(2):  # it opens again, too
            assert not dialog.is_visible() and button.get_attribute("aria-expanded") == "false"
            press(page, button, way)
            dialog.locator("a", has_text=LISTS[kind]).first.wait_for(state="visible", timeout=3000)
            assert dialog.evaluate("el => el.matches(':modal')") and dialog.evaluate(FOCUSED)
            assert button.get_attribute("aria-expanded") == "true"
            leave(page, dialog, way)
            dialog.wait_for(state="hidden", timeout=3000)
            page.wait_for_function("el => el === document.activeElement", arg=button.element_handle(), timeout=3000)
        assert watch.defects() == []


@pytest.mark.parametrize("way", ["tap", "click", "Enter", "Space"])
@pytest.mark.parametrize("address", OPENED)
def test_the_menu_goes_and_comes_on_a_wide_window(browser, home, address, way):
    with watched(browser, home, viewport=DESK, has_touch=way == "tap") as (page, watch):
        page.goto(home + address)
        settle(page)
        button, menu = page.locator(".primary-toggle:visible"), page.locator("#pst-primary-sidebar")
        for state in ("hidden", "visible"):
            assert button.get_attribute("aria-expanded") == ("true" if state == "hidden" else "false")
            press(page, button, way)
            menu.wait_for(state=state, timeout=3000)
            assert page.locator("#pst-page-toc-nav a").first.is_visible()  # what is on the page stands beside it always
        assert watch.defects() == []


@pytest.mark.parametrize("size", NARROW)
def test_a_link_of_what_is_on_the_page_leads_there_and_closes_it(browser, home, size):
    with watched(browser, home, viewport=NARROW[size], has_touch=True) as (page, watch):
        page.goto(home + "chapters/ch03_lora.html")
        settle(page)
        page.locator(".secondary-toggle:visible").tap()
        page.locator("#pst-secondary-sidebar-modal a", has_text="Training: nothing special").tap()
        page.wait_for_function("document.activeElement?.textContent.includes('Training: nothing')", timeout=3000)
        assert not page.locator("#pst-secondary-sidebar-modal").is_visible()
        top = "document.activeElement.getBoundingClientRect().top"
        page.wait_for_function(f"-5 < {top} && {top} < 300", timeout=5000)  # the page glides there
        assert watch.defects() == []


def test_a_menu_that_is_open_when_the_window_grows_goes_to_its_place(browser, home):
    with watched(browser, home, viewport=NARROW["phone"]) as (page, watch):
        page.goto(home + "chapters/ch03_lora.html")
        settle(page)
        page.locator(".primary-toggle:visible").click()
        page.set_viewport_size(DESK)
        page.locator("#pst-primary-sidebar a").first.wait_for(state="visible", timeout=3000)
        assert page.locator("dialog[open]").count() == 0 and watch.defects() == []


# ---- the page for a missing address


@pytest.mark.parametrize("folder", ["", "name/"])
@pytest.mark.parametrize("address", ["x.html", "chapters/x.html", "a/b/c/x"])
def test_a_missing_address_has_a_page_with_menu_and_search(browser, folder, address):
    with answering(HTML, folder) as home, watched(browser, home, viewport=NARROW["phone"]) as (page, watch):
        asked = home + folder + address
        assert page.goto(asked).status == 404
        page.wait_for_selector(".primary-toggle[aria-expanded]:visible")  # its scripts have run
        assert page.locator(".bd-article h1").inner_text().startswith("This page is not here")
        probes = [home + "_static/menu.js"] if folder else []  # whether the book is at the server's root
        assert watch.missing == [asked, *probes] and watch.foreign == []
        assert [text for text in watch.errors if "404" not in text] == []
        page.locator(".primary-toggle:visible").click()
        page.locator("#pst-primary-sidebar-modal a", has_text="How to use this book").click()
        page.wait_for_url(home + folder + "book/how_to.html")
        page.goto(asked)
        page.wait_for_selector(".primary-toggle[aria-expanded]:visible")
        assert page.locator(".skip-link a").evaluate("el => el.href") == asked + "#main-content"
        page.locator(".search-button__button:visible").click()
        page.keyboard.type("rank")
        page.keyboard.press("Enter")
        page.wait_for_url(home + folder + "search.html?q=rank")
        page.wait_for_selector("#search-results li")


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


WHERE = """id => [document.getElementById(id).getBoundingClientRect().top,
    scrollY + innerHeight >= document.documentElement.scrollHeight - 2]"""


@pytest.mark.parametrize("address", ["chapters/ch01_rank.html", "chapters/ch05_merge.html", "book/recipes.html"])
def test_a_link_to_a_section_leads_to_its_heading_on_a_phone(browser, home, address):
    """What is far below is laid out late, and a guessed height would miss: from outside, and on the page itself."""
    with watched(browser, home, viewport=NARROW["phone"]) as (page, _):
        page.goto(home + address)
        marks = page.evaluate("[...document.querySelectorAll('.bd-article section section')].map(el => el.id)")
        assert len(marks) > 5
        for mark in marks:
            page.goto("about:blank")
            page.goto(f"{home}{address}#{mark}")
            page.wait_for_timeout(100)
            top, end = page.evaluate(WHERE, mark)
            assert abs(top - 64) < 30 or (end and top > 0), f"{mark} is {top} below the top"  # 64: under the header
        page.goto("about:blank")
        page.goto(home + address)
        page.evaluate("id => { location.hash = id; }", marks[-2])
        page.wait_for_timeout(200)
        top, end = page.evaluate(WHERE, marks[-2])
        assert abs(top - 64) < 30 or (end and top > 0), f"{marks[-2]}, from the page itself, is {top} below the top"


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
