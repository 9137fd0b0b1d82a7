"""`lo.check`: each kind of answer gets the sentence that helps; nothing a learner does raises or hangs."""

import dataclasses
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from helpers import assert_distinct_sentences

import lowrank_edu as lo
from lowrank_edu import exercises
from lowrank_edu.checking import KINDS, Exercise, Mistake, examine
from lowrank_edu.checks import sandbox
from lowrank_edu.checks.comparing import (
    as_array,
    close,
    exact_integer,
    same_product,
    same_subspace,
    same_text,
    unordered,
    up_to_signs,
    within_factor,
)

RNG = np.random.default_rng(0)


def delta(A, B, alpha, r):
    return alpha / r * B @ A


def delta_cases(rng):
    sizes = [(5, 3, 2), (4, 7, 3), (3, 8, 2)]
    return [(rng.normal(size=(r, i)), rng.normal(size=(o, r)), 16.0, r) for o, i, r in sizes]


CARD = {"difficulty": 2, "minutes": 8, "needs": "a product", "know": "its shape"}
DELTA = Exercise(
    id="ch00-delta", title="The update", kind="code", reference=delta, cases=delta_cases, seconds=0.5, **CARD,
    mistakes=[Mistake("swapped", lambda A, B, alpha, r: alpha / r * A @ B, "A and B have changed places."),
              Mistake("sum", lambda A, B, alpha, r: alpha / r * (B @ A) + 1, "Nothing is added here.")],
)  # fmt: skip
COUNT = Exercise(
    id="ch00-count", title="Count", kind="number", reference=3_072, compare=exact_integer, **CARD,
    mistakes=[Mistake("product", 12_288, "That is the whole matrix."),
              Mistake("huge", lambda n: n > 10**6, "More than the model has.")],
)  # fmt: skip
CHOICE = Exercise(
    id="ch00-choice", title="Who", kind="choice", reference="B", options=("A", "B", "both"), **CARD,
    mistakes=[Mistake("a", "A", "A is random."), Mistake("both", "both", "Then nothing learns.")],
)  # fmt: skip


def says(answer, exercise=DELTA):
    return examine(exercise, answer)


# ---- right answers, however they are written -----------------------------------------------------
def loops(A, B, alpha, r):
    out = [[0.0] * len(A[0]) for _ in B]
    for i in range(len(B)):
        for j in range(len(A[0])):
            out[i][j] = alpha / r * sum(B[i][k] * A[k][j] for k in range(r))
    return out


def in_torch_only(A, B, alpha, r):
    return (alpha / r) * torch.matmul(B, A)  # torch.matmul refuses numpy arrays


@pytest.mark.parametrize(
    "answer",
    [
        delta,
        loops,
        in_torch_only,
        lambda A, B, alpha, r: np.einsum("or,ri->oi", B, A) * alpha / r,
        lambda A, B, alpha, r: torch.as_tensor(delta(A, B, alpha, r)).float(),
        lambda A, B, alpha, r: torch.nn.Parameter(torch.as_tensor(delta(A, B, alpha, r))),
        lambda A, B, alpha, r: delta(A, B, alpha, r).astype(np.float32),
        lambda A, B, alpha, r: list(torch.as_tensor(delta(A, B, alpha, r))),
        lambda *everything: delta(*everything),
        lambda A, B, alpha, r, extra=1: delta(A, B, alpha, r),
    ],
)
def test_correct_answers_pass_in_every_dress(answer):
    assert says(answer).passed, says(answer)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_compared_with_its_own_tolerance(dtype):
    assert says(lambda *a: torch.as_tensor(delta(*a)).to(dtype)).passed
    assert not says(lambda *a: torch.as_tensor(delta(*a) * 1.2).to(dtype)).passed


def test_float64_is_not_compared_with_the_tolerance_of_half_precision():
    assert not says(lambda *a: delta(*a) * (1 + 1e-3)).passed


# ---- not an answer yet ---------------------------------------------------------------------------
def stub(A, B, alpha, r):
    """Multiply."""
    return ...


