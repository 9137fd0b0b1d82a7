"""Where does this code run: in somebody's hands, or in the book's own tools?"""

import os

FOR_THE_PAGE = "LOWRANK_PAGE"
"""Set to 1 by the tools that run chapters for the book and its checks, so that every run gives the same outputs."""


def for_the_page() -> bool:
    """Whether outputs are made for a page: no widgets, which are dead there, and no file of a learner's progress."""
    return os.environ.get(FOR_THE_PAGE, "") not in ("", "0")
