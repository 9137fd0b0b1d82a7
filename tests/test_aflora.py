"""AFLoRA: scores and freezing against numpy in float64, whole matrices that stop, resuming, and the update itself."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loops import OPTIMIZERS, assert_resumes, copies, loop, quiet, trained
from models_zoo import TARGETS, gap, logits, shaken, tiny
from torch import nn
from transformers.pytorch_utils import Conv1D

import lowrank_edu as lo
from lowrank_edu.methods.aflora import trainable_share
from lowrank_edu.schedules import schedule_of
from lowrank_edu.updates import LowRank

MODELS = ["gpt2", "llama"]


def updates_of(model, name="default"):
    return {path: layer.updates[name] for path, layer in lo.adapted_layers(model).items()}


@pytest.mark.parametrize("name", MODELS)
def test_the_start(name):
    model, y = tiny(name), logits(tiny(name))
    report = lo.adapt(model, lo.AFLoRA(r=8, target_modules=TARGETS[name]))
    assert torch.equal(logits(model), y)
    for update in updates_of(model).values():
        r, d_in = update.A.shape
        assert r == 8 and torch.equal(update.core, torch.full((8,), 0.1)) and update.gain.abs().max() == 0
        for factor, bound in ((update.A, (6 / d_in) ** 0.5), (update.B, (6 / 8) ** 0.5)):  # Kaiming, a = 0
            assert 0.9 * bound < factor.abs().max() <= bound
    assert report.trainable == sum(p.numel() for u in updates_of(model).values() for p in u.parameters())
    shaken(model)
    assert gap(logits(model), y) > 1e-2
    with lo.disabled(model):
        assert torch.equal(logits(model), y)


@given(total=st.integers(3, 200), data=st.data())
def test_the_share_falls_as_a_cube(total, data):
    warmup = data.draw(st.integers(0, total - 2))
    final = data.draw(st.integers(0, total - warmup - 1))
    shares = [trainable_share(t, total, warmup, final) for t in range(total + 1)]
    assert shares[: warmup + 1] == [1] * (warmup + 1) and all(a >= b for a, b in itertools.pairwise(shares))
    assert all(s == 0 for s in shares[total - final :])
    middle = warmup + (total - warmup - final) / 2
    assert trainable_share(middle, total, warmup, final) == pytest.approx(0.125)


class Oracle:
    """METHODS' specification in numpy, fed with weights and gradients."""

    def __init__(self, every, total, warmup, final, beta1=0.85, beta2=0.95):
        self.every, self.total, self.warmup, self.final, self.betas = every, total, warmup, final, (beta1, beta2)
        self.importance, self.mean, self.uncertain, self.frozen = {}, {}, {}, {}

    def after(self, step, pairs):
        place, (b1, b2) = step % self.every, self.betas
        for key, (w, g) in pairs.items():
            now = np.abs(np.sign(w) * g)
            if key not in self.mean:
                self.importance[key], self.mean[key], self.uncertain[key] = (np.zeros_like(now) for _ in range(3))
            if place == 0:
                self.mean[key] = b1 * self.mean[key] + (1 - b1) * self.importance[key]
                away = np.abs(self.importance[key] - self.mean[key])
                self.uncertain[key] = b2 * self.uncertain[key] + (1 - b2) * away
            self.importance[key] = (place * self.importance[key] + now) / (place + 1)
        if not pairs or step <= self.warmup or (place and step <= self.total - self.final):
            return
        done = min(1, (step - self.warmup) / (self.total - self.warmup - self.final))
        scores = {key: self.mean[key] * self.uncertain[key] for key in pairs}
        k = int(sum(s.size for s in scores.values()) * (1 - (1 - done) ** 3))
        values = np.sort(np.concatenate([s.ravel() for s in scores.values()]))
        for key, s in scores.items():
            if done == 1 or (k and s.mean() < values[k - 1]):
                self.frozen[key] = step


@pytest.mark.parametrize("name", MODELS)
def test_matrices_freeze_when_the_formula_says(name):
    model, targets = quiet(name)
    lo.adapt(model, lo.AFLoRA(target_modules=targets, warmup_share=0.1, final_share=0.2, every=3))
    model.double()
    opt = OPTIMIZERS["adamw"](trained(model))
    lo.attach(model, opt, total_steps=40)
    oracle, updates, gradients, seen = Oracle(3, 40, 4, 8), updates_of(model), {}, []
    schedule = schedule_of(model)

    def look(step):
        settle(step)
        gradients.update({(p, f): getattr(u, f).grad.numpy(force=True).copy() for p, u in updates.items() for f in "AB"
                          if getattr(u, f).grad is not None})  # fmt: skip
        seen.append(copies({f"{p}.{f}": getattr(u, f) for p, u in updates.items() for f in "AB"}))

    def settle(step):  # the weights are those after step number `step`, the gradients those before it
        if step:
            left = {k: g for k, g in gradients.items() if k not in oracle.frozen}
            oracle.after(step, {k: (getattr(updates[k[0]], k[1]).numpy(force=True), g) for k, g in left.items()})
            for path, factor in left.keys() - oracle.frozen.keys():
                for theirs, ours in (("mean", schedule.mean), ("uncertain", schedule.spread)):
                    expected = getattr(oracle, theirs)[path, factor]
                    np.testing.assert_allclose(ours[f"{path}.{factor}"], expected, rtol=1e-9, atol=1e-15)
        frozen = {(p, f) for p, u in updates.items() for f in u.fixed}
        assert frozen == set(oracle.frozen)

    loop(model, opt, 40, look)
    settle(40)
    assert len(set(oracle.frozen.values())) > 1 and min(oracle.frozen.values()) > 4, "one by one, after the warm-up"
    assert all(u.fixed == {"A", "B"} for u in updates.values())
    for (path, factor), step in oracle.frozen.items():
        key = f"{path}.{factor}"
        assert all(torch.equal(now[key], seen[step][key]) for now in seen[step:])
        assert not torch.equal(seen[step][key], seen[step - 1][key])
        assert getattr(updates[path], factor) not in opt.state
    history = schedule.history
    noted = {key: entry["step"] for entry in history for key in entry["frozen"]}
    assert noted == {f"{path}.{factor}": step for (path, factor), step in oracle.frozen.items()}
    ends = sum(u.core.numel() + u.gain.numel() for u in updates.values())
    assert history[-1]["trainable"] == lo.adapting.report(model).trainable == ends


