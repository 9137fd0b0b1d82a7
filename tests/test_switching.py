"""Disable, swap, route, combine, delete: what acts is exact, and nothing else changes. Merging has its own file."""

import numpy as np
import pytest
import torch
from models_zoo import CONFIGS, TARGETS, batch, gap, logits, same_state, shaken, state, tiny

import lowrank_edu as lo
from lowrank_edu.layers import AdaptedLayer

METHODS = {
    "kaiming": lo.LoRA(r=4, alpha=7, target_modules="all-linear"),
    "gaussian": lo.LoRA(r=4, alpha=7, target_modules="all-linear", init="gaussian", dropout=0.3),
    "orthogonal": lo.LoRA(r=4, alpha=7, target_modules="all-linear", init="orthogonal"),
    "pissa": lo.LoRA(r=4, alpha=7, target_modules="all-linear", init="pissa"),
    "olora": lo.LoRA(r=4, alpha=7, target_modules="all-linear", init="olora", use_rslora=True),
    "dora": lo.LoRA(r=4, alpha=7, target_modules="all-linear", use_dora=True),
    "bias": lo.LoRA(r=4, alpha=7, target_modules="all-linear", bias="all"),
    "full": lo.FullFineTuning(),
    "intrinsic": lo.IntrinsicDimension(30),
}


def adapted(*names, method=None, model="gpt2", **changes):
    """A tiny model with trained-looking adapters of these names."""
    model = tiny(model, **changes)
    for i, name in enumerate(names):
        lo.adapt(model, method or lo.LoRA(r=3, alpha=7, target_modules=["c_attn", "c_fc"]), name, seed=i)
        shaken(model, seed=i)
    return model


@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize("name", CONFIGS)
def test_disabled_is_the_base_bit_for_bit(name, kind):
    model = adapted("a", method=METHODS[kind], model=name)
    out = logits(model)
    assert gap(out, logits(tiny(name))) > 1e-3
    with lo.disabled(model) as same:
        assert same is model and torch.equal(logits(model), logits(tiny(name)))
        with lo.disabled(model):
            assert torch.equal(logits(model), logits(tiny(name)))
        assert torch.equal(logits(model), logits(tiny(name)))
    assert torch.equal(logits(model), out)


def test_disabled_ends_also_when_something_fails_inside():
    model = adapted("a")
    out = logits(model)
    with pytest.raises(KeyError), lo.disabled(model):
        raise KeyError
    assert torch.equal(logits(model), out)


def test_swapping_acts_trains_and_freezes():
    model = adapted("pirate", "poet")
    alone = {}
    for i, name in enumerate(("pirate", "poet")):
        lo.set_adapter(model, name)
        alone[name] = logits(model)
        single = tiny()
        lo.adapt(single, lo.LoRA(r=3, alpha=7, target_modules=["c_attn", "c_fc"]), seed=i)
        assert torch.equal(alone[name], logits(shaken(single, seed=i)))
        assert all((f".{name}." in n) == p.requires_grad for n, p in model.named_parameters())
    assert gap(alone["pirate"], alone["poet"]) > 0.01
    lo.set_adapter(model, [])
    assert torch.equal(logits(model), logits(tiny()))


@pytest.mark.parametrize("kinds", [("kaiming", "pissa"), ("kaiming", "dora"), ("dora", "bias", "intrinsic")])
def test_several_active_adapters_add_up(kinds):
    model = tiny().double()
    for kind in kinds:
        lo.adapt(model, METHODS[kind], kind)
        shaken(model)
    lo.set_adapter(model, list(kinds))
    wanted = tiny().double()
    modules = dict(wanted.named_modules())
    with torch.no_grad():
        for path, layer in lo.adapted_layers(model).items():
            for name in kinds:
                if name in layer.updates:
                    dW = layer.delta(name)
                    if dW.abs().max() > 0:
                        modules[path].weight += dW.T  # every linear layer of GPT-2 is a Conv1D
                    if layer.updates[name].bias is not None:
                        modules[path].bias += layer.updates[name].bias
    assert gap(logits(model), logits(wanted)) < 1e-10
    once = logits(model)
    lo.set_adapter(model, [*kinds, kinds[0]])  # naming one twice does not add it twice
    assert torch.equal(logits(model), once)


