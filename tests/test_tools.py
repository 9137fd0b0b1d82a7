"""The tools that a reader starts: your own copy of the chapters, the server, the progress of a build."""

import json
import threading
import urllib.error
import urllib.request
from pathlib import Path

import make_book
import my_chapters
import pytest
import serve

ROOT = Path(__file__).resolve().parents[1]


def chapters(folder, **texts):
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.ipynb").write_text(text, "utf-8")
    return folder


def test_a_readers_own_work_is_never_overwritten(tmp_path):
    book, mine = chapters(tmp_path / "chapters", ch01="one", ch02="two"), tmp_path / "my-chapters"
    assert my_chapters.copy(book, mine) == []
    (mine / "ch01.ipynb").write_text("one, solved", "utf-8")
    assert my_chapters.copy(book, mine) == [], "the book has not changed, so there is nothing to say"
    chapters(book, ch01="one, second edition", ch02="two, second edition", ch03="three")
    assert my_chapters.copy(book, mine) == ["ch01.ipynb"]
    texts = {path.name: path.read_text("utf-8") for path in mine.glob("*.ipynb")}
    assert texts == {"ch01.ipynb": "one, solved", "ch02.ipynb": "two, second edition", "ch03.ipynb": "three"}
    assert my_chapters.copy(book, mine) == ["ch01.ipynb"], "said again, as long as it is so"
    (mine / "ch01.ipynb").unlink()
    assert my_chapters.copy(book, mine) == []
    assert (mine / "ch01.ipynb").read_text("utf-8") == "one, second edition"


def test_a_notebook_that_was_there_before_the_first_copy_stays(tmp_path):
    mine = chapters(tmp_path / "my-chapters", ch01="my own")
    assert my_chapters.copy(chapters(tmp_path / "chapters", ch01="one"), mine) == ["ch01.ipynb"]
    assert (mine / "ch01.ipynb").read_text("utf-8") == "my own"


def test_git_ignores_the_copy_and_jupyterlab_asks_nobody_for_news(tmp_path):
    assert "my-chapters/" in (ROOT / ".gitignore").read_text("utf-8").splitlines()
    settings = tmp_path / "share" / "jupyter" / "lab" / "settings" / "overrides.json"
    settings.parent.mkdir(parents=True)
    settings.write_text('{"other": {"kept": true}}', "utf-8")
    my_chapters.no_news(tmp_path)
    assert json.loads(settings.read_text("utf-8")) == {"other": {"kept": True}, **my_chapters.NO_NEWS}


def test_the_copies_are_trusted(tmp_path, monkeypatch):
    """Jupyter itself says so: its signatures are kept in a folder of this test."""
    from nbformat.sign import NotebookNotary

    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    mine = tmp_path / "mine"
    my_chapters.copy(ROOT / "chapters", mine)
    my_chapters.trust(mine)
    import nbformat

    notary = NotebookNotary(data_dir=str(tmp_path / "data"))
    nb = nbformat.read(mine / "ch03_lora.ipynb", as_version=4)
    assert notary.check_signature(nb)
    nb.cells[2].outputs.append(nbformat.v4.new_output("stream", text="changed"))
    assert not notary.check_signature(nb)


def test_a_busy_port_is_passed_over(tmp_path):
    with serve.server(tmp_path) as first, serve.server(tmp_path, first.server_port) as second:
        assert first.server_port < second.server_port < first.server_port + serve.PORTS


def test_a_page_that_is_not_there_gets_the_books_404(tmp_path):
    (tmp_path / "404.html").write_text("<h1>This page is not here</h1>", "utf-8")
    (tmp_path / "index.html").write_text("<h1>Home</h1>", "utf-8")
    with serve.server(tmp_path) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        home = f"http://127.0.0.1:{site.server_port}"
        assert b"Home" in urllib.request.urlopen(f"{home}/").read()
        with pytest.raises(urllib.error.HTTPError) as missing:
            urllib.request.urlopen(f"{home}/no/such/page.html")
        site.shutdown()
    assert missing.value.code == 404 and b"This page is not here" in missing.value.read()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("reading sources... [ 40%] chapters/ch04_start_scale\n", "  chapter 4 of 13: ch04_start_scale"),
        ("reading sources... [  3%] book/api\n", None),
        ("WARNING: chapters/ch04_start_scale.ipynb: nothing\n", None),
    ],
)
def test_a_build_says_which_chapter_it_is_at(tmp_path, line, said):
    folder = chapters(tmp_path / "chapters", **{f"ch{n:02}_x": "" for n in range(1, 14) if n != 4}, ch04_start_scale="")
    assert make_book.progress(line, folder.parent) == said


def test_a_build_that_takes_too_long_is_ended_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(make_book, "BUILD_TIMEOUT", 0.5)
    code, text = make_book.render(tmp_path, tmp_path)
    assert code == 124 and text.endswith("the build timed out")
