"""`make benchmark`: every row of the table against its peers, on this machine; writes build/benchmark.md and .json.

Nothing here is asserted: a time depends on the machine. `--smoke` runs all of it in a tiny size, and a test runs that.
Every row stands alone: one that fails is told in the table. What is done is saved at once, and `--resume` goes on.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import math
import os
import platform
import re
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from importlib import metadata
from multiprocessing import get_context
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
THREADS = os.environ.get("OMP_NUM_THREADS")
ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "book" / "experiments"))

import growth  # noqa: E402
import methods  # noqa: E402
import models  # noqa: E402
import records  # noqa: E402
import row as kinds  # noqa: E402
import rows  # noqa: E402
import the_book  # noqa: E402
import timing  # noqa: E402
import torch  # noqa: E402
from report_page import markdown  # noqa: E402

from lowrank_edu import shipped  # noqa: E402
from lowrank_edu.fast import products  # noqa: E402

if THREADS is None:  # the book's tools set it for the book; here a new process is to have all threads
    os.environ.pop("OMP_NUM_THREADS", None)

PEERS = ("lowrank-edu", "torch", "numpy", "transformers", "peft", "bitsandbytes", "loralib", "scikit-learn")
PAGE = ROOT / "book" / "benchmark.md"
PLACE = re.compile(r"(?<![\w.])(?:[A-Za-z]:)?[/\\][^\s:,;)]+")
PROCESSES = 3  # they share a row's rounds: two processes differ by more than rounds of one, as the page tells
PATIENCE = 300  # seconds that all rows together wait for a quiet machine


def machine() -> dict:
    """Versions, processor and threads; no name of the machine."""
    lines = products.processor().splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")] or lines[:1]
    versions = {}
    for package in PEERS:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {"versions": versions, "processor": names[0] if names else "unknown", "cores": os.cpu_count(),
            "threads": torch.get_num_threads(), "python": platform.python_version(),
            "products": "oneDNN" if products.onednn() else "torch's own"}  # fmt: skip


def mark(*settings) -> str:
    """Changes with the code and the settings: measurements of two are never mixed. The page's words do not count."""
    digest = hashlib.sha256(repr(settings).encode())
    for path in sorted([*(ROOT / "lowrank_edu").rglob("*.py"), *Path(__file__).parent.glob("*.py")]):
        digest.update(path.read_bytes() if path.name != "report_page.py" else b"")
    return digest.hexdigest()[:16]


def fresh(work, *args):
    """What `work` returns in a process of its own, whose memory and threads no earlier row has left in a state."""
    threads = torch.get_num_threads()
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=with_threads, initargs=(threads,)) as pool:
        return pool.submit(work, *args).result()


def with_threads(number: int) -> None:
    if torch.get_num_threads() != number:
        raise RuntimeError(f"{torch.get_num_threads()} threads in the new process, {number} in the old: see THREADS.")


def here(work, *args):
    """The same in this process: quicker, where times do not count."""
    return work(*args)


def raced(make, size, *how) -> dict:
    return rounds_of(make(size), *how)


def rounds_of(row: kinds.Row, pairs: int, processes: int, wait: float, least: float) -> dict:
    """This process's share of the row's rounds, as plain data."""
    apart = kinds.apart(row.same)  # before racing, which trains some of them
    works = {name: work for name, work in row.works.items() if not isinstance(work, kinds.NotRun)}
    share = math.ceil(min(pairs, row.rounds or pairs) / processes)
    found = timing.race(works, share, wait=wait, least=least, more=timing.MORE / processes)
    absent = {name: work.why for name, work in row.works.items() if name not in works}
    return {"row": row.title, "note": row.note, "why": row.why, "facts": row.facts, "apart": apart,
            "wanted": row.ratios, "absent": absent, **found}  # fmt: skip


