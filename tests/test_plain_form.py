"""A chapter opened as a notebook, anywhere: plain Markdown, hints and solutions folded, links that lead somewhere.

The same text lifted for Sphinx has to say what it says; a real JupyterLab is in test_jupyterlab.py.
"""

import html
import re
from pathlib import Path

import book_links
import editions
import lift
import myst
import nbformat
import notebooks
import pytest
from address import Address
from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = sorted((ROOT / "chapters").glob("*.ipynb"))
# What is left of directives, roles, options, links and labels in HTML from which the text of code has been taken
MARKUP = re.compile(r":::|\{[\w:.+-]+\}<code|language-\{|^(?:<p>)?:[\w-]+: |\]\[|\]\(|^(?:<p>)?\(\w[\w-]*\)=", re.M)
every_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)


def read(path):
    return nbformat.read(path, as_version=4)


def told(nb) -> list[str]:
    return [cell.source for cell in nb.cells if cell.cell_type == "markdown"]


def rendered(text: str) -> str:
    """What every viewer of notebooks makes of a cell: CommonMark with tables and raw HTML."""
    return MarkdownIt("commonmark").enable("table").render(text)


def without_code(page: str) -> str:
    """A rendered cell without the text of its code, which may hold any sign."""
    return re.sub(r"(<code\b[^>]*>).*?</code>", r"\1</code>", page, flags=re.S)


