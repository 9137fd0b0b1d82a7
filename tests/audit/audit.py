"""`make audit`: what accessibility and speed checkers say about every page of the rendered book.

    python tests/audit/audit.py             all pages
    python tests/audit/audit.py ch08        only those whose address contains "ch08"

For each page, served compressed as a web host would: axe in light and dark (no violation), Lighthouse with its phone
profile (performance ≥ 95, accessibility 100, best practices ≥ 95, SEO ≥ 95), bytes transferred (< 1 MB), and the
longest time that a control of a figure takes to redraw at a quarter of this processor's speed (≤ 16 ms). Performance
depends on the machine and on what else it does: the middle of three runs counts. Exit code 1 if a limit is broken.
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
from browser import candidates, open_browser, settle, sync_playwright, watched  # noqa: E402

HTML, NODE = ROOT / "_build" / "html", ROOT / "build" / "audit" / "node_modules"
LIMITS = {"performance": 95, "accessibility": 100, "best-practices": 95, "seo": 95}
BYTES, FRAME, SLOWER = 1_000_000, 16.0, 4
FLAGS = "--headless --no-sandbox --disable-gpu --disable-background-networking"
ROUNDS = 9
REDRAW = """async rounds => {
  const frame = () => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
  let worst = [0, "no figure"];
  for (const first of document.querySelectorAll("figure.lo-fig [data-control]")) {
    const fig = first.closest("figure"), radio = first.type === "radio", times = [];
    fig.scrollIntoView();  // what is out of sight is not laid out
    await frame();
    const group = radio ? [...fig.querySelectorAll(`[type=radio][data-control="${first.dataset.control}"]`)] : [first];
    for (let round = 0; round <= rounds; round++) {
      const control = group[round % group.length];
      if (control.type === "range") control.value = round % 2 ? control.min : control.max;
      if (control.options) control.selectedIndex = round % control.options.length;
      if (control.type === "checkbox") control.checked = round % 2;
      if (radio) control.checked = true;
      const begin = performance.now();
      control.dispatchEvent(new Event(control.type === "button" ? "click" : "input", {bubbles: true}));
      document.body.getBoundingClientRect();  // the layout that follows belongs to the frame
      if (round) times.push(performance.now() - begin);  // the first one compiles
    }
    const middle = times.sort((a, b) => a - b)[rounds >> 1];
    if (middle > worst[0]) worst = [middle, `${fig.id} ${first.dataset.control}`];
  }
  return worst;
}"""


def axe(browser, home, page) -> list[str]:
    """Violations of a page, light and dark."""
    script, found = (NODE / "axe-core" / "axe.min.js").read_text("utf-8"), []
    for scheme in ("light", "dark"):
        with watched(browser, home, color_scheme=scheme) as (tab, _):
            tab.goto(home + page)
            settle(tab)
            tab.evaluate(script)
            result = tab.evaluate("axe.run({resultTypes: ['violations']})")
            for v in result["violations"]:
                found.append(f"{scheme}: {v['id']} ({len(v['nodes'])}) {v['nodes'][0]['html'][:90]}")
    return found


def redraw(browser, home, page) -> tuple[float, str]:
    """(milliseconds, name) of the slowest control, at a quarter of the processor's speed: from its event to the end of
    the layout that follows, the middle of ROUNDS turns, because one turn may meet a garbage collection."""
    with watched(browser, home) as (tab, _):
        tab.goto(home + page)
        settle(tab)
        tab.context.new_cdp_session(tab).send("Emulation.setCPUThrottlingRate", {"rate": SLOWER})
        return tuple(tab.evaluate(REDRAW, ROUNDS))


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
    pages = [str(path.relative_to(HTML)) for path in sorted(HTML.rglob("*.html")) if "_static" not in path.parts]
    pages = [page for page in pages if not words or any(word in page for word in words)]
    pages = [page for page in pages if page not in ("index.html", "404.html")]  # one only leads on, one is not listed
    with sync_playwright() as playwright:
        chrome = next(candidates(playwright))
    found, broken = serve.server(HTML), []
    threading.Thread(target=found.serve_forever, daemon=True).start()
    home, rows = f"http://127.0.0.1:{found.server_port}/", {}
    print(f"{'page':<32}{'perf':>5}{'a11y':>5}{'best':>5}{'seo':>5}{'kB':>6}{'redraw':>8}  axe  slowest control")
    with open_browser() as browser:
        for page in pages:
            violations, (slowest, control) = axe(browser, home, page), redraw(browser, home, page)
            scores, size = lighthouse(chrome, home, page)
            rows[page] = {**scores, "kB": size / 1000, "redraw": slowest}
            told = "".join(f"{score:>5}" for score in scores.values())
            print(f"{page:<32}{told}{size / 1000:>6.0f}{slowest:>6.1f} ms  {len(violations)}  {control}", *violations, sep="\n  ")
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
