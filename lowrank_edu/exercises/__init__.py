"""All exercises of the book, one module per chapter, read only when asked for.

`exercises/chNN.py` holds a list `EXERCISES` of `lowrank_edu.checking.Exercise`. An id starts with its
chapter: "ch03-forward". `lo.exercises()` lists the ids: a callable module, because both share their name.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import sys
import types


def chapters() -> list[str]:
    """Names of the chapter modules present, in order: ["ch01", "ch02", …]."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name.startswith("ch"))


def chapter(name: str) -> list:
    """The exercises of one chapter, in the order of the page."""
    return list(importlib.import_module(f"{__name__}.{name}").EXERCISES)


def ids() -> list[str]:
    """Every exercise id, in the order of the book."""
    return [exercise.id for name in chapters() for exercise in chapter(name)]


def get(exercise_id: str):
    """The exercise with this id.  ValueError naming the nearest ids when there is none."""
    if not isinstance(exercise_id, str):
        raise ValueError(f"An exercise id is text ('ch03-forward'), not {exercise_id!r}. See lo.exercises().")
    name = exercise_id.split("-")[0]
    for exercise in chapter(name) if name in chapters() else []:
        if exercise.id == exercise_id:
            return exercise
    near = difflib.get_close_matches(exercise_id, ids(), n=3, cutoff=0.4) or ids()[:3]
    raise ValueError(f"There is no exercise {exercise_id!r}. Nearest: {', '.join(near)}. See lo.exercises().")


class _Callable(types.ModuleType):
    def __call__(self) -> list[str]:
        return self.ids()


sys.modules[__name__].__class__ = _Callable