def raising_stub(A, B, alpha, r):
    raise NotImplementedError


def empty(A, B, alpha, r):
    pass


STUBS = [..., None, NotImplemented, stub, raising_stub, empty, lambda *a: (..., ...)]


@pytest.mark.parametrize("answer", STUBS)
def test_an_unfinished_answer_is_not_yet(answer):
    result = says(answer)
    assert (result.passed, result.diagnosis) == (False, "not yet")
    assert result.message.startswith("Not yet. The first hint is one click away")
    assert repr(result).startswith("○ ch00-delta: Not yet.")


@pytest.mark.parametrize("answer", [..., None, "", "  ", (..., 3)])
def test_an_unfinished_value_is_not_yet(answer):
    assert says(answer, COUNT).diagnosis == "not yet"


# ---- answers that cannot be compared -------------------------------------------------------------
def endless(A, B, alpha, r):
    while True:
        try:
            pass
        except Exception:
            pass


def endless_at_first(A, B, alpha, r):
    while A.shape == (2, 3):
        pass


def endless_talk(A, B, alpha, r):
    while True:
        print("still here " * 100)


def generator(A, B, alpha, r):
    yield B @ A


def forgets_to_return(A, B, alpha, r):
    result = alpha / r * B @ A  # noqa: F841


def adds_in_place(A, B, alpha, r):
    B *= alpha / r
    return B @ A


def adds_in_place_and_is_wrong(A, B, alpha, r):
    A += 1
    return B @ A


@pytest.mark.parametrize(
    "answer, diagnosis, words",
    [
        (endless, "time", ["0.5 seconds", "stopped"]),
        (endless_talk, "time", ["stopped"]),
        (endless_at_first, "time", ["stopped"]),
        (generator, "generator", ["generator"]),
        (forgets_to_return, "no return", ["`return`"]),
        (adds_in_place, "mutation", ["Right numbers, once", "`B` itself changed"]),
        (adds_in_place_and_is_wrong, "difference", ["Also, `A` itself changed"]),
        (lambda A, B: B @ A, "signature", ["(A, B, alpha, r)", "(A, B)"]),
        (lambda A, B, alpha, r, *, must: 1, "signature", ["must"]),
        (lambda *a: 1 / 0, "raised", ["ZeroDivisionError", "alpha = 16", "r = 2"]),
        (lambda *a: sys.exit("bye"), "raised", ["SystemExit"]),
        (lambda *a: unknown, "raised", ["NameError", "unknown"]),  # noqa: F821
        (lambda *a: says.missing, "raised", ["AttributeError"]),
        (lambda *a: loop_forever(*a), "raised", ["RecursionError"]),
        (3.5, "not a function", ["Give the function itself", "3.5"]),
        (np.zeros((5, 3)), "not a function", ["shape (5, 3)"]),
        ("B @ A", "not a function", ["'B @ A'"]),
        (lambda *a: "B @ A", "type", ["'B @ A'", "(5, 3)"]),
        (lambda *a: {"A": 1}, "type", ["dict", "(5, 3)"]),
        (lambda *a: [[1, 2], [3]], "type", ["rows differ in length"]),
        (lambda *a: delta, "type", ["function"]),
    ],
)
def test_answers_that_cannot_be_compared(answer, diagnosis, words):
    result = says(answer)
    assert result.diagnosis == diagnosis and not result.passed
    for word in words:
        assert word in result.message


def loop_forever(*a):
    return loop_forever(*a)


def test_after_an_endless_loop_the_next_check_works_and_no_alarm_is_left():
    import signal

    before = signal.getsignal(signal.SIGALRM)
    assert says(endless).diagnosis == "time"
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert says(delta).passed


def test_an_endless_loop_outside_the_main_thread_is_stopped_too():
    found, before = [], set(threading.enumerate())  # a progress bar of another test may keep a thread
    worker = threading.Thread(target=lambda: found.extend([says(endless), says(delta)]))
    worker.start()
    worker.join(20)
    assert [r.diagnosis for r in found] == ["time", "correct"]
    for _ in range(100):
        if set(threading.enumerate()) <= before:
            break
        time.sleep(0.05)
    assert set(threading.enumerate()) <= before


