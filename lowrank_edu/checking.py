"""Exercise checks that name the misconception.   numpy only; torch answers are welcome.

    lo.check("ch03-forward", forward)  ->  Result: .passed, .message, .diagnosis

An `Exercise` is declared in `exercises/chNN.py`: its card, random non-square cases, a reference, and the
mistakes that learners make, each with the sentence that helps. The learner's function runs on fresh copies of
the cases. No mistake of a learner raises here; only an unknown id does, which is a mistake of the page.
"""

from __future__ import annotations

import html
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from . import exercises as exercises  # a callable module: lo.exercises() lists the ids
from . import passing
from .checks.comparing import close
from .checks.judging import judge_function, judge_value

KINDS = ("code", "number", "predict", "choice", "find-the-bug", "read-the-plot", "design")


@dataclass(frozen=True)
class Result:
    """What a check found. `diagnosis` is a short stable name ("transposed"); `message` is for the learner."""

    id: str
    passed: bool
    message: str
    diagnosis: str

    def __repr__(self):
        mark = "✓" if self.passed else "○" if self.diagnosis == "not yet" else "✗"
        return f"{mark} {self.id}: {self.message}"

    def _repr_mimebundle_(self, include=None, exclude=None):
        text = html.escape(repr(self), quote=False).replace("\n", "<br>")
        text = re.sub(r"`([^`]+)`", r"<code>\1</code>", text)
        return {"text/plain": repr(self), "text/html": f'<p class="lo-check" role="status">{text}</p>'}


@dataclass(frozen=True)
class Mistake:
    """A known misconception. `wrong`: a function that makes it; where the answer is a value, that value or a
    test of it, such as `lambda n: n > 100`."""

    name: str
    wrong: Any
    sentence: str


@dataclass(frozen=True)
class Exercise:
    """One exercise. With a callable `reference` the learner hands in a function, otherwise a value."""

    id: str  # "ch03-forward": chapter, dash, name
    title: str
    kind: str  # one of KINDS
    difficulty: int  # 1 to 3
    minutes: int
    needs: str  # "you need …"
    know: str  # "you will know …"
    reference: Any
    mistakes: Sequence[Mistake] = ()
    cases: Callable | None = None  # cases(rng) -> list of argument tuples: three, random, non-square
    run: Callable | None = None  # run(answer, *case) -> what to compare; default answer(*case)
    compare: Callable = field(default_factory=close)  # compare(got, want) -> bool, see checks/comparing.py
    options: Sequence[str] = ()  # the answers of a choice; each wrong one needs its Mistake
    praise: str = ""  # said after "Correct."
    on_mutation: str = ""  # said when the numbers are right but argument {name} has changed
    may_change: bool = False  # True when changing an argument is the task
    seconds: float = 5.0  # time for one case

    def __post_init__(self):
        answered = {m.wrong for m in self.mistakes} | {self.reference} if self.options else set()
        silent = [option for option in self.options if option not in answered]
        rules = [
            (self.kind in KINDS, f"kind is {self.kind!r}, not one of {KINDS}"),
            (self.difficulty in (1, 2, 3), f"difficulty is {self.difficulty}, not 1, 2 or 3"),
            (self.cases or not callable(self.reference), "a function needs `cases` to run on"),
            (len({m.sentence for m in self.mistakes}) == len(self.mistakes), "two mistakes share a sentence"),
            (not silent, f"the options {silent} have no Mistake with a sentence"),
        ]
        for holds, problem in rules:
            if not holds:
                raise ValueError(f"Exercise {self.id!r}: {problem}.")

    def card_markdown(self) -> str:
        """The card, one line, as it stands in the notebook's Markdown cell; a test compares the two."""
        dots = "●" * self.difficulty + "○" * (3 - self.difficulty)
        known = f"**you need** {self.needs} · **you will know** {self.know}"
        return f"**Difficulty** {dots} · **{self.minutes} minutes** · {known}"

    def fresh_cases(self) -> list[tuple]:
        """The same cases each time, drawn from a generator of this exercise's own, never a global one."""
        return [tuple(case) for case in self.cases(np.random.default_rng(zlib.crc32(self.id.encode())))]


def check(exercise_id: str, answer) -> Result:
    """Check an answer.  ValueError for an unknown id, naming the nearest; never for a learner's mistake.

    That it passes is kept in a file beside the notebook (`passing.py`), and nowhere else.
    """
    result = examine(exercises.get(exercise_id), answer)
    if not result.passed:
        return result
    passing.record(exercise_id)
    return replace(result, message=f"{result.message}\n{passing.chapter_line(exercise_id)}".strip())


def examine(exercise: Exercise, answer) -> Result:
    """`check` for an exercise at hand."""
    judge = judge_function if callable(exercise.reference) else judge_value
    diagnosis, message = judge(exercise, answer)
    return Result(exercise.id, diagnosis == "correct", message, diagnosis)
