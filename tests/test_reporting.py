"""What a run tells: the bar on stderr, loggers, and callbacks, which see whole steps and change nothing in the run."""

import logging
import re

import pytest
import torch
from models_zoo import same_state, state
from test_training import LORA, adapted, examples, run

import lowrank_edu as lo

EVALS = {"eval_data": examples(4, seed=9), "eval_every": 2}


# ---------------------------------------------------------------- the bar
def test_the_bar_shows_the_losses_on_stderr(capsys):
    _, history = run(progress=True, **EVALS)
    said = capsys.readouterr()
    last = said.err.split("\r")[-1]
    assert said.out == "" and "6/6" in last
    assert f"loss={history.loss[-1]:.3f}" in last and f"eval={history.eval_loss[-2]:.3f}" in last


def test_no_bar_where_none_is_wanted(capsys):
    run(progress=False)
    assert capsys.readouterr() == ("", "")


def test_the_bar_is_redrawn_twice_a_second_at_most(capsys, monkeypatch):
    """By a clock that goes on by 0.1 seconds at each step."""
    from tqdm import std

    now = [0.0]
    monkeypatch.setattr(std, "time", lambda: now[0])
    run(steps=40, progress=True, on_step=lambda *_: now.__setitem__(0, now[0] + 0.1))
    drawn = [line for line in capsys.readouterr().err.split("\r") if "step/s" in line]
    assert 2 <= len(drawn) <= 10  # 4 seconds, the beginning and the end


# ---------------------------------------------------------------- callbacks
def test_callbacks_are_told_every_step_and_evaluation(tmp_path):
    seen, model = [], adapted()

    def on_step(step, loss, model):
        assert model.training and any(p.grad is not None for p in model.parameters())
        seen.append(("step", step, loss, len(list(tmp_path.glob("step-*"))), model))

    def on_eval(step, loss, model):
        assert not model.training
        seen.append(("eval", step, loss, len(list(tmp_path.glob("step-*"))), model))

    _, history = run(model, on_step=on_step, on_eval=on_eval, checkpoint_dir=tmp_path, checkpoint_every=2, **EVALS)
    assert all(type(loss) is float for _, _, loss, _, _ in seen) and {id(m) for *_, m in seen} == {id(model)}
    assert [(s, x) for kind, s, x, _, _ in seen if kind == "step"] == list(zip(history.step, history.loss, strict=True))
    evals = list(zip(history.eval_step, history.eval_loss, strict=True))
    assert [(s, x) for kind, s, x, _, _ in seen if kind == "eval"] == evals and history.eval_step == [0, 2, 4, 6]
    order = [(kind, step, kept) for kind, step, _, kept, _ in seen]
    assert order[:4] == [("eval", 0, 0), ("step", 1, 0), ("step", 2, 0), ("eval", 2, 0)]  # before their checkpoint
    assert order[4] == ("step", 3, 1)


def meddling(step, loss, model):
    torch.manual_seed(step)
    torch.rand(3)
    model.eval()


def test_what_a_callback_draws_and_switches_changes_no_bit():
    (plain, before), (other, after) = run(**EVALS), run(on_step=meddling, on_eval=meddling, **EVALS)
    assert before == after and same_state(other, state(plain))


@pytest.mark.parametrize("name, at, done", [("on_step", 3, 3), ("on_eval", 4, 4), ("on_eval", 0, 0)])
def test_true_ends_the_run_after_that_step(name, at, done, tmp_path):
    told = lambda step, loss, model: step == at  # noqa: E731
    model, history = run(**{name: told}, checkpoint_dir=tmp_path, **EVALS)
    assert history.step == list(range(1, done + 1)) and history.eval_step[-1] == done
    assert history.stopped == f"{name} ended the run after step {at}"
    _, whole = run(**EVALS)
    assert history.loss == whole.loss[:done]
    assert [p.name for p in tmp_path.iterdir()] == [f"step-{done:06d}"] * (done > 0)
    again = adapted()
    assert run(again, **{name: told}, checkpoint_dir=tmp_path, **EVALS)[1] == history  # nothing is left to do
    assert same_state(again, state(model))


