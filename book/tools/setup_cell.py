"""The first cell of every chapter, and every other committed line that holds the repository's address.

`make address` writes them, from `_config.yml`. Without an address no cell installs from anywhere but beside it, and the
README has no badge and no link to a repository.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import address
from address import Address

ROOT = Path(__file__).resolve().parents[2]

# The package is installed, or one folder up, or in a file beside the notebook, or at its address: in this order.
SETUP = """\
#@title Setup { display-mode: "form" }
import glob, importlib.util, subprocess, sys
sys.path += [".."] if glob.glob("../lowrank_edu/colab.py") else []
if not importlib.util.find_spec("lowrank_edu"):
    names = "lowrank?edu*.[wz]*", "/kaggle/input/**/lowrank?edu*.[wz]*"
    found = [f for n in names for f in glob.glob(n, recursive=True)]
    print("Setup: installing the package from", *found[:1] or ["nowhere"])
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps"]
    if not found or subprocess.call([*pip, "--retries=0", found[0]]):
        sys.exit("Setup stopped: put lowrank-edu.zip beside this notebook")
import lowrank_edu as lo; lo.setup(); from lowrank_edu import figures"""
FETCH = '    found += ["{archive}"]\n'


def setup_cell(where: Address | None) -> str:
    """The source of a chapter's first code cell."""
    before, after = SETUP.split("    print(")
    return before + (FETCH.format(archive=where.archive) if where else "") + "    print(" + after


def badges(where: Address | None) -> str:
    """The README's first lines: do the tests pass, the first chapter on Colab, the rendered book."""
    if where is None:
        return ""
    tests = f"{where.url}/actions/workflows/test.yml"
    lines = [f"[![tests]({tests}/badge.svg?branch={where.branch})]({tests})"]
    if where.on_github:
        badge = "https://colab.research.google.com/assets/colab-badge.svg"
        lines[0] += f"\n[![open in Colab]({badge})]({where.colab('chapters/ch01_rank.ipynb')})"
        lines += [f"**Read the book: <{where.home}>**"]
    return "\n\n".join(lines) + "\n\n"


def contact(where: Address | None) -> str:
    """Where to ask, and where the source is."""
    if where is None:
        return "Something is wrong or unclear? Tell the people from whom you have this copy.\n"
    return (
        f"Something is wrong or unclear? [Tell us]({where.url}/issues), or take a copy of "
        f"[the repository]({where.url}) ([as a zip]({where.archive})) and improve it.\n"
    )


PARTS = {"badges": badges, "contact": contact}


def rewrite_readme(text: str, where: Address | None) -> str:
    """`text` with each of `PARTS` written anew between its two marks."""
    for name, part in PARTS.items():
        marked = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
        text = re.sub(marked, lambda mark, part=part: f"{mark[1]}{part(where)}{mark[2]}", text, flags=re.S)
    return text


def rewrite_citation(text: str, where: Address | None) -> str:
    """CITATION.cff with `repository-code` after the licence, or without it."""
    text = re.sub(r"^repository-code: .*\n", "", text, flags=re.M)
    line = f'repository-code: "{where.url}"\n' if where else ""
    return re.sub(r"^(license: .*\n)", lambda kept: kept[0] + line, text, flags=re.M)


DERIVED = {"README.md": rewrite_readme, "CITATION.cff": rewrite_citation}


def stale_files(write: bool = False) -> list[str]:
    """Files whose address is not that of `_config.yml`; with `write` they are corrected."""
    stale = []
    for name, rewrite in DERIVED.items():
        path = ROOT / name
        text = path.read_text("utf-8")
        wanted = rewrite(text, address.written())
        if wanted != text:
            stale.append(name)
            if write:
                path.write_text(wanted, "utf-8")
    return stale


def main(argv: list[str] | None = None) -> int:
    """`make address`: put the address into `_config.yml`; the tools that read it do the rest."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("url", nargs="?", help="https://github.com/owner/name, or none; without it that of the remote")
    options = parser.parse_args(argv)
    if options.url == "none":
        chosen = None
    elif options.url:
        chosen = address.checked(options.url)
    elif (chosen := address.found()) is None:
        print("No address: the remote origin is no https address. Say which: make address url=https://github.com/…")
    address.write(chosen)
    print(f"the repository's address: {chosen.url if chosen else 'none'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
