"""What `inspect_adapter` says about a folder: numpy's SVD of ΔW, and a warning for each planted fault."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import lowrank_edu as lo
from lowrank_edu import shipped
from lowrank_edu.inspecting import inspect_adapter

PIRATE = shipped.ASSETS / "adapters" / "pirate"


def changed(tmp_path, tensors=lambda t: None, **settings):
    """A copy of the pirate with other tensors (changed in place) or settings."""
    found = load_file(PIRATE / "adapter_model.safetensors")
    tensors(found)
    config = json.loads((PIRATE / "adapter_config.json").read_text("utf-8")) | settings
    folder = tmp_path / "changed"
    folder.mkdir()
    save_file(found, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(config), "utf-8")
    return folder


def test_ranks_scales_and_spectra_are_those_of_the_dense_product():
    found, tensors = inspect_adapter(PIRATE), load_file(PIRATE / "adapter_model.safetensors")
    assert (found.method, found.format, found.base, found.warnings) == ("LORA", "peft", "tiny-gpt2", [])
    assert len(found.modules) == 16 and found.numbers == sum(t.numel() for t in tensors.values())
    for module in found.modules:
        A, B = (tensors[f"base_model.model.{module.path}.lora_{f}.weight"].double().numpy() for f in "AB")
        S = np.linalg.svd(8 / 4 * B @ A, compute_uv=False)
        assert (module.rank, module.scale, module.shape) == (4, 2.0, (len(B), A.shape[1]))
        np.testing.assert_allclose(module.spectrum, S[:4], rtol=1e-10)
        assert module.norm == pytest.approx(np.linalg.norm(2 * B @ A), rel=1e-10)
    assert json.loads(json.dumps(found.as_dict(), default=str))["modules"][0]["norm"] == found.modules[0].norm


@pytest.mark.parametrize("method", [lo.LoRA(4, 8, "all-linear", use_rslora=True), lo.AdaLoRA(2, 4, 8, "all-linear")])
def test_the_scale_is_the_methods_own(method, tmp_path):
    model, _ = lo.load_model()
    lo.adapt(model, method)
    layers = lo.adapted_layers(model)
    with torch.no_grad():
        for layer in layers.values():
            for part in layer.updates["default"].parameters():
                part.normal_(generator=torch.Generator().manual_seed(1))
    lo.save_adapter(model, tmp_path / "a")
    for module in inspect_adapter(tmp_path / "a").modules:
        assert module.norm == pytest.approx(float(layers[module.path].delta("default").norm()), rel=1e-5)


def test_a_folder_of_ours_is_told_without_a_spectrum(tmp_path):
    model, _ = lo.load_model()
    lo.adapt(model, lo.LaMDA(4, "all-linear"))
    lo.save_adapter(model, tmp_path / "own", format="own")
    found = inspect_adapter(tmp_path / "own")
    assert (found.format, found.method, len(found.modules), found.warnings) == ("own", "LaMDA", 16, [])
    assert found.settings["variant"] == "svd-residual" and found.modules[0].spectrum is None


def zero(tensors):
    for key in tensors:
        if "lora_B" in key:
            tensors[key].zero_()


def nan(tensors):
    next(iter(tensors.values()))[0, 0] = float("nan")


def half(tensors):
    del tensors[next(key for key in tensors if "lora_B" in key)]


def extra(tensors):
    tensors["base_model.model.transformer.h.0.mlp.c_fc.lora_C"] = torch.ones(2)


@pytest.mark.parametrize(
    "fault, settings, words",
    [
        (zero, {}, "exactly zero in every module: B was never trained"),
        (nan, {}, "NaN or infinity"),
        (half, {}, "has only A"),
        (extra, {}, "lora_C: not a tensor of LoRA"),
        (lambda t: None, {"r": 3}, "rank 4 in the file, and 3 in the settings"),
        (lambda t: None, {"rank_pattern": {"nowhere": 2}}, "rank_pattern names 'nowhere'"),
        (lambda t: None, {"lora_alpha": 0.25}, "the scale is 0.0625"),
        (lambda t: None, {"base_model_name_or_path": None}, "do not name the base model"),
        (lambda t: None, {"peft_type": "LOHA"}, "load_adapter does not read it"),
    ],
)
def test_each_fault_is_named_and_nothing_else(fault, settings, words, tmp_path):
    warnings = inspect_adapter(changed(tmp_path, fault, **settings)).warnings
    assert warnings and all(words in warning for warning in warnings), warnings


def test_an_idle_rank_is_told(tmp_path):
    def narrow(tensors):  # rank 8 in shape, one direction in fact
        for key in list(tensors):
            one = tensors[key][:1] if "lora_A" in key else tensors[key][:, :1]
            tensors[key] = torch.cat([one] * 8, dim=0 if "lora_A" in key else 1)

    (warning,) = inspect_adapter(changed(tmp_path, narrow, r=8)).warnings
    assert "16 of 16 modules use less than a quarter of their rank" in warning and "(1.0 of 8)" in warning


def test_no_folder_and_a_damaged_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="neither adapter_config"):
        inspect_adapter(tmp_path)
    folder = changed(tmp_path)
    (folder / "adapter_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="damaged"):
        inspect_adapter(folder)
