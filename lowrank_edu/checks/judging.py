"""What to say about an answer: (diagnosis, sentence).  Functions run on the exercise's cases.

The order: not yet · wrong kind of answer · endless · changed its input · a known mistake · a general pattern.
"""

from __future__ import annotations

import copy
import dis
import inspect
import sys

import numpy as np

from . import sandbox
from .comparing import NotNumbers, as_array, close, same_text, show
from .diagnosis import diagnose

NOT_YET = "Not yet. The first hint is one click away, and the chapter goes on without your answer."
IDLE = {"RESUME", "LOAD_CONST", "RETURN_VALUE", "RETURN_CONST", "NOP", "POP_TOP"}
CHANGED = (
    "Right numbers, once. But `{name}` itself changed: call it twice and the second answer differs. "
    "Compute a new value and return that."
)


def unfinished(value) -> bool:
    """Is this what a stub gives: `...`, None, NotImplemented, or a tuple with `...` inside?"""
    parts = value if isinstance(value, (tuple, list)) else (value,)
    return value is None or any(v is ... or v is NotImplemented for v in parts)


def correct(exercise):
    return "correct", f"Correct. {exercise.praise}".strip()


# ---- answers that are values ------------------------------------------------------------------------------
def judge_value(exercise, answer):
    if unfinished(answer) or (isinstance(answer, str) and not answer.strip()):
        return "not yet", NOT_YET
    if _is_function(answer):
        return "function", "This asks for a value; you gave a function. Call it, and give what it returns."
    if exercise.options and not any(same_text(answer, option) for option in exercise.options):
        choices = ", ".join(map(str, exercise.options))
        return "option", f"{show(answer)} is not one of the answers. Choose from: {choices}."
    if exercise.compare(answer, exercise.reference):
        return correct(exercise)
    for mistake in exercise.mistakes:
        wrong = mistake.wrong
        if wrong(_number(answer)) if callable(wrong) else exercise.compare(answer, wrong):
            return f"mistake: {mistake.name}", mistake.sentence
    return diagnose(answer, exercise.reference, reveal=False)


def _number(answer):
    try:
        return as_array(answer)[()]
    except NotNumbers:
        return np.nan


def _is_function(answer):
    return callable(answer) and not hasattr(answer, "detach")


# ---- answers that are functions ---------------------------------------------------------------------------
def judge_function(exercise, answer):
    if problem := _nothing_to_run(exercise, answer):
        return problem
    cases, outcomes, changed = exercise.fresh_cases(), [], ""
    for case in cases:
        outcome, mutated = _attempt(exercise, answer, case)
        outcomes.append(outcome)
        changed = changed or mutated
        if outcome.timed_out:
            break
    diagnosis, message = _judge(exercise, answer, cases, outcomes, changed)
    printed = outcomes[0].printed.strip()
    if printed and diagnosis not in ("correct", "not yet"):
        message += f"\nYour code printed: {printed[:300]}{'…' if len(printed) > 300 else ''}"
    return diagnosis, message


def judge_case(exercise, answer, case):
    """(diagnosis, message, outcome) of one case, for a picture of it; outcome is None when nothing could be run."""
    if problem := _nothing_to_run(exercise, answer):
        return *problem, None
    outcome, changed = _attempt(exercise, answer, case)
    return *_judge(exercise, answer, [case], [outcome], changed), outcome


def _nothing_to_run(exercise, answer):
    return ("not yet", NOT_YET) if unfinished(answer) or _is_stub(answer) else _wrong_kind(exercise, answer)


def _judge(exercise, answer, cases, outcomes, changed):
    if outcomes[-1].timed_out:
        stopped = f"Your code was still running after {exercise.seconds:g} seconds, so it was stopped."
        return "time", f"{stopped} Is there a loop whose condition never becomes false?"
    wants = [_call(exercise, exercise.reference, case) for case in cases]
    pairs = list(zip(outcomes, wants, strict=True))
    right = [got.error is None and exercise.compare(got.value, want.value) for got, want in pairs]
    if all(right) and changed:
        return "mutation", (exercise.on_mutation or CHANGED).replace("{name}", changed)
    if all(right):
        return correct(exercise)
    also = f" Also, `{changed}` itself changed while your code ran; work on a new value." if changed else ""
    for mistake in exercise.mistakes:
        if _same_mistake(exercise, mistake, cases, outcomes):
            return f"mistake: {mistake.name}", mistake.sentence + also
    first = right.index(False)
    diagnosis, message = _explain(exercise, answer, cases[first], *pairs[first])
    if any(right) and diagnosis not in ("raised", "not yet"):
        diagnosis, message = _partly(cases, right, diagnosis, message)
    return diagnosis, message + also


def _same_mistake(exercise, mistake, cases, outcomes) -> bool:
    """The learner got what the mistake gets, on every case; the same exception with the same text counts."""
    for case, got in zip(cases, outcomes, strict=True):
        wrong = _call(exercise, mistake.wrong, case)
        if wrong.error is not None or got.error is not None:
            if type(wrong.error) is not type(got.error) or str(wrong.error) != str(got.error):
                return False
        elif not (exercise.compare(got.value, wrong.value) or close()(got.value, wrong.value)):
            return False  # the second, because a product or a subspace of a wrong answer may not exist
    return True


