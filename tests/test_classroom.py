"""The teacher's kit: editions, prediction cards, the book in a room without network, and lesson plans."""

import html
import json
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import address
import assignments
import cards
import editions
import myst
import nbformat
import numpy as np
import offline
import pytest
from browser import settle, watched

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = sorted((ROOT / "chapters").glob("*.ipynb"))
STUDENT_PAGES = ROOT / "build" / "classroom" / "student" / "html"
every_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)


def read(path):
    return nbformat.read(path, as_version=4)


# ---- what a solution is, found without the code under test


def flat(text: str) -> str:
    """Words only: no markup of Markdown, no line breaks."""
    return re.sub(r"\s+", " ", re.sub(r"[`*$\\]", "", html.unescape(text))).strip()


def secrets(path) -> list[str]:
    """Every sentence and every function body that stands in a solution of a chapter."""
    found = []
    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        text = "".join(cell["source"])
        for box in re.findall(r'^<details class="solution".*?\n(.*?)^</details>$', text, re.M | re.S):
            for code in re.findall(r"^```python from .*?:\n(.*?)^```$", box, re.M | re.S):  # below the signature
                found.append(flat(re.sub(r'""".*?"""', "", code, count=1, flags=re.S)))
            prose = re.sub(r"^```.*?^```", "", box, flags=re.M | re.S)
            prose = re.sub(r"\[([^\[\]]+)\]\([^()\s]+\)", "@", prose)
            found += [flat(part) for part in re.split(r"(?<=[.:])\s+|\n\n|@", prose)]
    return [text for text in found if len(text) > 25]


def shown(page: Path) -> str:
    """What a page holds, markup aside: its text, and nothing left out that is merely hidden."""
    return flat(re.sub(r"<[^>]+>", "", page.read_text("utf-8")))


@every_chapter
def test_the_solutions_are_in_the_chapter_and_not_in_the_students_notebook(path):
    hidden, before = secrets(path), read(path)
    assert len(hidden) >= 4
    after = flat("\n".join(cell.source for cell in editions.student(before).cells))
    assert [text for text in hidden if text in after] == []
    assert 'class="solution"' not in after


@every_chapter
def test_a_students_notebook_keeps_code_outputs_hints_and_predictions(path):
    before, after = read(path), editions.student(read(path))
    code = [[(cell.source, cell.outputs) for cell in nb.cells if cell.cell_type == "code"] for nb in (before, after)]
    assert code[0] == code[1]
    kinds = [
        [block.kind for cell in nb.cells if cell.cell_type == "markdown" for block in myst.blocks(cell.source)]
        for nb in (before, after)
    ]
    assert [kind for kind in kinds[0] if kind not in ("solution", "text")] == [k for k in kinds[1] if k != "text"]
    assert kinds[1].count("hint") == 2 * kinds[1].count("exercise")


def test_the_students_pages_hold_no_solution():
    """Every file a reader of the rendered student edition gets: pages, sources beside them, search index."""
    assert STUDENT_PAGES.exists(), "the students' pages are not rendered: run `make editions` first"
    taken = {}
    for page in sorted(STUDENT_PAGES.rglob("*")):
        if page.is_file() and page.suffix in (".html", ".ipynb", ".txt", ".md", ".js", ".json"):
            taken[page] = shown(page)
    everything = {path: secrets(path) for path in CHAPTERS}
    found = [
        (page.relative_to(STUDENT_PAGES), text)
        for page, words in taken.items()
        for path in CHAPTERS
        for text in everything[path]
        if text in words
    ]
    assert found == []
    assert {f"{path.stem}.html" for path in CHAPTERS} <= {page.name for page in taken}


def test_the_students_pages_lead_to_no_chapter_with_solutions():
    """Neither to the repository nor to Colab; the one notebook that they offer is the students' own."""
    for path in CHAPTERS:
        text = (STUDENT_PAGES / "chapters" / f"{path.stem}.html").read_text("utf-8")
        assert chapters_elsewhere(text) == [], "a click away"
        ways = re.search(r'<p class="ways">(.*?)</p>', text, re.S)[1]
        assert re.findall('href="([^"]*)"', ways) == [f"../_sources/chapters/{path.name}"]
    where = address.Address("https://github.com/someone/some-book")
    links = [where.colab("chapters/ch01_rank.ipynb"), where.file("chapters/ch01_rank.ipynb")]
    assert chapters_elsewhere("".join(f'<a href="{link}">' for link in links)) == links, "the search finds nothing"


def chapters_elsewhere(page: str) -> list[str]:
    """Addresses of notebooks on other hosts that a page links to."""
    return re.findall(r'href="(https?://[^"]*/ch\d+_\w+\.ipynb)"', page)


