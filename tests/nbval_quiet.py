"""A pytest plugin for the strict run over the chapters: stderr is not compared.

Progress bars and their seconds go to stderr, and the chapters are committed without it.
What is on stdout, every value and every figure is compared to the letter. Used with `-p tests.nbval_quiet`.
"""


def pytest_collection_modifyitems(items):
    for item in items:
        skipped = getattr(item.parent, "skip_compare", None)
        if skipped is not None and "stderr" not in skipped:
            item.parent.skip_compare = (*skipped, "stderr")