def test_the_users_own_interrupt_passes_through():
    def interrupted(*a):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        says(interrupted)


def test_prints_are_kept_out_of_the_page_and_shown_with_a_wrong_answer(capsys):
    def talks(A, B, alpha, r):
        print("shape of A:", A.shape)
        return A

    result = says(talks)
    assert "Your code printed: shape of A: (2, 3)" in result.message
    assert "printed" not in says(lambda *a: print("hello") or delta(*a)).message
    assert capsys.readouterr().out == ""


def test_warnings_of_the_learners_code_stay_out_of_the_page(recwarn):
    assert says(lambda A, B, alpha, r: np.log(0 * B @ A)).diagnosis == "not finite"
    assert not recwarn.list


def test_the_cases_are_fresh_copies_and_the_global_generator_is_untouched():
    np.random.seed(3)
    state = np.random.get_state()[1].copy()
    says(adds_in_place)
    assert says(delta).passed
    assert np.array_equal(state, np.random.get_state()[1])
    first, second = DELTA.fresh_cases(), DELTA.fresh_cases()
    assert all(np.array_equal(a[0], b[0]) and a[0] is not b[0] for a, b in zip(first, second, strict=True))


def test_changing_the_argument_may_be_the_task_or_have_its_own_sentence():
    assert says(adds_in_place, dataclasses.replace(DELTA, may_change=True)).passed
    own = dataclasses.replace(DELTA, on_mutation="`{name}` was yours to read, not to write.")
    assert says(adds_in_place, own).message == "`B` was yours to read, not to write."


# ---- known mistakes ------------------------------------------------------------------------------
def test_a_known_mistake_gets_its_sentence_when_it_gives_the_same_numbers():
    assert says(lambda A, B, alpha, r: delta(A, B, alpha, r) + 1.0).message == "Nothing is added here."


def test_a_known_mistake_that_raises_is_recognised_by_the_same_exception():
    assert says(lambda A, B, alpha, r: alpha / r * A @ B).message == "A and B have changed places."
    assert says(lambda A, B, alpha, r: alpha / r * A @ A).diagnosis == "raised"


def test_a_mistake_that_fits_only_some_cases_is_not_claimed():
    def sometimes(A, B, alpha, r):
        return delta(A, B, alpha, r) + (1 if r == 2 else 5)

    assert "mistake" not in says(sometimes).diagnosis


def test_a_mistake_that_no_case_can_tell_from_the_reference_is_never_claimed():
    same = dataclasses.replace(DELTA, mistakes=[Mistake("same", lambda *a: delta(*a) * 1, "Never said.")])
    assert says(delta, same).passed


def test_a_mistake_that_changes_its_input_does_not_spoil_the_next_one():
    spoils = Mistake("spoils", lambda A, B, alpha, r: A.fill(0), "Never said.")
    exercise = dataclasses.replace(DELTA, mistakes=[spoils, *DELTA.mistakes])
    assert says(lambda *a: delta(*a) + 1.0, exercise).message == "Nothing is added here."


def test_a_mistake_whose_product_does_not_exist_is_recognised_all_the_same():
    factors = dataclasses.replace(
        DELTA, reference=lambda A, B, alpha, r: (B, A), compare=same_product,
        mistakes=[Mistake("order", lambda A, B, alpha, r: (A, B), "B first, then A.")],
    )  # fmt: skip
    assert says(lambda A, B, alpha, r: (2 * B, A / 2), factors).passed
    assert says(lambda A, B, alpha, r: (A, B), factors).message == "B first, then A."


