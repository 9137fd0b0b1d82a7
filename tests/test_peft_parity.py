"""The same adapter in PEFT and here: same logits both ways, same gradients, same weights after training.

PEFT is the oracle and is never skipped. Every comparison is made a second time with a scale that is 1 % off, and
that one must fail.
"""

import copy
import json

import numpy as np
import peft
import pytest
import torch
from models_zoo import CONFIGS, TARGETS, gap, logits, shaken, tiny
from parity import assert_alike
from safetensors.torch import load_file, save_file

import lowrank_edu as lo
from lowrank_edu.updates import LowRank, store_like

TOLERANCE = 1e-5
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft", "ignore::FutureWarning")


def assert_parity(ours, theirs):
    """Same logits; and the comparison notices when our scale is 1 % off."""
    wanted = logits(theirs)
    assert gap(logits(ours), wanted) <= TOLERANCE
    wrong = copy.deepcopy(ours)
    for update in (u for layer in lo.adapted_layers(wrong).values() for u in layer.updates.values()):
        if isinstance(update, LowRank):
            update.scale *= 1.01
    assert gap(logits(wrong), wanted) > 10 * TOLERANCE
    with lo.disabled(ours):
        assert gap(logits(ours), wanted) > 0.01, "the adapter does nothing, so nothing was compared"


def to_peft_and_back(base, method, folder):
    """Adapt here, load there, save there, load here: all the same."""
    ours = copy.deepcopy(base)
    lo.adapt(ours, method)
    shaken(ours)
    lo.save_adapter(ours, folder / "ours")
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(base), folder / "ours").eval()
    assert_parity(ours, theirs)
    theirs.save_pretrained(folder / "theirs")
    again = copy.deepcopy(base)
    lo.load_adapter(again, folder / "theirs")
    assert_parity(again, theirs)
    return ours, theirs


def from_peft(base, config, folder, seed=0):
    """An adapter made and filled with noise by PEFT, and our copy of it."""
    torch.manual_seed(seed)
    theirs = shaken(peft.get_peft_model(copy.deepcopy(base), config).eval(), seed=2)
    theirs.save_pretrained(folder)
    ours = copy.deepcopy(base)
    lo.load_adapter(ours, folder)
    return ours, theirs


FAMILY = {"lora": {}, "rslora": {"use_rslora": True}, "dora": {"use_dora": True}}


@pytest.mark.parametrize("kind", FAMILY)
@pytest.mark.parametrize("name", CONFIGS)
def test_both_directions_on_every_architecture(name, kind, tmp_path):
    ours = {"r": 3, "alpha": 7, "target_modules": TARGETS[name], **FAMILY[kind]}
    to_peft_and_back(tiny(name), lo.LoRA(**ours), tmp_path)
    theirs = {"r": 3, "lora_alpha": 7, "target_modules": TARGETS[name], **FAMILY[kind]}
    assert_parity(*from_peft(tiny(name), peft.LoraConfig(**theirs), tmp_path / "made there"))


SPECIAL = {
    "gaussian": ("gpt2", {"init": "gaussian"}),
    "orthogonal": ("llama", {"init": "orthogonal", "r": 4}),
    "pissa": ("gpt2", {"init": "pissa"}),
    "pissa, rslora": ("llama", {"init": "pissa", "use_rslora": True}),
    "pissa, dora": ("gpt2", {"init": "pissa", "use_dora": True}),
    "olora on Conv1D": ("gpt2", {"init": "olora"}),
    "patterns": ("gpt2", {"rank_pattern": {"h.0.attn.c_attn": 5}, "alpha_pattern": {"c_fc": 11}}),
    "patterns, rslora": ("bert", {"rank_pattern": {"query": 5}, "alpha_pattern": {r"layer\.1.*": 4},
                                  "use_rslora": True}),
    "patterns, pissa": ("llama", {"rank_pattern": {"q_proj": 5}, "init": "pissa"}),
    "bias lora_only": ("gpt2", {"bias": "lora_only"}),
    "bias all": ("bert", {"bias": "all"}),
    "bias all, saved": ("gpt2", {"bias": "all", "modules_to_save": ["ln_f"]}),
    "bias, dora": ("gpt2", {"bias": "lora_only", "use_dora": True}),
    "saved module": ("gpt2", {"modules_to_save": ["ln_f"]}),
    "saved container": ("bert", {"modules_to_save": ["cls.predictions.transform"]}),
    "saved head": ("llama", {"modules_to_save": ["lm_head"]}),
    "regex": ("gpt2", {"target_modules": r".*h\.1.*(attn|c_fc)"}),
    "regex over containers": ("gpt2", {"target_modules": r".*attn.*"}),
    "all-linear": ("deberta", {"target_modules": "all-linear"}),
    "all-linear, dora": ("bart", {"target_modules": "all-linear", "use_dora": True}),
    "blocks": ("gpt2", {"target_modules": None, "blocks": {"c_attn": ("q", "v")}}),
    "blocks, others too": ("gpt2", {"target_modules": ["c_attn", "c_fc"], "blocks": {"c_attn": ("v", "k")}}),
    "blocks, rslora": ("gpt2", {"target_modules": None, "blocks": {"c_attn": ("q", "v")}, "use_rslora": True}),
    "blocks, pissa": ("gpt2", {"target_modules": None, "blocks": {"c_attn": ("v",)}, "init": "pissa"}),
    "embedding": ("llama", {"target_modules": ["embed_tokens", "q_proj"]}),
    "scaled embedding": ("bart", {"target_modules": ["encoder.embed_tokens", "q_proj"]}),
    "embedding, dora": ("llama", {"target_modules": ["embed_tokens"], "use_dora": True}),
    "head": ("llama", {"target_modules": ["lm_head"]}),
}  # fmt: skip


