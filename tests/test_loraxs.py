"""LoRA-XS: frozen singular vectors, one square matrix trained, r² numbers per layer."""

import numpy as np
import pytest
import torch
import transformers
from loops import OPTIMIZERS, copies, loop, quiet, trained
from models_zoo import TARGETS, batch, gap, logits, shaken, tiny
from torch import nn

import lowrank_edu as lo
from lowrank_edu.updates import weight_of

MODELS = ["gpt2", "llama"]


def updates_of(model, name="default"):
    return {path: layer.updates[name] for path, layer in lo.adapted_layers(model).items()}


@pytest.mark.parametrize(("config_class", "model_class", "settings", "targets", "r", "count"), [
    ("DebertaV2Config", "DebertaV2Model", {"vocab_size": 128100, "hidden_size": 768, "num_hidden_layers": 12,
     "num_attention_heads": 12, "intermediate_size": 3072}, ["query_proj", "key_proj", "value_proj", "dense"],
     136, 1_331_712),
    ("LlamaConfig", "LlamaForCausalLM", {"hidden_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 24,
     "num_key_value_heads": 8, "intermediate_size": 8192}, "all-linear", 248, 12_054_784),
    ("LlamaConfig", "LlamaForCausalLM", {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
     "num_key_value_heads": 8, "intermediate_size": 14336}, ["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"],
     298, 14_208_640),
])  # fmt: skip
def test_counts_that_others_published(config_class, model_class, settings, targets, r, count):
    with torch.device("meta"):
        model = getattr(transformers, model_class)(getattr(transformers, config_class)(**settings))
    report = lo.adapt(model, lo.LoRAXS(r=r, target_modules=targets))
    assert report.trainable == count == len(report.modules) * r**2


@pytest.mark.parametrize("name", MODELS)
def test_the_start(name):
    model, y = tiny(name), logits(tiny(name))
    bases = dict(model.named_modules())
    lo.adapt(model, lo.LoRAXS(r=3, target_modules=TARGETS[name]))
    assert torch.equal(logits(model), y)
    for path, update in updates_of(model).items():
        U, S, Vt = np.linalg.svd(weight_of(bases[path]).detach().double().numpy(), full_matrices=False)
        best = (U[:, :3] * S[:3]) @ Vt[:3]
        np.testing.assert_allclose((update.B @ update.A).detach(), best, atol=1e-5)  # R = 1 is the best copy
        np.testing.assert_allclose(update.A.detach().norm(dim=1), S[:3], rtol=1e-5)  # the σ stand with A
        np.testing.assert_allclose((update.B.T @ update.B).detach(), np.eye(3), atol=1e-5)
        assert update.fixed == {"A", "B"} and update.scale == 1
    shaken(model)
    with lo.disabled(model):
        assert torch.equal(logits(model), y)


def test_the_start_of_the_authors_is_nearly_the_base_model():
    model, y = tiny(), logits(tiny())
    lo.adapt(model, lo.LoRAXS(r=4, target_modules=TARGETS["gpt2"], std=1e-5, alpha=8))
    assert 0 < gap(logits(model), y) < 1e-3
    cores = torch.cat([u.core.flatten() for u in updates_of(model).values()]).detach()
    assert cores.std().item() == pytest.approx(1e-5, rel=0.3)
    assert {u.scale for u in updates_of(model).values()} == {2.0}


@pytest.mark.parametrize("name", MODELS)
def test_only_the_square_matrix_trains(name):
    model, targets = quiet(name)
    lo.adapt(model, lo.LoRAXS(r=3, target_modules=targets))
    assert lo.adapting.report(model).trainable == 9 * len(updates_of(model)) == sum(p.numel() for p in trained(model))
    opt, before = OPTIMIZERS["adamw"](trained(model)), copies(model)
    loop(model, opt, 4)
    for key, now in model.named_parameters():
        assert torch.equal(now, before[key]) != key.endswith(".core")


def test_saved_activations_are_r_wide():
    model = nn.Sequential(nn.Linear(24, 40))
    lo.adapt(model, lo.LoRAXS(r=6, target_modules=["0"]))
    own, found = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}, {}

    def note(t):
        if t.untyped_storage().data_ptr() not in own and t.dim():
            found[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        keep = model(torch.randn(14, 24, requires_grad=True))
    assert sum(found.values()) == 14 * 6 * 4 and keep.requires_grad


@pytest.mark.parametrize("name", MODELS)
def test_everything_one_does_with_an_adapter(name, tmp_path):
    model, y0 = tiny(name), logits(tiny(name))
    method = lo.LoRAXS(r=3, alpha=4, target_modules=TARGETS[name], rank_pattern={TARGETS[name][0]: 2})
    lo.adapt(model, method)
    y = logits(shaken(model))
    assert gap(y, y0) > 1e-2
    lo.merge(model)
    assert gap(logits(model), y) < 1e-4
    lo.unmerge(model)
    assert torch.equal(logits(model), y)
    with lo.routed(model, ["default", None, "default"]):
        mixed = logits(model)
    assert gap(mixed[0], y[0]) < 1e-4 and gap(mixed[1], y0[1]) < 1e-5
    deltas = {p: -2 * layer.delta() for p, layer in lo.adapted_layers(model).items()}
    lo.combine(model, {"default": -2.0}, "minus")
    assert all(gap(layer.delta("minus"), deltas[p]) < 1e-4 for p, layer in lo.adapted_layers(model).items())
    lo.save_adapter(model, tmp_path / "own")
    other = tiny(name)
    lo.load_adapter(other, tmp_path / "own")
    assert torch.equal(logits(other), y) and other.lowrank_methods["default"] == method


@pytest.mark.parametrize("name", MODELS)
def test_exported_to_peft(name, tmp_path):
    from peft import PeftModel

    model = tiny(name)
    lo.adapt(model, lo.LoRAXS(r=3, alpha=4, target_modules=TARGETS[name]))
    y = logits(shaken(model))
    lo.save_adapter(model, tmp_path, format="peft")
    assert gap(logits(PeftModel.from_pretrained(tiny(name), tmp_path)), y) <= 1e-5 * float(y.norm())


def test_it_learns_from_zero():
    model, targets = quiet("llama")
    lo.adapt(model, lo.LoRAXS(r=6, target_modules=targets))
    data = [{"input_ids": row, "labels": row} for row in batch(8, 12)]
    history = lo.train(model, data, steps=40, lr=5e-2, progress=False)
    assert history.loss[-1] < 0.95 * history.loss[0]


@pytest.mark.parametrize(("settings", "words"), [
    ({"std": -1.0}, "std=-1.0: a number ≥ 0"),
    ({"alpha": 0}, "alpha=0"),
    ({"directions": "middle"}, "directions='middle' is not one of"),
    ({"r": 0}, "r=0: a rank"),
])  # fmt: skip
def test_settings_are_checked(settings, words):
    with pytest.raises(ValueError, match=words):
        lo.LoRAXS(**{"target_modules": ["c_attn"], **settings})
