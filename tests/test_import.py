"""`import lowrank_edu` is light, and the numpy chapters never wake torch. Measured in fresh processes."""

import subprocess
import sys

import pytest

HEAVY = {"torch", "transformers", "tokenizers", "safetensors", "peft", "accelerate", "matplotlib", "IPython"}


def modules_after(code):
    """Top-level modules that `code` adds to a fresh interpreter, beyond what it starts with."""
    report = "print(*{m.split('.')[0] for m in set(sys.modules) - before})"
    script = f"import sys; before = set(sys.modules)\n{code}\n{report}"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split("\n")[-2].split())


def test_the_package_adds_numpy_and_the_standard_library_at_most():
    added = modules_after("import lowrank_edu")
    assert "lowrank_edu" in added
    assert added - {"lowrank_edu", "numpy"} <= set(sys.stdlib_module_names)


@pytest.mark.parametrize("code", [
    "lo.factor.effective_rank([[1, 2, 3], [4, 5, 6]]); lo.factor.randomized_svd([[1, 2], [3, 4], [5, 6]], 1)",
    "lo.corpus.stories(2, seed=0)",
    "dir(lo)",
])
def test_numpy_chapters_wake_nothing_heavy(code):
    added = modules_after(f"import lowrank_edu as lo; {code}")
    assert not added & HEAVY


def test_the_measurement_would_notice():
    assert {"json", "matplotlib"} <= modules_after("import json; import matplotlib")
