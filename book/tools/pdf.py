"""`make pdf`: the rendered book as one PDF, printed by a real browser with the book's own print stylesheet.

    python book/tools/pdf.py               every page, to _build/pdf/low-rank.pdf
    python book/tools/pdf.py ch03 ch05     only pages whose address contains one of these words

Each page is printed with the network off; then the parts are joined, with an outline, page numbers, and links between
pages that lead to the page in the PDF.
"""

from __future__ import annotations

import argparse
import sys
from io import BytesIO
from pathlib import Path
from urllib.parse import unquote, urlsplit

import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests"))

from browser import open_browser, served, settle, watched  # noqa: E402
from pypdf import PdfReader, PdfWriter  # noqa: E402
from pypdf.annotations import Link  # noqa: E402
from pypdf.generic import ArrayObject, Fit, NameObject  # noqa: E402

HTML, OUT = ROOT / "_build" / "html", ROOT / "_build" / "pdf" / "low-rank.pdf"
NUMBER = "<p style='break-after:page;margin:0;padding-top:283mm;text-align:center;font:9pt sans-serif'>{}</p>"


def order(words=()) -> list[str]:
    """The addresses of the book's pages, in the order of its contents."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8"))
    files = [toc["root"], *(page["file"] for part in toc["parts"] for page in part["chapters"])]
    return [f"{f}.html" for f in files if not words or any(word in f for word in words)]


def printed(browser, home: str, address: str) -> tuple[str, bytes]:
    """The title of a page, and its PDF. RuntimeError when the page is not whole."""
    with watched(browser, home, color_scheme="light", reduced_motion="reduce") as (page, watch):
        page.goto(home + address)
        settle(page)
        title = page.locator("h1").first.inner_text()
        pdf = page.pdf(prefer_css_page_size=True, print_background=True)
        if watch.defects():
            raise RuntimeError(f"{address} is not whole: {'; '.join(watch.defects())}. Run `make book` again.")
    return title.replace("#", "").strip(), pdf


def joined(parts: dict[str, tuple[str, bytes]], home: str) -> PdfWriter:
    """One PDF of the parts {address: (title, PDF)}; links from part to part lead inside it."""
    book, first = PdfWriter(), {}
    for address, (title, pdf) in parts.items():
        first[address] = len(book.pages)
        book.append(BytesIO(pdf), outline_item=title)
    for number, page in enumerate(book.pages):
        _lead_inside(book, page, number, first, home)
    for page in book.pages:
        page.compress_content_streams()
    book.compress_identical_objects()
    return book


def _lead_inside(book, page, number, first, home):
    """Replace links to a page of the served book by links to that page of the PDF; others stay."""
    kept, inside = ArrayObject(), []
    for item in page.get("/Annots", ()):
        link = item.get_object()
        uri = str(link.get("/A", {}).get("/URI", ""))
        target = first.get(unquote(urlsplit(uri).path).lstrip("/")) if uri.startswith(home) else None
        if target is not None:
            inside.append(Link(rect=link["/Rect"], target_page_index=target, fit=Fit.fit_horizontally()))
        elif not uri.startswith(home):
            kept.append(item)  # a link out of the book; one to a page that is not in the PDF is dropped
    page[NameObject("/Annots")] = kept
    for link in inside:
        book.add_annotation(number, link)


def numbered(book: PdfWriter, browser) -> None:
    """Print a number at the foot of every page."""
    page = browser.new_page()
    page.set_content("".join(NUMBER.format(i + 1) for i in range(len(book.pages))))
    feet = PdfReader(BytesIO(page.pdf(format="A4", margin={})))
    page.close()
    for sheet, foot in zip(book.pages, feet.pages, strict=False):
        sheet.merge_page(foot)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*")
    parser.add_argument("--html", type=Path, default=HTML, help="the rendered book")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args(argv)
    if not (options.html / "index.html").exists():
        print(f"{options.html} holds no rendered book: run `make book` first.", file=sys.stderr)
        return 2
    with open_browser() as browser, served(options.html) as home:
        parts = {address: printed(browser, home, address) for address in order(options.words)}
        book = joined(parts, home)
        numbered(book, browser)
    book.add_metadata({"/Title": yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))["title"]})
    options.out.parent.mkdir(parents=True, exist_ok=True)
    book.write(options.out)
    print(f"{options.out}: {len(book.pages)} pages, {options.out.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