@pytest.mark.parametrize("case", SPECIAL)
def test_both_directions_for_every_option(case, tmp_path):
    name, settings = SPECIAL[case]
    base = tiny(name) if name != "bart" else tiny(name, tie_word_embeddings=False)
    method = lo.LoRA(**{"r": 3, "alpha": 7, "target_modules": TARGETS[name], **settings})
    to_peft_and_back(base, method, tmp_path)


MADE_THERE = {
    "patterns": ("gpt2", {"rank_pattern": {"h.0.attn.c_attn": 5}, "alpha_pattern": {"c_fc": 11}}),
    "bias lora_only": ("gpt2", {"bias": "lora_only"}),
    "bias all": ("gpt2", {"bias": "all"}),
    "saved module": ("gpt2", {"modules_to_save": ["ln_f"]}),
    "regex": ("gpt2", {"target_modules": r".*h\.1.*c_(attn|fc)"}),
    "all-linear": ("bert", {"target_modules": "all-linear"}),
    "one layer": ("llama", {"layers_to_transform": [1]}),
    "excluded": ("gpt2", {"exclude_modules": r".*h\.0.*"}),
    "embedding": ("llama", {"target_modules": ["embed_tokens", "q_proj"]}),
    "embedding, dora": ("llama", {"target_modules": ["embed_tokens"], "use_dora": True}),
    "pissa": ("gpt2", {"init_lora_weights": "pissa"}),
    "pissa, dora": ("llama", {"init_lora_weights": "pissa", "use_dora": True}),
    "olora": ("llama", {"init_lora_weights": "olora"}),
}  # fmt: skip


@pytest.mark.parametrize("case", MADE_THERE)
def test_adapters_made_by_peft(case, tmp_path):
    """Among them PiSSA and OLoRA that PEFT did not convert: its file holds A and B only, the residual is redone."""
    name, settings = MADE_THERE[case]
    config = peft.LoraConfig(**{"r": 3, "lora_alpha": 7, "target_modules": TARGETS[name], **settings})
    assert_parity(*from_peft(tiny(name), config, tmp_path))


@pytest.mark.parametrize(("name", "init"), [("gpt2", "pissa"), ("llama", "pissa"), ("llama", "olora")])
def test_spectral_starts_that_peft_converted(name, init, tmp_path):
    base, start, end = tiny(name), tmp_path / "start", tmp_path / "end"
    config = peft.LoraConfig(r=3, lora_alpha=7, target_modules=TARGETS[name], init_lora_weights=init)
    theirs = peft.get_peft_model(copy.deepcopy(base), config).eval()
    theirs.peft_config["default"].init_lora_weights = True
    theirs.save_pretrained(start)
    theirs.peft_config["default"].init_lora_weights = init
    shaken(theirs, seed=2)
    wanted = logits(theirs)
    theirs.save_pretrained(end, path_initial_model_for_weight_conversion=str(start))
    ours = copy.deepcopy(base)
    report = lo.load_adapter(ours, end)
    assert gap(logits(ours), wanted) <= TOLERANCE
    layer = lo.adapted_layers(ours)[report.modules[0]]
    assert layer.updates["default"].A.shape[0] == 6  # the rank doubles: trained factors and starting ones
    assert_parity(ours, peft.PeftModel.from_pretrained(copy.deepcopy(base), end).eval())


def lora_pairs(ours, theirs):
    """[(our parameter, PEFT's)] of all layers."""
    pairs = []
    for path, layer in lo.adapted_layers(ours).items():
        update, other = layer.updates["default"], theirs.get_submodule(f"base_model.model.{path}")
        pairs += [(update.A, other.lora_A["default"].weight), (update.B, other.lora_B["default"].weight)]
        if hasattr(update, "m"):
            pairs.append((update.m, other.lora_magnitude_vector["default"].weight))
    return pairs


@pytest.mark.parametrize("kind", [*FAMILY, "pissa", "olora"])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_same_outputs_gradients_and_weights_after_five_steps(name, kind, tmp_path):
    """A spectral start is subtracted from W0 there, and from ΔW here; what trains is the same."""
    if kind in FAMILY:
        config = peft.LoraConfig(r=3, lora_alpha=7, target_modules=TARGETS[name], **FAMILY[kind])
        ours, theirs = from_peft(tiny(name), config, tmp_path)
    else:
        ours, theirs = from_one_start(name, kind)
    assert_alike(ours, theirs, lora_pairs)


