"""The chapters as files: every cell has run and kept its output, is short, and describes its figures.

That the outputs are those of today's code is checked by `tests/strict_nbval.py`; here is the proof that it
would notice.
"""

import copy
import json
import re
from pathlib import Path

import address
import nbformat
import notebooks
import pytest
import setup_cell
import strict_nbval
import yaml
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = sorted((ROOT / "chapters").glob("*.ipynb"))
MAX_LINES = 12
ABSOLUTE = re.compile(r"(?:^|[\s\"'(=])(?:/(?:home|root|tmp|usr|work|content|Users|mnt|var|opt)/|[A-Za-z]:\\\\?Users)")
every_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)


def test_every_chapter_of_the_contents_exists():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8"))
    listed = {
        page["file"] for part in toc["parts"] for page in part["chapters"] if page["file"].startswith("chapters/")
    }
    assert listed == {f"chapters/{path.stem}" for path in CHAPTERS}


# ---- what is wrong with a notebook; each rule is proved below on a notebook that breaks it


def problems(nb) -> list[str]:
    """What a reader, or the strict comparison, would miss in this notebook. Empty when all is well."""
    found = []
    code = [cell for cell in nb.cells if cell.cell_type == "code"]
    if not code:
        found.append("no code cell")
    for number, cell in enumerate(code, 1):
        if cell.execution_count != number:
            found.append(f"cell {number} has count {cell.execution_count}: not run, or not in order")
        if ends_in_a_value(cell.source) and not cell.outputs:
            found.append(f"cell {number} ends in a value but kept no output")
        if len(cell.source.splitlines()) > MAX_LINES:
            found.append(f"cell {number} has {len(cell.source.splitlines())} lines, more than {MAX_LINES}")
        if re.search(r"\bplt\.|\bmatplotlib\b", cell.source):
            found.append(f"cell {number} draws by itself: call a function of lowrank_edu.figures")
        found += [f"cell {number}: {problem}" for problem in output_problems(cell)]
    for number, cell in enumerate(nb.cells):
        if ABSOLUTE.search(cell.source):
            found.append(f"cell at {number} holds an absolute path")
        if cell.cell_type == "markdown" and re.search(r"!\[\s*\]\(|<img(?![^>]*\balt=)", cell.source):
            found.append(f"cell at {number} has a picture without alt text")
    return found


def output_problems(cell) -> list[str]:
    found = []
    for output in cell.outputs:
        if output.output_type == "error":
            found.append(f"stopped with {output.ename}")
        elif output.output_type == "stream" and output.name == "stderr":
            found.append("wrote to stderr")
        if ABSOLUTE.search(json.dumps(output)):
            found.append("printed an absolute path")
        data = output.get("data", {})
        html = data.get("text/html", "")
        if any(kind.startswith("image/") for kind in data) and not html and not given_alt(cell):
            found.append("a picture without alt text: set mystnb.image.alt in the cell's metadata")
        if re.search(r"<svg|<canvas|<img|<figure", html) and not html_is_described(html):
            found.append("a figure without a description for screen readers")
        if "application/vnd.jupyter.widget-view+json" in data and not html:
            found.append("a widget, which is dead on a page")
    return found


def ends_in_a_value(source: str) -> bool:
    """True for a cell whose last line prints, checks an answer or draws, so that an output must follow."""
    last = source.strip().splitlines()[-1] if source.strip() else ""
    return bool(re.match(r"(print|lo\.check|figures\.\w+)\(|lo\.figures\.", last))


def given_alt(cell) -> str:
    return cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")


def html_is_described(html: str) -> bool:
    """A label, a labelled-by that exists, an alt text or an SVG title, with words in it."""
    if re.search(r'(?:aria-label|alt)="[^"]{3,}"|<title>[^<]{3,}', html):
        return True
    labels = re.findall(r'aria-labelledby="([^"]+)"', html)
    return any(re.search(rf'id="{re.escape(label)}"[^>]*>[^<]*\w', html) for ids in labels for label in ids.split())


@every_chapter
def test_every_cell_has_run_is_short_and_described(path):
    assert problems(nbformat.read(path, as_version=4)) == []


def good():
    """A small notebook without problems."""
    nb = nbformat.v4.new_notebook()
    first = nbformat.v4.new_code_cell("x = 1\nprint(x)", execution_count=1)
    first.outputs = [nbformat.v4.new_output("stream", name="stdout", text="1\n")]
    figure = nbformat.v4.new_output(
        "display_data", data={"text/html": '<figure aria-label="A red line"><svg></svg></figure>'}
    )
    second = nbformat.v4.new_code_cell("figures.line()", execution_count=2, outputs=[figure])
    nb.cells = [nbformat.v4.new_markdown_cell("# Why?"), first, second]
    return nb


def broken(change):
    nb = copy.deepcopy(good())
    change(nb.cells)
    return nb


BREAKS = {
    "not run": lambda cells: cells[1].update(execution_count=None),
    "not in order": lambda cells: cells[2].update(execution_count=7),
    "kept no output": lambda cells: cells[1].update(outputs=[]),
    "more than 12": lambda cells: cells[1].update(source="\n".join(["x = 1"] * 13)),
    "draws by itself": lambda cells: cells[1].update(source="import matplotlib.pyplot as plt\nplt.plot([1])"),
    "absolute path": lambda cells: cells[1].update(source="open('/home/me/w.npy')"),
    "printed an absolute path": lambda cells: cells[1].outputs[0].update(text="/tmp/x.py:3\n"),
    "stderr": lambda cells: cells[1].outputs[0].update(name="stderr"),
    "stopped with": lambda cells: cells[1].update(
        outputs=[nbformat.v4.new_output("error", ename="E", evalue="", traceback=[])]
    ),
    "without alt text": lambda cells: cells[2].outputs[0].update(data={"image/png": "aGk="}),
    "without a description": lambda cells: (
        cells[2].outputs[0].update(data={"text/html": "<figure><svg></svg></figure>"})
    ),
    "dead on a page": lambda cells: cells[2].outputs[0].update(data={"application/vnd.jupyter.widget-view+json": {}}),
    "picture without alt": lambda cells: cells[0].update(source="![](a.png)"),
}