def test_the_search_for_solutions_would_find_one():
    page = ROOT / "_build" / "html" / "chapters" / "ch03_lora.html"
    assert page.exists(), "the book is not rendered: run `make book` first"
    missed = [text for text in secrets(ROOT / "chapters" / "ch03_lora.ipynb") if text not in shown(page)]
    assert missed == []


@every_chapter
def test_the_instructor_sees_every_solution_open_and_written_out(path):
    text = "\n".join(cell.source for cell in editions.instructor(read(path)).cells)
    missed = [secret for secret in secrets(path) if secret not in flat(text)]
    assert missed == []
    assert 'class="solution"' not in text
    assert text.count("> **For the teacher: ") == 1 + len(myst.solutions(read(path)))


@every_chapter
def test_clean_is_headings_and_code(path):
    before, after = read(path), editions.clean(read(path))
    headings = [
        block.title
        for cell in before.cells
        if cell.cell_type == "markdown"
        for block in myst.blocks(cell.source)
        if block.kind == "heading"
    ]
    text = "\n".join(cell.source for cell in after.cells if cell.cell_type == "markdown")
    assert re.findall(r"^#+ (.*)$", text, re.M) == headings
    rest = [line for line in text.splitlines() if line and not line.startswith(("#", "**Exercise: "))]
    assert rest == []
    assert all(not cell.outputs for cell in after.cells if cell.cell_type == "code")


def test_a_cell_taken_apart_can_be_put_together_again():
    for path in CHAPTERS:
        for cell in read(path).cells:
            if cell.cell_type == "markdown":
                assert "\n".join(block.raw for block in myst.blocks(cell.source)) == cell.source
    with pytest.raises(ValueError, match="never closed"):
        myst.blocks('<details class="solution" id="solution-ch01-outer">\nforgotten')
    with pytest.raises(ValueError, match="has to begin with one of Predict first"):
        myst.blocks("> **Surprise**\n>\n> Nobody knows this box.")


# ---- prediction cards


def test_every_prediction_of_a_box_is_on_a_card():
    for path in CHAPTERS:
        text = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
        made = cards.predictions(read(path), int(path.name[2:4]))
        quoted = re.findall(r"^> \*\*Predict first\*\*\n((?:>.*\n?)+)", text, re.M)
        boxes = [re.sub("^> ?", "", box, flags=re.M) for box in quoted]
        assert [box for box in boxes if myst.plain(box.strip()) not in [card.question for card in made]] == []
        assert made, path.stem
        assert not any(re.search(r"\{\w+\}`|:::|\]\(", card.question) for card in made)


def test_a_card_ends_with_its_question():
    told = "Old news. **Predict:** up, or down? Here is what the run below prints:"
    assert cards.asked(told) == "Old news. **Predict:** up, or down?"
    assert cards.asked("Is it? **Predict** the four numbers:") == "Is it? **Predict** the four numbers."


def test_two_cards_fill_a_sheet_of_paper(tmp_path, browser):
    found = cards.collect([])
    assert cards.main([], tmp_path) == 0
    with watched(browser, tmp_path.as_uri()) as (page, watch):
        page.goto((tmp_path / "cards.html").as_uri())
        settle(page)
        page.emulate_media(media="print")
        cut = page.evaluate(
            "[...document.querySelectorAll('.card')].filter(c => c.scrollHeight > c.clientHeight + 1)"
            ".map(c => c.textContent.slice(0, 60))"
        )
        sheets = len(re.findall(rb"/Type\s*/Page\b", page.pdf(prefer_css_page_size=True)))
        assert (cut, watch.defects()) == ([], [])
    assert sheets == (len(found) + 1) // 2


# ---- a room without network


@pytest.mark.parametrize("edition", ["_build/html", "build/classroom/student/html"])
def test_the_unpacked_zip_opens_from_a_file_and_asks_nobody_for_anything(edition, tmp_path, browser):
    made = offline.pack(ROOT / edition, tmp_path / "lowrank-book.zip")
    with zipfile.ZipFile(made) as packed:
        packed.extractall(tmp_path)
    home = tmp_path / "lowrank-book"
    pages = sorted(home.glob("chapters/*.html"))
    if edition == "_build/html":
        pages += sorted(home.glob("book/**/*.html"))
    assert len(pages) >= 13 and (home / "START-HERE.txt").exists()
    defects = {}
    with watched(browser, home.as_uri()) as (page, watch):
        page.goto((home / "index.html").as_uri())
        page.wait_for_url((home / "book" / "intro.html").as_uri())
        assert watch.defects() == []
    for path in pages:
        with watched(browser, home.as_uri()) as (page, watch):
            page.goto(path.as_uri())
            settle(page)
            defects[path.name] = watch.defects()
    assert {name: found for name, found in defects.items() if found} == {}