def _explain(exercise, answer, case, outcome, want):
    if isinstance(outcome.error, NotImplementedError):
        return "not yet", NOT_YET
    if outcome.error is not None:
        problem = f"{type(outcome.error).__name__}: {outcome.error}".strip().rstrip(".:")
        named = zip(_names(exercise), case, strict=False)
        given = ", ".join(f"{name} = {show(value)}" for name, value in named)
        return "raised", f"Your code stopped with {problem}. It was called with {given}."
    if outcome.value is None and want.value is not None and _works(answer):
        return "no return", "Your function computes something and gives back None. End it with `return`."
    if unfinished(outcome.value) and not unfinished(want.value):
        return "not yet", NOT_YET
    if inspect.isgenerator(outcome.value) or isinstance(outcome.value, (map, filter, zip)):
        return "generator", "A generator came back; it has computed nothing yet. Return the finished value."
    return diagnose(outcome.value, want.value, reveal=True, scales=_scales(exercise, case))


def _partly(cases, right, diagnosis, message):
    square_only = all(_square(case) == ok for case, ok in zip(cases, right, strict=True))
    if square_only:
        hidden = "Right only on a square layer, where shapes hide a mistake."
        return f"square only: {diagnosis}", f"{hidden} {message}"
    good = ", ".join(str(i) for i, ok in enumerate(right, 1) if ok)
    first = right.index(False) + 1
    return f"some cases: {diagnosis}", f"Right on case {good} of {len(cases)}. On case {first}: {message}"


def _wrong_kind(exercise, answer):
    names = _names(exercise)
    if not _is_function(answer):
        how = f"lo.check({exercise.id!r}, your_function)"
        return "not a function", f"Give the function itself, uncalled: {how}. You gave {show(answer)}."
    try:
        inspect.signature(answer).bind(*names)
    except TypeError:
        yours = inspect.signature(answer)
        return "signature", f"The function is called with ({', '.join(names)}); yours takes {yours}."
    except ValueError:
        pass  # a builtin without a signature: try it
    return None


def _names(exercise) -> list[str]:
    """What the learner's function is called with: the reference's own arguments that have no default."""
    arguments = inspect.signature(exercise.reference).parameters.values()
    return [p.name for p in arguments if p.default is p.empty]


def _call(exercise, function, case):
    run = exercise.run or (lambda f, *args: f(*args))
    return sandbox.run(run, (function, *copy.deepcopy(case)), exercise.seconds)


def _attempt(exercise, answer, case):
    """(outcome, name of the argument that changed).

    Code that fails on numpy arrays gets the same as torch tensors, when torch is loaded, and the reverse.
    """
    run, first = exercise.run or (lambda f, *args: f(*args)), None
    for convert in (copy.deepcopy, _other_arrays):
        given = convert(case)
        outcome = sandbox.run(run, (answer, *given), exercise.seconds)
        if outcome.error is None or outcome.timed_out:
            break
        first = first or outcome
    else:
        return first, ""
    names = [*_names(exercise), *(f"argument {i}" for i in range(1, len(case) + 1))]
    changed = [n for n, a, b in zip(names, given, convert(case), strict=False) if not _unchanged(a, b)]
    return outcome, "" if exercise.may_change or not changed else changed[0]


def _unchanged(a, b) -> bool:
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(_unchanged, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_unchanged(a[k], b[k]) for k in a)
    if not isinstance(a, np.ndarray) and not hasattr(a, "detach"):
        return True
    a, b = as_array(a), as_array(b)
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def _other_arrays(x):
    torch = sys.modules.get("torch")  # only when the learner has imported it
    if isinstance(x, (list, tuple)):
        return type(x)(map(_other_arrays, x))
    if torch is not None and isinstance(x, np.ndarray):
        return torch.tensor(x)
    if torch is not None and isinstance(x, torch.Tensor):
        return x.detach().clone().numpy()
    return copy.deepcopy(x)


def _scales(exercise, case) -> dict:
    """Factors that are easily lost in this case: from its r, alpha and scale."""
    given = dict(zip(_names(exercise), case, strict=False))
    r, alpha, scale = (given.get(n) for n in ("r", "alpha", "scale"))
    r = np.shape(given["A"])[0] if r is None and np.ndim(given.get("A")) == 2 else r
    found = {"1/scale": 1 / scale, "scale": scale} if scale else {}
    if r and alpha:
        found |= {"r/α": r / alpha, "α/r": alpha / r, "α": alpha, "r": r, "√r": r**0.5, "1/√r": r**-0.5}
    return found


def _square(case) -> bool:
    shapes = [np.shape(a) for a in case if np.ndim(a) == 2]
    return bool(shapes) and any(rows == columns for rows, columns in shapes)


def _is_stub(answer) -> bool:
    """A function that only gives back `...` or None: nothing to run, whatever the exercise would observe."""
    code = getattr(answer, "__code__", None)
    if code is None or any(i.opname not in IDLE for i in dis.get_instructions(code)):
        return False
    return all(unfinished(c) or c == answer.__doc__ for c in code.co_consts)


def _works(answer) -> bool:
    """Does its body compute anything?"""
    code = getattr(answer, "__code__", None)
    busy = ("BINARY", "CALL", "STORE", "FOR")
    return code is not None and any(i.opname.startswith(busy) for i in dis.get_instructions(code))
