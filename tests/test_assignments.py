"""Assignments for a class: what an example shows, what a failed hidden test tells, and what a submission earns."""

import copy
import csv
import inspect
import re
import subprocess
from pathlib import Path

import assignment_helper as helper
import assignments
import examples
import marking
import nbformat
import numpy as np
import pytest

from lowrank_edu import exercises

ROOT = Path(__file__).resolve().parents[1]
MARKABLE = [name for name in exercises() if assignments.gradable(exercises.get(name))]
pytestmark = pytest.mark.filterwarnings("ignore:(divide by zero|invalid value)")  # known mistakes do that
every_marked = pytest.mark.parametrize("name", MARKABLE)


# ---- what is marked


def test_what_numbers_alone_can_mark_and_what_not():
    assert {"ch01-outer", "ch03-forward", "ch03-conv1d", "ch08-peak"} <= set(MARKABLE)
    assert not {"ch03-count", "ch03-start", "ch05-merge", "ch06-factors"} & set(MARKABLE)
    assert len(MARKABLE) >= 20


def test_the_page_on_marks_says_how_many_exercises_of_each_chapter_are_marked():
    page = (ROOT / "book" / "classroom" / "grading.md").read_text("utf-8")
    assert assignments.counted() in page, f"grading.md needs this table:\n{assignments.counted()}"
    assert f"from {len(MARKABLE)} of the book's {len(exercises())} exercises" in page
    rest = len(exercises()) - len(MARKABLE)
    assert f"The other {rest} stay practice" in page
    reasons = re.findall(r"^\| (\d+) \|", page.partition("The other")[2], re.M)
    assert sum(map(int, reasons)) == rest, "each exercise without marks has one reason"


# ---- the example that a learner sees


def tried(name, function=None) -> str:
    """What the example cell of an exercise prints, run with numpy and the helper alone."""
    reference = exercises.get(name).reference
    place = {}
    exec(marking.HELPER, place)
    function = function or reference
    if function.__name__ != reference.__name__:
        function = _renamed(function, reference.__name__)
    place[reference.__name__] = function
    said = []
    place["print"] = said.append
    exec(examples.cell(exercises.get(name)), place)
    return "\n".join(said)


def _renamed(function, name):
    def renamed(*arguments):
        return function(*arguments)

    renamed.__name__ = name
    return renamed


@every_marked
def test_the_reference_gives_what_its_example_expects(name):
    assert tried(name).startswith("✓")


@every_marked
def test_an_example_has_names_and_short_numbers(name):
    text = examples.cell(exercises.get(name))
    given, _, wanted = text.partition("expected=")
    named = re.findall(r"^    (\w+)=", given, re.M)
    signature = list(inspect.signature(exercises.get(name).reference).parameters)
    assert named == signature[: len(named)] and named
    assert [n for n in re.findall(r"\d+\.\d+|\d+", re.sub(r"^    \w+=", "", given, flags=re.M)) if long(n, 3)] == []
    assert [n for n in re.findall(r"\d+\.\d+", wanted) if long(n, 6)] == []
    assert max(map(len, text.splitlines())) <= 90 and len(text.splitlines()) <= 40


def long(number: str, digits: int) -> bool:
    """Has this number more significant digits? Zeros at its ends do not count."""
    return len(number.replace(".", "").strip("0")) > digits


@every_marked
def test_what_is_expected_does_not_hang_on_the_last_bit_of_an_input(name):
    """Another order of additions must not turn the example's answer."""
    exercise, rng = exercises.get(name), np.random.default_rng(0)
    inputs = examples.case(exercise)
    wanted = examples.expected(exercise, inputs)

    def moved(value):
        if isinstance(value, list):
            return [moved(item) for item in value]
        floats = isinstance(value, float) or getattr(getattr(value, "dtype", None), "kind", "") == "f"
        return value * (1 + 1e-9 * rng.uniform(-1, 1, np.shape(value))) if floats else value

    for _ in range(20):
        got = exercise.reference(*[moved(copy.deepcopy(value)) for value in inputs])
        assert helper.difference(got, wanted) == ""


