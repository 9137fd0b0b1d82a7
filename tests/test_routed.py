"""One batch, an adapter per row: a batched product that equals a loop over rows, and PEFT's mixed batches."""

import copy

import numpy as np
import peft
import pytest
import torch
from models_zoo import batch, gap, logits, shaken, tiny
from torch import nn
from transformers.pytorch_utils import Conv1D

import lowrank_edu as lo
from lowrank_edu import layers
from lowrank_edu.layers import AdaptedLayer
from lowrank_edu.updates import DoRA, LowRank, weight_of

ROWS = ["b", None, "a", "c", "a", None, "b"]


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def update(r, d_out, d_in, seed, **settings):
    """A low-rank update that has moved since its start."""
    made = LowRank(randn(r, d_in, seed=seed), randn(d_out, r, seed=seed + 1), 0.7 + seed / 50, **settings)
    return shaken(made, seed=seed, by=0.3)


def three(d_out, d_in):
    """Updates of every build, ranks 2, 5 and 3: the first also has a core and a gain, the last a residual start."""
    return {
        "a": update(2, d_out, d_in, 10, core=randn(2, 2), gain=randn(d_out)),
        "b": update(5, d_out, d_in, 20, core=randn(5)),
        "c": update(3, d_out, d_in, 30, residual=True),
    }


def layer_of(kind):
    base = {"linear": nn.Linear(6, 9), "conv1d": Conv1D(9, 6), "embedding": nn.Embedding(6, 9, padding_idx=2)}[kind]
    layer = AdaptedLayer(base.double().requires_grad_(False))
    layer.updates.update(three(9, 6))
    return layer


def inputs(kind, shape):
    if kind == "embedding":
        return torch.randint(6, (7, *shape), generator=torch.Generator().manual_seed(3))
    return randn(7, *shape, 6, seed=3)


def by_hand(layer, x, rows):
    """numpy, float64, row by row and position by position."""
    W0, bias = weight_of(layer.base).detach().numpy(), getattr(layer.base, "bias", None)
    bias = 0 if bias is None else bias.detach().numpy()
    x = x.numpy() if x.is_floating_point() else np.eye(W0.shape[1])[x.numpy()]
    out = np.empty((*x.shape[:-1], W0.shape[0]))
    for i, name in enumerate(rows):
        W = W0
        if name is not None:
            u = layer.updates[name]
            A, B, core, gain = (None if p is None else p.detach().numpy() for p in (u.A, u.B, u.core, u.gain))
            core = np.eye(len(A)) if core is None else np.diag(core) if core.ndim == 1 else core
            dW = u.scale * np.diag(np.ones(len(B)) if gain is None else gain) @ B @ core @ A
            if u.residual:
                dW = dW - u.scale * u.B0.numpy() @ u.A0.numpy()
            W = W0 + dW
        for position in np.ndindex(x.shape[1:-1]):
            out[(i, *position)] = W @ x[(i, *position)] + bias
    return out


@pytest.mark.parametrize("shape", [(), (4,), (2, 3)])
@pytest.mark.parametrize("kind", ["linear", "conv1d", "embedding"])
def test_every_row_is_what_a_loop_gives(kind, shape):
    if kind == "embedding" and shape == ():
        shape = (1,)
    layer, x = layer_of(kind), inputs(kind, shape)
    base = layer.base(x)
    layer.rows = ROWS
    out = layer(x)
    assert out.shape == base.shape
    np.testing.assert_allclose(out.detach().numpy(), by_hand(layer, x, ROWS), rtol=1e-12, atol=1e-12)
    for i, name in enumerate(ROWS):
        assert torch.equal(out[i], base[i]) == (name is None)
    layer.rows = [None] * 7
    assert torch.equal(layer(x), base)


@pytest.mark.parametrize("kind", ["linear", "conv1d", "embedding"])
def test_gradients_reach_the_adapter_of_the_row(kind):
    layer, x = layer_of(kind), inputs(kind, (4,))
    layer.rows = ROWS
    weights = randn(7, 4, 9, seed=8)
    (layer(x) * weights).sum().backward()
    found = {(n, key): p.grad for n, u in layer.updates.items() for key, p in u.named_parameters()}
    layer.zero_grad()
    layer.rows = None
    for name in "abc":  # the same, one adapter and its rows at a time
        layer.active = (name,)
        rows = [i for i, n in enumerate(ROWS) if n == name]
        (layer(x[rows]) * weights[rows]).sum().backward()
    for (name, key), grad in found.items():
        torch.testing.assert_close(grad, layer.updates[name].get_parameter(key).grad, rtol=1e-10, atol=1e-12)
    if kind != "embedding":
        x.requires_grad_(True)
        layer.rows = ROWS
        assert torch.autograd.gradcheck(layer, (x,))