def joined(parts: list[dict]) -> dict:
    """A row of the table, from the rounds of all its processes."""
    first, apiece = parts[0], [part["seconds"] for part in parts]

    def middle(what):
        return {n: statistics.median([value for part in parts for value in part[what][n]]) for n in first[what]}

    return {
        **{key: first[key] for key in ("row", "note", "why", "facts")},
        "rounds": sum(part["rounds"] for part in parts), "dropped": sum(part["dropped"] for part in parts),
        "quiet": all(part["quiet"] for part in parts),
        "apart": {name: max(part["apart"][name] for part in parts) for name in first["apart"]},
        "milliseconds": {name: 1000 * seconds for name, seconds in middle("seconds").items()},
        "fetched": middle("fetched"),
        "ratios": [compared(first["absent"], apiece, *wanted) for wanted in first["wanted"]],
    }  # fmt: skip


def compared(absent: dict, parts: list[dict], label: str, one: str, other: str, target: float | None) -> dict:
    """One ratio over all rounds; `processes` holds the median of each process."""
    why = [absent[name] for name in (one, other) if name in absent]
    if why:
        return {"of": label, "not run": why[0], "target": target}
    found = [timing.ratios(seconds, one, other) for seconds in parts]
    low, middle, high = timing.quartiles([ratio for ratios in found for ratio in ratios])
    return {"of": label, "low": low, "median": middle, "high": high, "target": target,
            "processes": [statistics.median(ratios) for ratios in found]}  # fmt: skip


def kept(size) -> dict:
    """Bytes that the forward pass keeps: exact, on every machine the same."""
    base, ids = models.gpt2(size), models.tokens(size)
    found = {
        "PEFT": growth.kept_bytes(models.theirs(size, base), models.stock_loss, ids),
        "bound, stock": growth.kept_bytes(models.bound(base), models.stock_loss, ids),
        "ours, plain": growth.kept_bytes(models.ours(size, base, fast=False), models.our_loss, ids),
        "ours": growth.kept_bytes(models.ours(size, base), models.our_loss, ids),
        "bound, fast": growth.kept_bytes(models.bound(base, fast=True), models.our_loss, ids),
    }
    return {"bytes": found, "ours / PEFT": found["ours"] / found["PEFT"], "target": 0.31,
            "ours / bound, fast": found["ours"] / found["bound, fast"], "target of the bound": 1.02}  # fmt: skip


def without_places(problem: Exception) -> str:
    """An error in one line of a table: its kind and first line, no folder of this machine."""
    first = (str(problem).strip().splitlines() or [""])[0].replace("|", "/").replace("`", "'")
    return f"{type(problem).__name__}: {PLACE.sub('…', first)[:160]}"


def guarded(title: str, work) -> dict | list:
    """What `work` returns, or {"row", "failed"}. A stop by the user is no failure."""
    try:
        return work()
    except Exception as problem:
        return {"row": title, "failed": without_places(problem)}
    finally:
        gc.collect()


def told(part) -> str:
    if isinstance(part, dict) and "failed" in part:
        return f"failed: {part['failed']}"
    found = part.get("ratios", ()) if isinstance(part, dict) else ()
    return ", ".join(f"{r['of']} {r['median']:.4g}" if "median" in r else f"{r['of']} not run" for r in found) or "done"


def save(report: dict, out: Path) -> None:
    """Both files, whole or not at all."""
    out.mkdir(parents=True, exist_ok=True)
    for name, text in (("benchmark.json", json.dumps(report, indent=1) + "\n"), ("benchmark.md", markdown(report))):
        part = out / f"{name}.part"
        part.write_text(text, "utf-8")
        part.replace(out / name)


def begun(asked, settings: dict) -> dict:
    """The report that is to be continued, or an empty one."""
    path = asked.out / "benchmark.json"
    if asked.resume and path.exists():
        before = json.loads(path.read_text("utf-8"))
        if before.get("mark") == settings["mark"]:
            return before
        print("code or machine have changed since: measuring anew", file=sys.stderr)
    return {**settings, "date": time.strftime("%Y-%m-%d"), "seed": 0, "seconds": 0.0, "rows": {}}


