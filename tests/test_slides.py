"""Slides in a real browser, network off, by keyboard: each fits the stage, outputs come one press after their code."""

import re
from pathlib import Path

import nbformat
import pytest
import slides
from browser import watched
from test_browser import ask
from test_classroom import flat, secrets

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = sorted((ROOT / "chapters").glob("*.ipynb"))
every_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
STAGE = {"width": 1280, "height": 800}
PLACES = "slides => slides.map(s => [Reveal.getIndices(s).h, Reveal.getIndices(s).v ?? 0])"
SEEN = """() => {
  const slide = Reveal.getCurrentSlide(), box = slide.getBoundingClientRect();
  const shown = node => {
    const style = getComputedStyle(node);
    return style.visibility !== "hidden" && style.clipPath === "none" && node.checkVisibility();
  };
  const texts = document.createTreeWalker(slide, NodeFilter.SHOW_TEXT), out = [], labels = [];
  while (texts.nextNode()) {
    const node = texts.currentNode, range = document.createRange();
    range.selectNodeContents(node);
    const at = range.getBoundingClientRect();
    if (!node.data.trim() || !at.width || !shown(node.parentElement) || node.parentElement.closest(".katex-mathml"))
      continue;
    if (at.right > innerWidth + 1 || at.bottom > innerHeight + 1 || at.left < -1 || at.top < -1) out.push(node.data);
    if (!node.parentElement.closest("figure")) continue;
    const svg = node.parentElement.closest("svg"), size = parseFloat(getComputedStyle(node.parentElement).fontSize);
    let zoom = 1;
    for (let up = node.parentElement; up; up = up.parentElement) zoom *= parseFloat(getComputedStyle(up).zoom) || 1;
    const drawn = svg ? svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : zoom;
    labels.push([size * drawn, node.data.trim()]);
  }
  return {
    at: `${Reveal.getIndices().h}/${Reveal.getIndices().v ?? 0}`,
    taller: Math.max(0, slide.scrollHeight - slide.clientHeight),
    wider: Math.max(0, slide.scrollWidth - slide.clientWidth),
    cut: [...slide.querySelectorAll("pre")].filter(p => p.scrollWidth > p.clientWidth + 1).map(p => p.innerText),
    fills: [Math.round(box.width), Math.round(box.height)], out,
    label: labels.sort((a, b) => a[0] - b[0])[0] ?? [99, ""],
    waiting: [...slide.querySelectorAll(".fragment:not(.visible)")].map(
      part => [part.textContent, getComputedStyle(part).visibility]),
    figures: [...slide.querySelectorAll("figure")].filter(shown).length,
    code: [...slide.querySelectorAll(".jp-CodeMirrorEditor")].filter(shown).length,
  };
}"""


def read(path):
    return nbformat.read(path, as_version=4)


def said(output) -> str:
    """What an output says in words; a picture says nothing."""
    data = output.get("data", {})
    return output.get("text") or ("" if "image/png" in data else data.get("text/plain", ""))


def kind(cell) -> str:
    return cell.metadata["slideshow"]["slide_type"]


@pytest.fixture(scope="module")
def decks(tmp_path_factory):
    """The folder with the decks of all chapters."""
    out = tmp_path_factory.mktemp("slides")
    slides.beside(out)
    for path in CHAPTERS:
        slides.write(path, out)
    return out


def opened(page, decks, stem, at=""):
    page.goto((decks / f"{stem}.html").as_uri() + at)
    page.wait_for_function("window.Reveal && Reveal.isReady()")


def lacking(state) -> list[str]:
    """What is wrong with the slide that is shown."""
    found = [f"{state['taller']} pixels too tall"] if state["taller"] > 1 else []
    found += [f"{state['wider']} pixels too wide"] if state["wider"] > 1 else []
    found += [f"outside: {text}" for text in state["out"]] + [f"cut off: {text}" for text in state["cut"]]
    return found + (
        [f"label of {state['label'][0]:.1f} pixels: {state['label'][1]}"] if state["label"][0] < 13.99 else []
    )


# ---- what is on the slides


