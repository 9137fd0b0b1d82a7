"""The benchmark runs from end to end in a tiny size, and what it computes from times is right. No time is asserted."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

HOME = Path(__file__).parent / "benchmarks"
sys.path.append(str(HOME))

import growth  # noqa: E402
import rows  # noqa: E402
import timing  # noqa: E402


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """What `benchmark.py --smoke` writes: (data, page)."""
    out = tmp_path_factory.mktemp("benchmark")
    command = [sys.executable, "-W", "ignore", str(HOME / "benchmark.py"), "--smoke", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=HOME.parent.parent)
    assert done.returncode == 0, done.stderr
    return json.loads((out / "benchmark.json").read_text()), (out / "benchmark.md").read_text()


def test_every_row_has_its_times_its_ratios_and_says_if_the_machine_was_quiet(report):
    data, page = report
    assert len(data["rows"]) == len(rows.ROWS) - 1  # compiling is for the full size
    for row in data["rows"]:
        assert row["row"] in page and row["rounds"] == 1 and isinstance(row["quiet"], bool)
        assert all(value > 0 for value in row["milliseconds"].values())
        assert all(0 < r["low"] <= r["median"] <= r["high"] for r in row["ratios"]) and row["ratios"]
    assert data["machine"]["versions"]["torch"] in page and data["machine"]["processor"] in page


def test_bytes_and_numbers_are_exact_in_any_size(report):
    data, _ = report
    kept = data["kept"]["bytes"]
    assert kept["ours"] < kept["bound, stock"] < kept["PEFT"] and kept["bound, fast"] < kept["ours"]
    table = {row["method"]: row for row in data["methods"]}
    assert len(table) == 11 and all(row["parameters"] > 0 for row in table.values())
    d, layers, r = 48, 2, 2
    ins, outs = d + d + d + 4 * d, 3 * d + d + 4 * d + d
    assert table["LoRA"]["trained"] == layers * r * (ins + outs)
    assert table["LoRA-FA"]["trained"] == layers * r * outs
    assert table["LaMDA, after freezing"]["trained"] == layers * 4 * (4 * r) ** 2
    assert table["LoRA"]["activations"] < table["LoRA, plain path"]["activations"]
    assert table["LoRA-FA"]["activations"] <= table["LoRA"]["activations"]
    assert table["QLoRA"]["parameters"] < table["LoRA"]["parameters"]
    assert table["LoRA"]["optimizer"] < table["full fine-tuning"]["optimizer"] / 10


def test_growth_finds_the_exponents_of_theory(report):
    by = {row["of"]: row for row in report[0]["growth"]}
    assert by["rank"]["numbers, exponent"] == 1 and 0 < by["rank"]["bytes, exponent"] < 0.2
    assert by["width"]["numbers, exponent"] == 1 and by["width"]["bytes, exponent"] == pytest.approx(1, abs=0.1)
    assert by["length"]["numbers, exponent"] == 0 and by["length"]["bytes, exponent"] == pytest.approx(1, abs=0.05)
    assert by["adapters, one a row"]["n"] == [1, 2, 4]


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0, 2.0])
def test_the_exponent_of_a_power_is_found_behind_a_constant(p):
    assert growth.exponent({n: 3 * n**p for n in (1, 2, 4, 8)}) == pytest.approx(p)
    assert growth.exponent({2**k: 5 + 4.0**k for k in range(12)}) == pytest.approx(2, abs=0.01)


def test_ratios_are_taken_within_rounds():
    seconds = {"a": [1.0, 20.0, 3.0], "b": [2.0, 40.0, 6.0]}  # a machine that is ten times slower for one round
    assert timing.ratio(seconds, "a", "b") == (0.5, 0.5, 0.5)
    assert timing.ratio({"a": [1.0], "b": [4.0]}, "a", "b") == (0.25, 0.25, 0.25)


@pytest.mark.parametrize("busy, rounds, dropped, quiet", [
    ([0, 0, 0], 3, 0, True),
    ([0, 1, 0, 1, 0], 3, 2, True),
    ([1] * 9, 3, 0, False),
])  # fmt: skip
def test_disturbed_rounds_are_dropped_and_a_busy_machine_is_told(monkeypatch, busy, rounds, dropped, quiet):
    left = iter(busy)

    class Told:
        def cores(self):
            return next(left)

    monkeypatch.setattr(timing, "Others", Told)
    monkeypatch.setattr(timing, "wait_until_quiet", lambda longest: True)
    calls = []
    found = timing.race({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3, wait=1, least=0)
    assert (found["rounds"], found["dropped"], found["quiet"]) == (rounds, dropped, quiet)
    assert calls[:6] == ["a", "b", "a", "b", "b", "a"]  # warm, then in an order that rotates
    assert len(found["seconds"]["a"]) == rounds
