"""The book on paper: its print stylesheet, and the PDF of `make pdf`. `make book` renders the pages first."""

import re
import subprocess
import sys

import nbformat
import pytest
from browser import settle, watched
from pypdf import PdfReader
from test_browser import CHAPTERS, HTML

ROOT = HTML.parents[1]
sys.path.append(str(ROOT / "book" / "tools"))
import pdf  # noqa: E402

SHEET = {"width": 680, "height": 971}  # what @page in book.css leaves of A4, in CSS pixels
FAULTS = """() => {
  const seen = el => el.getClientRects().length, found = [], name = el => el.textContent.trim().slice(0, 40);
  for (const el of document.querySelectorAll(".bd-article pre"))
    if (seen(el) && el.scrollWidth > el.clientWidth) found.push(`cut: ${name(el)}`);
  for (const el of document.querySelectorAll(".bd-article :is(p, pre, table, figure, div)"))
    if (seen(el) && el.getBoundingClientRect().right > innerWidth + 1) found.push(`wide: ${name(el)}`);
  for (const el of document.querySelectorAll(".bd-article details.hint:not([open])")) found.push(`closed: ${name(el)}`);
  for (const el of document.querySelectorAll("figure.lo-fig"))
    if (!(el.querySelector(".lo-stage")?.getBoundingClientRect().height > 20))
      found.push(`no picture: ${el.id}`);
  return found;
}"""


@pytest.fixture
def sheet(browser, home):
    """A function that opens a page as it is on paper."""
    opened = []

    def show(address, **options):
        context = watched(browser, home, viewport=SHEET, **options)
        page, _ = context.__enter__()
        opened.append(context)
        page.goto(home + address)
        settle(page)
        page.emulate_media(media="print")
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        return page

    yield show
    for context in opened:
        context.__exit__(None, None, None)


@pytest.mark.parametrize("address", CHAPTERS)
def test_on_paper_nothing_is_cut_or_closed(sheet, address):
    assert sheet(address).evaluate(FAULTS) == []


def test_the_faults_are_seen(sheet):
    page = sheet(CHAPTERS[0])
    page.evaluate("""() => {
      const add = html => document.querySelector(".bd-article").insertAdjacentHTML("beforeend", html);
      add(`<pre style="white-space:pre!important;overflow:hidden">${"long ".repeat(99)}</pre>`);
      add('<p style="width:2000px">wide</p><details class="hint"><summary>hint</summary></details>');
      document.querySelectorAll("figure.lo-fig .lo-stage").forEach(el => el.replaceChildren());
    }""")
    assert {fault.split(":")[0] for fault in page.evaluate(FAULTS)} >= {"cut", "wide", "closed", "no picture"}


def test_after_printing_the_page_is_as_it_was(sheet):
    page = sheet(CHAPTERS[0], color_scheme="dark")
    count = "document.querySelectorAll('.bd-article details[open]').length"
    assert page.evaluate("document.documentElement.dataset.theme") == "light" and page.evaluate(count) > 0
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert page.locator(".bd-article details.hint[open]").count() == 0


# ---- make pdf


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    out = tmp_path_factory.mktemp("pdf") / "two chapters.pdf"
    command = [sys.executable, ROOT / "book" / "tools" / "pdf.py", "ch02", "ch03", "--out", out]
    subprocess.run(command, check=True, timeout=300)
    return PdfReader(out)


def squeezed(text):
    return re.sub(r"\s+", "", text)


def test_the_pdf_holds_every_line_of_code_and_every_figure(printed):
    text = squeezed("".join(page.extract_text() for page in printed.pages))
    for name in ("ch02_updates", "ch03_lora"):
        for cell in nbformat.read(ROOT / "chapters" / f"{name}.ipynb", as_version=4).cells:
            hidden = {"hide-input", "remove-input", "remove-cell"} & set(cell.metadata.get("tags", ()))
            if cell.cell_type == "code" and not hidden:
                lost = [line for line in cell.source.splitlines() if squeezed(line) not in text]
                assert lost == []
        for title in re.findall(r'id="fig-[\w-]+-title"[^>]*>([^<]+)<', (HTML / f"chapters/{name}.html").read_text()):
            assert squeezed(title) in text, title


def test_the_pdf_has_an_outline_page_numbers_and_links_that_stay_inside(printed):
    first = [printed.get_destination_page_number(entry) for entry in printed.outline]
    assert [entry.title for entry in printed.outline] == [
        re.sub(r"^\d+\. ", "", re.search(r"<title>(.*?) &#8212;", (HTML / f"chapters/{name}.html").read_text())[1])
        for name in ("ch02_updates", "ch03_lora")
    ]
    assert printed.pages[first[1]].extract_text().split()[-1] == str(first[1] + 1)
    links = [link.get_object() for page in printed.pages for link in page.get("/Annots", ())]
    assert not any("127.0.0.1" in str(link.get("/A", {}).get("/URI")) for link in links)
    sheets = [page.indirect_reference for page in printed.pages]
    leads = [sheets.index(link["/Dest"][0].indirect_reference) for link in links if isinstance(link.get("/Dest"), list)]
    assert first[1] in leads, "chapter 2 sends its reader to chapter 3"


def test_without_a_book_it_says_what_to_do(tmp_path, capsys):
    assert pdf.main(["--html", str(tmp_path)]) == 2
    assert "make book" in capsys.readouterr().err
