"""TensorBoard's own reader finds the numbers of the history, also after a resumed run."""

import sys

import pytest
from test_training import examples, run

SETTINGS = {"steps": 6, "eval_every": 2, "schedule": "linear"}


def curves(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(folder))
    reader.Reload()
    return {tag: [(e.step, e.value) for e in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def test_the_curves_are_the_history(tmp_path):
    _, history = run(**SETTINGS, eval_data=examples(3), scorer=lambda model: 0.5, tensorboard=tmp_path)
    found = curves(tmp_path)
    assert set(found) == {"loss", "learning_rate", "eval_loss", "score"}
    assert [step for step, _ in found["loss"]] == history.step
    assert [value for _, value in found["loss"]] == pytest.approx(history.loss)
    assert [step for step, _ in found["eval_loss"]] == history.eval_step == [0, 2, 4, 6]
    assert [value for _, value in found["eval_loss"]] == pytest.approx(history.eval_loss)
    assert [value for _, value in found["learning_rate"]] == pytest.approx([1e-2 * (1 - t / 6) for t in range(6)])


def test_without_the_package_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match="pip install tensorboard"):
        run(tensorboard=tmp_path / "curves")
    assert not (tmp_path / "curves").exists()