@every_chapter
def test_slides_keep_headings_and_predictions_and_leave_solutions_out(path):
    nb = slides.deck(read(path))
    shown = "\n".join(cell.source for cell in nb.cells if kind(cell) in ("slide", "subslide", "-"))
    text = "\n".join(cell.source for cell in nb.cells)
    for cell in read(path).cells:
        for heading in re.findall(r"^##? .*$", cell.source, re.M) if cell.cell_type == "markdown" else ():
            assert heading in shown
    assert [secret for secret in secrets(path) if secret in flat(text)] == []
    assert not re.search(r"\{(?:term|cite|doc|py)[:\w]*\}`|^:::", text, re.M)


@every_chapter
def test_everything_that_the_chapter_printed_is_on_a_slide_and_none_of_it_before_its_code(path):
    made = [cell for cell in slides.deck(read(path)).cells if cell.cell_type == "code"]
    printed = "".join(o.get("text", "") for cell in made for o in cell.outputs)
    kept = [c for c in read(path).cells if c.cell_type == "code" and "lo.check(" not in c.source]
    assert printed == "".join(o.get("text", "") for cell in kept for o in cell.outputs)
    for before, cell in zip([None, *made], made, strict=False):
        if any("text" in output for output in cell.outputs) and "after" not in cell.metadata["tags"]:
            assert kind(cell) == "subslide" and before.source == cell.source, "its code is on a slide before it"


@every_chapter
def test_what_is_said_about_an_output_is_not_on_its_slide(path):
    ran = False
    for cell in slides.deck(read(path)).cells:
        if kind(cell) in ("slide", "subslide"):
            ran = False
        assert not (ran and cell.cell_type == "markdown" and kind(cell) == "-"), cell.source
        ran = ran or bool(cell.get("outputs"))


@every_chapter
def test_each_question_of_the_quiz_has_a_slide(path):
    quiz = next(o["data"]["text/html"] for c in read(path).cells for o in c.get("outputs", ())
                if "lo-quiz" in o.get("data", {}).get("text/html", ""))  # fmt: skip
    made = [o["data"]["text/html"] for c in slides.deck(read(path)).cells for o in c.get("outputs", ())
            if "lo-quiz" in o.get("data", {}).get("text/html", "")]  # fmt: skip
    assert len(made) == quiz.count("<fieldset>") >= 3
    assert [re.search(r"<legend>.*?</legend>", one)[0] for one in made] == re.findall(r"<legend>.*?</legend>", quiz)
    ids = [name for one in made for name in re.findall(r'\sid="([^"]+)"', one)]
    assert len(ids) == len(set(ids)) and not any("<section" in one for one in made), "reveal.js takes it for a slide"


def test_a_long_output_is_cut_into_equal_parts_and_loses_nothing():
    text = "".join(f"line {n}\n" for n in range(slides.LONGEST * 2 + 5))
    output = nbformat.v4.new_output("stream", text=text)
    made = slides.parts([output])
    counts = [part[0].text.count("\n") for part in made]
    assert "".join(part[0].text for part in made) == text and max(counts) - min(counts) <= 2 and len(made) == 3
    assert slides.parts([nbformat.v4.new_output("stream", text="one\n")])[0][0].text == "one\n"


# ---- in the browser


@every_chapter
def test_every_slide_fits_and_outputs_come_with_a_press(path, decks, browser):
    """From the first slide to the last with the space bar: what a room sees at each press."""
    expected = [c for c in slides.deck(read(path)).cells if c.cell_type == "code" and "after" in c.metadata["tags"]]
    expected = [flat("".join(said(o) for o in c.outputs)) for c in expected]
    bad, presses, shown, visited = {}, [], set(), set()
    with watched(browser, decks.as_uri(), viewport=STAGE) as (page, watch):
        opened(page, decks, path.stem)
        total, state = page.evaluate("Reveal.getTotalSlides()"), page.evaluate(SEEN)
        while state["at"] not in visited or presses[-1][1] == state["at"]:
            visited.add(state["at"])
            if found := lacking(state):
                bad[state["at"]] = found
            assert state["fills"] == [1280, 800]
            if state["figures"]:
                shown.add(state["at"])
                assert state["waiting"] == [] and state["code"] == 0, (
                    state["at"],
                    "a figure stands at once, and alone",
                )
            if state["waiting"]:
                assert [v for _, v in state["waiting"]] == ["hidden"] and state["code"] == 1
            presses.append((state["waiting"], state["at"]))
            page.keyboard.press("Space")
            state = page.evaluate(SEEN)
            if presses[-1][0]:
                assert state["at"] == presses[-1][1] and state["waiting"] == [], "the output comes, the slide stays"
            elif state["at"] == presses[-1][1]:
                break  # the last slide
        assert bad == {} and watch.defects() == []
    assert len(visited) == total and shown
    assert [flat(waiting[0][0]) for waiting, _ in presses if waiting] == expected


