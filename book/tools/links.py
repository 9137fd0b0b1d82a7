"""`make links`: every address outside the book that its pages link to, and from where. Nothing is fetched.

    python book/tools/links.py        one line an address: the address, then the pages
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from html import unescape
from pathlib import Path

HTML = Path(__file__).resolve().parents[2] / "_build" / "html"


def outside(folder: Path = HTML) -> dict[str, list[str]]:
    """{address: pages that link to it} of a rendered book. FileNotFoundError when there is none."""
    if not (folder / "index.html").exists():
        raise FileNotFoundError(f"{folder} holds no rendered book: run `make book` first.")
    found = defaultdict(list)
    for path in sorted(folder.rglob("*.html")):
        if "_static" not in path.parts:
            for link in set(re.findall(r'<a\b[^>]*\shref="(\w+://[^"]*)"', path.read_text("utf-8"))):
                found[unescape(link)].append(str(path.relative_to(folder)))
    return dict(sorted(found.items()))


if __name__ == "__main__":
    try:
        for link, pages in outside().items():
            print(link, *pages if len(pages) < 4 else [*pages[:3], f"and {len(pages) - 3} more"], sep="  ")
    except FileNotFoundError as problem:
        sys.exit(str(problem))
