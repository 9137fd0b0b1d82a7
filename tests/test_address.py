"""Where the book lives: read from the checkout or written down, and never an address that nobody here owns."""

import http.server
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import address
import make_book
import pytest
import setup_cell
from address import Address

ROOT = Path(__file__).resolve().parents[1]
HERE = Address("https://github.com/someone/some-book")
CONFIG = "title: x\nrepository:\n{url}  branch: dev\n  path_to_book: ''\n"


def config(folder, url=""):
    file = folder / "_config.yml"
    file.write_text(CONFIG.format(url=f"  url: {url}\n" if url else ""), "utf-8")
    return file


def checkout(folder, origin):
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    subprocess.run(["git", "-C", str(folder), "remote", "add", "origin", origin], check=True)
    return folder


# ---- which address


@pytest.mark.parametrize(
    ("origin", "url"),
    [
        ("https://github.com/a/b.git", "https://github.com/a/b"),
        ("https://github.com/a/b/", "https://github.com/a/b"),
        ("git@github.com:a/b.git", "https://github.com/a/b"),
        ("ssh://git@gitlab.example.org/group/sub/b.git", "https://gitlab.example.org/group/sub/b"),
        ("https://me:secret@github.com/a/b.git", "https://github.com/a/b"),
        ("/srv/books/b.git", None),
        ("file:///srv/books/b.git", None),
        ("../b", None),
        ("http://github.com/a/b", None),
        ("https://github.com/a/../b", None),
        ('https://github.com/a/b"; import os', None),
    ],
)
def test_the_remote_of_a_checkout(tmp_path, origin, url):
    assert address.remote(checkout(tmp_path, origin)) == url


def test_a_folder_without_a_remote_has_no_address(tmp_path):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    assert address.remote(tmp_path) is None
    assert address.found(config(tmp_path), tmp_path, {}) is None


def test_what_is_written_comes_first_then_the_workflow_then_the_remote(tmp_path):
    folder = checkout(tmp_path / "clone", "git@github.com:c/c.git")
    workflow = {"GITHUB_REPOSITORY": "b/b", "GITHUB_SERVER_URL": "https://github.com"}
    written = config(tmp_path, "https://github.com/a/a")
    assert address.found(written, folder, workflow) == Address("https://github.com/a/a", "dev")
    bare = config(tmp_path)
    assert address.found(bare, folder, workflow) == Address("https://github.com/b/b", "dev")
    assert address.found(bare, folder, {}) == Address("https://github.com/c/c", "dev")
    assert address.found(bare, folder, {"GITHUB_REPOSITORY": "no/../such name"}) is None
    assert address.written(bare) is None


@pytest.mark.parametrize("url", ["github.com/a/b", "https://github.com/a", "http://github.com/a/b", "https://x/a/.."])
def test_an_address_that_cannot_work_is_refused(tmp_path, url):
    with pytest.raises(ValueError, match=r"has to look like https://github\.com/owner/name"):
        address.written(config(tmp_path, url))


def test_an_address_is_written_and_taken_away_again(tmp_path):
    file = config(tmp_path)
    before = file.read_text("utf-8")
    address.write(HERE, file)
    assert address.written(file) == Address(HERE.url, "dev")
    address.write(Address("https://github.com/other/book"), file)
    assert file.read_text("utf-8").count("url:") == 1
    address.write(None, file)
    assert file.read_text("utf-8") == before


def test_only_github_has_pages_and_colab():
    assert HERE.home == "https://someone.github.io/some-book/"
    assert HERE.colab("chapters/a.ipynb").endswith("/github/someone/some-book/blob/main/chapters/a.ipynb")
    other = Address("https://gitlab.example.org/a/b")
    assert other.home is None and other.colab("a.ipynb") is None and other.file("a").startswith(other.url)


# ---- what is committed follows the configuration


def test_the_repository_names_no_address_that_it_does_not_own():
    """Nothing that is committed names a repository of ours, unless `make address` has written one."""
    assert setup_cell.stale_files() == []
    where = address.written()
    files = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=True).stdout
    for name in files.splitlines():
        if name.startswith("tests/") or not (ROOT / name).is_file():
            continue
        text = (ROOT / name).read_bytes().decode("utf-8", "ignore")
        hosts = r"(?:github\.com/[\w.-]*|[\w-]*\.github\.io/|pypi\.org/project/)"
        ours = re.findall(rf"https://{hosts}lowrank[-_]?edu\S*", text)
        assert where or ours == [], f"{name} names {ours}"
        assert not re.search(r"pip install (?:-\S+ )*[\"']?lowrank[-_]edu", text), f"{name} advises an unpublished name"