def test_a_whole_layer_is_not_added_to_another_update():
    model = adapted("a")
    lo.adapt(model, lo.FullFineTuning(), "full")
    with pytest.raises(ValueError, match=r"\['a', 'full'\] meet at .*one of them replaces the whole layer"):
        lo.set_adapter(model, ["a", "full"])
    assert all(layer.active == ("full",) for layer in lo.adapted_layers(model).values())


@pytest.mark.parametrize("kind", [k for k in METHODS if k != "full"])
def test_routed_rows_are_what_each_adapter_gives_alone(kind):
    model = adapted("pirate", "poet", method=METHODS[kind])
    ids = batch(5, 7)
    names = ["poet", None, "pirate", "poet", None]
    alone = {None: logits(tiny(), ids)}
    for name in ("pirate", "poet"):
        lo.set_adapter(model, name)
        alone[name] = logits(model, ids)
    with lo.routed(model, names):
        out = logits(model, ids)
    for row, name in enumerate(names):
        assert gap(out[row], alone[name][row]) <= (0 if name is None else 5e-6)
        assert all(gap(out[row], alone[other][row]) > 1e-3 for other in alone if other != name)
    assert torch.equal(logits(model, ids), alone["poet"])  # and it is over


def test_routing_whole_layers_other_than_positions():
    method = lo.LoRA(r=3, alpha=7, target_modules=["c_attn"], modules_to_save=["ln_f", "lm_head"])
    model = adapted("a", method=method)
    whole = logits(model)
    with lo.routed(model, [None, "a", None]):
        out = logits(model)
    assert gap(out[1], whole[1]) < 5e-6 and torch.equal(out[0], logits(tiny())[0])


@pytest.mark.parametrize("name", ["llama", "bert", "deberta"])
def test_routing_on_other_architectures(name):
    """DeBERTa also passes its position embeddings, which all rows share, through query and key: not routable."""
    targets = TARGETS[name]
    if name == "deberta":
        model = adapted("a", method=lo.LoRA(r=3, alpha=7, target_modules=targets), model=name)
        with pytest.raises(ValueError, match="which all rows share"), lo.routed(model, [None, "a", None]):
            logits(model)
        targets = ["value_proj", "intermediate.dense"]
    model = adapted("a", method=lo.LoRA(r=3, alpha=7, target_modules=targets), model=name)
    whole = logits(model)
    with lo.routed(model, [None, "a", None]):
        out = logits(model)
    assert gap(out[1], whole[1]) < 5e-6 and torch.equal(out[::2], logits(tiny(name))[::2])


def test_position_embeddings_are_routed_too():
    """GPT-2 looks its positions up once for all rows; each row still gets its own adapter's."""
    model = adapted("a", "b", method=lo.LoRA(r=3, alpha=7, target_modules=["wpe"]))
    alone = {None: logits(tiny())}
    for name in "ab":
        lo.set_adapter(model, name)
        alone[name] = logits(model)
    rows = ["b", None, "a"]
    with lo.routed(model, rows):
        out = logits(model)
    for i, name in enumerate(rows):
        assert gap(out[i], alone[name][i]) <= (0 if name is None else 5e-6)
    assert gap(alone["a"], alone["b"]) > 1e-3 and gap(alone["a"], alone[None]) > 1e-3


def test_routing_counts_rows_and_knows_names():
    model = adapted("a")
    with pytest.raises(ValueError, match="a batch of 3 rows, but 2 names"), lo.routed(model, ["a", None]):
        logits(model)
    with pytest.raises(ValueError, match="no adapter 'b'"), lo.routed(model, ["b", None, "a"]):
        pass


def full_delta(model, name):
    """ΔW of every layer, as a float64 numpy product made here."""
    deltas = {}
    for path, layer in lo.adapted_layers(model).items():
        if name in layer.updates:
            u = layer.updates[name]
            A, B = (m.detach().double().numpy() for m in (u.A, u.B))
            deltas[path] = u.scale * B @ A
    return deltas