def test_a_matrix_without_any_gradient_is_frozen_in_the_end():
    """Its scores are all equal, so no mean lies below a threshold among them."""
    model, targets = quiet("llama")
    lo.adapt(model, lo.AFLoRA(target_modules=targets, every=2))
    with torch.no_grad():
        for update in updates_of(model).values():
            update.gain.zero_()
    opt = torch.optim.SGD(trained(model), lr=0.0)
    lo.attach(model, opt, total_steps=10)
    loop(model, opt, 10)
    assert all(u.fixed == {"A", "B"} for u in updates_of(model).values())


@pytest.mark.parametrize("at", [3, 11, 19])
def test_a_resumed_run_is_the_same_run(at):
    def fresh():
        model, targets = quiet("llama")
        lo.adapt(model, lo.AFLoRA(target_modules=targets, final_share=0.2, every=3), seed=3)
        opt = OPTIMIZERS["adamw"](trained(model))
        lo.attach(model, opt, total_steps=24)
        return model, opt

    assert_resumes(fresh, 24, at)


@pytest.mark.parametrize("name", MODELS)
def test_everything_one_does_with_an_adapter(name, tmp_path):
    model, y0 = tiny(name), logits(tiny(name))
    method = lo.AFLoRA(target_modules=TARGETS[name], rank_pattern={TARGETS[name][0]: 2})
    lo.adapt(model, method)
    y = logits(shaken(model))
    lo.merge(model)
    assert gap(logits(model), y) < 1e-4 and gap(y, y0) > 1e-2
    lo.unmerge(model)
    assert torch.equal(logits(model), y)
    with lo.routed(model, ["default", None, "default"]):
        mixed = logits(model)
    assert gap(mixed[0], y[0]) < 1e-4 and gap(mixed[1], y0[1]) < 1e-5
    deltas = {p: 3 * layer.delta() for p, layer in lo.adapted_layers(model).items()}
    lo.combine(model, {"default": 3.0}, "more")
    assert all(gap(layer.delta("more"), deltas[p]) < 1e-4 for p, layer in lo.adapted_layers(model).items())
    lo.save_adapter(model, tmp_path / "own")
    other = tiny(name)
    lo.load_adapter(other, tmp_path / "own")
    assert torch.equal(logits(other), y) and other.lowrank_methods["default"] == method


@pytest.mark.parametrize("name", MODELS)
def test_exported_to_peft(name, tmp_path):
    from peft import PeftModel

    model = tiny(name)
    lo.adapt(model, lo.AFLoRA(target_modules=TARGETS[name]))
    y = logits(shaken(model))
    lo.save_adapter(model, tmp_path, format="peft")
    assert gap(logits(PeftModel.from_pretrained(tiny(name), tmp_path)), y) <= 1e-5 * float(y.norm())


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
def test_the_update_against_numpy_and_finite_differences(kind):
    torch.manual_seed(1)
    base = (nn.Linear(5, 8) if kind == "linear" else Conv1D(8, 5)).double().requires_grad_(False)
    A, B, d, b = (torch.randn(*shape).double() for shape in ((3, 5), (8, 3), (3,), (8,)))
    update, x = LowRank(A, B, 1.0, core=d, gain=b), torch.randn(2, 4, 5).double()
    dW = np.diag(b) @ B.numpy() @ np.diag(d) @ A.numpy()
    np.testing.assert_allclose(update(x, base(x), base).detach(), x.numpy() @ dW.T, atol=1e-11)
    np.testing.assert_allclose(update.delta(base), dW, atol=1e-11)
    parameters = dict(update.named_parameters())

    def run(*values):
        return torch.func.functional_call(update, dict(zip(parameters, values, strict=True)), (x, base(x), base))

    assert torch.autograd.gradcheck(run, tuple(p.detach().clone().requires_grad_(True) for p in parameters.values()))


def test_what_a_schedule_needs():
    model, targets = quiet("llama")
    lo.adapt(model, lo.AFLoRA(target_modules=targets))
    opt = OPTIMIZERS["adamw"](trained(model))
    with pytest.raises(ValueError, match="must know its length"):
        lo.attach(model, opt)
    loop(model, opt, 1)
    with pytest.raises(RuntimeError, match="without the schedule of AFLoRA"):
        loop(model, opt, 1)


@pytest.mark.parametrize(("settings", "words"), [
    ({"every": 0}, "every=0: a whole number ≥ 1"),
    ({"beta1": 1.0}, "beta1=1.0: between 0 and 1"),
    ({"beta2": 0}, "beta2=0: between 0 and 1"),
    ({"warmup_share": 0.5, "final_share": 0.5}, "leave some of it for freezing"),
    ({"warmup_share": -0.1}, "warmup_share=-0.1"),
    ({"r": 0}, "r=0: a rank"),
])  # fmt: skip
def test_settings_are_checked(settings, words):
    with pytest.raises(ValueError, match=words):
        lo.AFLoRA(**{"target_modules": ["c_attn"], **settings})
