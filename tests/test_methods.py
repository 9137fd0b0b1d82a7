"""The table of methods: validation, starts, scales, seeds, whole fine-tuning and the intrinsic dimension."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models_zoo import CONFIGS, TARGETS, batch, gap, logits, shaken, tiny
from torch import nn

import lowrank_edu as lo
from lowrank_edu.inits import INITS, initial_factors
from lowrank_edu.updates import weight_of

ATTN = "transformer.h.0.attn.c_attn"


@pytest.mark.parametrize(("settings", "words"), [
    ({"r": 0}, "r=0: a rank is a whole number ≥ 1"),
    ({"r": 2.0}, "r=2.0: a rank"),
    ({"r": True}, "r=True: a rank"),
    ({"rank_pattern": {"c_fc": -1}}, r"rank_pattern\['c_fc'\]=-1: a rank"),
    ({"r": 3, "init": "orthogonal"}, "r=3: init='orthogonal' splits r in two; make it even"),
    ({"alpha": 0}, "alpha=0: alpha is a number > 0"),
    ({"alpha": float("nan")}, "alpha=nan"),
    ({"alpha_pattern": {"c_fc": "8"}}, r"alpha_pattern\['c_fc'\]='8'"),
    ({"dropout": 1.0}, "dropout=1.0: a share"),
    ({"bias": "some"}, "bias='some' is not 'none', 'lora_only' or 'all'"),
    ({"init": "zeros"}, "init='zeros' is not one of kaiming"),
    ({"blocks": {"c_attn": ("q",)}, "use_dora": True}, "Drop blocks="),
    ({"target_modules": []}, r"target_modules=\[\] adapts nothing"),
    ({"target_modules": None}, "target_modules is missing"),
])  # fmt: skip
def test_methods_are_checked_when_they_are_made(settings, words):
    with pytest.raises(ValueError, match=words):
        lo.LoRA(**{"target_modules": ["c_attn"], **settings})


@pytest.mark.parametrize("d", [0, -2, 1.5])
def test_the_intrinsic_dimension_is_a_whole_number(d):
    with pytest.raises(ValueError, match=f"d={d}: the length of θ"):
        lo.IntrinsicDimension(d)


@pytest.mark.parametrize(("settings", "words"), [
    ({"blocks": {"c_attn": ("q", "x")}}, r"are \('q', 'x'\), but this layer holds \('q', 'k', 'v'\)"),
    ({"blocks": {"c_attn": ("q", "q")}}, "each at most once"),
    ({"blocks": {"c_attn": ()}}, "each at most once"),
    ({"blocks": {"c_fc": ("q",)}, "target_modules": ["c_fc"]}, r"c_fc \(40 × 24\) is none"),
    ({"blocks": {"c_atn": ("q",)}, "target_modules": ["c_attn"]}, "blocks names 'c_atn', but no adapted layer"),
    ({"rank_pattern": {"c_proj": 3}}, "rank_pattern names 'c_proj', but no adapted layer"),
    ({"alpha_pattern": {"h.7.attn.c_attn": 3}}, "alpha_pattern names 'h.7.attn.c_attn'"),
    ({"init": "pissa", "r": 25}, "r=25 directions from a 72 × 24 weight, which has only 24"),
    ({"init": "pissa", "target_modules": ["wte"]}, "transformer.wte is an embedding"),
    ({"modules_to_save": ["c_attn"]}, "in target_modules and in modules_to_save; choose one"),
    ({"modules_to_save": ["score"]}, "modules_to_save names 'score'"),
    ({"modules_to_save": ["attn_dropout"]}, "modules_to_save names 'attn_dropout'; no module with parameters"),
])  # fmt: skip
def test_a_method_that_does_not_fit_the_model_changes_nothing(settings, words):
    model = tiny()
    before = [(name, id(p), p.requires_grad) for name, p in model.named_parameters()]
    with pytest.raises(ValueError, match=words):
        lo.adapt(model, lo.LoRA(**{"target_modules": ["c_attn"], **settings}))
    assert [(name, id(p), p.requires_grad) for name, p in model.named_parameters()] == before
    assert lo.adapter_names(model) == []


def test_dora_names_the_layer_with_a_row_of_zeros():
    model = tiny()
    with torch.no_grad():
        model.transformer.h[1].attn.c_attn.weight[:, 5] = 0
    with pytest.raises(ValueError, match=r"h\.1\.attn\.c_attn has a row of zeros, and DoRA divides"):
        lo.adapt(model, lo.LoRA(target_modules=["c_attn"], use_dora=True))


@given(r=st.integers(1, 64), alpha=st.floats(0.5, 64))
def test_scales(r, alpha):
    assert lo.LoRA(r=r, alpha=alpha, target_modules=["x"]).scale("x") == alpha / r
    assert lo.LoRA(r=r, alpha=alpha, target_modules=["x"], use_rslora=True).scale("x") == alpha / np.sqrt(r)


def test_rank_and_alpha_of_a_layer_are_looked_up_independently():
    method = lo.LoRA(r=4, alpha=8, target_modules=["x"], rank_pattern={"fc": 3}, alpha_pattern={r"h\.1\..*": 5})
    assert method.scale("h.0.fc") == 8 / 3 and method.scale("h.1.fc") == 5 / 3
    assert method.scale("h.1.attn") == 5 / 4 and method.scale("h.0.notfc") == 2


def start(init, W0, r=4, scale=1.7, seed=0):
    A, B = initial_factors(init, W0, r, scale, torch.Generator().manual_seed(seed))
    assert A.shape == (r, W0.shape[1]) and B.shape == (W0.shape[0], r)
    return A, B


@pytest.mark.parametrize("shape", [(60, 500), (500, 60)])
def test_starts(shape):
    W0 = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    A, B = start("kaiming", W0)
    bound = shape[1] ** -0.5
    assert B.abs().max() == 0 and 0.95 * bound < A.abs().max() <= bound
    assert A.std().item() == pytest.approx(bound / 3**0.5, rel=0.15)
    A, B = start("gaussian", W0)
    assert B.abs().max() == 0 and A.std().item() == pytest.approx(1 / 4, rel=0.15)
    A, B = start("orthogonal", W0)
    assert A.abs().min() > 0 and B.abs().min() > 0 and (B @ A).abs().max() < 1e-6
    U, S, Vt = np.linalg.svd(W0.double().numpy(), full_matrices=False)
    A, B = start("pissa", W0)
    np.testing.assert_allclose(1.7 * (B @ A), (U[:, :4] * S[:4]) @ Vt[:4], atol=1e-4)
    np.testing.assert_allclose(A.norm(dim=1), np.sqrt(S[:4] / 1.7), rtol=1e-4)
    np.testing.assert_allclose(B.norm(dim=0), np.sqrt(S[:4] / 1.7), rtol=1e-4)
    A, B = start("olora", W0)
    Q, R = np.linalg.qr(W0.double().numpy())
    np.testing.assert_allclose(B @ A, Q[:, :4] @ R[:4], atol=1e-4)
    np.testing.assert_allclose(B.T @ B, np.eye(4), atol=1e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_spectral_starts_refuse_weights_that_are_not_finite(bad):
    W0 = torch.full((5, 8), bad)
    with pytest.raises(ValueError, match="holds NaN or Inf"):
        start("pissa", W0)


INITS = [init for init in INITS if init != "loftq"]  # which needs a quantised base: test_qlora.py
STARTS = [{"init": init} for init in INITS] + [
    {"use_dora": True}, {"use_dora": True, "init": "pissa"}, {"use_rslora": True}, {"bias": "all"},
    {"modules_to_save": ["ln_f", "lm_head"]}, {"target_modules": ["wte", "c_attn"]},
    {"target_modules": None, "blocks": {"c_attn": ("q", "v")}},
    {"target_modules": None, "blocks": {"c_attn": ("k",)}, "init": "olora"},
]  # fmt: skip


@pytest.mark.parametrize("settings", STARTS, ids=str)
def test_every_start_is_the_base_model(settings):
    """Bit for bit, except "orthogonal", whose product is zero only up to rounding."""
    model, base = tiny(), tiny()
    lo.adapt(model, lo.LoRA(**{"r": 4, "alpha": 7, "target_modules": ["c_attn", "c_fc"], **settings}))
    assert gap(logits(model), logits(base)) <= (1e-5 if settings.get("init") == "orthogonal" else 0)
    model(input_ids=batch(), labels=batch()).loss.backward()
    grads = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    assert all(g is not None for g in grads.values()) and any(g.abs().max() > 0 for g in grads.values())
    assert gap(logits(shaken(model)), logits(base)) > 0.01


@pytest.mark.parametrize("init", INITS)
def test_a_seed_fixes_each_layer_whatever_else_is_adapted(init):
    def A(seed, targets):
        model = tiny()
        lo.adapt(model, lo.LoRA(r=4, alpha=7, target_modules=targets, init=init), seed=seed)
        return lo.adapted_layers(model)[ATTN].updates["default"].A.detach()

    assert torch.equal(A(3, ["c_attn"]), A(3, "all-linear"))
    assert torch.equal(A(3, ["c_attn"]), A(4, ["c_attn"])) == (init in ("pissa", "olora"))


def test_layers_get_different_starts_and_the_callers_random_state_is_left_alone():
    model = tiny()
    torch.manual_seed(0)
    wanted = torch.rand(3)
    torch.manual_seed(0)
    lo.adapt(model, lo.LoRA(r=4, target_modules=["c_attn"]))
    assert torch.equal(torch.rand(3), wanted)
    one, other = (layer.updates["default"].A for layer in lo.adapted_layers(model).values())
    assert not torch.equal(one, other)


@pytest.mark.parametrize("name", CONFIGS)
def test_full_fine_tuning_is_ordinary_training(name):
    """Step by step equal to AdamW on the bare model, with tied weights tied; and the base is still there."""
    ours, bare = tiny(name), tiny(name)
    report = lo.adapt(ours, lo.FullFineTuning())
    assert report.trainable == report.total == sum(p.numel() for p in bare.parameters())
    losses = {}
    for who, model in {"ours": ours, "bare": bare}.items():
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
        losses[who] = []
        for step in range(4):
            ids = batch(4, 6 + step)
            loss = model(input_ids=ids, labels=ids).loss
            losses[who].append(loss.item())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert losses["ours"] == pytest.approx(losses["bare"], rel=1e-5)
    assert len(set(losses["ours"])) == 4
    assert gap(logits(ours), logits(bare)) < 1e-4 and gap(logits(ours), logits(tiny(name))) > 0.01
    with lo.disabled(ours):
        assert torch.equal(logits(ours), logits(tiny(name)))
    layers, W0 = lo.adapted_layers(ours), dict(tiny(name).named_modules())
    for path, module in bare.named_modules():
        if path in layers and isinstance(module, (nn.Linear, nn.Embedding)):
            assert gap(layers[path].delta(), weight_of(module) - weight_of(W0[path])) < 1e-4


def test_full_fine_tuning_keeps_ties():
    model = tiny()
    lo.adapt(model, lo.FullFineTuning())
    layers = lo.adapted_layers(model)
    wte, head = (layers[p].updates["default"].copy.weight for p in ("transformer.wte", "lm_head"))
    assert wte is head


def test_full_fine_tuning_says_what_it_cannot_reach():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.loose = nn.Linear(5, 3), nn.Parameter(torch.ones(3))

    with pytest.raises(ValueError, match="cannot reach parameters outside plain layers: loose"):
        lo.adapt(Odd(), lo.FullFineTuning())


def test_intrinsic_dimension_trains_one_vector():
    model = tiny()
    report = lo.adapt(model, lo.IntrinsicDimension(11))
    assert report.trainable == 11
    assert torch.equal(logits(model), logits(tiny()))
    trainable = [p for p in model.parameters() if p.requires_grad]
    model(input_ids=batch(), labels=batch()).loss.backward()
    assert len(trainable) == 1 and trainable[0].grad.abs().max() > 0
    shaken(model)
    weights = sum(layer.base.weight.numel() for layer in lo.adapted_layers(model).values())
    norm = sum(layer.delta().square().sum() for layer in lo.adapted_layers(model).values()) ** 0.5
    assert norm.item() == pytest.approx(trainable[0].norm().item(), rel=0.2)  # P has unit columns on average
    with pytest.raises(ValueError, match=f"more than the {weights} weights"):
        lo.adapt(model, lo.IntrinsicDimension(weights + 1), name="big")


@pytest.mark.parametrize("name", CONFIGS)
def test_intrinsic_dimension_depends_on_its_seed(name):
    outs = []
    for seed in (0, 0, 1):
        model = tiny(name)
        lo.adapt(model, lo.IntrinsicDimension(11, target_modules=TARGETS[name]), seed=seed)
        outs.append(logits(shaken(model)))
    assert torch.equal(outs[0], outs[1]) and gap(outs[0], outs[2]) > 1e-4


def test_a_float64_model_gets_float64_factors():
    model = tiny().double()
    lo.adapt(copy.deepcopy(model), lo.LoRA(target_modules=["c_attn"], use_dora=True))
    lo.adapt(model, lo.LoRA(r=3, alpha=7, blocks={"c_attn": ("q",)}))
    assert {p.dtype for p in model.parameters()} == {torch.float64}
