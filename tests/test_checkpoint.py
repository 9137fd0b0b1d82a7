"""Saving and loading: what comes back is what went out, and a save that fails leaves what was there."""

import json
import os
import shutil

import pytest
import torch
from models_zoo import batch, gap, logits, shaken, tiny
from safetensors.torch import load_file
from test_switching import METHODS, adapted

import lowrank_edu as lo
from lowrank_edu.adapter_card import adapter_card

TENSORS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def saved(folder, **settings):
    """A folder with an adapter of a tiny GPT-2, and that model's logits."""
    model = adapted("a", method=lo.LoRA(**{"r": 3, "alpha": 7, "target_modules": ["c_attn", "c_fc"], **settings}))
    lo.save_adapter(model, folder, "a")
    return logits(model)


@pytest.mark.parametrize("kind", METHODS)
def test_what_comes_back_is_what_went_out(kind, tmp_path):
    model = adapted("a", method=METHODS[kind])
    assert lo.save_adapter(model, tmp_path / "new" / "folder", "a") == tmp_path / "new" / "folder"
    again = tiny()
    report = lo.load_adapter(again, tmp_path / "new" / "folder", "b")
    spectral = kind in ("pissa", "olora")  # comes back as the plain LoRA of twice the rank
    exact = not spectral and kind != "bias"  # PEFT's files hold b + Δb, rounded
    assert gap(logits(again), logits(model)) <= (0 if exact else 1e-5)
    assert report.name == "b" and report.modules == list(lo.adapted_layers(model))
    if not spectral:
        assert report.trainable == sum(p.numel() for p in model.parameters() if p.requires_grad)
    with lo.disabled(again):
        assert torch.equal(logits(again), logits(tiny()))
    again(input_ids=batch(), labels=batch()).loss.backward()
    assert all(p.grad is not None for p in again.parameters() if p.requires_grad)


def test_a_projection_is_made_again_from_its_seed(tmp_path):
    model = tiny()
    lo.adapt(model, lo.IntrinsicDimension(30), seed=5)
    shaken(model)
    lo.save_adapter(model, tmp_path)
    assert len(load_file(tmp_path / "lowrank_model.safetensors")) == 1  # θ once, not once per layer
    again = tiny()
    lo.load_adapter(again, tmp_path)
    assert torch.equal(logits(again), logits(model))
    assert os.path.getsize(tmp_path / "lowrank_model.safetensors") < 1000


def test_saving_does_not_depend_on_what_is_active_or_merged(tmp_path):
    model = adapted("a", "b", method=lo.LoRA(r=3, alpha=7, target_modules=["c_attn"], bias="lora_only"))
    lo.save_adapter(model, tmp_path / "awake", "b")
    lo.merge(model)
    lo.save_adapter(model, tmp_path / "merged", "b")
    lo.unmerge(model)
    lo.set_adapter(model, "a")
    lo.save_adapter(model, tmp_path / "asleep", "b")
    for other in ("merged", "asleep"):
        assert (tmp_path / other / CONFIG).read_bytes() == (tmp_path / "awake" / CONFIG).read_bytes()
        wanted, found = load_file(tmp_path / "awake" / TENSORS), load_file(tmp_path / other / TENSORS)
        assert wanted.keys() == found.keys() and all(torch.equal(wanted[k], found[k]) for k in wanted)


def test_loading_beside_other_adapters(tmp_path):
    wanted = saved(tmp_path, modules_to_save=["ln_f"], bias="all")
    model = adapted("other", method=lo.LoRA(r=2, target_modules="all-linear", bias="all"))
    out = logits(model)
    lo.load_adapter(model, tmp_path, "a")
    assert gap(logits(model), wanted) < 1e-5
    lo.set_adapter(model, "other")
    assert torch.equal(logits(model), out)


def test_a_combination_can_be_saved(tmp_path):
    model = adapted("a", "b")
    lo.combine(model, {"a": 0.5, "b": 0.25}, "mix")
    lo.save_adapter(model, tmp_path, "mix")
    again = tiny()
    lo.load_adapter(again, tmp_path)
    assert gap(logits(again), logits(model)) < 1e-6


def test_scales_are_written_as_people_wrote_them(tmp_path):
    saved(tmp_path, use_rslora=True)
    config = json.loads((tmp_path / CONFIG).read_text())
    assert config["lora_alpha"] == 7 and isinstance(config["lora_alpha"], int) and config["use_rslora"] is True
    assert list(config) == sorted(config)


