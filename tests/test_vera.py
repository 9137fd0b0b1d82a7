"""VeRA: PEFT's very numbers, one shared pair for all layers, two trained vectors per layer."""

import copy
import json
import pickle

import peft
import pytest
import torch
from models_zoo import TARGETS, batch, gap, logits, same_state, shaken, state, tiny
from parity import assert_alike, off_by_one_percent
from safetensors.torch import load_file, save_file

import lowrank_edu as lo
from lowrank_edu.methods.vera import Shared

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft", "ignore::FutureWarning")
MODELS = ["gpt2", "llama"]


def adapted(name="gpt2", adapter="default", model=None, **settings):
    model = tiny(name) if model is None else model
    lo.adapt(model, lo.VeRA(**{"r": 5, "target_modules": TARGETS[name], **settings}), adapter)
    return shaken(model, seed=len(adapter))


def made_by_peft(name, **settings):
    config = peft.VeraConfig(**{"r": 5, "target_modules": TARGETS[name], **settings})
    return peft.get_peft_model(tiny(name), config).eval()


def pairs(ours, theirs):
    """[(our parameter, PEFT's)] of all layers."""
    found = []
    for path, layer in lo.adapted_layers(ours).items():
        update, other = layer.updates["default"], theirs.get_submodule(f"base_model.model.{path}")
        found += [(update.gain, other.vera_lambda_b["default"]), (update.core, other.vera_lambda_d["default"])]
    return found


def pair_of(model, adapter="default"):
    return next(iter(lo.adapted_layers(model).values())).updates[adapter].shared


@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.parametrize("name", MODELS)
def test_the_start_is_that_of_peft_bit_for_bit(name, seed):
    ours, theirs = tiny(name), made_by_peft(name, projection_prng_key=seed, d_initial=0.3)
    lo.adapt(ours, lo.VeRA(r=5, target_modules=TARGETS[name], projection_seed=seed, d_initial=0.3), seed=99)
    shared = pair_of(ours)
    assert torch.equal(shared.A, theirs.base_model.vera_A["default"])
    assert torch.equal(shared.B, theirs.base_model.vera_B["default"])
    assert all(torch.equal(mine, other) for mine, other in pairs(ours, theirs))
    assert torch.equal(logits(ours), logits(tiny(name)))  # Λ_b = 0
    for layer in lo.adapted_layers(ours).values():  # each layer reads the first columns of A and rows of B
        update = layer.updates["default"]
        update.gain.data.fill_(1.0)
        d_out, d_in = layer.delta().shape
        torch.testing.assert_close(layer.delta(), shared.B[:d_out] @ (0.3 * shared.A[:, :d_in]))


@pytest.mark.parametrize("name", MODELS)
def test_outputs_gradients_and_five_steps_are_those_of_peft(name, tmp_path):
    theirs = shaken(made_by_peft(name), seed=2, by=0.5)
    theirs.save_pretrained(tmp_path)
    ours = tiny(name)
    lo.load_adapter(ours, tmp_path)
    assert_alike(ours, theirs, pairs)


@pytest.mark.parametrize("save", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_both_directions_with_and_without_the_pair(name, save, tmp_path):
    ours = adapted(name, save_projection=save, projection_seed=3)
    lo.save_adapter(ours, tmp_path / "ours")
    theirs = peft.PeftModel.from_pretrained(tiny(name), tmp_path / "ours").eval()
    wanted = logits(theirs)
    theirs.save_pretrained(tmp_path / "theirs")
    again = tiny(name)
    report = lo.load_adapter(again, tmp_path / "theirs")
    for model in (ours, again):
        assert (logits(model) - wanted).norm() <= 1e-5 * wanted.norm()
        assert (logits(off_by_one_percent(model)) - wanted).norm() > 1e-4 * wanted.norm()
    assert torch.equal(logits(again), logits(ours)) and gap(wanted, logits(tiny(name))) > 0.01
    keys = load_file(tmp_path / "ours" / "adapter_model.safetensors").keys()
    assert keys == load_file(tmp_path / "theirs" / "adapter_model.safetensors").keys()
    assert ("base_model.vera_A" in keys) == save and len(keys) == 2 * len(report.modules) + 2 * save
    mine, other = (json.loads((tmp_path / w / "adapter_config.json").read_text()) for w in ("ours", "theirs"))
    for config in (mine, other):
        config["target_modules"] = sorted(config["target_modules"])
    differ = {key for key in mine if mine[key] != other[key]}
    assert other.keys() - mine.keys() == {"peft_version"} and differ <= {"auto_mapping", "base_model_name_or_path"}


def test_dropout_draws_the_same_numbers(tmp_path):
    theirs = shaken(made_by_peft("gpt2", vera_dropout=0.4), seed=2, by=0.5)
    theirs.save_pretrained(tmp_path)
    ours, out = tiny(), []
    lo.load_adapter(ours, tmp_path)
    quiet = logits(ours)
    for model in (ours.train(), theirs.train()):
        torch.manual_seed(3)
        out.append(logits(model))
    assert gap(*out) <= 1e-5 and gap(out[0], quiet) > 0.01


def test_the_pair_is_held_once_wherever_the_model_goes():
    model = adapted()
    trained = [p for p in model.parameters() if p.requires_grad]
    sizes = [(72, 5), (40, 5)] * 2  # d_out and r of every layer
    assert sum(p.numel() for p in trained) == sum(d + r for d, r in sizes) == lo.adapting.report(model).trainable
    for other in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model)), copy.deepcopy(model).double()):
        updates = [layer.updates["default"] for layer in lo.adapted_layers(other).values()]
        assert len([m for m in other.modules() if isinstance(m, Shared)]) == 1
        assert all(u.shared is updates[0].shared for u in updates)
        assert len([k for k in other.state_dict() if ".shared." in k]) == 2
        assert updates[0].shared.A.dtype == updates[0].core.dtype
        assert gap(logits(other), logits(model)) < 1e-5
    assert pair_of(copy.deepcopy(model)) is not pair_of(model)


