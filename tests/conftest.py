"""What every test shares: one thread, no network, reproducible examples."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["LOWRANK_PAGE"] = "1"  # no widgets, no file of progress; tests of those take it away

from hypothesis import settings

# The same examples on every run: a check that fails one day in fifty teaches people to run it again.
# deadline=None: no test asserts a time.
settings.register_profile("book", derandomize=True, deadline=None, max_examples=50, print_blob=True)
settings.load_profile("book")