def test_readme_and_citation_follow_an_address_and_its_absence():
    readme, citation = ((ROOT / name).read_text("utf-8") for name in ("README.md", "CITATION.cff"))
    with_it = setup_cell.rewrite_readme(readme, HERE)
    assert "https://colab.research.google.com/github/someone/some-book/blob/main/chapters/ch01_rank.ipynb" in with_it
    assert "https://someone.github.io/some-book/" in with_it and f"{HERE.url}/issues" in with_it
    without = setup_cell.rewrite_readme(with_it, None)
    assert "someone" not in without and "badge.svg" not in without
    assert setup_cell.rewrite_readme(without, address.written()) == readme
    cited = setup_cell.rewrite_citation(citation, HERE)
    assert f'repository-code: "{HERE.url}"' in cited
    assert setup_cell.rewrite_citation(cited, None) == setup_cell.rewrite_citation(citation, None)


# ---- the first cell


def run_cell(folder, where=None, python=sys.executable, **environ):
    """The first cell in a process that cannot see this checkout, as on a fresh machine."""
    hide = (
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'lowrank_edu' and not ready() else find(name, *a)\n"
        "import glob; ready = lambda: bool(glob.glob('../lowrank_edu/colab.py'))\n"
    )
    clean = {"PATH": "/usr/bin:/bin", "HOME": str(folder), **environ}
    command = [python, "-c", hide + setup_cell.setup_cell(where)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, env=clean)


def test_without_package_file_or_address_the_cell_says_what_to_do(tmp_path):
    done = run_cell(tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "installing the package from nowhere" in done.stdout
    assert done.stderr.strip().endswith("Setup stopped: put lowrank-edu.zip beside this notebook")


def test_no_network_is_told_apart_from_a_file_that_is_not_there(tmp_path):
    gone = run_cell(tmp_path, Address("https://nowhere.invalid/a/b"))
    assert gone.returncode == 1 and "Setup stopped" in gone.stderr
    assert re.search(r"resolve|resolution|connection", gone.stderr, re.I)
    handler = http.server.SimpleHTTPRequestHandler
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        wrong = run_cell(tmp_path, Address(f"http://127.0.0.1:{site.server_port}/a/b"))
        site.shutdown()
    assert wrong.returncode == 1 and "404" in wrong.stderr


def test_the_cell_finds_the_package_one_folder_up_and_names_the_kernel(tmp_path):
    (tmp_path / "chapters").mkdir()
    shutil.copytree(ROOT / "lowrank_edu", tmp_path / "lowrank_edu", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    python = str(bare / "bin" / "python")
    numpy = next(Path(p) for p in sys.path if (Path(p) / "numpy" / "__init__.py").is_file())
    for name in ("numpy", "numpy.libs", "packaging"):  # all that the first two chapters need
        if (numpy / name).exists():
            (next((bare / "lib").glob("python*")) / "site-packages" / name).symlink_to(numpy / name)
    done = run_cell(tmp_path / "chapters", python=python)
    assert done.returncode == 0, done.stderr
    assert f"{python}, is not the book's .venv" in done.stdout and "torch" in done.stdout


def test_the_cell_installs_from_a_zip_beside_it(tmp_path):
    """pip gets the zip's name; that it can install it is shown by the zip's content, which pip reads."""
    make_book.offer_package(tmp_path / "lowrank-edu.zip")
    names = zipfile.ZipFile(tmp_path / "lowrank-edu.zip").namelist()
    assert {"lowrank-edu/pyproject.toml", "lowrank-edu/lowrank_edu/__init__.py"} <= set(names)
    assert "lowrank-edu/lowrank_edu/assets/tiny-gpt2/model.safetensors" in names
    done = run_cell(tmp_path, PIP_TARGET=str(tmp_path / "into"), PIP_NO_BUILD_ISOLATION="0")
    assert "installing the package from lowrank-edu.zip" in done.stdout
    assert (tmp_path / "into" / "lowrank_edu" / "colab.py").is_file(), done.stderr