def test_an_adapter_that_is_not_in_the_batch_costs_and_learns_nothing():
    layer, x = layer_of("linear"), inputs("linear", (4,))
    layer.rows = ["a"] * 7
    layer(x).sum().backward()
    assert all(p.grad is None for n in "bc" for p in layer.updates[n].parameters())


def count_batched(monkeypatch):
    """How many adapters each call of the batched product had."""
    calls, inner = [], layers.gathered
    monkeypatch.setattr(layers, "gathered", lambda updates, *rest: calls.append(len(updates)) or inner(updates, *rest))
    return calls


def test_low_rank_updates_share_one_product_and_others_go_alone(monkeypatch):
    calls = count_batched(monkeypatch)
    layer, x = layer_of("linear"), inputs("linear", (4,))
    layer.updates["d"] = shaken(DoRA(randn(2, 6), randn(9, 2), 0.5, layer.base), by=0.3)
    layer.active = ("d",)
    alone = layer(x)
    rows = ["d", "b", None, "a", "d", "c", "a"]
    layer.rows = rows
    out = layer(x)
    assert calls == [3]
    torch.testing.assert_close(out[[0, 4]], alone[[0, 4]], rtol=1e-12, atol=1e-12)
    others = [i for i, n in enumerate(rows) if n != "d"]
    wanted = by_hand(layer, x[others], [rows[i] for i in others])
    np.testing.assert_allclose(out[others].detach().numpy(), wanted, rtol=1e-12, atol=1e-12)


def test_dropout_draws_for_every_adapter_apart(monkeypatch):
    """Dropout belongs to an adapter, and adapters may drop different shares: in training they go one by one."""
    calls = count_batched(monkeypatch)
    layer, x = layer_of("linear"), inputs("linear", (4,))
    layer.updates["a"].dropout.p = 0.5
    layer.rows = ROWS
    assert not torch.equal(layer.train()(x)[2], layer(x)[2]) and calls == [2, 2]
    assert torch.equal(layer.eval()(x), layer(x)) and calls[2:] == [3, 3]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_bases(dtype):
    model = tiny().to(dtype)
    for i, name in enumerate("ab"):
        lo.adapt(model, lo.LoRA(r=2 + i, alpha=7, target_modules=["c_attn", "wte"]), name, seed=i)
        shaken(model, seed=i)
    lo.set_adapter(model, "b")
    alone, base = logits(model), logits(tiny().to(dtype))
    with lo.routed(model, ["b", None, "a"]):
        out = logits(model)
    assert out.dtype == dtype and torch.equal(out[1], base[1])
    assert gap(out[0], alone[0]) <= 0.02 * float(alone.abs().max()) and gap(out[2], base[2]) > 0.1


@pytest.mark.parametrize(("name", "targets"), [
    ("gpt2", ["c_attn", "c_fc"]), ("llama", ["q_proj", "down_proj"]), ("llama", ["embed_tokens", "v_proj"]),
])  # fmt: skip
def test_a_mixed_batch_is_that_of_peft(name, targets, tmp_path):
    ours, theirs, names = tiny(name), None, {"one": 3, "two": 5}
    for adapter, r in names.items():
        config = peft.LoraConfig(r=r, lora_alpha=7, target_modules=targets)
        if theirs is None:
            theirs = peft.get_peft_model(copy.deepcopy(ours), config, adapter_name=adapter).eval()
        else:
            theirs.add_adapter(adapter, config)
        theirs.set_adapter(adapter)
        shaken(theirs, seed=r)
    theirs.save_pretrained(tmp_path)
    for adapter in names:
        lo.load_adapter(ours, tmp_path / adapter, adapter)
    ids, rows = batch(5, 7), ["two", None, "one", "two", "one"]
    with torch.no_grad():
        wanted = theirs(input_ids=ids, adapter_names=[row or "__base__" for row in rows]).logits
    with lo.routed(ours, rows):
        out = logits(ours, ids)
        assert (out - wanted).norm() <= 1e-5 * wanted.norm()
        for layer in lo.adapted_layers(ours).values():
            layer.updates["one"].scale *= 1.01
        assert (logits(ours, ids) - wanted).norm() > 1e-4 * wanted.norm()
