"""`lo.progress`: what passes is kept in a text file beside the notebook, survives anything, and goes nowhere else."""

import subprocess
import sys
from pathlib import Path

import pytest

import lowrank_edu as lo
from lowrank_edu import exercises, passing
from lowrank_edu.checking import examine

FILE = ".lowrank-progress.txt"
RIGHT = {i: exercises.get(i).reference for i in exercises.ids()}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A learner's folder: the notebook runs here, and nothing has passed."""
    monkeypatch.delenv("LOWRANK_PAGE", raising=False)
    monkeypatch.delenv("LOWRANK_PROGRESS", raising=False)
    monkeypatch.setattr(passing, "_unwritten", set())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def passed():
    return [title for chapter in lo.progress().chapters for title, yes in chapter.passes.items() if yes]


def test_a_pass_is_kept_beside_the_notebook_and_said(folder):
    assert passed() == [] and not (folder / FILE).exists()
    first = lo.check("ch01-even", RIGHT["ch01-even"])
    assert first.passed and "1 of 5 exercises of chapter 1 pass" in first.message.splitlines()[-1]
    lo.check("ch03-count", RIGHT["ch03-count"])
    lo.check("ch01-even", RIGHT["ch01-even"])
    assert (folder / FILE).read_text("utf-8") == "ch01-even\nch03-count\n"
    assert passed() == ["When does it stop paying?", "Count what learns"]
    assert [p.name for p in folder.iterdir()] == [FILE]


def test_what_does_not_pass_is_not_kept(folder):
    for answer in (..., 2986, lambda: None):
        assert "chapter 1 pass" not in lo.check("ch01-even", answer).message
    assert examine(exercises.get("ch01-even"), RIGHT["ch01-even"]).passed  # a test, not a learner
    assert list(folder.iterdir()) == []


def test_the_table_shows_every_exercise_once():
    lo.check("ch01-even", RIGHT["ch01-even"])
    shown = lo.progress()
    text, page = repr(shown), shown._repr_mimebundle_()["text/html"]
    assert text.splitlines()[0] == f"1 of {len(RIGHT)} exercises pass. Kept in {FILE}."
    assert text.count("✓") == page.count("✓") == 1 and text.count("○") == page.count("○") == len(RIGHT) - 1
    assert "Chapter 1  ○○○✓○" in text and len(text.splitlines()) == 1 + len(exercises.chapters())


def test_another_folder_or_none(folder, monkeypatch):
    monkeypatch.setenv("LOWRANK_PROGRESS", str(folder / "drive" / "class"))
    lo.check("ch01-even", RIGHT["ch01-even"])
    assert (folder / "drive" / "class" / FILE).exists() and len(passed()) == 1
    monkeypatch.setenv("LOWRANK_PROGRESS", "off")
    assert "chapter 1 pass" not in lo.check("ch01-even", RIGHT["ch01-even"]).message
    assert passed() == [] and "Nothing is kept here." in repr(lo.progress())
    assert [p.name for p in folder.iterdir()] == ["drive"]


def test_nothing_is_kept_where_outputs_are_made_for_the_page(folder, monkeypatch):
    monkeypatch.setenv("LOWRANK_PAGE", "1")
    result = lo.check("ch01-even", RIGHT["ch01-even"])
    assert result == examine(exercises.get("ch01-even"), RIGHT["ch01-even"])
    assert list(folder.iterdir()) == [] and passed() == []


BROKEN = {
    "cut short": b"ch01-even\nch03-co",
    "not text": b"\xff\xfe\x00 {}\nch01-even\n",
    "another version": b"ch99-x\nch01-even",
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_a_broken_file_keeps_what_can_be_read_and_says_so(folder, broken):
    (folder / FILE).write_bytes(broken)
    assert passed() == ["When does it stop paying?"]
    assert "are no exercises and were skipped" in repr(lo.progress())
    assert lo.check("ch03-freeze", RIGHT["ch03-freeze"]).passed
    assert passed() == ["When does it stop paying?", "Find the bug: which numbers learn?"]


def test_a_file_that_cannot_be_written_disturbs_no_check(folder):
    (folder / FILE).mkdir()  # a folder has its name
    result = lo.check("ch01-even", RIGHT["ch01-even"])
    assert result.passed and "1 of 5" in result.message
    assert passed() == ["When does it stop paying?"]
    assert f"Kept for this session only: {FILE} cannot be written." in repr(lo.progress())


def test_deleting_the_file_begins_again(folder):
    lo.check("ch01-even", RIGHT["ch01-even"])
    (folder / FILE).unlink()
    assert passed() == [] and f"Kept in {FILE}." in repr(lo.progress())


def test_chapters_open_at_once_lose_nothing(folder):
    """Six processes record all exercises between them, as fast as they can."""
    code = "import sys; from lowrank_edu import passing; [passing.record(i) for i in sys.argv[1:]]"
    ids = list(RIGHT)
    runs = [subprocess.Popen([sys.executable, "-c", code, *ids[k::6], *ids[:9]]) for k in range(6)]
    assert [run.wait(120) for run in runs] == [0] * 6
    assert set((folder / FILE).read_text("utf-8").splitlines()) == set(ids)
    assert len(passed()) == len(ids)


def test_git_does_not_take_the_file():
    assert FILE in (Path(__file__).parents[1] / ".gitignore").read_text("utf-8").splitlines()
