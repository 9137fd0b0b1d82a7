"""Where torch, transformers and ipywidgets are not installed: chapters 1 and 2 run where they need numpy alone.

Each run is a fresh process, `torchless.py`, in which those packages cannot be imported.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NEED_TORCH = {  # the first line of each cell that needs torch, or what another cell makes with it
    "ch01_rank": [
        "import torch",
        "for r in (192, 80, 40, 8):",
    ],
    "ch02_updates": [
        "import textwrap",
        "before = lo.evaluate(model, test)",
        "history.plot()",
        'layer = lo.adapted_layers(model)["transformer.h.3.attn.c_attn"]',
        'for name, matrix in {"W0": W0, "noise": noise, "ΔW": dW}.items():',
        "for r in (1, 4, 16):",
        'exact, _ = lo.load_model("tiny-gpt2", dtype=torch.float64)',
        'story = test[0]["input_ids"]',
        'batch = torch.stack([example["input_ids"][:31] for example in test[:5]])',
        "G = gradient(story[None, :5])        # four predicted tokens",
        "def learned(d):",
    ],
}


def without_torch(folder, *arguments):
    """What `torchless.py` prints, as a list. It runs in `folder`, in a learner's environment."""
    kept = {k: v for k, v in os.environ.items() if k not in ("LOWRANK_PAGE", "LOWRANK_PROGRESS")}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    environment = kept | {"PYTHONPATH": path, "IPYTHONDIR": str(folder), "NO_COLOR": "1"}
    run = subprocess.run(
        [sys.executable, ROOT / "tests" / "torchless.py", *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    return [json.loads(line) for line in run.stdout.splitlines()]


@pytest.fixture(scope="module", params=NEED_TORCH)
def chapter(request, tmp_path_factory):
    """(its name, what came of each code cell)."""
    path = ROOT / "chapters" / f"{request.param}.ipynb"
    return request.param, without_torch(tmp_path_factory.mktemp(request.param), path)


def test_every_cell_runs_but_those_that_need_torch(chapter):
    name, cells = chapter
    assert [cell["source"].splitlines()[0] for cell in cells if not cell["ran"]] == NEED_TORCH[name]
    assert sum(cell["ran"] for cell in cells) > len(cells) / 2
    assert not any("Traceback" in cell["said"] or "Error" in cell["said"] for cell in cells if cell["ran"])


def test_a_cell_that_needs_torch_says_so_in_one_line(chapter):
    stopped = [cell["said"] for cell in chapter[1] if not cell["ran"]]
    for said in stopped:
        *printed, sentence = said.strip().splitlines()  # a cell may have printed the head of its table by then
        assert sentence.startswith("This cell needs ") and "pip install torch" in sentence and "make setup" in sentence
        assert sentence.endswith("Every cell that needs numpy alone runs without it.")
        assert len(printed) < 2 and "Traceback" not in said
    assert any("which a cell above makes with torch" in said for said in stopped)


def test_every_exercise_is_checked_without_torch(tmp_path):
    found = without_torch(tmp_path)
    assert [exercise["id"] for exercise in found if not exercise["passed"]] == []
    count = Counter(exercise["id"][:4] for exercise in found)
    assert len(found) == 65 and sum(count[f"ch0{number}"] for number in range(1, 6)) == 26


CELLS = {
    "undefined_here": "NameError",  # not torch's doing: IPython tells it as ever
    "import no_such_package": "ModuleNotFoundError",
    "import torch": "This cell needs torch",
    "made = [torch.ones(2) for _ in range(3)]": "This cell needs `torch`",
    "print(made)": "This cell needs `made`",
    "import matplotlib.pyplot as plt": "pip install matplotlib`",
    "1 / 0": "ZeroDivisionError",
}


def test_other_errors_stay_as_they_are_and_what_is_lost_is_followed(tmp_path):
    cells = [{"cell_type": "code", "source": [source]} for source in ("import lowrank_edu", *CELLS)]
    path = tmp_path / "cells.ipynb"
    path.write_text(json.dumps({"cells": cells}), "utf-8")
    first, *rest = without_torch(tmp_path, path)
    assert first["ran"] and not any(cell["ran"] for cell in rest)
    for cell, words in zip(rest, CELLS.values(), strict=True):
        assert words in cell["said"]
        assert ("Traceback" in cell["said"]) == words.endswith("Error")


def test_sliders_that_are_missing_leave_the_pictures(tmp_path):
    cells = [
        "import lowrank_edu as lo",
        'lo.figures.try_yours("ch01-best", lo.exercises.get("ch01-best").reference)._repr_mimebundle_()["text/html"]',
    ]
    path = tmp_path / "cells.ipynb"
    path.write_text(json.dumps({"cells": [{"cell_type": "code", "source": [c]} for c in cells]}), "utf-8")
    _, shown = without_torch(tmp_path, path)
    assert shown["ran"] and shown["said"].count("data:image/png") == 2
    assert "Yours is the book’s answer here" in shown["said"] and "pip install ipywidgets" in shown["said"]


@pytest.mark.parametrize(("platform", "words"), [("linux", "make setup"), ("emscripten", "does not run in a browser")])
def test_a_browser_is_not_told_to_install(monkeypatch, platform, words):
    from lowrank_edu import missing

    monkeypatch.setattr(sys, "platform", platform)
    assert words in missing.sentence("torch") and words in missing.sentence("torch", "model")
    assert ("pip install" in missing.sentence("torch")) == (platform == "linux")


def test_a_weight_of_the_tiny_model_is_read_without_torch_and_is_the_models():
    from lowrank_edu import load_model, shipped

    model, _ = load_model("tiny-gpt2")
    parameters = dict(model.named_parameters())
    for name in ("transformer.h.2.mlp.c_fc.weight", "transformer.wte.weight", "transformer.ln_f.bias"):
        assert shipped.weight(name).tolist() == parameters[name].detach().double().tolist()
    with pytest.raises(ValueError, match=r"no parameter 'c_fc\.weight'.*transformer\.h\.0\.mlp\.c_fc\.weight"):
        shipped.weight("c_fc.weight")


READS = 'from lowrank_edu import shipped; shipped.weight("transformer.h.2.mlp.c_fc.weight")'


def test_reading_it_wakes_nothing():
    code = f"import sys; {READS}; sys.exit(bool({{'torch', 'safetensors', 'transformers'}} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)