def test_only_true_ends_a_run_and_the_last_step_is_no_early_end():
    _, history = run(on_step=lambda step, loss, model: loss, on_eval=lambda *_: "go on", **EVALS)
    assert len(history.step) == 6 and history.stopped is None
    _, history = run(on_step=lambda step, loss, model: step == 6, **EVALS)
    assert len(history.step) == 6 and history.stopped is None


def test_a_callback_that_raises_stops_at_a_step_boundary_and_the_run_goes_on(tmp_path):
    """The model is that of the step; the checkpoints are whole; the run ends as one that was never stopped."""
    how = {"checkpoint_dir": tmp_path / "kept", "checkpoint_every": 2, **EVALS}

    def fail(step, loss, model):
        if step == 5:
            raise LookupError("no such service")

    broken = adapted()
    with pytest.raises(LookupError, match="no such service"):
        run(broken, on_step=fail, **how)
    assert not broken.training and all(p.grad is None for p in broken.parameters())
    after_five, _ = run(adapted(), on_step=lambda step, loss, model: step == 5, **EVALS)
    assert same_state(broken, state(after_five))
    assert sorted(p.name for p in (tmp_path / "kept").iterdir()) == ["step-000002", "step-000004"]
    steps = []
    resumed, history = run(adapted(), on_step=lambda step, *_: steps.append(step), **how)
    whole, never = run(**EVALS)
    assert steps == [5, 6] and history == never and same_state(resumed, state(whole))


def test_an_adapter_can_be_saved_after_any_step(tmp_path):
    method = lo.AdaLoRA(init_r=4, target_r=2, target_modules=["c_attn"], warmup_steps=1, final_steps=1)
    model, _ = run(adapted(method), on_step=lambda step, loss, model: lo.save_adapter(model, tmp_path / str(step)))
    assert {path.name for path in tmp_path.iterdir()} == set("123456")
    again = adapted(LORA)
    lo.load_adapter(again, tmp_path / "6", "again")
    lo.set_adapter(again, "again")
    model.eval(), again.eval()
    ids = torch.arange(3, 12)[None]
    assert torch.allclose(model(input_ids=ids).logits, again(input_ids=ids).logits, atol=1e-5)


# ---------------------------------------------------------------- loggers
class Wandb:
    def __init__(self):
        self.told = []

    def log(self, numbers, step=None):
        self.told.append((step, numbers))


def test_a_logger_like_wandb_gets_every_number():
    logger = Wandb()
    _, history = run(logger=logger, scorer=lambda model: 0.5, schedule="linear", **EVALS)
    steps = {step: numbers for step, numbers in logger.told if "loss" in numbers}
    assert {step: n["loss"] for step, n in steps.items()} == dict(zip(history.step, history.loss, strict=True))
    assert steps[4]["learning_rate"] == pytest.approx(1e-2 * 0.5)
    evals = [(step, n) for step, n in logger.told if "eval_loss" in n]
    wanted = zip(history.eval_step, history.eval_loss, strict=True)
    assert evals == [(step, {"eval_loss": loss, "score": 0.5}) for step, loss in wanted]


def test_a_python_logger_gets_about_a_hundred_lines(caplog):
    caplog.set_level(logging.INFO, logger="mine")
    _, history = run(steps=250, logger=logging.getLogger("mine"), eval_data=EVALS["eval_data"])
    lines = [record.getMessage() for record in caplog.records if record.name == "mine"]
    assert lines[0] == f"step 0 of 250: eval_loss {history.eval_loss[0]:.4g}"
    assert lines[1] == f"step 1 of 250: loss {history.loss[0]:.4g}, learning_rate 0.01"
    assert lines[-2].startswith("step 250 of 250: loss") and lines[-1].startswith("step 250 of 250: eval_loss")
    numbers = [int(re.match(r"step (\d+)", line)[1]) for line in lines[1:-1]]
    assert numbers == [1, *range(2, 251, 2)]


@pytest.mark.parametrize(
    "wrong, words",
    [({"on_step": 3}, "on_step=3"), ({"on_eval": "x"}, "on_eval='x'"), ({"logger": print}, "has no log: give wandb")],
)
def test_what_cannot_be_told_is_refused_before_anything_begins(wrong, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        run(checkpoint_dir=tmp_path / "none", **wrong)
    assert not (tmp_path / "none").exists()