@every_chapter
def test_an_answer_of_the_quiz_fits_by_keyboard(path, decks, browser):
    with watched(browser, decks.as_uri(), viewport=STAGE) as (page, watch):
        opened(page, decks, path.stem)
        places = page.evaluate(f"({PLACES})(Reveal.getSlides().filter(s => s.querySelector('.lo-quiz')))")
        assert len(places) >= 3
        for h, v in places:
            page.evaluate(f"Reveal.slide({h}, {v})")
            options = page.locator("section.present:not(.stack) .lo-quiz input")
            page.keyboard.press("Tab")
            while not page.evaluate("!!document.activeElement.closest('.lo-quiz')"):
                page.keyboard.press("Tab")
            page.keyboard.press("Space")
            for _ in range(options.count()):
                assert page.locator("section.present:not(.stack) .lo-quiz-told").filter(visible=True).count() == 1
                assert lacking(page.evaluate(SEEN)) == []
                page.keyboard.press("ArrowDown")
            assert page.evaluate(SEEN)["at"] == f"{h}/{v}", "an arrow for the quiz has turned the slide"
            page.keyboard.press("Escape")
        assert watch.defects() == []


def test_slides_open_from_a_file_with_the_network_off_and_a_figure_moves(decks, browser):
    with watched(browser, decks.as_uri(), viewport=STAGE) as (page, watch):
        opened(page, decks, "ch03_lora")
        assert page.locator(".katex-mathml math").count() > 0 and ask(page, "untypeset") == []
        page.keyboard.press("PageDown")  # what a presenter's remote control sends
        assert page.evaluate(SEEN)["at"] == "0/1"
        page.evaluate("Reveal.slide(1, 0)")
        before = page.locator("section.present:not(.stack) figure").first.inner_text()
        page.locator("section.present:not(.stack) figure input[type=range]").first.focus()
        page.keyboard.press("ArrowRight")
        assert page.locator("section.present:not(.stack) figure").first.inner_text() != before
        assert page.evaluate("Reveal.getIndices().h") == 1, "an arrow for the figure has turned the slide"
        page.keyboard.press("Escape")
        assert not page.evaluate("Reveal.isOverview()")
        page.keyboard.press("ArrowRight")
        assert page.evaluate("Reveal.getIndices().h") == 2, "after Escape the arrows turn slides again"
        assert watch.defects() == []


def test_a_card_of_the_method_table_opens_over_the_others(decks, browser):
    with watched(browser, decks.as_uri(), viewport=STAGE) as (page, watch):
        opened(page, decks, "ch13_next")
        h, v = page.evaluate(
            "(i => [i.h, i.v])(Reveal.getIndices(document.querySelector('.cards').closest('section')))"
        )
        page.evaluate(f"Reveal.slide({h}, {v})")
        cards = page.locator("section.present:not(.stack) .cards details")
        for card in (cards.first, cards.last):
            card.locator("summary").focus()
            page.keyboard.press("Enter")
            assert card.locator("dl").is_visible() and lacking(page.evaluate(SEEN)) == []
            page.keyboard.press("Enter")
        assert watch.defects() == []


@pytest.mark.parametrize("size", [(1024, 768), (1920, 1080)], ids=str)
def test_the_stage_grows_and_shrinks_with_the_window(size, decks, browser):
    with watched(browser, decks.as_uri(), viewport={"width": size[0], "height": size[1]}) as (page, _):
        opened(page, decks, "ch11_lamda")
        for h, v in page.evaluate(f"({PLACES})(Reveal.getSlides())"):
            page.evaluate(f"Reveal.slide({h}, {v})")
            state = page.evaluate(SEEN)
            assert state["out"] == [] and state["taller"] <= 1 and state["cut"] == [], state["at"]