def test_short_paths_do_not_catch_longer_ones(tmp_path):
    """PEFT takes the first pattern that ends a path: "lin" also ends "body.lin"."""
    def model():
        torch.manual_seed(0)
        lin, inner, more = (torch.nn.Linear(5, 8) for _ in range(3))
        return torch.nn.ModuleDict({"lin": lin, "body": torch.nn.ModuleDict({"lin": inner, "more": more})})

    method = lo.LoRA(r=2, alpha=4, target_modules=["lin", "more"], alpha_pattern={"^lin": 9})
    ours, again = model(), model()
    lo.adapt(ours, method)
    lo.save_adapter(shaken(ours), tmp_path)
    lo.load_adapter(again, tmp_path)
    scales = [{p: layer.updates["default"].scale for p, layer in lo.adapted_layers(m).items()} for m in (ours, again)]
    assert scales[0] == scales[1] == {"lin": 4.5, "body.lin": 2, "body.more": 2}


def test_loaded_adapters_are_frozen_on_request(tmp_path):
    wanted = saved(tmp_path)
    model = tiny()
    lo.load_adapter(model, tmp_path, trainable=False)
    assert torch.equal(logits(model), wanted) and not any(p.requires_grad for p in model.parameters())
    lo.set_adapter(model, "default")
    assert sum(p.requires_grad for p in model.parameters()) == 8


@pytest.mark.parametrize("fails_at", [1, 2, "full disk"])
@pytest.mark.parametrize("kind", ["kaiming", "full"])
@pytest.mark.parametrize("old", [True, False])
def test_a_failed_save_leaves_the_old_files(fails_at, kind, old, tmp_path, monkeypatch):
    model = adapted("a", method=METHODS[kind])
    if old:
        lo.save_adapter(model, tmp_path, "a")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    shaken(model, seed=8)
    calls, replace = [], os.replace

    def failing(*args):
        calls.append(args)
        if len(calls) == fails_at:
            raise OSError("no space left on device")
        return replace(*args)

    monkeypatch.setattr(os, "replace", failing)
    if fails_at == "full disk":
        def full(tensors, path, **_):
            path.write_bytes(b"half of a file")
            raise OSError("no space left on device")

        monkeypatch.setattr("lowrank_edu.checkpoint.save_file", full)
    with pytest.raises(OSError, match="no space left"):
        lo.save_adapter(model, tmp_path, "a")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_saving_again_replaces_both_files(tmp_path):
    saved(tmp_path)
    wanted = saved(tmp_path, r=5, init="gaussian")
    model = tiny()
    lo.load_adapter(model, tmp_path)
    assert torch.equal(logits(model), wanted)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["README.md", CONFIG, TENSORS]


def test_one_folder_holds_one_format(tmp_path):
    saved(tmp_path)
    with pytest.raises(ValueError, match="an adapter in another format"):
        lo.save_adapter(adapted("a", method=lo.FullFineTuning()), tmp_path, "a")
    shutil.rmtree(tmp_path)
    lo.save_adapter(adapted("a", method=lo.FullFineTuning()), tmp_path, "a")
    with pytest.raises(ValueError, match="an adapter in another format"):
        saved(tmp_path)


def test_a_folder_says_what_it_is_and_keeps_somebodys_own_words(tmp_path):
    """README.md: base and method for whoever finds it, settings as text; one that is not ours is never written over."""
    model, _ = lo.load_model("tiny-gpt2")
    lo.adapt(model, lo.LoRA(r=4, target_modules=["c_attn"], dropout=0.1))
    lo.save_adapter(model, tmp_path / "a")
    page = (tmp_path / "a" / "README.md").read_text("utf-8")
    assert "base_model: \"tiny-gpt2\"" in page and "library_name: \"peft\"" in page
    assert "| `r` | `4` |" in page and "| `lora_dropout` | `0.1` |" in page and "PeftModel.from_pretrained" in page
    lo.save_adapter(model, tmp_path / "own", format="own")
    own = (tmp_path / "own" / "README.md").read_text("utf-8")
    assert "LoRA, 12,288 numbers" in own and "PEFT does not read this format" in own
    (tmp_path / "a" / "README.md").write_text("My best pirate.", "utf-8")
    lo.save_adapter(model, tmp_path / "a")
    assert (tmp_path / "a" / "README.md").read_text("utf-8") == "My best pirate."
    hostile = adapter_card("adapter", {"r": "`|\n# Title"}, None, 1)
    assert "\n# Title" not in hostile and "a model without a name" in hostile


def test_our_own_format_names_its_base_and_older_folders_still_load(tmp_path):
    model, _ = lo.load_model("tiny-gpt2")
    lo.adapt(model, lo.LaMDA(r=2, target_modules=["c_attn"]))
    lo.save_adapter(model, tmp_path / "a", format="own")
    file = tmp_path / "a" / "lowrank_config.json"
    config = json.loads(file.read_text("utf-8"))
    assert config.pop("base_model_name_or_path") == "tiny-gpt2"
    file.write_text(json.dumps(config), "utf-8")
    lo.load_adapter(lo.load_model("tiny-gpt2")[0], tmp_path / "a")