def from_one_start(name, init):
    """(ours, PEFT's) with the same spectral start, found here: PEFT's OLoRA fails on layers stored transposed."""
    ours = tiny(name)
    lo.adapt(ours, lo.LoRA(r=3, alpha=7, target_modules=TARGETS[name], init=init))
    config = peft.LoraConfig(r=3, lora_alpha=7, target_modules=TARGETS[name])
    theirs = peft.get_peft_model(tiny(name), config).eval()
    with torch.no_grad():
        for path, layer in lo.adapted_layers(ours).items():
            other, update = theirs.get_submodule(f"base_model.model.{path}"), layer.updates["default"]
            other.base_layer.weight -= store_like(layer.base, update.scale * update.B @ update.A)
        for mine, other in lora_pairs(ours, theirs):
            mine += torch.randn(mine.shape, generator=torch.Generator().manual_seed(3)) * 0.1
            other.copy_(mine)
    return ours, theirs


def test_olora_on_conv1d_where_peft_fails():
    """numpy's QR of W0 (d_out, d_in) = Q R, in all layers of GPT-2, none of them square; PEFT reads W0 transposed."""
    targets = ["c_attn", "mlp.c_fc", "mlp.c_proj"]
    theirs = peft.get_peft_model(tiny(), peft.LoraConfig(r=3, target_modules=targets, init_lora_weights="olora"))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        logits(theirs)
    ours = tiny()
    lo.adapt(ours, lo.LoRA(r=3, alpha=7, target_modules=targets, init="olora"))
    assert gap(logits(ours), logits(tiny())) <= TOLERANCE
    for path, layer in lo.adapted_layers(ours).items():
        W0, update = layer.base.weight.detach().double().numpy().T, layer.updates["default"]
        Q, R = np.linalg.qr(W0)
        assert W0.shape[0] != W0.shape[1], path
        np.testing.assert_allclose((update.B @ update.A).detach().numpy(), Q[:, :3] @ R[:3], atol=1e-5)
        torch.testing.assert_close(update.B.T @ update.B, torch.eye(3), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", FAMILY)
def test_dropout_draws_the_same_numbers(kind, tmp_path):
    config = peft.LoraConfig(r=3, lora_alpha=7, target_modules=TARGETS["gpt2"], lora_dropout=0.4, **FAMILY[kind])
    ours, theirs = from_peft(tiny("gpt2"), config, tmp_path)
    quiet = logits(ours)
    out = {}
    for who, model in {"ours": ours.train(), "theirs": theirs.train()}.items():
        torch.manual_seed(3)
        out[who] = logits(model)
    assert gap(out["ours"], out["theirs"]) <= TOLERANCE
    assert gap(out["ours"], quiet) > 0.01


def test_blocks_are_the_fused_lora_of_rank_nr(tmp_path):
    """METHODS 4.1: r' = 2r, A = [A_q; A_v], B block by block, alpha' = 2 alpha. The difference is zero."""
    ours, _ = to_peft_and_back(tiny(), lo.LoRA(r=3, alpha=7, blocks={"c_attn": ("q", "v")}), tmp_path)
    config = json.loads((tmp_path / "ours" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (6, 14)
    tensors = load_file(tmp_path / "ours" / "adapter_model.safetensors")
    key = "base_model.model.transformer.h.0.attn.c_attn."
    A, B = tensors[key + "lora_A.weight"], tensors[key + "lora_B.weight"]
    update = lo.adapted_layers(ours)["transformer.h.0.attn.c_attn"].updates["default"]
    assert torch.equal(A, update.A) and B.shape == (72, 6)
    assert torch.equal(B[:24, :3], update.B[0]) and torch.equal(B[48:, 3:], update.B[1])
    assert B.count_nonzero() == update.B.count_nonzero()  # k's rows and the other corners are zero


def test_four_keys_are_enough_and_unknown_ones_are_ignored(tmp_path):
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for i in range(2):
        key = f"base_model.model.model.layers.{i}.self_attn.q_proj."
        tensors[key + "lora_A.weight"] = torch.randn(3, 20, generator=generator)
        tensors[key + "lora_B.weight"] = torch.randn(16, 3, generator=generator)
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 3, "lora_alpha": 7, "target_modules": ["q_proj"]}
    for extra in ({}, {"made_up_key": 5, "another": {"nested": True}}):
        (tmp_path / "adapter_config.json").write_text(json.dumps(config | extra))
        ours = tiny("llama")
        lo.load_adapter(ours, tmp_path)
        assert_parity(ours, peft.PeftModel.from_pretrained(tiny("llama"), tmp_path).eval())


def test_a_named_adapter_lies_in_a_subfolder_of_pefts(tmp_path):
    config = peft.LoraConfig(r=3, lora_alpha=7, target_modules=TARGETS["gpt2"])
    theirs = peft.get_peft_model(tiny(), config, adapter_name="pirate").eval()
    shaken(theirs).save_pretrained(tmp_path)
    ours = tiny()
    with pytest.raises(FileNotFoundError, match="pirate"):
        lo.load_adapter(ours, tmp_path)
    lo.load_adapter(ours, tmp_path / "pirate", name="pirate")
    assert_parity(ours, theirs)