def test_a_state_dict_brings_the_pair_along():
    model, other = adapted(projection_seed=1), adapted(projection_seed=2)
    assert gap(logits(model), logits(other)) > 1e-3
    other.load_state_dict(model.state_dict())
    assert torch.equal(logits(other), logits(model))


def test_training_moves_the_vectors_and_nothing_else():
    model = adapted()
    before = state(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1)
    model(input_ids=batch(), labels=batch()).loss.backward()
    optimizer.step()
    moved = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert moved == {key for key in before if key.endswith((".core", ".gain"))} and len(moved) == 8


def test_gradients_are_those_of_finite_differences():
    model = adapted().double()
    layer = lo.adapted_layers(model)["transformer.h.0.mlp.c_fc"]
    update, x = layer.updates["default"], torch.randn(2, 3, 24, dtype=torch.float64, requires_grad=True)

    def forward(x, core, gain):
        return torch.func.functional_call(update, {"core": core, "gain": gain}, (x, layer.base(x), layer.base))

    assert torch.autograd.gradcheck(forward, (x, update.core, update.gain))


def test_several_adapters_each_with_its_pair(tmp_path):
    model = adapted(projection_seed=1)
    adapted(model=model, adapter="wide", r=9, projection_seed=2, target_modules=["c_attn", "mlp.c_proj"])
    assert pair_of(model, "default") is not pair_of(model, "wide")
    alone = {}
    for adapter in ("default", "wide"):
        lo.set_adapter(model, adapter)
        alone[adapter] = logits(model)
        lo.save_adapter(model, tmp_path / adapter, adapter)
    lo.combine(model, {"default": 0.5, "wide": -2.0}, "mix")
    for path, layer in lo.adapted_layers(model).items():
        parts = [w * layer.delta(n) for n, w in {"default": 0.5, "wide": -2.0}.items() if n in layer.updates]
        torch.testing.assert_close(layer.delta("mix"), sum(parts), rtol=0, atol=1e-6, msg=path)
    lo.delete_adapter(model, "default")
    lo.set_adapter(model, "wide")
    assert torch.equal(logits(model), alone["wide"])
    for adapter, wanted in alone.items():
        again = tiny()
        lo.load_adapter(again, tmp_path / adapter)
        assert torch.equal(logits(again), wanted)


def test_a_second_adapter_of_peft_keeps_the_wider_pair_of_the_first(tmp_path):
    theirs = peft.get_peft_model(tiny(), peft.VeraConfig(r=5, target_modules=["c_attn", "mlp.c_proj"]), "one").eval()
    theirs.add_adapter("two", peft.VeraConfig(r=5, target_modules=["mlp.c_fc"]))
    theirs.set_adapter("two")
    shaken(theirs, by=0.5).save_pretrained(tmp_path)
    ours = tiny()
    lo.load_adapter(ours, tmp_path / "two", "two")
    wanted = logits(theirs)
    assert (logits(ours) - wanted).norm() <= 1e-5 * wanted.norm() and gap(wanted, logits(tiny())) > 0.01


@pytest.mark.parametrize(("settings", "words"), [
    ({"r": 0}, "r=0"), ({"d_initial": 0.0}, "never learns"), ({"projection_seed": -1}, "projection_seed=-1"),
    ({"dropout": 1.0}, "dropout"), ({"target_modules": []}, "adapts nothing"),
])  # fmt: skip
def test_bad_settings_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        lo.VeRA(**{"target_modules": ["c_attn"], **settings})


def test_embeddings_are_refused_and_the_model_is_as_it_was():
    model = tiny()
    with pytest.raises(ValueError, match=r"VeRA is for linear layers; transformer\.wte is an embedding"):
        lo.adapt(model, lo.VeRA(r=4, target_modules=["wte", "c_attn"]))
    assert same_state(model, state(tiny())) and not lo.adapter_names(model)


@pytest.mark.parametrize(("change", "words"), [
    ({"bias": "vera_only"}, "uses bias"), ({"modules_to_save": ["ln_f"]}, "uses modules_to_save"),
    ({"r": None}, "has no r"), ({"r": 4}, "shape: .*vera_lambda_d is"),
    ({"target_modules": ["nothing"]}, "no module matched"),
])  # fmt: skip
def test_folders_that_do_not_fit(change, words, tmp_path):
    lo.save_adapter(adapted(), tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text()) | change
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    model = tiny()
    with pytest.raises(ValueError, match=words):
        lo.load_adapter(model, tmp_path)
    assert same_state(model, state(tiny())) and not lo.adapter_names(model)


@pytest.mark.parametrize("key", ["base_model.vera_A", "base_model.model.transformer.h.0.mlp.c_fc.vera_lambda_b"])
def test_missing_tensors_are_all_named(key, tmp_path):
    lo.save_adapter(adapted(), tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    save_file({k: v for k, v in load_file(file).items() if k != key}, file)
    with pytest.raises(ValueError, match=f"missing: {key}"):
        lo.load_adapter(tiny(), tmp_path)