# ---- general patterns ----------------------------------------------------------------------------
PATTERNS = {
    "transposed": (lambda *a: delta(*a).T, ["(5, 3) expected", "(3, 5)", "transposed"]),
    "shape transposed": (lambda *a: delta(*a).T + RNG.normal(), ["rows and columns"]),
    "reshape": (lambda *a: delta(*a)[None], ["axes"]),
    "shape": (lambda *a: delta(*a)[:2], ["(5, 3) expected", "(2, 3)"]),
    "factor r/α": (lambda A, B, alpha, r: B @ A, ["exactly r/α", "0.125 of what it should be"]),
    "factor α/r": (lambda A, B, alpha, r: (alpha / r) ** 2 * B @ A, ["exactly α/r", "8 times too large"]),
    "factor r": (lambda A, B, alpha, r: alpha * B @ A, ["exactly r"]),
    "factor √r": (lambda A, B, alpha, r: alpha / r**0.5 * B @ A, ["exactly √r"]),
    "factor -1": (lambda *a: -delta(*a), ["sign"]),
    "factor 1/2": (lambda *a: delta(*a) / 2, ["target times 1/2"]),
    "factor": (lambda *a: delta(*a) * 3.3, ["3.3 times too large"]),
    "signs": (lambda *a: np.abs(delta(*a)), ["signs"]),
    "all zero": (lambda *a: 0 * delta(*a), ["is 0"]),
    "not finite": (lambda *a: delta(*a) * np.array([1, np.nan, 1]), ["nan at [0, 1]", "5 of 15"]),
    "order": (lambda *a: delta(*a)[::-1, ::-1].copy(), ["order"]),
    "offset": (lambda *a: delta(*a) + 7, ["off by 7"]),
}


@pytest.mark.parametrize("diagnosis", PATTERNS)
def test_general_patterns(diagnosis):
    answer, words = PATTERNS[diagnosis]
    result = says(answer)
    assert result.diagnosis == diagnosis and not result.passed
    for word in words:
        assert word in result.message


def values(reference, **more):
    return Exercise(id="ch00-value", title="v", kind="number", reference=reference, **CARD, **more)


@pytest.mark.parametrize(
    "answer, reference, diagnosis",
    [
        (4.0, 2.0, "factor 2"),
        (25.0, 0.25, "factor 100"),
        (24, 3, "factor 8"),
        (3.0 / np.log(2), 3.0, "factor 1/ln 2"),
        (9.0, 3.0, "squared"),
        (3.0, 9.0, "root"),
        ([3, 2, 1], [1, 2, 3], "reversed"),
        ([2, 3, 1], [1, 2, 3], "order"),
        ([1, -2, 3], [1, 2, 3], "signs"),
        ([2, 3], [1, 2, 3], "shape"),
        (float("nan"), 3.0, "not finite"),
        (3.1, 3.0, "difference"),
        (lambda: 3, 3.0, "function"),
        ("many", 3.0, "type"),
    ],
)
def test_patterns_of_values(answer, reference, diagnosis):
    assert says(answer, values(reference)).diagnosis == diagnosis


def test_the_first_differing_number_is_named_with_shape_target_and_yours():
    def one_off(A, B, alpha, r):
        out = delta(A, B, alpha, r)
        out[1, 2] += 0.5
        return out

    target = delta(*DELTA.fresh_cases()[0])[1, 2]
    message = says(one_off).message
    assert "shape (5, 3) is right; 1 of 15 numbers differ" in message
    assert f"[1, 2]: target {target:.4g}, yours {target + 0.5:.4g}" in message


def test_a_difference_beyond_the_printed_digits_is_still_visible():
    message = says(lambda *a: delta(*a) * (1 + 1e-5 * np.arange(1, 4))).message
    target, yours = message.split("target ")[1].rstrip(".").split(", yours ")
    assert target != yours


def test_a_value_does_not_give_the_target_away():
    result = says(3.6, values(3.0))
    assert "too large, by a factor of 1.2" in result.message
    assert "3.0" not in result.message and "target 3" not in result.message.lower()


def test_right_only_on_a_square_layer():
    def cases(rng):
        return [(rng.normal(size=s),) for s in [(4, 4), (3, 5), (2, 6)]]

    gram = dataclasses.replace(
        DELTA, reference=lambda W: W.T @ W, cases=lambda rng: [(np.eye(4),), *cases(rng)[1:]], mistakes=[]
    )
    result = says(lambda W: W @ W.T, gram)
    assert result.diagnosis.startswith("square only") and "(5, 5) expected" in result.message


