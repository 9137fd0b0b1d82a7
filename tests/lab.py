"""A real JupyterLab for the tests: its own settings, a free port, ended in every case.

    with running_lab(folder) as lab, open_browser() as browser, opened(browser, lab, "a.ipynb") as page: ...
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from browser import watched
from playwright.sync_api import Page

ROOT = Path(__file__).resolve().parents[1]
START, STEP = 180, 120  # seconds for the server to start; for anything that a page is waited for
OUR_SETTINGS = {
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},  # every cell is in the page, seen or not
}


@dataclass(frozen=True)
class Lab:
    home: str  # "http://127.0.0.1:PORT/"
    token: str
    work: Path  # the folder that it serves


@contextmanager
def running_lab(folder: Path) -> Iterator[Lab]:
    """JupyterLab that serves `folder`/work. Its settings and records are beside it, so that no other is touched."""
    environment = _environment(folder)
    token, runtime, log = secrets.token_hex(16), folder / "runtime", folder / "server.log"
    for name, setting in OUR_SETTINGS.items():
        file = folder / "settings" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(setting), "utf-8")
    command = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--expose-app-in-browser"),
        *("--ip=127.0.0.1", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder / 'work'}"),
        *("--LabApp.extension_manager=readonly", "--ServerApp.port=8888", "--ServerApp.port_retries=100"),
    ]
    with log.open("wb") as said:
        server = subprocess.Popen(
            command, env=environment, cwd=folder, stdout=said, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
        )
        try:
            yield Lab(_address(server, runtime, log), token, folder / "work")
        finally:
            _end(server)


def _environment(folder: Path) -> dict[str, str]:
    """A learner's environment: nothing of this machine's Jupyter, and not the setting of the book's own tools."""
    kept = {k: v for k, v in os.environ.items() if k not in ("LOWRANK_PAGE", "LOWRANK_PROGRESS")}
    places = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "IPYTHONDIR": "ipython",
    }
    for name in (*places.values(), "work"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    ours = {"PYTHONPATH": path, "JUPYTER_NO_CONFIG": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return kept | ours | {name: str(folder / place) for name, place in places.items()}


def _address(server: subprocess.Popen, runtime: Path, log: Path) -> str:
    """Where the server listens, from the record that it writes once it does."""
    late = time.monotonic() + START
    while time.monotonic() < late and server.poll() is None:
        for record in runtime.glob("jpserver-*.json"):
            try:
                return f"http://127.0.0.1:{json.loads(record.read_text('utf-8'))['port']}/"
            except (ValueError, KeyError):
                pass  # being written
        time.sleep(0.1)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text('utf-8', 'replace')[-3000:]}")


def _end(server: subprocess.Popen) -> None:
    """Ask the server to stop, which stops its kernels; then end what is left of them, and nothing else."""
    try:
        processes = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        processes = []
    if server.poll() is None:
        server.terminate()
    _, left = psutil.wait_procs(processes, timeout=30)
    for process in left:
        process.kill()
    server.wait()


@contextmanager
def opened(browser, lab: Lab, notebook: str) -> Iterator[Page]:
    """A page with the notebook open and its kernel idle; no other host is reached."""
    with watched(browser, lab.home, viewport={"width": 1200, "height": 1000}) as (page, watch):
        page.set_default_timeout(STEP * 1000)
        page.goto(f"{lab.home}lab/tree/{notebook}?token={lab.token}&reset", wait_until="domcontentloaded")
        page.locator(".jp-NotebookPanel-notebook .jp-CodeCell").first.wait_for()
        page.wait_for_function(
            "() => window.jupyterapp?.shell.currentWidget?.context?.sessionContext?.session?.kernel?.status === 'idle'"
        )
        yield page
        assert watch.foreign == []


def run_all(page: Page) -> None:
    """Run all cells. When the last has run, this goes on; outputs may still be drawn after that."""
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")


def trust(page: Page) -> None:
    """Trust the notebook, as from the command palette; its outputs are drawn again."""
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:trust'); }")
    page.locator(".jp-Dialog .jp-mod-accept").click()


def run_cell(page: Page, cell: int) -> None:
    """Ask for this code cell to be run, without waiting for it."""
    page.evaluate(
        """cell => {
            window.jupyterapp.shell.currentWidget.content.activeCellIndex = cell;
            window.jupyterapp.commands.execute('notebook:run-cell');
        }""",
        cell,
    )


def output(page: Page, cell: int):
    """The outputs of the code cell at this place, counted from 0."""
    return page.locator(".jp-CodeCell").nth(cell).locator(".jp-OutputArea-output")
