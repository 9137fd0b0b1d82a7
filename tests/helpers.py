"""What chapter tests share: each planted wrong answer gets its own sentence, the notebook shows each card."""

import json
import re
from pathlib import Path

from lowrank_edu.checking import examine

CHAPTERS = Path(__file__).parent.parent / "chapters"
GENERIC = ("difference", "raised", "type", "shape", "structure", "text", "not yet", "option")  # fit anything


def assert_distinct_sentences(exercise, wrong_answers: dict, right_answers=()) -> dict:
    """At least four wrong answers: none passes, each is recognised and gets its own sentence. The reference
    and the right answers (unusual ones: einsum, loops, torch, lists) pass.  Returns {name: Result}."""
    assert len(wrong_answers) >= 4, f"{exercise.id}: plant at least four wrong answers"
    for number, answer in enumerate([exercise.reference, *right_answers]):
        result = examine(exercise, answer)
        assert result.passed, f"{exercise.id}: right answer {number} does not pass: {result.message}"
    results = {name: examine(exercise, answer) for name, answer in wrong_answers.items()}
    seen = {}
    for name, result in results.items():
        assert not result.passed, f"{exercise.id}: the wrong answer {name!r} passes"
        last = result.diagnosis.split(": ")[-1]
        assert last not in GENERIC or result.diagnosis.startswith("mistake"), (
            f"{exercise.id}: {name!r} is not recognised ({result.diagnosis}): {result.message}"
        )
        sentence = re.sub(r"[\d.]+", "#", result.message.split("\nYour code printed")[0])
        twin = seen.get(sentence)
        assert twin is None, f"{exercise.id}: {name!r} and {twin!r} get one sentence: {result.message}"
        seen[sentence] = name
    return results


def assert_each_option_has_its_sentence(exercise, wrong: int, right_answers=()):
    """A choice with this many wrong options: none passes, each has its own sentence; the right answers pass."""
    results = [examine(exercise, option) for option in exercise.options if option != exercise.reference]
    assert not any(result.passed for result in results), exercise.id
    assert len(results) == len({result.message for result in results}) == wrong, exercise.id
    for answer in [exercise.reference, *right_answers]:
        assert examine(exercise, answer).passed, f"{exercise.id}: {answer!r} does not pass"


def assert_notebook_shows(exercises, notebook: str):
    """chapters/<notebook> has, for each exercise: its title, card, one check, two hints and the solution."""
    cells = json.loads((CHAPTERS / notebook).read_text(encoding="utf-8"))["cells"]
    texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    for exercise in exercises:
        opening = f'<a id="{exercise.id}"></a>'
        cards = [t for t in texts if opening in t]
        assert len(cards) == 1, f"{exercise.id}: {len(cards)} Markdown cells have {opening!r}"
        card = exercise.card_markdown()
        assert card in cards[0], f"{exercise.id}: put this card in:\n{card}"
        assert exercise.title in cards[0], f"{exercise.id}: the title {exercise.title!r} is missing"
        assert sum(f'check("{exercise.id}"' in c for c in code) == 1, f"{exercise.id}: exactly one check cell"
        page = "\n".join(texts)
        after = page[page.index(opening) :].split("</a>Exercise ")[1]
        hints = re.findall(r'^<details class="hint"><summary>Hint [12]</summary>$', after, flags=re.M)
        assert len(hints) == 2, f"{exercise.id}: two hints, not {len(hints)}"
        assert f'<details class="solution" id="solution-{exercise.id}">' in after, f"{exercise.id}: a solution"