def test_right_on_some_cases_says_which():
    result = says(lambda A, B, alpha, r: delta(A, B, alpha, r) if r == 2 else B @ A * 3.3)
    assert result.message.startswith("Right on case 1, 3 of 3. On case 2:")


# ---- values and choices --------------------------------------------------------------------------
SPELLINGS = [3072, 3_072, 3072.0, "3,072", "3_072", " 3072 ", np.int64(3072), torch.tensor(3072)]


@pytest.mark.parametrize("answer", SPELLINGS)
def test_an_integer_in_every_spelling(answer):
    assert says(answer, COUNT).passed


@pytest.mark.parametrize("answer, words", [
    (12_288, "whole matrix"), ("12,288", "whole matrix"), (2e6, "More than the model"),
    (3071, "too small, by 0.033 %"), (6144, "times 2"),
])  # fmt: skip
def test_values_get_the_sentence_of_their_mistake(answer, words):
    assert not says(answer, COUNT).passed and words in says(answer, COUNT).message


@pytest.mark.parametrize("answer", ["B", "b", " B ", "B)", "(b)"])
def test_a_choice_in_every_spelling(answer):
    assert says(answer, CHOICE).passed


def test_a_choice_has_feedback_for_each_option_and_names_them_otherwise():
    assert says("A", CHOICE).message == "A is random."
    assert says("Both", CHOICE).message == "Then nothing learns."
    assert says("C", CHOICE).message.endswith("Choose from: A, B, both.")
    assert says(4, CHOICE).diagnosis == "option"


# ---- observing more than a value -----------------------------------------------------------------
def test_run_observes_behaviour_and_names_the_part_that_differs():
    def observe(function, A, B, alpha, r):
        try:
            function(-A, B, alpha, 0)
            refused = "accepts r = 0"
        except ValueError:
            refused = "refuses r = 0"
        return {"r = 0": refused, "update": function(A, B, alpha, r)}

    def careful(A, B, alpha, r):
        if r == 0:
            raise ValueError("r is 0")
        return delta(A, B, alpha, r)

    watched = dataclasses.replace(DELTA, reference=careful, run=observe, mistakes=[])
    assert says(stub, watched).diagnosis == says(empty, watched).diagnosis == "not yet"
    assert says(careful, watched).passed
    result = says(lambda A, B, alpha, r: delta(A, B, alpha, max(r, 1)), watched)
    assert "In 'r = 0'" in result.message and "'accepts r = 0'" in result.message
    result = says(lambda A, B, alpha, r: careful(A, B, alpha, r).T, watched)
    assert result.diagnosis == "'update': transposed"


def test_a_class_may_be_the_answer():
    class Layer:
        def __init__(self, A, B, alpha, r):
            self.update = delta(A, B, alpha, r)

    def update(cls, *case):
        return cls(*case).update

    by_class = dataclasses.replace(DELTA, reference=Layer, run=update, mistakes=[])
    assert says(Layer, by_class).passed
    assert says(lambda A, B: A, by_class).diagnosis == "signature"


def test_a_tuple_of_parts_names_the_part():
    both = dataclasses.replace(DELTA, reference=lambda A, B, alpha, r: (B @ A, r), mistakes=[])
    assert says(lambda A, B, alpha, r: [B @ A, r], both).passed
    assert "In number 2 of 2" in says(lambda A, B, alpha, r: (B @ A, r + 1), both).message
    assert "2 parts" in says(lambda A, B, alpha, r: B @ A, both).message


