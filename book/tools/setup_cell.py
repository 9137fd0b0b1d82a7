"""The first cell of every chapter, and every other line that holds the repository's address.

One line of `_config.yml` says where the book lives; this module derives the rest. `make address` writes it.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

import yaml

ROOT = Path(__file__).resolve().parents[2]

SETUP = """\
# The only setup. At home it imports the book's package; on Colab it fetches it first.
import glob, importlib.util, os, subprocess, sys
if not importlib.util.find_spec("lowrank_edu"):
    found = [os.environ.get("LOWRANK_EDU_SOURCE"), *glob.glob("lowrank-edu*.zip"), "git+{url}@{branch}"]
    source = next(filter(None, found))
    os.environ["GIT_TERMINAL_PROMPT"] = "0"
    if subprocess.call([sys.executable, "-m", "pip", "install", "-qqq", "--no-deps", source]):
        sys.exit(f"Could not fetch {{source}}. Private or moved? Upload lowrank-edu.zip, then run again.")
    import lowrank_edu.colab
    lowrank_edu.colab.complete()  # what the chapters need and Colab lacks, in versions that fit
import lowrank_edu as lo
from lowrank_edu import figures"""


def address(config: Path = ROOT / "_config.yml") -> tuple[str, str]:
    """The repository's (url, branch) as `_config.yml` has them; ValueError when they cannot be used."""
    repository = yaml.safe_load(config.read_text("utf-8")).get("repository") or {}
    url, branch = str(repository.get("url", "")).rstrip("/"), str(repository.get("branch", "main"))
    parts = urlsplit(url)
    if parts.scheme != "https" or len(parts.path.strip("/").split("/")) < 2:
        raise ValueError(
            f"repository.url in {config.name} is {url!r}; it has to look like https://github.com/owner/name. "
            "Correct that line and run `make address`."
        )
    return url, branch


def setup_cell(url: str, branch: str) -> str:
    """The source of a chapter's first code cell."""
    return SETUP.format(url=url, branch=branch)


def colab_link(url: str, branch: str, path: str) -> str:
    """Where Colab opens a notebook of the repository (Colab reads repositories on GitHub)."""
    owner_and_name = urlsplit(url).path.strip("/")
    return f"https://colab.research.google.com/github/{owner_and_name}/blob/{branch}/{path}"


def link_definitions(url: str, branch: str) -> dict[str, str]:
    """The README's Markdown link definitions, `[label]: target`, that hold the address."""
    return {
        "repository": url,
        "zip": f"{url}/archive/refs/heads/{branch}.zip",
        "issues": f"{url}/issues",
        "tests": f"{url}/actions/workflows/test.yml",
        "tests-badge": f"{url}/actions/workflows/test.yml/badge.svg?branch={branch}",
        "colab": colab_link(url, branch, "chapters/ch01_rank.ipynb"),
    }


def rewrite_readme(text: str, url: str, branch: str) -> str:
    """`text` with every known link definition pointing at the address."""
    for label, target in link_definitions(url, branch).items():
        text = re.sub(rf"^\[{label}\]: \S+$", f"[{label}]: {target}", text, flags=re.M)
    return text


def rewrite_citation(text: str, url: str, branch: str) -> str:
    """CITATION.cff with its `repository-code` pointing at the address."""
    return re.sub(r'^repository-code: ".*"$', f'repository-code: "{url}"', text, flags=re.M)


DERIVED = {"README.md": rewrite_readme, "CITATION.cff": rewrite_citation}


def stale_files(write: bool = False) -> list[str]:
    """Files whose address is not that of `_config.yml`; with `write` they are corrected."""
    stale = []
    for name, rewrite in DERIVED.items():
        path = ROOT / name
        text = path.read_text("utf-8")
        wanted = rewrite(text, *address())
        if wanted != text:
            stale.append(name)
            if write:
                path.write_text(wanted, "utf-8")
    return stale
