"""The live panel without a browser: move a slider, see the picture change; whatever the learner's function does.

In a real JupyterLab it is `test_jupyterlab.py`, with older ipywidgets `portable.py`.
"""

import dataclasses
import html
import re
import subprocess
import sys
import threading

import numpy as np
import panels
import pytest

from lowrank_edu import exercises, figures
from lowrank_edu.figures import live
from lowrank_edu.figures.trials import TRIALS

BEST = exercises.get("ch01-best")
EVERY = list(TRIALS)
HIDDEN = {("ch09-blocks", "zero block")}  # seen when the blocks have four values


@pytest.fixture(autouse=True)
def in_somebodys_hands(monkeypatch):
    monkeypatch.delenv("LOWRANK_PAGE", raising=False)


def plain(markup):
    """What a reader sees of some HTML."""
    return html.unescape(re.sub(r"<[^>]*>", "", markup))


def yours(panel):
    return panels.sides(panel.picture.value)["yours"]


# ---- sliders drive both functions ------------------------------------------------------------------------------------
@pytest.mark.parametrize("trial", EVERY)
def test_every_slider_changes_both_pictures(trial):
    assert panels.move_all(figures.try_yours(trial, exercises.get(trial).reference)) >= 9


@pytest.mark.parametrize("trial", EVERY)
def test_every_picture_is_described(trial):
    for side in panels.sides(figures.try_yours(trial, exercises.get(trial).reference).picture.value).values():
        assert re.search(r'<(img|svg)[^>]* (alt|aria-label)="[^"]{20,}"', side)


@pytest.mark.parametrize("trial", EVERY)
def test_a_known_mistake_gets_its_sentence_before_a_slider_is_moved(trial):
    for mistake in exercises.get(trial).mistakes:
        said = plain(figures.try_yours(trial, mistake.wrong).picture.value)
        is_named = mistake.sentence.replace("`", "") in said
        assert is_named != ((trial, mistake.name) in HIDDEN), f"{mistake.name}: {said[-300:]}"


def test_the_portrait_is_a_png_of_the_numbers():
    import base64
    import io

    from matplotlib.image import imread

    panel = figures.try_yours("ch01-best", lambda W, r: 2 * W[:50])
    png = base64.b64decode(re.search(r"base64,([^\"]+)", yours(panel))[1])
    W = TRIALS["ch01-best"].case(5)[0]
    np.testing.assert_allclose(imread(io.BytesIO(png)) * 2 - 1, np.clip(2 * W[:50], -1, 1), atol=1 / 250)


def test_the_picture_is_the_learners_and_the_distance_is_said():
    panel = figures.try_yours("ch01-best", lambda W, r: W - 0.5)
    before = yours(panel)
    assert before != panels.sides(panel.picture.value)["books"]
    rank5 = BEST.reference(*TRIALS["ch01-best"].case(5))
    apart = np.abs(TRIALS["ch01-best"].case(5)[0] - 0.5 - rank5).max()
    assert f"Largest difference: {apart:.2g}." in plain(panel.picture.value)


def test_the_newest_version_of_the_function_is_called():
    cell = {"np": np}
    exec("def best_copy(W, r):\n    return ...", cell)
    panel = figures.try_yours("ch01-best", cell["best_copy"])
    assert "○ ch01-best: Not yet." in plain(panel.picture.value) and "<img" not in yours(panel)
    exec(
        "def best_copy(W, r):\n    U, S, Vt = np.linalg.svd(W, full_matrices=False)\n"
        "    return U[:, :r] * S[:r] @ Vt[:r]",
        cell,
    )
    panel.sliders["r"].value = 7
    assert "✓" in panel.picture.value and "<img" in yours(panel)


# ---- whatever the function does --------------------------------------------------------------------------------------
def endless(W, r):
    while True:
        try:
            r += 1
        except Exception:
            pass


def raises(W, r):
    raise RuntimeError("<script>no & no</script>")


def leaves(W, r):
    sys.exit("gone")


def changes_its_input(W, r):
    right = BEST.reference(W, r)
    W[:] = 0
    return right


def talks(W, r):
    print("rank", r, "<b>")
    print("to stderr", file=sys.stderr)
    return BEST.reference(W, r)


class Strange:
    def __array__(self, *args, **options):
        raise MemoryError("no array")

    def __len__(self):
        raise RecursionError