def words(page: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>", "", page)).strip()


EDITIONS = {"chapter": lambda nb: nb, **editions.EDITIONS}


@pytest.mark.parametrize("edition", EDITIONS)
@every_chapter
def test_no_markup_is_left_in_what_a_viewer_shows(path, edition):
    for text in told(EDITIONS[edition](read(path))):
        found = MARKUP.search(without_code(rendered(text)))
        assert found is None, f"{found[0]!r} in: {text[:200]}"


@pytest.mark.parametrize(
    "raw",
    [
        ":::{exercise} Title\n:label: ch01-x\n\nText.\n:::",
        "See {term}`rank`.",
        "As reported {cite:p}`hu2021lora`.",
        "```{note}\nText.\n```",
        "[forgotten](",
        "(a-label)=\n# Title",
    ],
)
def test_the_search_for_markup_finds_it(raw):
    assert MARKUP.search(without_code(rendered(raw)))


@every_chapter
def test_hints_and_solutions_are_folded_and_none_is_empty(path):
    """Two hints and one solution for every exercise, each after its exercise and closed until it is opened."""
    pieces = [block for text in told(read(path)) for block in myst.blocks(text)]
    kinds = [b.kind for b in pieces if b.kind in ("exercise", "hint", "solution")]
    assert kinds == ["exercise", "hint", "hint", "solution"] * kinds.count("exercise")
    exercises = [b.option("label") for b in pieces if b.kind == "exercise"]
    assert exercises == [b.title for b in pieces if b.kind == "solution"] and exercises
    for block in pieces:
        if block.kind in ("hint", "solution", "dropdown"):
            assert len(words(rendered(block.body))) >= 10, block.raw
            assert " open" not in block.raw.split(">")[0]
            page = rendered(block.raw)
            assert page.count("<details") == page.count("</details>") == 1, block.raw
            assert "```" not in page, "the code of a solution is not set as code"


@every_chapter
def test_no_solution_stands_outside_its_fold(path):
    for text in told(read(path)):
        outside = re.sub(r"<details.*?</details>", "", text, flags=re.S)
        assert "```python from lowrank_edu.exercises" not in outside and "Solution" not in outside


@every_chapter
def test_the_code_of_a_solution_is_the_packages(path):
    for text in told(read(path)):
        assert myst.with_source(text) == text, "run `make address`, which writes the package's code into the chapters"


def test_changed_code_of_the_package_is_noticed():
    text = "```python from lowrank_edu.factor import break_even_rank\nreturn 0\n```"
    fresh = myst.with_source(text)
    assert fresh != text and "def break_even_rank(d_out, d_in):" in fresh and myst.with_source(fresh) == fresh
    with pytest.raises(ValueError, match="has no function or class 'nothing'"):
        myst.with_source("```python from lowrank_edu.factor import nothing\n\n```")
    with pytest.raises(ValueError, match=r"there is no lowrank_edu/nowhere\.py"):
        myst.with_source("```python from lowrank_edu.nowhere import nothing\n\n```")


@every_chapter
def test_exercises_are_numbered_in_their_order(path):
    numbers = re.findall(r'^### <a id="[\w-]+"></a>Exercise ([\d.]+): ', "\n".join(told(read(path))), re.M)
    assert numbers == [f"{int(path.name[2:4])}.{k + 1}" for k in range(len(numbers))] and numbers


# ---- links


@every_chapter
def test_every_link_leads_somewhere(path):
    """To a file that is there and an anchor on its page, or to the paper that the words name."""
    papers = {
        (form.format(*paper), paper[0]) for paper in lift.papers().values() for form in ("{1}, {2}", "{1} ({2})")
    }
    for text in told(read(path)):
        for said, target in myst.LINK.findall(re.sub(r"^```.*?^```$|`[^`\n]+`(?!\])", "", text, flags=re.M | re.S)):
            place, _, anchor = target.partition("#")
            if target.startswith("https://"):
                if "arxiv.org" in target or "doi.org" in target:
                    assert (said, target) in papers, f"{said!r} is not how the bibliography calls {target}"
                continue
            assert (path.parent / place).is_file(), f"{target} of {said!r} is not there"
            if place.endswith("glossary.md"):
                assert anchor in lift.terms() or not anchor, f"the glossary has no {anchor}"
            elif place.endswith("bibliography.md"):
                assert (said, target) in papers or not anchor
            else:
                assert not anchor or place.endswith("api.md"), f"nothing checks {target}"


def test_links_lead_to_the_books_address_once_it_has_one():
    text = "The [rank](../book/glossary.md#term-rank), [chapter 5](ch05_merge.ipynb), [a paper](https://arxiv.org/abs/1)."
    home = Address("https://github.com/someone/some-book").home
    out = book_links.addressed(text, home)
    assert "[rank](https://someone.github.io/some-book/book/glossary.html#term-rank)" in out
    assert "[chapter 5](https://someone.github.io/some-book/chapters/ch05_merge.html)" in out
    assert "[a paper](https://arxiv.org/abs/1)" in out
    assert book_links.to_neighbours(out) == text == book_links.addressed(out, None)
    moved = book_links.addressed(out, "https://other.github.io/book/")
    assert "someone" not in moved and moved.count("https://other.github.io/book/") == 2


def test_a_copy_that_travels_alone_has_no_link_to_a_file_it_does_not_have():
    for path in CHAPTERS:
        for text in told(book_links.detached(read(path), None)):
            assert not re.search(r"\]\((?!https?://|#)", text), text
        absolute = "\n".join(told(book_links.detached(read(path), "https://a.github.io/b/")))
        assert "](../" not in absolute and ".ipynb)" not in absolute and "https://a.github.io/b/book/" in absolute


# ---- the same text for Sphinx

LIFTS = {
    "> **Predict first**\n>\n> Up, or *down*?": (
        "\n:::{admonition} Predict first\n:class: predict\n\nUp, or *down*?\n:::\n"
    ),
    "> **Note: Two rows**\n>\n> Text.": "\n:::{admonition} Two rows\n:class: note\n\nText.\n:::\n",
    "**Cost** · 20 minutes": "\n:::{div} cost\n20 minutes\n:::\n",
    '### <a id="ch03-x"></a>Exercise 3.1: Title\n\nTask.': "\n:::{exercise} Title\n:label: ch03-x\n\nTask.\n:::\n",
    '<details class="solution" id="solution-ch03-x"><summary>Solution</summary>\n\n42\n\n</details>': (
        "\n:::{solution} ch03-x\n:class: dropdown\n\n42\n:::\n"
    ),
    "The [rank](../book/glossary.md#term-rank).": "The {term}`rank <rank>`.",
    "In [nats](../book/glossary.md#term-nat).": "In {term}`nats <nat>`.",
    "LoRA ([Hu et al., 2022](https://arxiv.org/abs/2106.09685)).": "LoRA {cite:p}`hu2021lora`.",
    "[Hu et al. (2022)](https://arxiv.org/abs/2106.09685) test it.": "{cite:t}`hu2021lora` test it.",
    "By [a friend](https://arxiv.org/abs/2106.09685).": "By [a friend](https://arxiv.org/abs/2106.09685).",
    "Code `[rank](../book/glossary.md#term-rank)` stays.": "Code `[rank](../book/glossary.md#term-rank)` stays.",
    "[`adapt`](../book/api.md#lowrank_edu.adapting.adapt)": "{py:obj}`adapt <lowrank_edu.adapting.adapt>`",
    "> **An answer that is bold throughout.**": "> **An answer that is bold throughout.**",
}


@pytest.mark.parametrize("plain", LIFTS)
def test_a_part_of_the_page_is_lifted(plain):
    assert lift.lifted(plain) == LIFTS[plain]


def test_several_papers_in_one_pair_of_brackets_are_one_citation():
    made = lift.written("cite:p", "li2018intrinsic,aghajanyan2021intrinsic")
    assert made == (
        "([Li et al., 2018](https://arxiv.org/abs/1804.08838); "
        "[Aghajanyan et al., 2021](https://arxiv.org/abs/2012.13255))"
    )
    assert lift.lifted(f"A claim {made}.") == "A claim {cite:p}`li2018intrinsic,aghajanyan2021intrinsic`."


def test_a_word_that_the_glossary_does_not_have_is_an_error():
    with pytest.raises(KeyError, match="term-nothing"):
        lift.lifted("[nothing](../book/glossary.md#term-nothing)")
    with pytest.raises(KeyError):
        lift.written("cite:t", "nobody2000nothing")


def test_setup_folds_on_colab_and_in_jupyterlab():
    for path in CHAPTERS:
        cell = next(cell for cell in read(path).cells if "setup" in notebooks.cell_tags(cell))
        assert cell.metadata["cellView"] == "form" and cell.metadata["jupyter"] == {"source_hidden": True}