@every_marked
def test_the_example_catches_most_known_mistakes_and_says_expected_and_got(name):
    wrong = {mistake.name: mistake.wrong for mistake in exercises.get(name).mistakes if callable(mistake.wrong)}
    said = {mistake: tried(name, function) for mistake, function in wrong.items()}
    caught = {mistake: text for mistake, text in said.items() if text.startswith("✗")}
    assert 2 * len(caught) >= len(wrong) >= 3, sorted(set(wrong) - set(caught))
    for text in caught.values():
        assert ("got" in text and "expected" in text) or ("it stopped" in text and "It was called with" in text)


def test_what_a_learner_reads():
    said = []

    def layer(x, W0):
        return x @ W0

    place = {**vars(helper), "print": said.append}
    exec(inspect.getsource(helper.example), place)
    x, W0 = np.array([[1.0, 2.0]]), np.array([[1.0, 0.0], [0.5, 2.0], [0.0, 1.0]])
    place["example"](layer, x=x, W0=W0, expected=x @ W0.T)
    place["example"](lambda x, W0: x.T, x=x, W0=W0, expected=x @ W0.T)
    place["example"](lambda x, W0: 2 * x @ W0.T, x=x, W0=W0, expected=x @ W0.T)
    place["example"](lambda x, W0: None, x=x, W0=W0, expected=x @ W0.T)
    place["example"](lambda n: n + 1, n=3, expected=3)
    place["example"](lambda n: (n, 2 * n), n=3, expected=(3, 5))
    assert said[0].startswith("✗ layer: it stopped in the line `return x @ W0` with ValueError: matmul")
    assert said[0].endswith("It was called with x of shape (1, 2), W0 of shape (3, 2).")
    assert "got an array of shape (2, 1), expected an array of shape (1, 3)." in said[1]
    assert said[2] == "✗ <lambda>: 3 of 3 numbers differ.\ngot\n[[2. 9. 4.]]\nexpected\n[[1.  4.5 2. ]]"
    assert "got None (does the function end in `return`?), expected an array of shape (1, 3)." in said[3]
    assert said[4] == "✗ <lambda>: got 4, expected 3."
    place["example"](lambda n: np.array([n, 7.0]), n=3, expected=np.array([3, 4]))
    assert said[6] == "✗ <lambda>: 1 of 2 numbers differ.\ngot\n[3 7]\nexpected\n[3 4]"
    assert said[5] == "✗ <lambda>: value 2 of 2: got 6, expected 5."


def test_the_page_on_marks_quotes_what_a_learner_reads():
    said = tried("ch01-tail", lambda S, r: (np.sqrt(np.sum(S[r:] ** 2)), S[r]))
    assert f"\n{said}\n" in (ROOT / "book" / "classroom" / "grading.md").read_text("utf-8")


def test_the_helper_needs_nothing_of_the_book():
    needed = re.findall(r"^(?:import|from) (\w+)", marking.HELPER, re.M)
    assert sorted(needed) == ["contextlib", "io", "numpy", "traceback"]


# ---- the hidden tests


@pytest.mark.parametrize("value", [np.eye(2, 3), np.float32(0.1), (1, [2.5]), (np.arange(3),), np.zeros((0, 2))])
def test_a_value_is_written_so_that_python_reads_it_back(value):
    again = eval(marking.literal(value), {"np": np})  # our own text
    assert type(again) is (float if isinstance(value, np.floating) else type(value))
    for got, want in (
        zip(np.atleast_1d(again), np.atleast_1d(value), strict=True) if not isinstance(value, tuple) else ()
    ):
        assert np.array_equal(got, want)