# ---- comparisons ---------------------------------------------------------------------------------
M = RNG.normal(size=(6, 4))
U, S, Vt = np.linalg.svd(M, full_matrices=False)
Q = np.linalg.qr(RNG.normal(size=(4, 4)))[0]
COMPARISONS = [
    (up_to_signs(axis=0), U * [1, -1, -1, 1], U, True),
    (up_to_signs(axis=0), U * [[1], [-1], [1], [1], [1], [1]], U, False),
    (up_to_signs(axis=1), Vt * [[1], [-1], [-1], [1]], Vt, True),
    (up_to_signs(), -M, M, True),
    (up_to_signs(), M[::-1], M, False),
    (up_to_signs(), M.T, M, False),
    (same_subspace, M @ Q, M, True),
    (same_subspace, M[:, :3], M, False),
    (same_subspace, M[::-1], M, False),
    (same_product, (U * S, Vt), (U, S, Vt), True),
    (same_product, (torch.as_tensor(-U), S, -Vt), (U, S, Vt), True),
    (same_product, (U, Vt), (U, S, Vt), False),
    (same_product, 3, (U, S, Vt), False),
    (unordered, {"c_attn", "c_proj"}, ["c_proj", "c_attn"], True),
    (unordered, [3, 1.0], (1, 3), True),
    (unordered, [3, 1, 1], (1, 3), False),
    (unordered, 4, (1, 3), False),
    (within_factor(2), 1.9, 1.0, True),
    (within_factor(2), 0.4, 1.0, False),
    (within_factor(2), "lots", 1.0, False),
    (exact_integer, 7.0000001, 7, False),
    (same_text, "Rank", "rank.", True),
    (close(1e-2), 1.005, 1.0, True),
    (close(), 1.005, 1.0, False),
    (close(), [[1.0, 2.0]], [1.0, 2.0], False),
    (close(), 1e-13, 0.0, True),
    (close(), 1e-6, 0.0, False),
    (close(), True, "true", True),
]


@pytest.mark.parametrize("compare, got, want, equal", COMPARISONS)
def test_comparisons_ignore_what_does_not_matter_and_nothing_else(compare, got, want, equal):
    assert compare(got, want) is equal


def test_bfloat16_and_gradients_become_plain_arrays():
    x = torch.nn.Parameter(torch.tensor([1.5, -2.0], dtype=torch.bfloat16))
    assert np.array_equal(as_array(x), [1.5, -2.0])
    assert np.array_equal(as_array([torch.tensor(1.0), 2]), [1.0, 2.0])