ANSWERS = {
    "endless": (endless, "still running after 0.3 seconds", False),
    "raises": (raises, "Your code stopped with RuntimeError: <script>no & no</script>", False),
    "leaves": (leaves, "Your code stopped with SystemExit: gone", False),
    "nothing": (lambda W, r: print(end=""), "gives back None", False),
    "text": (lambda W, r: "a face", "", False),
    "a list of lists": (lambda W, r: BEST.reference(W, r).tolist(), "✓", True),
    "ragged": (lambda W, r: [[1, 2], [3]], "", False),
    "not finite": (lambda W, r: np.full(W.shape, np.nan), "", False),
    "another shape": (lambda W, r: BEST.reference(W, r).T, "", True),
    "one number": (lambda W, r: 3.0, "", False),
    "empty": (lambda W, r: np.zeros((0, 5)), "", False),
    "huge": (lambda W, r: np.zeros((2, 150_000)), "", False),
    "strange": (lambda W, r: Strange(), "", False),
    "a generator": (lambda W, r: (row for row in W), "A generator came back", False),
    "changes its input": (changes_its_input, "`W` itself changed".replace("`", ""), True),
    "talks": (talks, "Your code printed: rank 6 <b>", True),
    "other arguments": (lambda W: W, "The function is called with (W, r); yours takes (W).", False),
    "no function": (np.eye(3), "Give the function itself", False),
    "unfinished": (..., "Not yet", False),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_whatever_the_function_does_becomes_a_sentence_and_the_panel_goes_on(name, capsys, monkeypatch):
    function, sentence, drawn = ANSWERS[name]
    if name == "endless":
        monkeypatch.setattr(live, "SECONDS", 0.3)
    panel = figures.try_yours("ch01-best", function)
    panel.sliders["r"].value = 6
    said = plain(panel.picture.value)
    assert sentence in said and "ch01-best:" in said
    assert ("✓" in said) == (name in ("a list of lists", "talks"))
    assert ("<img" in yours(panel)) == drawn and "<img" in panels.sides(panel.picture.value)["books"]
    assert "<script" not in panel.picture.value and "Traceback" not in said
    before = panels.sides(panel.picture.value)["books"]
    panel.sliders["r"].value = 60
    assert panels.sides(panel.picture.value)["books"] != before
    assert capsys.readouterr() == ("", "")


def test_an_endless_loop_is_stopped_in_a_thread_too():
    """Some front ends run a slider's callback outside of the main thread, where no alarm can ring."""
    panel = figures.try_yours("ch01-best", BEST.reference)
    panel._yours, panel.exercise = endless, dataclasses.replace(panel.exercise, seconds=0.3)
    mover = threading.Thread(target=lambda: setattr(panel.sliders["r"], "value", 9))
    mover.start()
    mover.join(30)
    assert not mover.is_alive() and "still running after 0.3 seconds" in plain(panel.picture.value)


# ---- a panel, or a sentence for the page -----------------------------------------------------------------------------
def test_a_notebook_gets_the_view_of_the_widget_and_no_html_beside_it():
    panel = figures.try_yours("ch01-best", BEST.reference)
    bundle = panel._repr_mimebundle_()
    view = bundle["application/vnd.jupyter.widget-view+json"]
    assert view == {"version_major": 2, "version_minor": 0, "model_id": panel.widget.model_id}
    assert set(bundle) == {"application/vnd.jupyter.widget-view+json", "text/plain"}
    assert bundle["text/plain"] == repr(panel) == "Panel ch01-best: r = 5. It moves while the notebook runs."


@pytest.mark.parametrize("trial", EVERY)
def test_the_page_gets_one_sentence(trial, monkeypatch):
    without = figures.try_yours(trial)
    monkeypatch.setenv("LOWRANK_PAGE", "1")
    for shown in (without, figures.try_yours(trial, endless)):
        bundle = shown._repr_mimebundle_()
        assert set(bundle) == {"text/html", "text/plain"}
        assert bundle["text/plain"].count(".") == 1 and "`" in bundle["text/plain"]
        assert plain(bundle["text/html"]) == bundle["text/plain"].replace("`", "")
        assert "`" not in bundle["text/html"] and "0x" not in bundle["text/html"]


def test_the_sentence_needs_no_widgets():
    code = (
        "import os, sys; os.environ['LOWRANK_PAGE'] = '1'; from lowrank_edu import figures; "
        "figures.try_yours('ch01-best', len); sys.exit(bool({'torch', 'matplotlib', 'ipywidgets'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_exercise_without_a_panel_is_named():
    with pytest.raises(ValueError, match=r"no panel for 'ch02-none'; there are: ch01-best, ch03-forward"):
        figures.try_yours("ch02-none", endless)


def test_the_exercise_of_every_panel_is_there():
    for trial in TRIALS.values():
        exercise = exercises.get(trial.id)
        assert callable(exercise.reference) and exercise.run is None
        assert f"`{exercise.reference.__name__}`" in trial.invites
