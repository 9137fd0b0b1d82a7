"""Folders that do not fit: one error that lists everything, and a model that has not changed by one bit."""

import json

import pytest
import torch
from models_zoo import same_state, state, tiny
from safetensors.torch import load_file, save_file
from test_checkpoint import CONFIG, TENSORS, saved
from test_switching import adapted

import lowrank_edu as lo

KEY = "base_model.model.transformer.h.0.attn.c_attn."


def edit(folder, tensors=None, **config):
    """Change a saved adapter: tensors {key: tensor or None to remove}, and keys of its configuration."""
    there = load_file(folder / TENSORS) | (tensors or {})
    save_file({k: v for k, v in there.items() if v is not None}, folder / TENSORS)
    settings = json.loads((folder / CONFIG).read_text()) | config
    (folder / CONFIG).write_text(json.dumps(settings))


def assert_refused(folder, words, model=None, error=ValueError):
    """One error with all of these words, and not one bit, flag or module of the model has changed."""
    model = model or tiny()
    before, flags = state(model), [p.requires_grad for p in model.parameters()]
    modules = [(name, id(m)) for name, m in model.named_modules()]
    with pytest.raises(error) as caught:
        lo.load_adapter(model, folder)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert same_state(model, before) and [p.requires_grad for p in model.parameters()] == flags
    assert [(name, id(m)) for name, m in model.named_modules()] == modules and not lo.adapter_names(model)


def test_every_key_that_does_not_fit_is_in_one_error(tmp_path):
    saved(tmp_path)
    other = KEY.replace("h.0", "h.1")
    edit(tmp_path, {KEY + "lora_A.weight": None, other + "lora_B.weight": torch.ones(71, 3),
                    KEY + "lora_C.weight": torch.ones(2), "stray": torch.ones(4)})  # fmt: skip
    assert_refused(tmp_path, [
        "nothing was loaded", f"missing: {KEY}lora_A.weight (3, 24)", f"unexpected: {KEY}lora_C.weight (2,)",
        "unexpected: stray (4,)", f"shape: {other}lora_B.weight is (71, 3) in the file, (72, 3) in the model",
    ])  # fmt: skip


def test_a_layer_or_a_saved_module_that_the_file_lacks_is_missed(tmp_path):
    saved(tmp_path / "a")
    edit(tmp_path / "a", {KEY + "lora_A.weight": None, KEY + "lora_B.weight": None})
    assert_refused(tmp_path / "a", [f"missing: {KEY}lora_A.weight", f"missing: {KEY}lora_B.weight"])
    saved(tmp_path / "b", modules_to_save=["ln_f"])
    edit(tmp_path / "b", {f"base_model.model.transformer.ln_f.{k}": None for k in ("weight", "bias")})
    assert_refused(tmp_path / "b", ["missing: base_model.model.transformer.ln_f.weight"])


@pytest.mark.parametrize(("settings", "words"), [
    ({"n_layer": 1}, ["does not have", "transformer.h.1.attn.c_attn"]),
    ({"n_layer": 3}, [f"missing: {KEY.replace('h.0', 'h.2')}lora_A.weight"]),
    ({"n_embd": 32}, [f"{KEY}lora_A.weight is (3, 24) in the file, (3, 32) in the model"]),
])  # fmt: skip
def test_the_wrong_size_of_base_model(settings, words, tmp_path):
    saved(tmp_path)
    assert_refused(tmp_path, words, tiny(**settings))


def test_the_wrong_architecture(tmp_path):
    saved(tmp_path)
    assert_refused(tmp_path, ["does not have: transformer.h.0.attn.c_attn", "another model?"], tiny("llama"))


@pytest.mark.parametrize(("config", "words"), [
    ({"peft_type": "IA3"}, ["peft_type is 'IA3'"]),
    ({"r": None, "lora_alpha": None}, ["has no r, lora_alpha"]),
    ({"use_bdlora": {"x": 1}, "lora_bias": True}, ["uses lora_bias, use_bdlora"]),
    ({"init_lora_weights": "pissa_niter_4"}, ["path_initial_model_for_weight_conversion"]),
    ({"init_lora_weights": "loftq"}, ["init_lora_weights='loftq'"]),
    ({"r": -1}, ["r=-1: a rank is a whole number"]),
    ({"r": 4}, [f"{KEY}lora_A.weight is (3, 24) in the file, (4, 24) in the model"]),
    ({"use_dora": True}, [f"missing: {KEY}lora_magnitude_vector (72,)"]),
    ({"target_modules": ["q_proj"]}, ["no module matched target_modules=['q_proj']"]),
])  # fmt: skip
def test_configurations_that_cannot_be_honoured(config, words, tmp_path):
    saved(tmp_path)
    edit(tmp_path, **config)
    assert_refused(tmp_path, words)


def test_damaged_and_absent_files(tmp_path):
    assert_refused(tmp_path, ["holds neither adapter_config.json"], error=FileNotFoundError)
    saved(tmp_path / "one")
    assert_refused(tmp_path, ["adapters in its folders one"], error=FileNotFoundError)
    file = tmp_path / "one" / TENSORS
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    assert_refused(tmp_path / "one", ["is damaged"])
    file.write_bytes(b"")
    assert_refused(tmp_path / "one", ["is damaged"])
    file.unlink()
    assert_refused(tmp_path / "one", ["no adapter_model.safetensors"], error=FileNotFoundError)
    file.write_bytes(whole)
    for text in ("{", "[1, 2]"):
        (tmp_path / "one" / CONFIG).write_text(text)
        assert_refused(tmp_path / "one", ["is damaged"])


@pytest.mark.parametrize("config", [{"method": "open"}, {"method": "Method"}, {}, {"method": "FullFineTuning", "x": 1}])
def test_our_own_format_builds_known_methods_only(config, tmp_path):
    lo.save_adapter(adapted("a", method=lo.FullFineTuning()), tmp_path, "a")
    (tmp_path / "lowrank_config.json").write_text(json.dumps(config))
    assert_refused(tmp_path, ["this version reads ", "FullFineTuning", "IntrinsicDimension"])


def test_our_own_format_is_checked_as_strictly(tmp_path):
    lo.save_adapter(adapted("a", method=lo.FullFineTuning()), tmp_path, "a")
    assert_refused(tmp_path, ["missing: transformer.h.2.ln_1.copy.weight (24,)"], tiny(n_layer=3))
