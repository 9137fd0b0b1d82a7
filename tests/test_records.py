"""Result files of experiments: whole, of one model, and written after every run, so that a stop costs one run."""

import json
import sys

import pytest
import records

from lowrank_edu import shipped


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "ASSETS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["script"])
    return tmp_path / "results"


def test_a_file_of_other_settings_is_not_continued(folder):
    rows = [{"r": 4, "loss": 1 / 3, "curve": [0.123456] * 40}, {"text": "a } b"}, None]
    mark = records.fingerprint([4, 8], "pirate")
    assert mark != records.fingerprint([4, 8], "poet")
    records.save("x", {"fingerprint": mark, "rows": rows})
    assert shipped.results("x")["rows"] == [{"r": 4, "loss": 0.3333, "curve": [0.1235] * 40}, {"text": "a } b"}, None]
    assert records.load("x", {"fingerprint": mark, "rows": []}) == shipped.results("x")
    assert records.load("x", {"fingerprint": "another", "rows": []})["rows"] == []


def test_the_fingerprint_changes_with_the_weights(folder):
    model = folder.parent / "tiny-gpt2"
    model.mkdir()
    marks = set()
    for weights in (b"1", b"2"):
        (model / "model.safetensors").write_bytes(weights)
        marks.add(records.fingerprint(4))
    assert len(marks) == 2


def test_a_stopped_experiment_continues_with_the_next_run(folder, monkeypatch):
    done = []

    def perform(files, name, cell):
        if cell == 2 and 2 not in done:
            done.append(2)
            raise KeyboardInterrupt
        files[name]["runs"].append(cell)

    def call():
        results = records.load("x", {"fingerprint": "f", "runs": []})
        todo = [("x", cell) for cell in (1, 2, 3) if cell not in results["runs"]]
        return records.resume("What it does.", {"x": results}, todo, perform)

    with pytest.raises(KeyboardInterrupt):
        call()
    assert shipped.results("x")["runs"] == [1]
    monkeypatch.setattr(sys, "argv", ["script", "--check"])
    assert call() == 1 and shipped.results("x")["runs"] == [1]
    monkeypatch.setattr(sys, "argv", ["script"])
    assert call() == 0 and shipped.results("x")["runs"] == [1, 2, 3] and call() == 0
    assert [path.name for path in folder.iterdir()] == ["x.json"]


def test_lines_break_between_rows_and_never_within_numbers():
    value = {"runs": [{"seed": seed, "loss": 1.5, "name": "x" * 60} for seed in range(3)], "curve": list(range(99))}
    text = records.lines(value)
    assert json.loads(text) == value and len(text.splitlines()) == 8
