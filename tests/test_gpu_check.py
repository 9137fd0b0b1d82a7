"""`make gpu-check` rehearsed on the CPU: it must not rot before someone with a GPU runs it."""

import json

import gpu_check
import pytest
import torch


def test_without_a_gpu_it_says_what_to_do(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_check.main([]) == 2
    assert "--device cpu" in capsys.readouterr().err


def test_a_rehearsal_writes_its_report(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu_check, "QUICK", ["LoRA"])
    assert gpu_check.main(["--device", "cpu", "--quick", "--out", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "gpu-check.json").read_text("utf-8"))
    outcomes = [row[0] for row in report["rows"]]
    assert outcomes.count("passed") == 11 and outcomes.count("skipped") == 3
    assert report["machine"]["torch"] == torch.__version__
    assert "| passed |" in (tmp_path / "gpu-check.md").read_text("utf-8")


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
