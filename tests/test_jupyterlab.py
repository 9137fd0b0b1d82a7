"""A real JupyterLab: panels move by keyboard and mistakes stay inside them; chapters and figures open readable."""

import json
import re
import shutil
from pathlib import Path

import nbformat
import pytest
from lab import opened, output, run_all, run_cell, running_lab, trust

from lowrank_edu import figures, methods, shipped
from lowrank_edu.figures import quizzes, still
from lowrank_edu.figures.picture import photograph
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
EVERY_FIGURE = {  # as the chapters show them
    "rank_picture": lambda make: make(photograph()),
    "spectrum": lambda make: make({"a photograph": photograph(), "its rows": photograph()[:80]}),
    "merge_drift": lambda make: make(shipped.results("ch05_merge")),
    "training_replay": lambda make: make(shipped.results("ch03_pirate")),
    "method_table": lambda make: make(counts={row.name: 3072 for row in methods.table()}),
}
ALONE = {"loss_curve", "quiz", "try_yours"}  # a PNG, no figure, a panel
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


@pytest.fixture(scope="module")
def downloaded(lab):
    """{place: figure} of a notebook that this JupyterLab has never run: all figures, and a quiz at the end."""
    names = [name for name in figures.__all__ if name not in ALONE]
    shown = [EVERY_FIGURE.get(name, lambda make: make())(getattr(figures, name)) for name in names]
    cells = []
    for one in (*shown, figures.quiz("ch01")):
        data = one._repr_mimebundle_()
        made = nbformat.v4.new_output("execute_result", data=data, execution_count=1)
        cells.append(nbformat.v4.new_code_cell("show", outputs=[made], execution_count=1))
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), lab.work / "downloaded.ipynb")
    return dict(enumerate(shown))


def lines(shown):
    """What a person reads of some output."""
    return [" ".join(line.split()) for line in shown.inner_text().splitlines() if line.strip()]


def test_a_figure_that_is_not_trusted_is_a_picture_and_a_sentence(lab, browser, downloaded):
    with opened(browser, lab, "downloaded.ipynb") as page:
        for place, figure in downloaded.items():
            shown = output(page, place)
            shown.locator("img").wait_for()
            assert lines(shown) == [figure.title, still.NOTE, " ".join(figure.caption.split())]
            image = shown.get_by_role("img")
            assert image.count() == 1 and image.get_attribute("alt") == figure.alt
            assert image.is_visible() and image.bounding_box()["width"] > 100
            assert image.evaluate("el => el.decode().then(() => el.naturalWidth)") > 100


def test_a_quiz_that_is_not_trusted_asks_and_does_not_tell(lab, browser, downloaded):
    questions = shipped.questions("ch01")
    asked = [line for i, q in enumerate(questions, 1) for line in (f"{i}. {q['ask']}", *(o for o, _ in q["options"]))]
    with opened(browser, lab, "downloaded.ipynb") as page:
        shown = output(page, len(downloaded))
        shown.get_by_text(questions[0]["ask"]).wait_for()
        assert lines(shown)[1:] == [quizzes.NOTE, *(line.replace("`", "") for line in asked)]


def test_a_figure_moves_by_keyboard_once_the_notebook_is_trusted(lab, browser, downloaded):
    with opened(browser, lab, "downloaded.ipynb") as page:
        output(page, 0).locator("img").wait_for()
        trust(page)
        place = next(i for i, figure in downloaded.items() if figure.slug == "storable-numbers")
        shown = output(page, place)
        got = shown.locator("[data-el=wanted]")
        got.wait_for()
        assert got.inner_text() == "0.0015" and not shown.locator("img").count()
        assert still.NOTE not in shown.inner_text() and downloaded[place].caption in shown.inner_text()
        slider = shown.get_by_role("slider")
        press(slider, "ArrowRight")
        page.wait_for_function("el => el.textContent === '0.0020'", arg=got.element_handle())
        assert slider.get_attribute("aria-valuetext") == "0.0020"
        assert page.locator("figure.lo-fig [data-control]").count() and not page.locator("figure.lo-fig img").count()
        assert page.locator("figure.lo-fig[data-ready]").count() == len(downloaded)
        asked = output(page, len(downloaded))
        press(asked.get_by_role("radio").first, "ArrowDown")
        assert asked.get_by_role("radio").nth(1).is_checked()
        assert asked.locator(".lo-quiz-told:visible").count() == 1 and quizzes.NOTE not in asked.inner_text()


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
