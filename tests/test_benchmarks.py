"""The benchmark runs from end to end in a tiny size, and what it computes from times is right. No time is asserted."""

import json
import mmap
import subprocess
import sys
from pathlib import Path

import pytest

HOME = Path(__file__).parent / "benchmarks"
sys.path.append(str(HOME))

import benchmark  # noqa: E402
import growth  # noqa: E402
import kept_memory  # noqa: E402
import models  # noqa: E402
import peers  # noqa: E402
import report_page  # noqa: E402
import row as kinds  # noqa: E402
import rows  # noqa: E402
import steps  # noqa: E402
import svd  # noqa: E402
import timing  # noqa: E402
import torch  # noqa: E402

import lowrank_edu as lo  # noqa: E402
from lowrank_edu import shipped  # noqa: E402


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
    assert list(data["rows"]) == [make.__name__ for make in rows.ROWS]
    for row in data["rows"].values():
        assert row["row"] in page and row["rounds"] == 1 and isinstance(row["quiet"], bool)
        assert all(value > 0 for value in row["milliseconds"].values())
        assert all(0 < r["low"] <= r["median"] <= r["high"] for r in row["ratios"]) and row["ratios"]
    assert data["machine"]["versions"]["torch"] in page and data["machine"]["processor"] in page


def test_contenders_of_a_row_compute_the_same(report):
    apart = {name: row["apart"] for name, row in report[0]["rows"].items() if row["apart"]}
    assert {"step_of_the_layer", "step_whole", "step_of_one_row", "step_of_q_and_v", "step_beside_compiled", "merging",
            "routing", "routing_short", "latency", "latency_decoding", "nf4_quantise"} <= set(apart)  # fmt: skip
    for name, distances in apart.items():
        assert all(value <= 1e-5 for value in distances.values()), name
    assert {"loralib"} <= set(apart["step_whole"]) & set(apart["merging"]) & set(apart["step_of_q_and_v"])
    assert apart["nf4_quantise"] == {"ours": 0, "ours, compiled": 0}


def test_houlsby_is_timed_beside_lora_and_its_numbers_are_counted(report):
    for name in ("latency", "latency_decoding"):
        row = report[0]["rows"][name]
        assert set(row["milliseconds"]) == {"merged", "ours", "PEFT", "Houlsby"}
        d, width, layers = 48, 8, 2
        assert row["facts"]["numbers trained, Houlsby"] == 2 * layers * (2 * d * width + width + d)


def test_scikit_learns_svd_is_as_near_to_the_best(report):
    facts = report[0]["rows"]["randomised_svd"]["facts"]
    assert len(facts) == 3 and all(0.999 <= value < 1.06 for value in facts.values())
    ours, _, with_qr = facts.values()
    assert ours == pytest.approx(with_qr, rel=0.01)


def test_the_book_is_timed_chapter_by_chapter(report):
    data, page = report
    found = {row["what"]: row for row in data["book"]["rows"]}
    assert list(found) == ["ch00_toy", "rendering, the chapters' time left out", "the book, from nothing",
                           "the book, unchanged"]  # fmt: skip
    assert found["ch00_toy"]["limit"] == 40 and "ch00 toy" in page
    whole, parts = found["the book, from nothing"]["seconds"], list(found.values())[:2]
    assert sum(row["seconds"] for row in parts) == pytest.approx(whole) and parts[0]["seconds"] > 0


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
    assert timing.ratios(seconds, "a", "b") == [0.5, 0.5, 0.5]
    assert timing.quartiles([0.25]) == (0.25, 0.25, 0.25)
    assert timing.quartiles([5.0, 1.0, 2.0, 4.0, 3.0]) == (2, 3, 4)


def test_a_row_joins_the_rounds_of_its_processes():
    wanted = [("a / b", "a", "b", 0.5), ("a / c", "a", "c", 1)]
    part = {"row": "it", "note": "", "why": {}, "facts": {}, "wanted": wanted, "absent": {"c": "not here"}}
    found = benchmark.joined([
        {**part, "rounds": 1, "dropped": 2, "quiet": True, "apart": {"b": 0.0}, "seconds": {"a": [1.0], "b": [2.0]},
         "fetched": {"a": [5.0], "b": [0.0]}},
        {**part, "rounds": 2, "dropped": 0, "quiet": True, "apart": {"b": 1e-7}, "seconds": {"a": [6, 3], "b": [8, 3]},
         "fetched": {"a": [7.0, 9.0], "b": [0.0, 0.0]}},
    ])  # fmt: skip
    assert (found["rounds"], found["dropped"], found["quiet"], found["apart"]) == (3, 2, True, {"b": 1e-7})
    assert found["milliseconds"] == {"a": 3000, "b": 3000} and found["fetched"] == {"a": 7, "b": 0}
    both, absent = found["ratios"]
    assert (both["low"], both["median"], both["high"], both["processes"]) == (0.625, 0.75, 0.875, [0.5, 0.875])
    assert absent == {"of": "a / c", "not run": "not here", "target": 1}
    report = {"processes": 2, "rows": {"it": found}}
    assert "Each row in 2 fresh processes" in report_page.processes(report)
    assert "by 75 % at most" in report_page.processes(report) and not report_page.processes({**report, "processes": 0})


