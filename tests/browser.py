"""A real browser for the tests, wherever they run, and a book served to it with every other host blocked.

    python tests/browser.py        find or install a browser and say which

Looked for in this order: the program named by LOWRANK_BROWSER, an installed Chromium, Chrome or Edge, the one
that Playwright has downloaded, then Playwright's download, then Debian's package when we may install it. With
none of them the tests fail and say so; they do not skip.
"""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Browser, Error, Page, sync_playwright

INSTALLED = (
    *("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge"),
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    r"C:\Program Files\Google\Chrome\Application\chrome.exe",
)
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--force-color-profile=srgb"]
NONE = (
    "No browser could be found or installed, so the pages are not tested. Install Chromium or Chrome, or run "
    "`.venv/bin/python -m playwright install --with-deps chromium`, or set LOWRANK_BROWSER to one's path."
)


class NoBrowser(RuntimeError):
    """There is no browser on this machine and none could be had."""


def candidates(playwright) -> Iterator[str]:
    """Programs that may be a browser, the cheapest to get first; the later ones install something."""
    for name in (os.environ.get("LOWRANK_BROWSER", ""), *INSTALLED):
        path = shutil.which(name) if name else None
        if path:
            yield path
    own = playwright.chromium.executable_path
    if Path(own).exists():
        yield own
    if attempt([sys.executable, "-m", "playwright", "install", "chromium"]) and Path(own).exists():
        yield own
    if hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("apt-get"):
        attempt(["apt-get", "update", "-qq"])
        attempt(["apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium"])
        for name in ("chromium", "chromium-browser"):
            if shutil.which(name):
                yield shutil.which(name)


def attempt(command: list[str]) -> bool:
    print(f"no browser yet: trying {' '.join(command)}", flush=True)
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            command, env=quiet, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300
        )
    except (OSError, subprocess.TimeoutExpired) as problem:
        print(f"  {type(problem).__name__}", flush=True)
        return False
    if done.returncode:
        print("  it did not work:", (done.stderr or done.stdout).strip().splitlines()[-1:], flush=True)
    return done.returncode == 0


def launch(playwright) -> Browser:
    """The first candidate that starts; NoBrowser with what to do when none does."""
    for path in candidates(playwright):
        try:
            return playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        except Error as problem:
            print(f"{path} does not start: {str(problem).splitlines()[0]}", flush=True)
    raise NoBrowser(NONE)


@contextmanager
def open_browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = launch(playwright)
        try:
            yield browser
        finally:
            browser.close()


# ---- a served book


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address at which `folder` is served on this machine."""
    with _running(functools.partial(_Quiet, directory=str(folder))) as address:
        yield address


@contextmanager
def _running(handler) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def answering(folder: Path, under: str = "") -> Iterator[str]:
    """Like `served`, as a web host does it: under a path ("name/"), and 404.html for what is not there."""

    class Host(_Quiet):
        def translate_path(self, path):
            below = path.removeprefix(f"/{under}")
            return super().translate_path(f"/{below}") if below != path or not under else str(folder / "none")

        def send_error(self, code, message=None, explain=None):
            page = (folder / "404.html").read_bytes()
            self.send_response(code)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page if self.command == "GET" else b"")

    with _running(functools.partial(Host, directory=str(folder))) as address:
        yield address


# ---- a watched page


@dataclass
class Watch:
    """What a page did while it was open. Everything here is a defect."""

    foreign: list[str] = field(default_factory=list)  # requests to any other host: they were blocked
    missing: list[str] = field(default_factory=list)  # files of the book that are not there
    errors: list[str] = field(default_factory=list)  # console errors and uncaught exceptions

    def defects(self) -> list[str]:
        return [
            *(f"asked another host: {url}" for url in self.foreign),
            *(f"is missing: {url}" for url in self.missing),
            *(f"console: {text}" for text in self.errors),
        ]


AT_ONCE = """const later = window.requestAnimationFrame.bind(window);
window.requestAnimationFrame = work => work.name === "writeSome" ? (work(), 0) : later(work);"""
"""Figures write all that changes in one go, not a few places a frame, so that a test may look at once."""


@contextmanager
def watched(browser: Browser, home: str, at_once=True, **options) -> Iterator[tuple[Page, Watch]]:
    """A new page that reaches nothing but `home`, and the record of what it tried. at_once: see `AT_ONCE`.

    `options` are Playwright's for a new context, such as color_scheme="dark" or viewport={...}.
    """
    watch = Watch()
    context = browser.new_context(**options)
    if at_once:
        context.add_init_script(AT_ONCE)

    def only_home(route):
        url = route.request.url
        if url.startswith((home, "data:", "blob:", "about:")):
            return route.continue_()
        watch.foreign.append(url)
        return route.abort()

    context.route("**/*", only_home)
    page = context.new_page()
    page.on("console", lambda said: watch.errors.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: watch.errors.append(f"uncaught {error}"))
    page.on("response", lambda got: watch.missing.append(got.url) if got.status >= 400 else None)
    try:
        yield page, watch
    finally:
        context.close()


def settle(page: Page) -> None:
    """Wait until scripts have run and fonts are there."""
    page.wait_for_load_state("load")
    page.evaluate("document.fonts.ready.then(() => null)")


def read_through(page: Page) -> None:
    """Scroll to the end and back, as a reader does: what is far below is laid out when it comes near."""
    page.evaluate("""async () => {
        for (let y = 0; y < document.documentElement.scrollHeight; y += innerHeight) {
            scrollTo(0, y);
            await new Promise(requestAnimationFrame);
        }
        scrollTo(0, 0);
    }""")


if __name__ == "__main__":
    with open_browser() as found:
        print(f"the browser is {found.browser_type.name} {found.version}")
