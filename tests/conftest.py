"""What every test shares: one thread, no network, reproducible examples."""

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["LOWRANK_PAGE"] = "1"  # no widgets, no file of progress; tests of those take it away

import pytest
from hypothesis import settings

# The same examples on every run: a check that fails one day in fifty teaches people to run it again.
# deadline=None: no test asserts a time.
settings.register_profile("book", derandomize=True, deadline=None, max_examples=50, print_blob=True)
settings.load_profile("book")


@pytest.fixture(scope="module")
def browser():
    """A real browser, for the tests of one file."""
    from browser import open_browser  # here: most tests need none, and the portable environments have none

    with open_browser() as found:
        yield found


@pytest.fixture(scope="module")
def home():
    """The address of the rendered book, served on this machine."""
    from browser import served

    book = Path(__file__).resolve().parents[1] / "_build" / "html"
    assert (book / "index.html").exists(), "the book is not rendered: run `make book` first"
    with served(book) as address:
        yield address
