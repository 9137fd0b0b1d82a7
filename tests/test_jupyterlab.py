"""The live panel in a real JupyterLab: move a slider by keyboard, see both pictures change; mistakes stay inside."""

import json
import re
import shutil
from pathlib import Path

import nbformat
import pytest
from lab import opened, output, run_all, run_cell, running_lab

from lowrank_edu.figures.trials import TRIALS

ROOT = Path(__file__).resolve().parents[1]
SETUP = "import numpy as np\nimport lowrank_edu as lo\nfrom lowrank_edu import exercises, figures\nruns = 0"
BEST = """
def best_copy(W, r):
    U, S, Vt = np.linalg.svd(W, full_matrices=False)
    {line}
    return (U[:, :r] * S[:r]) @ Vt[:r]
"""
SHOW = 'figures.try_yours("ch01-best", best_copy)'
LOOP = "while r == 6:\n        pass"
NOTEBOOKS = {
    "right.ipynb": [SETUP, BEST.format(line=""), SHOW, 'lo.check("ch01-best", best_copy)', "lo.progress()"],
    "endless.ipynb": [SETUP, BEST.format(line=LOOP), SHOW, 'runs += 1\nprint("alive in run", runs)'],
    "every.ipynb": [SETUP, *(f'figures.try_yours("{i}", exercises.get("{i}").reference)' for i in TRIALS)],
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab")
    with running_lab(folder) as found:
        for name, cells in NOTEBOOKS.items():
            kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
            nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c.strip()) for c in cells], metadata=kernel)
            nbformat.write(nb, folder / "work" / name)
        yield found


def picture(panel, side):
    """What one side of a panel shows, as text."""
    return panel.locator(f".lo-{side}").inner_html()


def press(slider, key):
    slider.focus()
    slider.press(key)


def wait_for_another_picture(page, panel, side, before):
    page.wait_for_function(
        "([cell, side, before]) => cell.querySelector(`.lo-${side}`)?.innerHTML !== before",
        arg=[panel.element_handle(), side, before],
    )


def test_a_slider_moved_by_keyboard_redraws_the_learners_picture_and_the_books(lab, browser):
    with opened(browser, lab, "right.ipynb") as page:
        run_all(page)
        panel = output(page, 2)
        panel.get_by_text("rank 5").first.wait_for()
        before = {side: picture(panel, side) for side in ("books", "yours")}
        press(panel.get_by_role("slider"), "ArrowRight")
        for side, old in before.items():
            wait_for_another_picture(page, panel, side, old)
        assert panel.get_by_text("numerical rank 6").count() == 2
        assert picture(panel, "yours") == picture(panel, "books").replace("The book’s", "Yours")
        assert "Yours is the book’s answer here" in panel.inner_text()
        output(page, 3).get_by_text("1 of 5 exercises of chapter 1 pass").wait_for()
        output(page, 4).get_by_text("✓ The best copy of rank r").wait_for()


def test_every_panel_moves(lab, browser):
    with opened(browser, lab, "every.ipynb") as page:
        run_all(page)
        for number, trial in enumerate(TRIALS.values(), 1):
            panel = output(page, number)
            panel.get_by_text("Yours is the book’s answer here").wait_for()
            sliders = panel.get_by_role("slider")
            assert sliders.count() == len(trial.controls)
            for slider in sliders.all():
                before = picture(panel, "yours")
                press(slider, "ArrowRight")
                wait_for_another_picture(page, panel, "yours", before)
                panel.get_by_text("Yours is the book’s answer here").wait_for()


def test_an_endless_loop_behind_a_slider_becomes_a_sentence_and_the_next_cell_runs(lab, browser):
    with opened(browser, lab, "endless.ipynb") as page:
        run_all(page)
        panel = output(page, 2)
        panel.get_by_text("Yours is the book’s answer here").wait_for()
        press(panel.get_by_role("slider"), "ArrowRight")
        run_cell(page, 3)  # asked for while the function loops
        panel.get_by_text("still running after 2 seconds").wait_for()
        panel.get_by_text("Nothing that can be drawn").wait_for()
        output(page, 3).get_by_text("alive in run 2").wait_for()
        press(panel.get_by_role("slider"), "ArrowRight")
        panel.get_by_text("Yours is the book’s answer here").wait_for()
        run_cell(page, 3)
        output(page, 3).get_by_text("alive in run 3").wait_for()
        assert "Traceback" not in page.locator(".jp-Notebook").inner_text()


@pytest.mark.parametrize("chapter", ["ch03_lora", "ch05_merge", "ch11_lamda"])
def test_a_chapter_opens_readable_and_folded(lab, browser, chapter):
    """Text without markup, hints and solutions closed until they are asked for, the setup cell folded."""
    path = ROOT / "chapters" / f"{chapter}.ipynb"
    shutil.copy(path, lab.work / path.name)
    with opened(browser, lab, path.name) as page:
        page.locator("details.solution, .jp-RenderedMarkdown details").first.wait_for()
        text = "\n".join(page.locator(".jp-MarkdownOutput, .jp-RenderedMarkdown").all_inner_texts())
        assert "Exercise" in text and not re.search(r":::|\{\w[\w:]*\}|\]\(|```", text)
        folds = page.locator(".jp-RenderedMarkdown details")
        told = "".join("".join(c["source"]) for c in json.loads(path.read_text("utf-8"))["cells"])
        assert folds.count() == told.count("<details") > 6
        assert page.locator(".jp-RenderedMarkdown details[open]").count() == 0
        solution = folds.filter(has_text="Solution").first
        code = solution.locator("p, pre").first
        assert not code.is_visible()
        solution.locator("summary").click()
        assert code.is_visible()
        assert page.locator(".jp-CodeCell.jp-mod-noOutputs .jp-Placeholder, .jp-CodeCell .jp-Placeholder").count() == 1