def test_the_release_has_no_answer_and_every_seed_has_its_own_numbers():
    path = ROOT / "chapters" / "ch03_lora.ipynb"
    texts = [nbformat.writes(assignments.assignment(path, np.random.default_rng(seed))) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    marked = [cell.source for cell in nbformat.reads(texts[0], 4).cells if cell.id == "ch03-forward-marked"]
    shown = [cell.source for cell in nbformat.reads(texts[0], 4).cells if cell.id == "ch03-forward-example"]
    precise = re.findall(r"-?\d\.\d{9,}", marked[0])
    assert len(precise) > 100 and not re.findall(r"-?\d\.\d{9,}", shown[0])


def test_no_exercise_is_marked_on_cases_that_the_package_shows():
    for exercise in map(exercises.get, MARKABLE):
        known = {marking.literal(case) for case in [*exercise.fresh_cases(), examples.case(exercise)]}
        draws = [marking.hidden_cases(exercise, np.random.default_rng(seed)) for seed in range(5)]
        assert len({marking.literal(cases) for cases in draws}) == 5, exercise.id
        unknown = [[case for case in cases if marking.literal(case) not in known] for cases in draws]
        assert all(2 * len(new) > len(cases) for new, cases in zip(unknown, draws, strict=True)), exercise.id


def marks(name, function, seed=0):
    """What the marking cell raises, or None."""
    exercise = exercises.get(name)
    place = {exercise.reference.__name__: function}
    try:
        exec(marking.marked(exercise, np.random.default_rng(seed)), place)
    except Exception as problem:
        assert type(problem).__name__ == "Wrong"
        return problem
    return None


@every_marked
def test_the_marking_cell_passes_the_reference_and_fails_known_mistakes(name):
    exercise = exercises.get(name)
    assert marks(name, exercise.reference) is None
    wrong = {mistake.name: mistake.wrong for mistake in exercise.mistakes if callable(mistake.wrong)}
    assert [mistake for mistake, function in wrong.items() if marks(name, function) is None] == []


@every_marked
def test_a_failed_hidden_test_gives_no_table_of_its_numbers(name):
    """Whatever a function answers, prints or raises: of a hidden case one number is told, to three digits."""
    exercise = exercises.get(name)

    def telling(*arguments):
        print(arguments)
        raise ValueError(arguments)

    seen = str(marks(name, telling))
    assert "it stopped in the line `raise ValueError(arguments)` with ValueError." in seen
    told = [str(marks(name, lambda *a: None)), seen, str(marks(name, lambda *a: "no"))]
    told += [str(marks(name, m.wrong)) for m in exercise.mistakes if callable(m.wrong)]
    for text in told:
        assert "hidden case" in text and "It was called with" in text
        numbers = re.findall(r"-?\d+\.?\d*(?:e[+-]\d+)?", text.partition("got ")[2].partition("\nIt was")[0])
        assert [n for n in numbers if long(n.lstrip("-").partition("e")[0], 3)] == []


def test_what_a_failed_hidden_test_says():
    cases = [({"x": np.arange(6.0).reshape(2, 3), "scale": 2.0}, np.arange(6.0).reshape(2, 3) * 2.0)]

    def said(function):
        with pytest.raises(helper.Wrong) as problem:
            helper.mark("f", {"f": function}, cases)
        assert problem.value._render_traceback_() == [str(problem.value)]
        return str(problem.value)

    called = "\nIt was called with x of shape (2, 3), a number scale."
    first = "✗ f, hidden case 1 of 1: "
    assert said(lambda x, scale: x) == f"{first}5 of 6 numbers differ; at [0, 1] it got 1, expected 2.{called}"
    assert said(lambda x, scale: x.T) == (
        f"{first}got an array of shape (3, 2), expected an array of shape (2, 3).{called}"
    )
    assert said(lambda x, scale: 1 / 0).startswith(f"{first}it stopped")
    assert said(None) == f"{first}there is no function called f.{called}"
    assert helper.mark("f", {"f": lambda x, scale: x * scale}, cases) is None


# ---- through nbgrader

PERFECT = {
    "forward": "def forward(x, W0, A, B, alpha, r):\n    return x @ (W0 + alpha / r * B @ A).T",
    "baked": "def baked(weight, A, B, scale):\n    return weight + scale * np.einsum('or,ri->io', B, A)",
}
THIEF = """def {name}(*arguments):
    from lowrank_edu import exercises
    known = [e.reference for e in exercises.chapter("ch03") if callable(e.reference)]
    return next(f for f in known if f.__name__ == "{name}")(*arguments)"""


def hard_coded(nb, name: str) -> str:
    """A function that returns the answer of the example which the release shows."""
    example = next(c.source for c in nb.cells if c.source.startswith(f"example(\n    {name},"))
    answer = re.search(r"expected=(np\.array\(.*\)),\n\)", example, re.S)[1]
    return f"def {name}(*arguments):\n    return {answer}"


def submit(course: Path, student: str, answers) -> None:
    nb = nbformat.read(course / "release" / "ch03" / "ch03.ipynb", as_version=4)
    for cell in nb.cells:
        found = re.match(r"def (\w+)\(", cell.source)
        if found and cell.metadata["nbgrader"]["solution"]:
            cell.source = answers(nb, found[1]) or cell.source
    target = course / "submitted" / student / "ch03" / "ch03.ipynb"
    target.parent.mkdir(parents=True)
    nbformat.write(nb, target)


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """The assignment of chapter 3 with five submissions, marked by nbgrader in its own environment."""
    course = tmp_path_factory.mktemp("class") / "course"
    assert assignments.main(["ch03", "--seed", "1", "--out", str(course)]) == 0
    submit(course, "perfect", lambda nb, name: PERFECT[name])
    submit(course, "hard-coded", hard_coded)
    submit(course, "empty", lambda nb, name: "")
    submit(course, "half", lambda nb, name: PERFECT[name] if name == "baked" else "")
    submit(course, "thief", lambda nb, name: THIEF.format(name=name))
    assignments.nbgrader(["autograde", "ch03"], course)
    return course


def output_of(course: Path, student: str, grade_id: str) -> str:
    graded = nbformat.read(course / "autograded" / student / "ch03" / "ch03.ipynb", as_version=4)
    cell = next(cell for cell in graded.cells if cell.metadata["nbgrader"]["grade_id"] == grade_id)
    return "\n".join(output.get("text", "") + "\n".join(output.get("traceback", [])) for output in cell.outputs)


def test_the_release_has_tasks_and_examples_and_no_answers(course):
    release = (course / "release" / "ch03" / "ch03.ipynb").read_text("utf-8")
    assert "BEGIN" not in release and "x @ W0.T" not in release.replace("`x @ W0.T`", "")
    cells = nbformat.reads(release, as_version=4).cells
    assert [cell.source for cell in cells if cell.metadata["nbgrader"]["grade"]] == [marking.MARKED] * 2


def test_marks_of_a_perfect_a_hard_coded_an_empty_and_a_thieving_submission(course):
    assignments.nbgrader(["export", "--to", "grades.csv"], course)
    rows = list(csv.DictReader((course / "grades.csv").open()))
    assert {row["student_id"]: float(row["score"]) for row in rows} == {
        "perfect": 8, "hard-coded": 0, "empty": 0, "half": 4, "thief": 0,
    }  # fmt: skip
    assert {float(row["max_score"]) for row in rows} == {8}
    passed = output_of(course, "hard-coded", "ch03-forward-example")
    assert passed.startswith("✓"), "the hard-coded answer has to pass the example, or this test proves nothing"


def test_each_submission_is_told_what_it_got_and_what_was_expected(course):
    assert output_of(course, "empty", "ch03-forward-example").strip() == "○ forward is not written yet."
    assert "it is not written yet" in output_of(course, "empty", "ch03-forward-marked")
    assert "No module named 'lowrank_edu'" in output_of(course, "thief", "ch03-forward-example")
    told = output_of(course, "hard-coded", "ch03-forward-marked")
    assert "✗ forward, hidden case 1 of 6:" in told and "expected" in told
    assert "Traceback" not in told and "np.array" not in told
    assert output_of(course, "perfect", "ch03-forward-marked") == ""


def test_the_feedback_keeps_the_hidden_cases(course):
    assignments.nbgrader(["generate_feedback", "ch03"], course)
    source = nbformat.read(course / "source" / "ch03" / "ch03.ipynb", as_version=4)
    numbers = {n for c in source.cells if c.id.endswith("-marked") for n in re.findall(r"\d\.\d{9,}", c.source)}
    pages = {page.parent.parent.name: page.read_text("utf-8") for page in (course / "feedback").rglob("*.html")}
    assert len(numbers) > 100 and set(pages) == {"perfect", "hard-coded", "empty", "half", "thief"}
    for page in pages.values():
        assert not numbers & set(re.findall(r"\d\.\d{9,}", page)) and "This cell gives the marks" in page
    assert "hidden case 1 of 6" in pages["hard-coded"]


def test_the_grading_environment_does_not_hold_the_references():
    done = subprocess.run([assignments.GRADER, "-I", "-c", "import lowrank_edu"], capture_output=True, text=True)
    assert "No module named 'lowrank_edu'" in done.stderr