def test_the_zip_refuses_a_folder_without_a_book(tmp_path):
    with pytest.raises(FileNotFoundError, match="make book"):
        offline.pack(tmp_path, tmp_path / "no.zip")


def test_a_figure_and_the_search_work_from_a_file(browser):
    home = ROOT / "_build" / "html"
    with watched(browser, home.as_uri()) as (page, watch):
        page.goto((home / "chapters" / "ch03_lora.html").as_uri())
        settle(page)
        before = page.locator("figure").first.inner_text()
        page.locator("figure input[type=range]").first.focus()
        page.keyboard.press("ArrowRight")
        assert page.locator("figure").first.inner_text() != before
        page.goto((home / "search.html").as_uri() + "?q=PiSSA")
        page.wait_for_selector("#search-results li")
        assert watch.foreign == []
        # A browser lets no file read another: results stand there without excerpts, as START-HERE.txt says.


def without_network() -> list[str]:
    """What to put before a command so that it has no network at all, where the system lets us."""
    command = ["unshare", "--user", "--map-root-user", "--net"]
    usable = shutil.which("unshare") and subprocess.run([*command, "true"], capture_output=True).returncode == 0
    return command if usable else []


def test_the_small_wheelhouse_installs_and_checks_an_exercise_with_the_network_off(tmp_path):
    wheels = offline.wheelhouse(tmp_path / "wheelhouse", small=True)
    room = tmp_path / "room"
    venv.EnvBuilder(with_pip=True).create(room)
    python = [*without_network(), str(room / "bin" / "python"), "-I"]
    installed = (wheels / "INSTALL.txt").read_text("utf-8")
    commands = re.findall(r"-m pip install (.+?)(?: &&|\n)", installed)
    assert len(commands) == 2
    for command in commands:
        done = subprocess.run(
            [*python, "-m", "pip", "install", "-q", *command.split()], cwd=wheels, capture_output=True
        )
        assert done.returncode == 0, done.stderr.decode()
    answer = "import numpy, lowrank_edu as lo; print(lo.check('ch01-outer', lambda B, A: B @ A).passed, lo.__file__)"
    done = subprocess.run([*python, "-c", answer], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.startswith(f"True {room}"), done.stderr
    assert sys.prefix not in done.stdout


@pytest.mark.skipif(not without_network(), reason="this system does not let a program give its network up")
def test_without_network_means_it():
    probe = "import socket; socket.create_connection(('127.0.0.1', 9), 1)"
    done = subprocess.run([*without_network(), sys.executable, "-c", probe], capture_output=True, text=True)
    assert "unreachable" in done.stderr


# ---- lesson plans: the clock and the exercises are real

PLANS = {"lab": 90, "half_day": 210, "six_weeks": 90}
ROW = re.compile(r"^\| (\d+):(\d\d) \| (\d+) \|(.*)$", re.M)


def plan(name: str) -> str:
    return (ROOT / "book" / "classroom" / f"{name}.md").read_text("utf-8")


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_has_no_gap_and_ends_in_time(name):
    clock = 0
    for hours, minutes, length, _ in ROW.findall(plan(name)):
        assert int(hours) * 60 + int(minutes) == clock
        clock += int(length)
    assert clock == PLANS[name]


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_names_exercises_that_exist_and_gives_each_its_minutes(name):
    from lowrank_edu import exercises

    named = set(re.findall(r"`(ch\d\d-[a-z0-9]+)`", plan(name)))
    assert named and not named - set(exercises())
    for _, _, length, rest in ROW.findall(plan(name)):
        needed = sum(exercises.get(found).minutes for found in re.findall(r"`(ch\d\d-[a-z0-9]+)`", rest))
        assert needed <= int(length), rest
    headings = {
        block.title
        for path in CHAPTERS
        for cell in read(path).cells
        if cell.cell_type == "markdown"
        for block in myst.blocks(cell.source)
        if block.kind == "heading"
    }
    for _, _, _, rest in ROW.findall(plan(name)):
        for section in re.findall(r"(?<![\w*])\*([^*\s][^*]*[^*\s])\*(?![\w*])", rest):
            assert any(section.rstrip("?") in heading for heading in headings | set(myst.BOXES)), section


def test_each_week_has_its_assignment():
    named = set(re.findall(r"`(ch\d\d)`", plan("six_weeks")))
    assert named == {path.name[:4] for path in CHAPTERS}
    rng = np.random.default_rng(0)
    assert [path.name for path in CHAPTERS if assignments.assignment(path, rng) is None] == []