# ---- declaring, finding, showing -----------------------------------------------------------------
@pytest.mark.parametrize("change, words", [
    ({"kind": "essay"}, "essay"), ({"difficulty": 4}, "difficulty is 4"), ({"cases": None}, "cases"),
    ({"mistakes": [Mistake("a", 1, "same"), Mistake("b", 2, "same")]}, "share a sentence"),
])  # fmt: skip
def test_a_badly_declared_exercise_is_refused_when_it_is_made(change, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(DELTA, **change)


def test_an_option_without_a_sentence_is_refused():
    with pytest.raises(ValueError, match="neither"):
        dataclasses.replace(CHOICE, options=("A", "B", "both", "neither"))


def test_an_unknown_id_is_the_pages_mistake_and_names_the_nearest(monkeypatch):
    monkeypatch.setattr(exercises, "chapters", lambda: ["ch00"])
    other = dataclasses.replace(COUNT, id="ch00-zzz")
    monkeypatch.setattr(exercises, "chapter", lambda name: [COUNT, CHOICE, other, DELTA])
    assert lo.exercises() == ["ch00-count", "ch00-choice", "ch00-zzz", "ch00-delta"]
    assert lo.check("ch00-delta", delta).passed
    with pytest.raises(ValueError, match=r"'ch00-detla'\. Nearest: ch00-delta"):
        lo.check("ch00-detla", delta)
    with pytest.raises(ValueError, match="text"):
        lo.check(delta, "ch00-delta")


def test_every_exercise_of_the_book_is_well_formed():
    names = lo.exercises()
    assert len(names) == len(set(names))
    for name in names:
        exercise = exercises.get(name)
        assert exercise.kind in KINDS and exercise.needs and exercise.know and exercise.minutes > 0
        assert lo.check(name, ...).diagnosis == "not yet"
        assert lo.check(name, exercise.reference).passed
        if callable(exercise.reference):
            assert len(exercise.fresh_cases()) >= 3, f"{name}: three cases"


def test_the_card_is_one_line_of_markdown():
    card = "**Difficulty** ●●○ · **8 minutes** · **you need** a product · **you will know** its shape"
    assert DELTA.card_markdown() == card


def test_a_result_shows_itself_as_text_and_as_html_without_running_what_it_quotes():
    bundle = says(lambda *a: "<script>")._repr_mimebundle_()
    assert bundle["text/plain"].startswith("✗ ch00-delta: ")
    assert "<script>" not in bundle["text/html"] and "&lt;script&gt;" in bundle["text/html"]
    assert "<code>B</code>" in says(adds_in_place)._repr_mimebundle_()["text/html"]
    assert repr(says(delta)) == "✓ ch00-delta: Correct."


def test_checking_loads_numpy_only():
    code = "import sys, lowrank_edu.checking; sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_sandbox_keeps_errors_and_values():
    assert sandbox.run(lambda a, b: a + b, (1, 2)).value == 3
    assert isinstance(sandbox.run(lambda: [][0], ()).error, IndexError)


def test_a_loop_that_prints_does_not_fill_the_memory():
    outcome = sandbox.run(endless_talk, (1, 2, 3, 4), 0.2)
    assert outcome.timed_out and len(outcome.printed) == 2000


def test_what_other_threads_print_is_not_swallowed(capsys):
    """A slider's callback and a cell may run at once; a call that could not be stopped may outlive its limit."""
    inside, done = threading.Event(), threading.Event()

    def busy():
        print("caught")
        inside.set()
        done.wait(20)

    outcomes = []
    worker = threading.Thread(target=lambda: outcomes.append(sandbox.run(busy, (), 30)))
    worker.start()
    assert inside.wait(20)
    print("a cell")
    assert sandbox.run(lambda: print("mine"), ()).printed == "mine\n"
    print("another cell")
    done.set()
    worker.join(20)
    assert outcomes[0].printed == "caught\n"
    assert capsys.readouterr().out == "a cell\nanother cell\n"


def test_the_learners_code_cannot_take_print_away(capsys):
    before = sys.stdout

    def steal():
        sys.stdout = None

    sandbox.run(steal, ())
    assert sys.stdout is before
    outcome = sandbox.run(lambda: [print("outer"), sandbox.run(lambda: print("inner"), ()), print("outer")], ())
    assert outcome.printed == "outer\nouter\n" and outcome.value[1].printed == "inner\n"
    assert sys.stdout is before and capsys.readouterr().out == ""


# ---- the helper that chapter tests rely on can fail ----------------------------------------------
WRONG = {
    "swapped": lambda A, B, alpha, r: alpha / r * A @ B,
    "no scale": lambda A, B, alpha, r: B @ A,
    "transposed": lambda A, B, alpha, r: alpha / r * (B @ A).T,
    "plus one": lambda A, B, alpha, r: alpha / r * B @ A + 1,
}


def test_the_helper_accepts_distinct_sentences_and_refuses_everything_else():
    assert set(assert_distinct_sentences(DELTA, WRONG, [loops])) == set(WRONG)
    with pytest.raises(AssertionError, match="at least four"):
        assert_distinct_sentences(DELTA, {"a": WRONG["swapped"]})
    with pytest.raises(AssertionError, match="passes"):
        assert_distinct_sentences(DELTA, {**WRONG, "right": delta})
    with pytest.raises(AssertionError, match="get one sentence"):
        assert_distinct_sentences(DELTA, {**WRONG, "again": lambda *a: delta(*a) + 1.0})
    with pytest.raises(AssertionError, match="not recognised"):
        assert_distinct_sentences(DELTA, {**WRONG, "odd": lambda *a: np.sin(delta(*a))})
    with pytest.raises(AssertionError, match="right answer 1 does not pass"):
        assert_distinct_sentences(DELTA, WRONG, [WRONG["plus one"]])