def run(report: dict, asked) -> None:
    """Fill the report part by part, and save after each."""
    size, pairs, least = (models.SMOKE, 1, 0) if asked.smoke else (models.FULL, asked.pairs, 0.2)
    patience, place_of, processes = (0.0, here, 1) if asked.smoke else (PATIENCE, fresh, PROCESSES)

    def one(make):
        nonlocal patience
        began = time.monotonic()
        quiet = timing.wait_until_quiet(min(asked.wait, patience)) if patience else True
        patience = max(0.0, patience - (time.monotonic() - began - 2))
        how = (pairs, processes, 0 if asked.smoke else 1, least)
        found = joined([place_of(raced, make, size, *how) for _ in range(processes)])
        return {**found, "quiet": found["quiet"] and (quiet or found["dropped"] == 0)}

    parts = {"kept": lambda: kept(size)}
    parts |= {make.__name__: lambda make=make: one(make) for make in rows.ROWS}
    parts |= {"growth": lambda: place_of(growth.series, size, asked.smoke),
              "methods": lambda: place_of(methods.table, size, 1 if asked.smoke else 5),
              "book": lambda: the_book.book_times(asked.smoke)}  # fmt: skip
    names = {make.__name__ for make in rows.ROWS}
    for name, work in parts.items():
        place = report["rows"] if name in names else report
        again = name in (asked.only or ()) or (name in place and "failed" in place[name])
        if (asked.only and name not in asked.only) or (name in place and not again):
            continue
        began = time.monotonic()
        place[name] = guarded(name.replace("_", " "), work)
        report["seconds"] += time.monotonic() - began
        save(report, asked.out)
        print(f"{name}, {time.monotonic() - began:.0f} s: {told(place[name])}", file=sys.stderr, flush=True)


def elsewhere(report: dict) -> dict | None:
    """What was published last of another processor: {"machine", "date", "medians": {row: {ratio: median}}}."""
    if not (shipped.ASSETS / "results" / "benchmark.json").exists():
        return None
    before = shipped.results("benchmark")
    if before["machine"]["processor"] == report["machine"]["processor"]:
        return before.get("elsewhere")
    medians = {row["row"]: {r["of"]: r["median"] for r in row.get("ratios", ()) if "median" in r}
               for row in before["rows"].values()}  # fmt: skip
    return {"machine": before["machine"], "date": before["date"], "medians": medians}


def publish(report: dict, page: Path = PAGE) -> None:
    """Make the report a result of the book and its page; whoever measured it commits both."""
    records.save("benchmark", {**report, "elsewhere": elsewhere(report)})
    page.write_text(markdown(shipped.results("benchmark")), "utf-8")


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, one round: does all of it run?")
    parser.add_argument("--pairs", type=int, default=7, help="rounds of each row")
    parser.add_argument("--wait", type=float, default=60, help="seconds to wait for a quiet machine before each row")
    parser.add_argument("--only", nargs="*", help="parts, by the names of their functions; with --resume once more")
    parser.add_argument("--resume", action="store_true", help="go on with build/benchmark.json; failed rows once more")
    parser.add_argument("--publish", action="store_true", help="also write the book's page and its committed data")
    parser.add_argument("--out", type=Path, default=Path("build"))
    asked = parser.parse_args(words)
    if asked.publish and asked.smoke:
        parser.error("--publish --smoke: times in a tiny size mean nothing. Leave one of them out.")
    if asked.publish and asked.only and not asked.resume:
        parser.error("--publish --only: a page has all rows. Add --resume, which keeps what is measured already.")
    about = machine()
    report = begun(asked, {"mark": mark(asked.smoke, asked.pairs, about), "smoke": asked.smoke,
                           "processes": 0 if asked.smoke else PROCESSES, "machine": about})
    run(report, asked)
    if asked.publish:
        publish(report)
    print(markdown(report))


if __name__ == "__main__":
    main()