@pytest.mark.parametrize("busy, more, rounds, dropped, quiet", [
    ([0, 0, 0], 0, 3, 0, True),
    ([0, 1, 0, 1, 0], 0, 3, 2, True),
    ([1] * 9, 0, 3, 0, False),
    ([0, 1] + [0] * 7, 60, 8, 1, True),
])  # fmt: skip
def test_disturbed_rounds_are_dropped_and_a_busy_machine_is_told(monkeypatch, busy, more, rounds, dropped, quiet):
    left = iter(busy)

    class Told:
        def cores(self):
            return next(left)

    monkeypatch.setattr(timing, "Others", Told)
    monkeypatch.setattr(timing, "wait_until_quiet", lambda longest: True)
    calls, rest = [], timing.REST
    monkeypatch.setattr(timing.time, "sleep", calls.append)
    found = timing.race({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3, wait=1, least=0, more=more)
    assert (found["rounds"], found["dropped"], found["quiet"]) == (rounds, dropped, quiet)
    assert calls[:10] == ["a", "b", rest, "a", rest, "b", rest, "b", rest, "a"]  # warm, then in an order that rotates
    assert len(found["seconds"]["a"]) == rounds


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell")
def test_memory_that_a_call_fetches_is_counted():
    text = b"x" * 2**26

    def much():  # new memory each time, whatever malloc has kept, in pages of the usual size
        room = mmap.mmap(-1, len(text))
        if hasattr(mmap, "MADV_NOHUGEPAGE"):
            room.madvise(mmap.MADV_NOHUGEPAGE)
        room.write(text)
        room.close()

    found = timing.race({"much": much, "none": lambda: None}, 3, least=0)["fetched"]
    assert all(64 <= mib < 66 for mib in found["much"]) and all(mib < 1 for mib in found["none"])


# ---- contenders
def test_factors_are_shared_by_their_places_and_a_wrong_one_shows():
    size = models.SMOKE
    base, ids = models.gpt2(size), models.tokens(size)
    mine, other, third = models.ours(size, base), models.theirs(size, base), peers.with_loralib(size, base)
    peers.equalled(mine, other, third)
    assert list(peers.factors(mine)) == list(peers.factors(other)) == list(peers.factors(third))
    assert len(peers.factors(mine)) == 4 * size.layers

    def distances():
        same = {"ours": lambda: mine(input_ids=ids).logits, "PEFT": lambda: other(input_ids=ids).logits,
                "loralib": lambda: third(input_ids=ids).logits}  # fmt: skip
        return kinds.apart(same)

    assert all(value < 1e-5 for value in distances().values())
    assert torch.linalg.vector_norm(mine(input_ids=ids).logits - base(input_ids=ids).logits) > 0.01
    with torch.no_grad():
        next(iter(peers.factors(third).values()))[1].mul_(2)
    assert distances()["PEFT"] < 1e-5 < distances()["loralib"]


def test_quantising_in_compiled_code_keeps_every_bit_of_hard_blocks():
    from peer import bitsandbytes

    W = torch.randn(8, 256, generator=torch.Generator().manual_seed(0))
    W[1], W[2], W[3, :70] = 0, W[2] * 1e-40, 0
    q = torch.compile(lo.quant.quantize_nf4, backend="eager")(W)
    packed, state = bitsandbytes.functional.quantize_4bit(W, quant_type="nf4")
    assert torch.equal(q.packed, packed) and torch.equal(q.absmax, state.absmax)


def test_a_difference_of_one_last_bit_is_seen():
    tiny = torch.tensor([3.0, 1e-40])
    assert kinds.apart({"a": lambda: tiny, "b": lambda: tiny.clone()}) == {"b": 0}
    assert kinds.apart({"a": lambda: tiny, "b": lambda: torch.tensor([3.0, 0.0])})["b"] > 0
    assert kinds.apart({}) == {}


# ---- a run that meets trouble
def asked(tmp_path, *words):
    benchmark.main(["--smoke", "--out", str(tmp_path), *words])
    return json.loads((tmp_path / "benchmark.json").read_text()), (tmp_path / "benchmark.md").read_text()


def quick(size):
    return kinds.Row("quick", {"a": lambda: 1, "b": lambda: 2, "c": kinds.NotRun("no C++ compiler")},
                     [("a / b", "a", "b", 1e9), ("a / c", "a", "c", 0.5)])  # fmt: skip


def broken(size):
    raise FileNotFoundError("[Errno 2] No such file or directory: '/home/somebody/secret|thing.txt'\nsecond line")


def test_a_row_that_fails_is_told_and_the_rest_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(rows, "ROWS", [broken, quick])
    data, page = asked(tmp_path, "--only", "broken", "quick")
    assert data["rows"]["broken"]["failed"].startswith("FileNotFoundError: [Errno 2]")
    assert "| broken | failed: FileNotFoundError" in page and "somebody" not in page + json.dumps(data)
    assert "| not run: no C++ compiler |" in page and "| ≤ 1e+09 ✓ |" in page
    assert "Of 1 aims, 1 are reached" in page
    assert "s: failed: FileNotFoundError" in capsys.readouterr().err


def test_a_stop_loses_nothing_and_resume_takes_what_is_missing_or_failed(tmp_path, monkeypatch):
    calls = []

    def counted(size):
        calls.append("quick")
        return quick(size)

    def stopped(size):
        raise KeyboardInterrupt

    monkeypatch.setattr(rows, "ROWS", [counted, broken, stopped])
    with pytest.raises(KeyboardInterrupt):
        asked(tmp_path, "--only", "counted", "broken", "stopped")
    assert list(json.loads((tmp_path / "benchmark.json").read_text())["rows"]) == ["counted", "broken"]

    def repaired(size):
        return quick(size)

    repaired.__name__, stopped.__name__ = "broken", "stopped"
    monkeypatch.setattr(rows, "ROWS", [counted, repaired])
    monkeypatch.setattr(benchmark, "kept", lambda size: {"failed": "left out"})
    monkeypatch.setattr(growth, "series", lambda *size: [])
    monkeypatch.setattr(benchmark.methods, "table", lambda *size: [])
    monkeypatch.setattr(benchmark.the_book, "book_times", lambda smoke: {"rows": []})
    data, _ = asked(tmp_path, "--resume")
    assert calls == ["quick"] and "ratios" in data["rows"]["broken"]
    asked(tmp_path, "--resume", "--only", "counted")
    assert calls == ["quick"] * 2
    monkeypatch.setattr(benchmark, "mark", lambda *settings: "another")
    asked(tmp_path, "--resume")
    assert calls == ["quick"] * 3


def test_a_book_that_does_not_build_says_why(tmp_path):
    folder = benchmark.the_book.toy(tmp_path)
    (folder / "intro.md").write_text("# A toy\n\n[away](nowhere.md)\n")
    with pytest.raises(RuntimeError, match=r"does not build: .*nowhere"):
        benchmark.the_book.built(folder)


@pytest.mark.parametrize("there, said", [((), "no C++ compiler"), (("g++",), "torch.compile fails: RuntimeError")])
def test_why_nothing_is_compiled(monkeypatch, there, said):
    def fails(*work, **how):
        raise RuntimeError("no")

    monkeypatch.setattr(torch, "compile", fails)
    monkeypatch.setattr(peers.shutil, "which", lambda name: name if name in there else None)
    assert peers.why_not_compiled.__wrapped__("inductor") == said


def test_a_missing_peer_is_not_run_and_the_row_stays(monkeypatch):
    monkeypatch.setattr(peers, "loralib", None)
    monkeypatch.setattr(svd, "theirs", None)
    for make in (rows.step_of_the_layer, rows.step_whole, rows.step_of_q_and_v, rows.merging, rows.randomised_svd):
        found = benchmark.joined([benchmark.raced(make, models.SMOKE, 1, 1, 0, 0)])
        assert any("is not installed" in r.get("not run", "") for r in found["ratios"])
        assert any("median" in r for r in found["ratios"])


RETURNED = """
import resource, sys
sys.path.append(sys.argv[1])
import kept_memory, torch
held = lambda: resource.getpagesize() * int(open("/proc/self/statm").read().split()[1])
told = sys.argv[2] == "kept" and kept_memory.keep_freed_memory()
blocks = [torch.ones(2**21) for _ in range(20)]
full = held()
del blocks
print(told, (full - held()) / 8 / 2**21)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from Linux's /proc")
@pytest.mark.parametrize("how", ["kept", "by default"])
def test_freed_memory_is_kept_where_a_row_asks_for_it(how):
    """Of 20 blocks of 8 MiB, how many the process gives back; by default glibc gives back nearly all."""
    command = [sys.executable, "-W", "ignore", "-c", RETURNED, str(HOME), how]
    told, given = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-2:]
    assert (told, float(given) < 1) == ("True", True) if how == "kept" else float(given) > 5


def test_memory_that_cannot_be_kept_is_told(monkeypatch):
    monkeypatch.setattr(kept_memory, "FULL", models.SMOKE)
    monkeypatch.setattr(kept_memory, "keep_freed_memory", lambda: False)
    found = benchmark.joined([benchmark.raced(rows.merging_in_kept_memory, models.SMOKE, 1, 1, 0, 0)])
    assert {r.get("not run") for r in found["ratios"]} == {"this C library has no mallopt"}
    layer = steps.step_of_the_layer(models.SMOKE)  # needs no such memory: it runs, and says how
    assert callable(layer.works["ours"]) and "memory as it comes" in layer.note and "is kept" not in layer.note


def test_a_row_asks_for_three_rounds_at_least():
    with pytest.raises(ValueError, match="rounds=2: a median needs 3"):
        kinds.Row("x", {}, rounds=2)
    for processes, share in ((1, 3), (2, 2), (3, 1)):
        found = benchmark.rounds_of(kinds.Row("x", {"a": lambda: 1}, rounds=3), 7, processes, 0, 0)
        assert found["rounds"] == share


# ---- the page
def test_the_page_of_the_book_is_made_from_what_is_shipped():
    path = shipped.ASSETS / "results" / "benchmark.json"
    found = json.loads(path.read_text("utf-8")) if path.exists() else None
    assert benchmark.PAGE.read_text("utf-8") == report_page.markdown(found)


def test_publishing_writes_data_and_page_and_a_trial_is_refused(report, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shipped, "ASSETS", tmp_path)
    benchmark.publish(report[0], tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text("utf-8")
    assert page == report_page.markdown(shipped.results("benchmark"))
    assert shipped.results("benchmark")["kept"]["bytes"] == report[0]["kept"]["bytes"]  # exact, not rounded
    for head in ("Ratios", "Aims that were missed", "Bytes, exact", "Growth", "All methods", "The book"):
        assert f"## {head}\n" in page
    assert str(Path.home()) not in page and str(HOME) not in page
    assert "elsewhere" not in page.lower()
    away = {**report[0], "machine": {**report[0]["machine"], "processor": "another one"}}
    for found in (away, away):  # measured again there: the first machine stays beside it
        benchmark.publish(found, tmp_path / "page.md")
        page = (tmp_path / "page.md").read_text("utf-8")
        assert "- Processor: another one" in page and f"- Elsewhere: {report[0]['machine']['processor']}, " in page
        row = next(r for r in report[0]["rows"].values() if "median" in r["ratios"][0])
        medians, first = shipped.results("benchmark")["elsewhere"]["medians"], row["ratios"][0]
        assert medians[row["row"]][first["of"]] == pytest.approx(first["median"], rel=1e-3)
    with pytest.raises(SystemExit):
        benchmark.main(["--smoke", "--publish"])
    assert "Leave one of them out" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        benchmark.main(["--only", "merging", "--publish"])
    assert "a page has all rows" in capsys.readouterr().err


def test_a_missed_aim_is_told_with_what_stands_in_its_way():
    row = {"row": "work", "why": {"a / b": "the law of nature."}, "ratios": [
        {"of": "a / b", "low": 1, "median": 2, "high": 3, "target": 1.5},
        {"of": "a / c", "low": 1, "median": 1, "high": 3, "target": 1.5}]}  # fmt: skip
    report = {"rows": {"w": row}, "machine": {"products": "oneDNN"}}
    told = report_page.missed(report)
    assert "*work*, a / b: 2, the aim was 1.5. What is left: the law of nature." in told and "a / c" not in told
    assert report_page.SHARED not in told
    assert report_page.SHARED in report_page.missed({**report, "machine": {"products": "torch's own"}})
    row["why"] = {}
    assert "What is left: not known yet." in report_page.missed(report)
    row["ratios"] = row["ratios"][1:]
    assert "None, on this processor." in report_page.missed(report)
