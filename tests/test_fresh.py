"""Cases for marks: other numbers for each seed, none of them in the package, and no known mistake earns the points."""

import copy

import fresh
import numpy as np
import pytest

from lowrank_edu import exercises

SEEDS = range(20)
every = pytest.mark.parametrize("name", fresh.CASES)


def drawn(name, seed):
    return fresh.CASES[name](np.random.default_rng(seed))


def key(case):
    return repr([np.asarray(part).tolist() for part in case])


def earns(function, cases, reference) -> bool:
    """Is every value that of the reference? An error earns nothing."""
    try:
        pairs = [(function(*copy.deepcopy(case)), reference(*copy.deepcopy(case))) for case in cases]
        return all(np.shape(got) == np.shape(want) and np.allclose(got, want, rtol=1e-4) for got, want in pairs)
    except Exception:
        return False


@every
def test_each_seed_has_other_cases_and_the_same_seed_the_same(name):
    texts = [[key(case) for case in drawn(name, seed)] for seed in SEEDS]
    assert len({str(text) for text in texts}) == len(SEEDS)
    assert texts[0] == [key(case) for case in drawn(name, 0)]


@every
def test_a_table_of_the_cases_in_the_package_earns_nothing(name):
    exercise = exercises.get(name)
    known = {key(case): exercise.reference(*case) for case in exercise.fresh_cases()}
    usual = next(iter(known.values()))
    for seed in SEEDS:
        assert not earns(lambda *case: known.get(key(case), usual), drawn(name, seed), exercise.reference)
    assert earns(lambda *case: known.get(key(case)), exercise.fresh_cases(), exercise.reference)


@every
def test_no_known_mistake_earns_the_points_of_any_seed(name):
    exercise = exercises.get(name)
    wrong = {mistake.name: mistake.wrong for mistake in exercise.mistakes if callable(mistake.wrong)}
    assert len(wrong) >= 4
    lucky = [(m, seed) for m, f in wrong.items() for seed in SEEDS if earns(f, drawn(name, seed), exercise.reference)]
    assert lucky == []
    assert all(earns(exercise.reference, drawn(name, seed), exercise.reference) for seed in SEEDS)


@every
def test_cases_hold_plain_numbers_that_a_notebook_can_write(name):
    allowed = (int, float, list, np.ndarray)
    assert all(type(part) in allowed for case in drawn(name, 0) for part in case)
    inside = [item for case in drawn(name, 0) for part in case if type(part) is list for item in part]
    assert all(type(item) in (int, float) for item in inside)
