"""A quiz on a page without a kernel: choose an answer, read at once what it shows.   every chapter

Questions are data, `assets/quizzes/<chapter>.json`, so that another edition translates them without touching code. The
options are native radio buttons, so the keyboard works by itself; style sheets alone show what was written for the
chosen option, so it also works where scripts are off; the script counts and announces (`quiz.js`). A notebook that is
not trusted yet drops the styles and keeps `hidden`: there the questions stand without what each answer shows.
"""

import re
from dataclasses import dataclass, field
from html import escape

from .. import shipped
from .page import check_slug, script
from .still import TRUST

TITLE = "{} questions on this chapter"
NOTE = f"The answers are told once the cell has run: run it, or {TRUST}."
COUNT = {3: "Three", 4: "Four", 5: "Five", 6: "Six"}


@dataclass(frozen=True, eq=False)
class Quiz:
    """The questions of a chapter as one piece of HTML, the same on every machine.

    slug        the id on the page is quiz-<slug>
    questions   [{"ask": text, "right": number of the right option, "options": [[option, what it shows], …]}, …];
                `code` between backticks

    ValueError: a text is missing, fewer than two options, two alike, or no such right one.
    """

    slug: str
    questions: list
    html: str = field(init=False, repr=False)

    def __post_init__(self):
        _check(self)
        object.__setattr__(self, "html", _page(self))

    def _repr_mimebundle_(self, include=None, exclude=None):
        asked = " ".join(f"{i}. {q['ask']}" for i, q in enumerate(self.questions, 1))
        return {"text/html": self.html, "text/plain": f"Quiz: {asked}"}

    def __repr__(self):
        return f"Quiz({self.slug!r}, {len(self.questions)} questions)"


def quiz(chapter):
    """The quiz of a chapter, such as "ch01". ValueError: there is none; the message lists those that are."""
    return Quiz(chapter, shipped.questions(chapter))


def _check(quiz):
    check_slug(quiz.slug)
    for i, question in enumerate(quiz.questions, 1):
        where, options = f"question {i} of quiz {quiz.slug!r}", question.get("options", [])
        says = [str(text).strip() for text in (question.get("ask", ""), *(part for pair in options for part in pair))]
        if not all(says):
            raise ValueError(f"{where} has an empty text. Every question, option and answer to it needs one.")
        if len(options) < 2 or any(len(pair) != 2 for pair in options):
            raise ValueError(f"{where} has {len(options)} options; it needs two or more, each [option, what it shows].")
        if len({option for option, _ in options}) < len(options):
            raise ValueError(f"{where} has two options with the same text. Change one.")
        right = question.get("right")
        if not isinstance(right, int) or not 0 <= right < len(options):
            raise ValueError(f"{where} has right={right!r}; it is the number of an option, 0 to {len(options) - 1}.")
    if not quiz.questions:
        raise ValueError(f"quiz {quiz.slug!r} has no question. Give it at least one.")


def _page(quiz):
    me, n = f"quiz-{quiz.slug}", len(quiz.questions)
    title = TITLE.format(COUNT.get(n, n))
    sets = "".join(_question(f"{me}-{i}", i, question) for i, question in enumerate(quiz.questions, 1))
    return (
        f'<section class="lo-quiz" id="{me}" aria-labelledby="{me}-title"><style>{script("quiz.css")}</style>'
        f'<p class="lo-quiz-title" id="{me}-title">{title}</p><p class="lo-quiz-note">{NOTE}</p>{sets}'
        f'<p class="lo-quiz-score" data-el="score"></p><p class="lo-quiz-live" aria-live="polite"></p>'
        f"<script>(\n{script('quiz.js')}\n)(document.currentScript)</script></section>"
    )


def _question(me, number, question):
    rows = []
    for k, (option, shows) in enumerate(question["options"]):
        mark, kind = ("✓", "right") if k == question["right"] else ("✗", "wrong")
        rows.append(
            f'<div class="lo-quiz-row"><label><input type="radio" name="{me}" value="{kind}"> <span>{_text(option)}'
            f'</span></label><p class="lo-quiz-told {kind}" hidden="hidden"><b>{mark}</b> {_text(shows)}</p></div>'
        )
    return f"<fieldset><legend>{number}. {_text(question['ask'])}</legend>{''.join(rows)}</fieldset>"


def _text(text):
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text, quote=False))
