"""Quizzes: every chapter ends with one, every option answers, the keyboard is enough, and the arithmetic is right."""

import copy
import math
import re
from pathlib import Path

import nbformat
import pytest
from browser import watched

from lowrank_edu import figures, shipped
from lowrank_edu.figures.quizzes import Quiz

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = sorted(path.stem[:4] for path in (ROOT / "chapters").glob("ch*.ipynb"))
GOOD = [{"ask": "Two and two?", "right": 1, "options": [["3", "One too few."], ["4", "Yes, `2 + 2`."]]}]


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_chapter_has_four_questions_or_more_whose_answers_do_not_give_themselves_away(chapter):
    questions = shipped.questions(chapter)
    assert len(questions) >= 4 and all(len(q["options"]) >= 3 for q in questions)
    assert len({q["right"] for q in questions}) >= 3, "the right one stands in the same place too often"
    longest = [max(q["options"], key=lambda pair: len(pair[0])) == q["options"][q["right"]] for q in questions]
    assert sum(longest) <= len(questions) - 1, "the longest option is always the right one"
    texts = [text for q in questions for pair in q["options"] for text in pair[1:]]
    assert len(set(texts)) == len(texts) and min(map(len, texts)) > 15


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_the_page_of_a_quiz_is_small_whole_and_always_the_same(chapter):
    one = figures.quiz(chapter)
    assert one.html == figures.quiz(chapter).html and len(one.html) < 20_000
    ids = re.findall(r'\sid="([^"]*)"', one.html)
    assert len(set(ids)) == len(ids) and all(name.startswith(f"quiz-{chapter}") for name in ids)
    assert not re.search(r"https?://|<script[^>]+src", one.html)
    assert one.questions[0]["ask"] in one._repr_mimebundle_()["text/plain"]


@pytest.mark.parametrize("path", sorted((ROOT / "chapters").glob("ch*.ipynb")), ids=lambda p: p.stem)
def test_the_chapter_shows_its_quiz_without_its_code(path):
    cells = nbformat.read(path, as_version=4).cells
    at = [i for i, cell in enumerate(cells) if cell.source == f'figures.quiz("{path.stem[:4]}")']
    assert at == [len(cells) - 1], "it stands last, so that it gives no answer to the recall questions away"
    assert cells[-1].metadata.tags == ["remove-input"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda q: q.update(ask=" "), "empty text"),
        (lambda q: q["options"].pop(), "1 options"),
        (lambda q: q["options"][0].append("more"), "each \\[option"),
        (lambda q: q["options"][1].__setitem__(0, "3"), "same text"),
        (lambda q: q.update(right=2), "right=2"),
        (lambda q: q.pop("right"), "right=None"),
    ],
)
def test_a_faulty_question_is_named(change, words):
    questions = copy.deepcopy(GOOD)
    change(questions[0])
    with pytest.raises(ValueError, match=words):
        Quiz("x", questions)


def test_faulty_quizzes_are_named():
    for slug, questions, words in (("X 1", GOOD, "cannot be part of an id"), ("x", [], "no question")):
        with pytest.raises(ValueError, match=words):
            Quiz(slug, questions)
    with pytest.raises(ValueError, match="ch01, ch02"):
        figures.quiz("ch99")


ARITHMETIC = {  # (chapter, question): what the right option has to say
    ("ch01", 0): f"{3 * (1000 + 50):,}",
    ("ch01", 1): f"{math.sqrt(1 - 0.96):.0%}".replace("%", " %"),
    ("ch02", 1): str(min(100, 768, 192)),
    ("ch03", 0): f"{4 * (300 + 500):,}",
    ("ch04", 1): f"1/{128 // 8}",
    ("ch05", 1): "It stays 0.75: the change is less than half a tick" if 0.001 < 0.5 / 256 else "",
    ("ch08", 0): str(4 + 4 + 8),
    ("ch08", 2): f"{100 * (1 - (4 + 16) / (4 + 4 + 8 + 16)):.1f} %",
    ("ch09", 1): str(4 + 32 / 64),
}


@pytest.mark.parametrize("place", ARITHMETIC, ids=lambda p: f"{p[0]}-{p[1]}")
def test_the_arithmetic_of_right_options(place):
    question = shipped.questions(place[0])[place[1]]
    assert question["options"][question["right"]][0] == ARITHMETIC[place]


def test_the_keyboard_is_enough_and_every_answer_is_told(browser, tmp_path):
    made = Quiz("two", [*GOOD, {"ask": "<b>?", "right": 0, "options": [["a & b", "Right."], ["c", "No."]]}])
    (tmp_path / "page.html").write_text(f"<!doctype html><title>quiz</title><main>{made.html}</main>", "utf-8")
    home = tmp_path.as_uri() + "/"
    with watched(browser, home) as (page, watch):
        page.goto(home + "page.html")
        told, score = page.locator(".lo-quiz-told:visible"), page.locator(".lo-quiz-score")
        assert told.count() == 0 and not score.is_visible(), "no answer shows before a choice"
        page.keyboard.press("Tab")
        page.keyboard.press("Space")
        assert told.all_inner_texts() == ["✗ One too few."]
        page.keyboard.press("ArrowDown")
        assert told.all_inner_texts() == ["✓ Yes, 2 + 2."]
        assert page.locator("[aria-live]").inner_text() == "✓ Yes, 2 + 2."
        assert not score.is_visible(), "one question is open"
        page.keyboard.press("Tab")
        page.keyboard.press("Space")
        assert score.inner_text() == "1 of 2 right at the first try."
        assert page.locator("[aria-live]").inner_text() == "✓ Right. 1 of 2 right at the first try."
        assert page.locator("legend").nth(1).inner_text() == "2. <b>?"
        page.emulate_media(media="print")
        assert told.count() == 0, "paper does not tell"
        assert watch.defects() == []