@every_chapter
def test_the_introduction_and_the_chapter_agree_on_the_minutes(path):
    """Minutes of reading and of exercises add up, and the exercises' are those on their cards, to five minutes."""
    cells = nbformat.read(path, as_version=4).cells
    cost = re.search(r"^\*\*Cost\*\* · (\d+) minutes, and (\d+) more", cells[0].source, re.M)
    reading, exercises = map(int, cost.groups())
    cards = sum(int(n) for cell in cells for n in re.findall(r"\*\*(\d+) minutes\*\*", cell.source))
    assert abs(cards - exercises) < 5
    told = re.search(rf"\| .*chapters/{path.stem}>` \| (\d+) \|", (ROOT / "book" / "intro.md").read_text("utf-8"))
    assert int(told[1]) == reading + exercises


def test_a_good_notebook_has_no_problems():
    assert problems(good()) == []


@pytest.mark.parametrize("words", BREAKS)
def test_each_rule_can_fail(words):
    assert any(words in problem for problem in problems(broken(BREAKS[words])))


# ---- one normal form, one setup cell, one address


@every_chapter
def test_chapters_are_in_the_normal_form(path):
    text = path.read_text("utf-8")
    assert notebooks.dumps(notebooks.normalise(nbformat.reads(text, as_version=4))) == text, "run `make address`"


@every_chapter
def test_the_first_code_cell_is_the_generated_one_and_the_only_setup(path):
    code = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert code[0].source == setup_cell.setup_cell(address.written())
    assert len(code[0].source.splitlines()) <= MAX_LINES
    assert code[0].outputs == []
    assert [i for i, cell in enumerate(code) if "pip" in cell.source] == [0]


def test_normal_form_forgets_the_machine_and_keeps_the_text():
    nb = good()
    nb.metadata["language_info"] = {"name": "python", "version": "3.11.7"}
    nb.cells[1].metadata.update({"execution": {"iopub.status.busy": "2026"}, "tags": ["keep"], "collapsed": True})
    noise = nbformat.v4.new_output("stream", name="stderr", text="warning\n")
    nb.cells[1].outputs = [
        nb.cells[1].outputs[0],
        noise,
        nbformat.v4.new_output("stream", name="stdout", text="2\n"),
    ]
    once = notebooks.dumps(notebooks.normalise(nb))
    assert "3.11.7" not in once and "2026" not in once and "warning" not in once and "collapsed" not in once
    again = nbformat.reads(once, as_version=4)
    assert again.cells[2].metadata == {"tags": ["keep"]}
    assert [output.text for output in again.cells[2].outputs] == ["1\n2\n"]
    assert notebooks.dumps(notebooks.normalise(again)) == once


def test_cell_ids_stay_when_a_cell_is_put_before_them():
    first, second = notebooks.normalise(good()), good()
    second.cells.insert(0, nbformat.v4.new_markdown_cell("New."))
    second = notebooks.normalise(second)
    assert {cell.id for cell in first.cells} < {cell.id for cell in second.cells}
    assert len({cell.id for cell in second.cells}) == len(second.cells)


def test_an_error_in_a_cell_is_not_hidden_by_the_second_try(tmp_path):
    nb = nbformat.v4.new_notebook()
    nb.cells = [nbformat.v4.new_code_cell("1 / 0")]
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        notebooks.execute(nb, folder=tmp_path)


# ---- the strict comparison would notice


def write_sample(path: Path) -> Path:
    """A notebook that prints a number, run for real."""
    nb = nbformat.v4.new_notebook()
    nb.cells = [nbformat.v4.new_code_cell("import sys\nprint('progress', file=sys.stderr)\nprint(f'{2 / 3:.4f}')")]
    nbformat.write(notebooks.execute(nb, folder=path.parent), path)
    return path


def test_strict_comparison_passes_on_the_truth_and_fails_on_one_digit(tmp_path):
    path = write_sample(tmp_path / "sample.ipynb")
    assert strict_nbval.run([path], {}, quiet=True) == 0
    text = path.read_text("utf-8")
    assert text.count("0.6667") == 1
    path.write_text(text.replace("0.6667", "0.6668"), "utf-8")
    assert strict_nbval.run([path], {}, quiet=True) == 1


def test_strict_comparison_fails_on_one_digit_of_a_chapter(tmp_path):
    """The same on a committed chapter: the first digit that it shows is changed in a copy."""
    nb = nbformat.read(CHAPTERS[0], as_version=4)

    def shows_a_digit(cell):
        texts = [out.get("text", "") + out.get("data", {}).get("text/plain", "") for out in cell.get("outputs", [])]
        return re.search(r"\d", "".join(texts))

    last = next(i for i, cell in enumerate(nb.cells) if shows_a_digit(cell))
    nb.cells = nb.cells[: last + 1]
    for output in nb.cells[last].outputs:
        holder, key = (output, "text") if "text" in output else (output.get("data", {}), "text/plain")
        holder[key] = re.sub(r"\d", lambda digit: str((int(digit[0]) + 1) % 10), holder.get(key, ""), count=1)
    path = tmp_path / "changed.ipynb"
    nbformat.write(nb, path)
    assert strict_nbval.run([path], {}, quiet=True) == 1
