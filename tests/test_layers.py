"""AdaptedLayer: what acts when, several updates at once, whole copies, copying and pickling."""

import copy
import pickle

import pytest
import torch
from models_zoo import gap, logits, shaken, tiny
from torch import nn

import lowrank_edu as lo
from lowrank_edu.layers import AdaptedLayer
from lowrank_edu.updates import DoRA, LowRank, Whole

X = torch.randn(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def wrapped(*kinds):
    """A 5 → 8 layer in float64 with one update of each kind, named a, b, …, all active."""
    torch.manual_seed(1)
    base = nn.Linear(5, 8).double().requires_grad_(False)
    layer = AdaptedLayer(base)
    for name, kind in zip("abc", kinds, strict=False):
        A, B = torch.randn(3, 5).double(), torch.randn(8, 3).double()
        layer.updates[name] = DoRA(A, B, 0.7, base) if kind is DoRA else LowRank(A, B, 0.7)
        if kind is DoRA:
            layer.updates[name].m.data *= 1.5  # away from its start, where DoRA is LoRA
    layer.active = tuple(layer.updates)
    return layer


def test_without_active_updates_it_is_the_base():
    layer = wrapped(LowRank)
    layer.active = ()
    assert torch.equal(layer(X), layer.base(X))


@pytest.mark.parametrize("kinds", [(LowRank,), (LowRank, LowRank), (LowRank, DoRA), (DoRA, LowRank, DoRA)])
def test_active_updates_add_up_in_any_order(kinds):
    """y = (W0 + Σ ΔW) x + b: also for DoRA, which must see the frozen layer's output and not that of its neighbour."""
    layer = wrapped(*kinds)
    dW = sum(layer.delta(name) for name in layer.active)
    wanted = X @ (layer.base.weight + dW).T + layer.base.bias
    assert gap(layer(X), wanted) < 1e-12
    layer.active = tuple(reversed(layer.active))
    assert gap(layer(X), wanted) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_output_keeps_the_dtype_of_the_base(dtype):
    layer = wrapped(LowRank, DoRA)
    layer.base.to(dtype)
    assert layer(X.to(dtype)).dtype == dtype


def test_a_whole_copy_answers_instead_and_steps_aside_when_disabled():
    layer = AdaptedLayer(nn.Linear(5, 8).requires_grad_(False))
    layer.updates["a"] = Whole(copy.deepcopy(layer.base))
    with torch.no_grad():
        layer.updates["a"].copy.weight += 1
    layer.active, x = ("a",), X.float()
    assert torch.equal(layer(x), layer.updates["a"].copy(x))
    assert layer.weight is layer.updates["a"].copy.weight  # a model that reads the weight itself reads this one
    layer.enabled = False
    assert torch.equal(layer(x), layer.base(x))
    assert layer.weight is layer.base.weight


def test_other_arguments_reach_the_base_and_the_copy():
    class Shifted(nn.Embedding):
        def forward(self, x, offset=0):
            return super().forward(x + offset)

    layer, x = AdaptedLayer(Shifted(9, 4)), torch.tensor([[0, 1, 2]])
    assert torch.equal(layer(x, offset=3), layer.base(x + 3))
    layer.updates["a"], layer.active = Whole(copy.deepcopy(layer.base)), ("a",)
    with torch.no_grad():
        layer.updates["a"].copy.weight += 1
    assert torch.equal(layer(x, 3), layer.base(x + 3) + 1)


def test_attributes_of_the_frozen_layer_stay_readable():
    layer = wrapped(LowRank)
    assert (layer.in_features, layer.out_features) == (5, 8)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = layer.nonsense
    with pytest.raises(AttributeError):
        _ = AdaptedLayer.__new__(AdaptedLayer).anything  # an object that pickle has not filled yet


def test_delta_of_an_unknown_update_names_those_there_are():
    with pytest.raises(ValueError, match="no update 'x' on this layer; it has a"):
        wrapped(LowRank).delta("x")


def test_train_and_eval_never_change_a_weight():
    model = tiny()
    lo.adapt(model, lo.LoRA(r=3, alpha=7, target_modules=["c_attn"]))
    shaken(model)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    out = logits(model.train().eval())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert torch.equal(out, logits(model))


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("how", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
@pytest.mark.parametrize("method", [
    lo.LoRA(r=3, alpha=7, target_modules=["c_attn", "wte"], use_dora=True),
    lo.LoRA(r=3, alpha=7, blocks={"c_attn": ("q", "v")}, init="pissa", bias="all"),
    lo.FullFineTuning(),
    lo.IntrinsicDimension(9),
], ids=["dora", "blocks", "full", "intrinsic"])  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*share one weight")
def test_deep_copies_and_pickles_are_independent_and_equal(method, how, merged):
    model = tiny()
    lo.adapt(model, method)
    out = logits(shaken(model))
    if merged:
        lo.merge(model)
        out = logits(model)
    twin = how(model)
    assert torch.equal(logits(twin), out)
    if merged:
        lo.unmerge(twin)
        lo.unmerge(model)
    assert torch.equal(logits(twin), logits(model))
    with lo.disabled(twin):
        assert torch.equal(logits(twin), logits(tiny()))
    shaken(twin, seed=3)
    assert gap(logits(twin), logits(model)) > 0.01
    with lo.disabled(twin):
        assert torch.equal(logits(twin), logits(tiny()))


def test_shared_parameters_stay_shared_in_a_copy():
    model = tiny()
    lo.adapt(model, lo.IntrinsicDimension(9))
    twin = copy.deepcopy(model)
    thetas = {id(u.theta) for layer in lo.adapted_layers(twin).values() for u in layer.updates.values()}
    assert len(thetas) == 1


def test_the_model_can_be_cast_after_adapting():
    model = tiny()
    lo.adapt(model, lo.LoRA(r=3, alpha=7, target_modules=["c_attn"], init="pissa"))
    out = logits(shaken(model))
    assert gap(logits(model.double()), out) < 1e-5
    assert logits(model.to(torch.bfloat16)).dtype == torch.bfloat16


def test_routed_rows_are_counted():
    layer = wrapped(LowRank)
    layer.rows = ["a", None]
    with pytest.raises(ValueError, match="a batch of 4 rows, but 2 names were routed"):
        layer(X)
