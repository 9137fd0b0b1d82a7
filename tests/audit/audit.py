"""`make audit`: what accessibility and speed checkers say about every page of the rendered book.

    python tests/audit/audit.py             all pages
    python tests/audit/audit.py ch08        only those whose address contains "ch08"
    python tests/audit/audit.py --redraw    only how fast figures redraw

For each page, served compressed as a web host would: axe in light and dark and on a phone (no violation), Lighthouse
with its phone profile (performance ≥ 95, accessibility 100, best practices ≥ 95, SEO ≥ 95), bytes transferred
(< 1 MB), and the time that the slowest control of its figures takes to redraw at a quarter of this processor's speed
(≤ 16 ms, and which control it is). Both depend on the machine and on what else it does: the middle of several runs
counts. Exit code 1 if a limit is broken.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "book" / "tools")]

import serve  # noqa: E402
from browser import candidates, open_browser, read_through, settle, sync_playwright, watched  # noqa: E402

HTML, NODE = ROOT / "_build" / "html", ROOT / "build" / "audit" / "node_modules"
LIMITS = {"performance": 95, "accessibility": 100, "best-practices": 95, "seo": 95}
BYTES, FRAME, SLOWER = 1_000_000, 16.0, 4
FLAGS = "--headless --no-sandbox --disable-gpu --disable-background-networking"
REDRAW, ROUNDS = (Path(__file__).parent / "redraw.js").read_text("utf-8"), 9


def axe(browser, home, page) -> list[str]:
    """Violations of a page, light and dark, and on a phone; room around what is pressed counts too."""
    script, found = (NODE / "axe-core" / "axe.min.js").read_text("utf-8"), []
    for scheme, width in (("light", 1280), ("dark", 1280), ("light", 412)):
        with watched(browser, home, color_scheme=scheme, viewport={"width": width, "height": 823}) as (tab, _):
            tab.goto(home + page)
            settle(tab)
            read_through(tab)
            tab.evaluate(script)
            result = tab.evaluate("axe.run({resultTypes: ['violations'], rules: {'target-size': {enabled: true}}})")
            for v in result["violations"]:
                found.append(f"{scheme}, {width} px: {v['id']} ({len(v['nodes'])}) {v['nodes'][0]['html'][:90]}")
    return found


def redraw(browser, home, page) -> tuple[float, str]:
    """(milliseconds, what) of the slowest control of a page, at a quarter of the processor's speed.

    Every value of every control (of a slider both ends and the middle) is set in turn, ROUNDS times after a round
    that compiles, in the state the figure opens in. Measured is the script with the style and layout that follow,
    not the painting. The median of the rounds counts for each value, so that neither a garbage collection nor a
    neighbour on the machine decides; then the slowest value of the slowest control. A page without figures has 0.
    """
    with watched(browser, home, at_once=False) as (tab, _):
        tab.goto(home + page)
        settle(tab)
        tab.context.new_cdp_session(tab).send("Emulation.setCPUThrottlingRate", {"rate": SLOWER})
        found = tab.evaluate(REDRAW, ROUNDS)
    if not found:
        return 0.0, ""
    return found[0]["ms"], "{figure}: {control} = {value}".format(**found[0])


def redraws(browser, home, pages) -> int:
    """`--redraw`: only how fast figures redraw, which needs no Node."""
    slow = 0
    for page in pages:
        took, what = redraw(browser, home, page)
        slow += took > FRAME
        print(f"{page:<32}{took:>6.1f} ms  {what}{'  over a frame' * (took > FRAME)}", flush=True)
    return bool(slow)


def lighthouse(chrome, home, page, runs=3) -> tuple[dict[str, int], int]:
    """(scores in percent, bytes transferred): the median of some runs."""
    command = [str(NODE / ".bin" / "lighthouse"), home + page, "--quiet", "--output=json", f"--chrome-flags={FLAGS}"]
    reports = []
    for _ in range(runs):
        done = subprocess.run(command, env={**os.environ, "CHROME_PATH": chrome}, capture_output=True, timeout=180)
        reports.append(json.loads(done.stdout))
        if reports[-1]["categories"]["performance"]["score"] >= LIMITS["performance"] / 100:
            break
    scores = {name: round(100 * statistics.median(r["categories"][name]["score"] for r in reports)) for name in LIMITS}
    return scores, int(reports[-1]["audits"]["total-byte-weight"]["numericValue"])


def main(words: list[str]) -> int:
    only_redraw, words = "--redraw" in words, [word for word in words if word != "--redraw"]
    pages = [str(path.relative_to(HTML)) for path in sorted(HTML.rglob("*.html")) if "_static" not in path.parts]
    pages = [page for page in pages if not words or any(word in page for word in words)]
    pages = [page for page in pages if page not in ("index.html", "404.html")]  # one only leads on, one is not listed
    found, broken, rows = serve.server(HTML), [], {}
    threading.Thread(target=found.serve_forever, daemon=True).start()
    home = f"http://127.0.0.1:{found.server_port}/"
    if only_redraw:
        with open_browser() as browser:
            return redraws(browser, home, pages)
    with sync_playwright() as playwright:
        chrome = next(candidates(playwright))
    print(f"{'page':<32}{'perf':>5}{'a11y':>5}{'best':>5}{'seo':>5}{'kB':>6}{'redraw':>8}  axe")
    with open_browser() as browser:
        for page in pages:
            violations, (slowest, what) = axe(browser, home, page), redraw(browser, home, page)
            scores, size = lighthouse(chrome, home, page)
            rows[page] = {**scores, "kB": size / 1000, "redraw": slowest}
            told = "".join(f"{score:>5}" for score in scores.values())
            line = f"{page:<32}{told}{size / 1000:>6.0f}{slowest:>6.1f} ms  {len(violations)}"
            print(line, *([f"slowest to redraw: {what}"] if what else []), *violations, sep="\n  ")
            over = [name for name, score in scores.items() if score < LIMITS[name]]
            over += ["bytes"] * (size >= BYTES) + ["redraw"] * (slowest > FRAME) + ["axe"] * bool(violations)
            broken += [f"{page}: {', '.join(over)}"] * bool(over)
    for what, worst in (("performance", min), ("kB", max), ("redraw", max)):
        page = worst(rows, key=lambda p: rows[p][what])
        print(f"worst {what}: {rows[page][what]:.1f}, {page}")
    print(*(f"over a limit: {line}" for line in broken), sep="\n")
    return bool(broken)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
