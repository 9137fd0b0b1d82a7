"""A live panel where a kernel runs: sliders drive the learner's own function beside the book's.

    figures.try_yours("ch01-best", best_copy)      # a cell after the exercise

Every move of a slider runs both functions and draws both answers. The learner's runs in the sandbox of the
checks: a mistake gets the sentence that `lo.check` would give, an endless loop is stopped, and the panel goes
on. On a page of the book the same cell gives one sentence, without ipywidgets the two pictures of the start values.
Nothing newer than ipywidgets 7.7 is used.
"""

from __future__ import annotations

import copy
import html
from dataclasses import replace

import numpy as np

from .. import exercises
from ..checking import Result
from ..checks import sandbox
from ..checks.comparing import NotNumbers, as_array, parts
from ..checks.judging import judge_case
from ..missing import installed
from ..running import for_the_page
from .trials import TRIALS

SECONDS = 2.0  # for one run of the learner's function; lo.check allows more
VIEW = "application/vnd.jupyter.widget-view+json"
NO_SLIDERS = "Sliders need the package ipywidgets, which is not installed here: `pip install ipywidgets`."


def try_yours(exercise_id, yours=None):
    """A panel for this exercise: its sliders, the book's picture, and the one of `yours`, a function.

    On a page, and without a function, it is a sentence that says what will stand here. ValueError: there is
    no panel for this exercise. Whatever is wrong with `yours` is said in the panel and never raised.
    """
    if exercise_id not in TRIALS:
        raise ValueError(f"there is no panel for {exercise_id!r}; there are: {', '.join(TRIALS)}.")
    trial = TRIALS[exercise_id]
    if yours is None or for_the_page():
        return Invitation(trial)
    return Panel(trial, yours) if installed("ipywidgets") else Comparison(trial, yours)


class Invitation:
    """What stands on the page: one sentence, the same on every machine."""

    def __init__(self, trial):
        self.trial = trial

    def __repr__(self):
        return f"Run this chapter and {self.trial.invites}."

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"text/plain": repr(self), "text/html": f'<p class="lo-check">{_rich(repr(self))}</p>'}


class Comparison:
    """Both functions on one case: `look` makes the HTML. Shown as it is, it stands at the start values."""

    def __init__(self, trial, yours):
        self.trial, self._yours = trial, yours
        self.exercise = replace(exercises.get(trial.id), seconds=SECONDS)

    @property
    def yours(self):
        """The learner's function in its newest version: its cell may have been run again since."""
        name, home = getattr(self._yours, "__name__", ""), getattr(self._yours, "__globals__", {})
        newest = home.get(name)
        return newest if callable(newest) else self._yours

    def look(self, **values):
        """Both pictures and what is to be said about the learner's, as HTML, for these values of the sliders."""
        case = self.trial.case(**values)
        wanted = self.exercise.reference(*copy.deepcopy(case))
        diagnosis, message, outcome = judge_case(self.exercise, self.yours, case)
        given = None if outcome is None or outcome.error is not None else outcome.value
        if diagnosis == "correct":
            message = f"Yours is the book’s answer here.{_apart(given, wanted)}"
        else:
            message += _apart(given, wanted)
        said = Result(self.exercise.id, diagnosis == "correct", message, diagnosis)._repr_mimebundle_()["text/html"]
        printed = outcome.printed.strip() if outcome else ""
        if printed:
            said += f"<p>Your code printed: <code>{html.escape(printed[:300])}</code></p>"
        return (
            '<div style="display:flex;flex-wrap:wrap;gap:1em 2em;align-items:flex-start;line-height:1.4">'
            + _framed("The book’s", self.trial.draw(case, wanted))
            + _framed("Yours", self._drawn(case, given))
            + f"</div>{said}"
        )

    def _drawn(self, case, answer):
        """The picture of the learner's answer; in the sandbox, since an answer may be anything."""
        drawn = None if answer is None else sandbox.run(self.trial.draw, (case, answer), SECONDS).value
        return drawn or '<p style="opacity:.7">Nothing that can be drawn, yet.</p>'

    def __repr__(self):
        start = ", ".join(f"{control.name} = {control.start}" for control in self.trial.controls)
        return f"Comparison {self.trial.id}: {start}. {NO_SLIDERS}"

    def _repr_mimebundle_(self, include=None, exclude=None):
        shown = self.look(**{control.name: control.start for control in self.trial.controls})
        return {"text/plain": repr(self), "text/html": f"{shown}<p>{_rich(NO_SLIDERS)}</p>"}


class Panel(Comparison):
    """`sliders` {name: widget}, `picture` (an HTML widget) and `widget`, the whole."""

    def __init__(self, trial, yours):
        import ipywidgets

        super().__init__(trial, yours)
        self.sliders = {control.name: _slider(control) for control in trial.controls}
        self.picture = ipywidgets.HTML()
        head = ipywidgets.HTML(f"<b>{html.escape(self.exercise.title)}: the book’s function and yours</b>")
        self.widget = ipywidgets.VBox([head, *self.sliders.values(), self.picture])
        for slider in self.sliders.values():
            slider.observe(self._moved, names="value")
        self._moved()

    def _moved(self, change=None):
        self.picture.value = self.look(**{name: slider.value for name, slider in self.sliders.items()})

    def __repr__(self):
        moved = ", ".join(f"{name} = {slider.value}" for name, slider in self.sliders.items())
        return f"Panel {self.trial.id}: {moved}. It moves while the notebook runs."

    def _repr_mimebundle_(self, include=None, exclude=None):
        # Written by hand: ipywidgets 7 has `_ipython_display_` here and ipywidgets 8 another method. No text/html,
        # which a front end might prefer.
        view = {"version_major": 2, "version_minor": 0, "model_id": self.widget.model_id}
        return {"text/plain": repr(self), VIEW: view}


def _framed(title, picture):
    side = {"The book’s": "books", "Yours": "yours"}[title]
    return (
        f'<div class="lo-{side}" style="flex:1 1 250px;max-width:380px"><div style="font-weight:600">{title}</div>'
        f"{picture}</div>"
    )


def _slider(control):
    """The ipywidgets slider of a figure's Slider; its value is the control's value."""
    import ipywidgets

    labels = control.labels or [str(value) for value in control.values]
    common = {
        "description": control.label,
        "style": {"description_width": "initial"},
        "layout": ipywidgets.Layout(width="95%", max_width="560px"),
    }
    if isinstance(control.values, range):
        lowest, highest, step = control.values[0], control.values[-1], control.values.step
        return ipywidgets.IntSlider(control.start, min=lowest, max=highest, step=step, **common)
    options = [(label + control.unit, value) for label, value in zip(labels, control.values, strict=True)]
    return ipywidgets.SelectionSlider(options=options, value=control.start, **common)


def _apart(given, wanted):
    """' Largest difference: 0.' for two answers of one shape, else ''; part by part when there are several."""
    pairs = parts(given, wanted) if isinstance(wanted, (tuple, dict)) else [("", given, wanted)]
    try:
        arrays = [(as_array(a), as_array(b)) for _, a, b in pairs or ()]
        if not arrays or any(a.shape != b.shape or not a.size for a, b in arrays):
            return ""
        return f" Largest difference: {max(np.abs(a * 1.0 - b).max() for a, b in arrays):.2g}."
    except (NotNumbers, TypeError, ValueError):
        return ""


def _rich(text):
    """Plain text as HTML, with `names` in code type."""
    spoken = html.escape(text, quote=False).split("`")
    return "".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(spoken))
