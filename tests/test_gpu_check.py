"""`make gpu-check` rehearsed on the CPU: it must not rot before someone with a GPU runs it."""

import json
import os
import subprocess
import sys

import gpu_check
import pytest
import torch


def test_without_a_gpu_it_says_what_to_do(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_check.main([]) == 2
    assert "--device cpu" in capsys.readouterr().err


def test_a_clone_is_enough(tmp_path):
    """As on Colab: the package is not installed, and another folder is the current one."""
    hidden = "import os, runpy, sys; sys.meta_path = [f for f in sys.meta_path if 'editable' not in repr(f)]; "
    hidden += "sys.path = [p for p in sys.path if not os.path.isdir(os.path.join(p, 'lowrank_edu'))]; "
    run = hidden + f"sys.argv = ['gpu_check', '--help']; runpy.run_path({gpu_check.__file__!r}, run_name='__main__')"
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-c", run], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0 and "--device" in done.stdout, done.stderr


def test_a_rehearsal_writes_its_report(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu_check, "QUICK", ["LoRA"])
    assert gpu_check.main(["--device", "cpu", "--quick", "--out", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "gpu-check.json").read_text("utf-8"))
    outcomes = [row[0] for row in report["rows"]]
    assert outcomes.count("passed") == 12 and outcomes.count("skipped") == 2  # fp16 and the allocator
    assert report["machine"]["torch"] == torch.__version__
    assert "| passed |" in (tmp_path / "gpu-check.md").read_text("utf-8")


@pytest.mark.parametrize("name", gpu_check.ROWS)
def test_checkpointing_passes_or_is_skipped_for_every_method(name):
    """One refusal that is meant would fail the whole report."""
    in_front = name in ("prefix tuning", "prompt tuning")
    try:
        told = gpu_check.checkpointed("cpu", name)
    except gpu_check.Skipped:
        assert in_front
    else:
        assert "≤" in told and not in_front


@pytest.mark.parametrize(("ratio", "holds"), [(0.4, False), (1.1, True), (3.0, False)])
def test_a_peak_far_from_the_plan_fails(ratio, holds, monkeypatch):
    """With a counter that says `ratio` times the plan, beside what earlier checks left."""
    plan = gpu_check.lo.memory.plan("gpt2", gpu_check.lo.LoRA(r=8, target_modules="all-linear"), batch=4, length=256)
    monkeypatch.setattr(gpu_check.lo, "train", lambda *_, **__: None)
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, *_: self)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 10**9)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 10**9 + ratio * plan.total)
    if holds:
        assert "1.10 times" in gpu_check.planned("cuda")
    else:
        with pytest.raises(AssertionError, match="was expected"):
            gpu_check.planned("cuda")


@pytest.mark.parametrize("fault", [lambda *_: gpu_check.within(1.0, 1e-3), lambda *_: 1 / 0])
def test_a_failure_is_told_and_the_rest_goes_on(fault, monkeypatch, tmp_path, capsys):
    """Two checks, the first with a fault."""

    def passes(device):
        return "fine"

    monkeypatch.setattr(gpu_check, "checks", lambda *_: [("one", fault, ("cpu",)), ("two", passes, ("cpu",))])
    assert gpu_check.main(["--device", "cpu", "--out", str(tmp_path)]) == 1
    rows = json.loads((tmp_path / "gpu-check.json").read_text("utf-8"))["rows"]
    assert [row[0] for row in rows] == ["FAILED", "passed"]


def test_a_method_that_resumes_elsewhere_fails(monkeypatch):
    """The check of resuming sees one bit."""
    moved = iter([0.0, 1e-7, 1e-7])
    train = gpu_check.lo.train

    def drifting(model, *args, **settings):
        with torch.no_grad():
            next(p for p in model.parameters() if p.requires_grad).add_(next(moved))
        return train(model, *args, **settings)

    monkeypatch.setattr(gpu_check.lo, "train", drifting)
    with pytest.raises((AssertionError, ValueError)):
        gpu_check.resumed("cpu", "LoRA")
