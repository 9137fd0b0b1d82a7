"""Times that mean something on a shared machine: in turns, on a quiet machine, with disturbed rounds left out.

A round times every contender once, in an order that rotates. What counts is the ratio of two contenders within a round,
because a processor that slows down then slows both; reported are the median of the ratios and their middle half.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

try:
    import resource
except ImportError:  # on Windows
    resource = None

QUIET = 0.1  # cores that other processes may use
MORE = 40  # seconds within which short rounds go on, up to three times as many
REST = 0.15  # seconds before each contender: OpenBLAS's idle threads keep a core busy for 0.1 after their last work
STAT = Path("/proc/stat")


class Others:
    """How many cores other processes have used since this was made; 0.0 where the system does not say."""

    def __init__(self):
        self.busy, self.own, self.began = _busy(), _own(), time.perf_counter()

    def cores(self) -> float:
        if self.busy is None:
            return 0.0
        wall = max(time.perf_counter() - self.began, 1e-6)
        return max(0.0, (_busy() - self.busy - (_own() - self.own)) / wall)


def _busy() -> float | None:
    """Processor seconds of the whole machine, time stolen by its host included."""
    if not STAT.exists():
        return None
    user, nice, system, _, _, irq, softirq, steal = map(int, STAT.read_text().split("\n")[0].split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _own() -> float:
    times = os.times()
    return times.user + times.system


def wait_until_quiet(longest: float) -> bool:
    """Wait, `longest` seconds at most, for two seconds in which others use next to nothing. False: it never was."""
    until = time.monotonic() + longest
    while True:
        others = Others()
        time.sleep(2 if longest else 0)
        if others.cores() <= QUIET:
            return True
        if time.monotonic() >= until:
            return False


def _fetched() -> float:
    """MiB that this process has got from the system until now, page by page; 0 where it is not told."""
    if resource is None:
        return 0.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt * resource.getpagesize() / 2**20


def once(work: Callable[[], object], least: float, rest=0.0) -> tuple[float, float]:
    """Seconds of one call, and MiB that it got from the system. `rest` seconds before it nothing is done, for threads
    of the contender before to fall asleep. Short work is called once more, for the caches to hold what is its own and
    not what another left there, and then often enough to fill `least` seconds."""
    time.sleep(rest)
    before, began = _fetched(), time.perf_counter()
    work()
    first = time.perf_counter() - began
    if first >= least:
        return first, _fetched() - before
    before, began, calls = _fetched(), time.perf_counter(), 0
    while calls == 0 or time.perf_counter() - began < least:
        work()
        calls += 1
    return (time.perf_counter() - began) / calls, (_fetched() - before) / calls


def race(works: dict[str, Callable[[], object]], rounds: int, *, wait=0.0, least=0.2, more=MORE) -> dict:
    """{"seconds", "fetched": {name: [one number per round]}, "rounds", "dropped", "quiet"} of contenders in turns.

    Where there is time to wait for a quiet machine, contenders rest before their turn, and short rounds go on for
    `more` seconds: short work is restless.
    A round during which others used more than QUIET cores is dropped and taken again, three times as many rounds at
    most; when too few remain, all are kept and "quiet" is False.
    """
    quiet = wait_until_quiet(wait)
    for work in works.values():
        work()
    names, kept, disturbed, until = list(works), [], [], time.monotonic() + (more if wait else 0)
    for number in range(3 * rounds):
        others, order = Others(), names[number % len(names) :] + names[: number % len(names)]
        row = {name: once(works[name], least, REST if wait else 0) for name in order}
        (kept if others.cores() <= QUIET else disturbed).append(row)
        if len(kept if wait else kept + disturbed) >= rounds and time.monotonic() >= until:
            break
    if len(kept) < rounds:
        kept, disturbed, quiet = (kept + disturbed)[-rounds:], [], False
    seconds, fetched = ({name: [row[name][i] for row in kept] for name in names} for i in (0, 1))
    return {"seconds": seconds, "fetched": fetched, "rounds": len(kept), "dropped": len(disturbed), "quiet": quiet}


def ratios(seconds: dict[str, list[float]], one: str, other: str) -> list[float]:
    """one / other within each round."""
    return [a / b for a, b in zip(seconds[one], seconds[other], strict=True)]


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """(lower quartile, median, upper quartile); of one value, three times that value."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high