def test_combine_is_the_weighted_sum_of_updates():
    model = adapted("pirate", "poet")
    lo.adapt(model, lo.LoRA(r=5, alpha=3, target_modules=["c_proj", "c_fc"], init="gaussian"), "third")
    shaken(model, seed=9)
    weights = {"pirate": 0.5, "poet": -1.25, "third": 2}
    report = lo.combine(model, weights, "mix")
    for path, layer in lo.adapted_layers(model).items():
        wanted = sum(w * full_delta(model, n)[path] for n, w in weights.items() if n in layer.updates)
        np.testing.assert_allclose(full_delta(model, "mix")[path], wanted, rtol=0, atol=1e-6)
    fc = lo.adapted_layers(model)["transformer.h.0.mlp.c_fc"].updates["mix"]
    assert fc.A.shape[0] == 3 + 3 + 5 and fc.A.requires_grad
    assert report.name == "mix" and all(layer.active == ("mix",) for layer in lo.adapted_layers(model).values())
    assert set(report.modules) == set(lo.adapted_layers(model))


def test_the_average_of_the_factors_is_something_else():
    model = adapted("pirate", "poet")
    lo.combine(model, {"pirate": 0.5, "poet": 0.5}, "mix")
    for path, layer in lo.adapted_layers(model).items():
        one, other = layer.updates["pirate"], layer.updates["poet"]
        average = one.scale * (one.B + other.B) / 2 @ ((one.A + other.A) / 2)
        exact = full_delta(model, "mix")[path]
        assert np.linalg.norm(average.detach().numpy() - exact) > 0.3 * np.linalg.norm(exact)


def test_combine_copies_residual_and_block_updates():
    for method in (METHODS["pissa"], lo.LoRA(r=3, alpha=7, blocks={"c_attn": ("q", "v")})):
        model = adapted("a", method=method)
        out = logits(model)
        lo.combine(model, {"a": 1.0}, "again")
        assert gap(logits(model), out) < 1e-5
        shaken(model, seed=7)  # the copy owns its factors
        lo.set_adapter(model, "a")
        assert torch.equal(logits(model), out)


@pytest.mark.parametrize(("kind", "words"), [
    ("dora", "DoRA divides by a norm"), ("bias", "biases"), ("full", "low-rank updates"),
    ("intrinsic", "low-rank updates"),
])  # fmt: skip
def test_combine_refuses_what_does_not_add_up(kind, words):
    model = adapted("a", method=METHODS[kind])
    before = state(model)
    with pytest.raises(ValueError, match=words):
        lo.combine(model, {"a": 1.0}, "b")
    assert same_state(model, before) and lo.adapter_names(model) == ["a"]


@pytest.mark.parametrize(("weights", "words"), [({}, "name at least one adapter"), ({"x": 1.0}, "no adapter 'x'"),
                                                ({"a": float("nan")}, "not a finite number")])  # fmt: skip
def test_combine_refuses_bad_weights(weights, words):
    with pytest.raises(ValueError, match=words):
        lo.combine(adapted("a"), weights, "b")


def test_deleting_restores_plain_layers():
    model = adapted("a", "b")
    lo.set_adapter(model, "a")
    out = logits(model)
    lo.delete_adapter(model, "b")
    assert lo.adapter_names(model) == ["a"] and torch.equal(logits(model), out)
    lo.delete_adapter(model, "a")
    assert lo.adapter_names(model) == [] and not any(isinstance(m, AdaptedLayer) for m in model.modules())
    assert same_state(model, state(tiny()))
    lo.adapt(model, lo.LoRA(target_modules=["c_attn"]), "a")  # and the name is free again


@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize("name", ["gpt2", "bart"])
def test_unwrapping_restores_the_plain_base(name, kind):
    model = adapted("a", method=METHODS[kind], model=name)
    assert lo.unwrap(model) is model and same_state(model, state(tiny(name)))
    assert type(model) is type(tiny(name)) and all(p.requires_grad for p in model.parameters())
    assert model.config.tie_word_embeddings == tiny(name).config.tie_word_embeddings
    assert {n for n, _ in model.named_parameters()} == {n for n, _ in tiny(name).named_parameters()}  # still tied
