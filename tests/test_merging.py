"""merge and unmerge: exact, all or nothing, tied weights and all."""

import warnings

import pytest
import torch
import transformers
from models_zoo import CONFIGS, gap, logits, same_state, shaken, state, tiny
from test_switching import METHODS, adapted

import lowrank_edu as lo

BANDS = {torch.float64: 1e-6, torch.float32: 1e-5, torch.float16: 0.02, torch.bfloat16: 0.15}
quietly = pytest.mark.filterwarnings("ignore:.*share one weight")


@quietly
@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize("name", CONFIGS)
def test_merged_equals_unmerged_and_differs_from_the_base(name, kind):
    model = adapted("a", method=METHODS[kind], model=name)
    before, out = state(model), logits(model)
    deltas = {path: layer.delta("a") for path, layer in lo.adapted_layers(model).items()}
    lo.merge(model)
    assert gap(logits(model), out) < 1e-5 and gap(logits(model), logits(tiny(name))) > 1e-3
    for path, layer in lo.adapted_layers(model).items():
        assert torch.equal(layer.delta("a"), deltas[path])  # ΔW can be looked at while it is merged
    with lo.disabled(model):
        assert torch.equal(logits(model), logits(tiny(name)))
    assert gap(logits(model), out) < 1e-5
    lo.unmerge(model)
    assert same_state(model, before) and torch.equal(logits(model), out)


@quietly
@pytest.mark.parametrize("kind", ["kaiming", "dora", "full"])
@pytest.mark.parametrize("dtype", BANDS)
def test_many_cycles_in_every_dtype_leave_no_trace(dtype, kind):
    model = tiny().to(dtype)
    method = METHODS[kind] if kind == "full" else lo.LoRA(
        r=3, alpha=7, target_modules=["wte", "c_attn"], use_dora=kind == "dora")  # fmt: skip
    lo.adapt(model, method)
    shaken(model)
    before, out = state(model), logits(model)
    for _ in range(20):
        lo.merge(model)
        merged = logits(model)
        lo.unmerge(model)
    assert gap(merged, out) < BANDS[dtype] * out.abs().max() and gap(merged, logits(tiny().to(dtype))) > 0.1
    assert same_state(model, before) and torch.equal(logits(model), out)
    assert model.lm_head.weight is model.transformer.wte.weight or kind == "full"


def test_subtracting_would_not_restore():
    """The reason why merge keeps what it replaces: W + Δ − Δ ≠ W."""
    model = adapted("a")
    layer = next(iter(lo.adapted_layers(model).values()))
    W, dW = layer.base.weight.detach(), layer.delta("a").T
    assert not torch.equal(W + dW - dW, W)


def test_merging_a_tied_weight_unties_it_with_one_warning():
    model = adapted("a", method=lo.LoRA(r=3, alpha=7, target_modules=["wte", "c_attn"]))
    out, W0 = logits(model), model.lm_head.weight
    with pytest.warns(UserWarning) as caught:
        lo.merge(model)
    assert [str(w.message) for w in caught] == [
        "transformer.wte.weight and lm_head.weight share one weight. Merging unties them: the model now holds "
        f"2 copies, {97 * 24 * 4:,} bytes more."
    ]
    assert caught[0].filename == __file__
    assert model.lm_head.weight is W0 and model.transformer.wte.weight is not W0
    assert gap(logits(model), out) < 1e-5
    lo.unmerge(model)
    assert model.transformer.wte.weight is W0 and torch.equal(logits(model), out)


def test_no_warning_when_nothing_is_untied():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lo.merge(adapted("a"))
        full = adapted("a", method=lo.FullFineTuning())
        lo.merge(full)
    assert full.lm_head.weight is full.transformer.wte.weight  # trained copies stay tied
    lo.unmerge(full)
    assert full.lm_head.weight is full.transformer.wte.weight
    lo.merge(full)
    assert lo.unwrap(full).config.tie_word_embeddings is True


@quietly
@pytest.mark.parametrize(("name", "method"), [
    ("gpt2", lo.LoRA(r=3, alpha=7, target_modules=["wte", "c_attn"])),
    ("gpt2", lo.LoRA(r=3, alpha=7, target_modules=["c_attn"])),
    ("gpt2", lo.LoRA(r=3, alpha=7, target_modules=["c_attn"], modules_to_save=["lm_head"])),
    ("gpt2", lo.FullFineTuning()),
    ("llama", METHODS["dora"]),
    ("bert", METHODS["bias"]),
    ("bert", lo.FullFineTuning()),
    ("bart", lo.LoRA(r=3, alpha=7, target_modules=["encoder.embed_tokens", "q_proj"])),
    ("bart", lo.FullFineTuning()),
], ids=["embedding", "linear", "head", "full", "llama", "bert bias", "bert full", "bart", "bart full"])  # fmt: skip
def test_unwrapped_merged_models_survive_saving(name, method, tmp_path):
    model = adapted("a", method=method, model=name)
    out = logits(model)
    lo.merge(model)
    tied = name == "gpt2" and model.lm_head.weight is model.transformer.wte.weight
    lo.unwrap(model)
    assert gap(logits(model), out) < 1e-5 and not lo.adapted_layers(model)
    if name == "gpt2":
        assert model.config.tie_word_embeddings is tied
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    assert torch.equal(logits(again), logits(model))
    assert isinstance(again, transformers.PreTrainedModel) and same_state(again, state(model))


def test_merging_twice_and_unmerging_nothing_raise():
    model = adapted("a")
    with pytest.raises(ValueError, match="nothing is merged"):
        lo.unmerge(model)
    lo.merge(model)
    before = state(model)
    with pytest.raises(ValueError, match=r"\['a'\] is merged already: a second merge would add ΔW twice"):
        lo.merge(model)
    assert same_state(model, before)
    lo.unmerge(model)
    with pytest.raises(ValueError, match="nothing is merged"):
        lo.unmerge(model)
    lo.set_adapter(model, [])
    with pytest.raises(ValueError, match="no adapter is active"):
        lo.merge(model)
    with pytest.raises(ValueError, match="no adapter is active"):
        lo.merge(tiny())


def test_a_merged_model_refuses_every_switch():
    model = adapted("a", "b")
    lo.merge(model)
    before = state(model)
    for call in (
        lambda: lo.set_adapter(model, "a"),
        lambda: lo.delete_adapter(model, "a"),
        lambda: lo.routed(model, ["a"] * 3).__enter__(),
        lambda: lo.combine(model, {"a": 1}, "c"),
    ):
        with pytest.raises(ValueError, match=r"merged.*unmerge\(model\)"):
            call()
    assert same_state(model, before)


@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_adapter_that_is_not_finite_is_not_merged(kind, bad):
    model = adapted("a", method=METHODS[kind])
    last = list(lo.adapted_layers(model).values())[-2].updates["a"]
    with torch.no_grad():
        next(last.parameters()).view(-1)[-1] = bad
    before = state(model)
    with pytest.raises(ValueError, match=r"would hold (NaN|Inf) in float32 after merging \['a'\].*Nothing was merged"):
        lo.merge(model)
    now = model.state_dict()
    assert all(torch.equal(now[k].nan_to_num(7), v.nan_to_num(7)) for k, v in before.items())
    assert all(layer.kept is None for layer in lo.adapted_layers(model).values())


def test_an_overflow_in_a_late_layer_leaves_the_early_ones():
    model = tiny().half()
    lo.adapt(model, lo.LoRA(r=3, alpha=7, target_modules=["c_attn"]))
    shaken(model)
    path, layer = list(lo.adapted_layers(model).items())[-1]
    with torch.no_grad():
        layer.updates["default"].B.fill_(1e6)
    before = state(model)
    with pytest.raises(ValueError, match=rf"{path}: weight would hold Inf in float16"):
        lo.merge(model)
    assert same_state(model, before) and all(x.kept is None for x in lo.adapted_layers(model).values())


def test_the_merged_weight_is_rounded_once():
    model = tiny().to(torch.bfloat16)
    lo.adapt(model, lo.LoRA(r=3, alpha=7, target_modules=["c_attn"]))
    shaken(model)
    layer = next(iter(lo.adapted_layers(model).values()))
    wanted = (layer.base.weight.double() + layer.delta().double().T).to(torch.bfloat16)
    lo.merge(model)
    assert (layer.base.weight == wanted).float().mean() > 0.999


@pytest.mark.parametrize("alpha", [3, 6, 12, 7])
def test_the_merged_weight_is_the_sum_in_float64_for_every_scale(alpha):
    """Scales 1, 2, 4 and 7/3: a power of two goes another way than the rest, through B."""
    model = tiny()
    lo.adapt(model, lo.LoRA(r=3, alpha=alpha, target_modules=["c_attn"]))
    shaken(model)
    layer = next(iter(lo.adapted_layers(model).values()))
    W, A, B = (M.detach().double() for M in (layer.base.weight, layer.updates["default"].A, layer.updates["default"].B))
    dW = alpha / 3 * (B @ A)
    assert (layer.delta().double() - dW).norm() < 1e-6 * dW.norm()
    lo.merge(model)
    assert (layer.base.weight.double() - (W + dW.T)).norm() < 1e-6 * (W + dW.T).norm()


def test_without_the_base_there_is_no_way_back(tmp_path):
    model = adapted("a", method=lo.LoRA(r=3, alpha=7, target_modules=["c_attn"], bias="lora_only"))
    out = logits(model)
    lo.merge(model, keep_base=False)
    assert gap(logits(model), out) < 1e-5
    for call in (lambda: lo.unmerge(model), lambda: lo.disabled(model).__enter__(),
                 lambda: lo.save_adapter(model, tmp_path, "a")):  # fmt: skip
        with pytest.raises(ValueError, match="keep_base=False, so the original weights are gone"):
            call()
    assert gap(logits(lo.unwrap(model)), out) < 1e-5


def test_saved_modules_without_parameters_do_not_disturb():
    head = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Linear(8, 3))
    model = torch.nn.ModuleDict({"body": torch.nn.Linear(5, 8), "head": head})
    lo.adapt(model, lo.LoRA(r=2, target_modules=["body"], modules_to_save=["head"]))
    lo.merge(model)
    lo.unmerge(model)
    assert set(lo.adapted_layers(model)) == {"body", "head.1"}


# ---- one merged adapter for another ------------------------------------------------------------------------
def swapped_by_hand(model, names):
    lo.unmerge(model)
    lo.set_adapter(model, names)
    lo.merge(model)
    return model


@quietly
@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize("name", CONFIGS)
def test_a_swap_makes_the_same_bits_as_its_three_parts(name, kind):
    one, three = (adapted("a", "b", method=METHODS[kind], model=name) for _ in range(2))
    before = state(one)
    for model in (one, three):
        lo.set_adapter(model, "a")
        lo.merge(model)
    first = state(one)
    for names in ("b", "a", "b"):
        lo.swap_merged(one, names)
        assert same_state(one, state(swapped_by_hand(three, names)))
        assert same_state(one, first) == (names == "a")
    lo.unmerge(one)
    assert same_state(one, before)


@pytest.mark.parametrize("dtype", BANDS)
def test_a_swap_takes_no_new_memory_where_the_sum_is_made_in_the_dtype_of_the_weight(dtype):
    model, other = (adapted("a", "b").to(dtype) for _ in range(2))
    for one in (model, other):
        lo.set_adapter(one, "a")
        lo.merge(one)
    places = [layer.base.weight.data_ptr() for layer in lo.adapted_layers(model).values()]
    lo.swap_merged(model, "b")
    now = [layer.base.weight.data_ptr() for layer in lo.adapted_layers(model).values()]
    assert (places == now) == (dtype in (torch.float32, torch.float64))
    assert same_state(model, state(swapped_by_hand(other, "b")))


def test_a_swap_warns_of_what_it_unties_and_of_nothing_twice():
    model = tiny()
    for name, targets in [("a", ["c_attn"]), ("b", ["c_attn", "wte"]), ("c", ["c_attn", "wte"])]:
        lo.adapt(model, lo.LoRA(r=3, alpha=7, target_modules=targets), name)
        shaken(model)
    lo.set_adapter(model, "a")
    lo.merge(model)
    with pytest.warns(UserWarning, match="share one weight"):
        lo.swap_merged(model, "b")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lo.swap_merged(model, "c")


def test_several_adapters_can_be_swapped_in():
    one, three = (adapted("a", "b", "c") for _ in range(2))
    for model in (one, three):
        lo.set_adapter(model, "a")
        lo.merge(model)
    lo.swap_merged(one, ["b", "c"])
    assert same_state(one, state(swapped_by_hand(three, ["b", "c"])))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_swap_that_fails_leaves_the_old_adapter_merged(bad):
    model = adapted("a", "b")
    with torch.no_grad():
        list(lo.adapted_layers(model).values())[-1].updates["b"].B[-1, -1] = bad
    lo.set_adapter(model, "a")
    lo.merge(model)
    before, trained = state(model), [n for n, p in model.named_parameters() if p.requires_grad]
    with pytest.raises(ValueError, match=r"would hold (NaN|Inf).*Nothing was merged"):
        lo.swap_merged(model, "b")
    now = model.state_dict()
    assert all(torch.equal(now[k].nan_to_num(7), v.nan_to_num(7)) for k, v in before.items())
    assert {layer.merged_names for layer in lo.adapted_layers(model).values()} == {("a",)}
    assert [n for n, p in model.named_parameters() if p.requires_grad] == trained


def test_a_swap_refuses_what_it_cannot_do_and_changes_nothing():
    model = adapted("a", "b")
    with pytest.raises(ValueError, match=r"nothing is merged.*set_adapter\(model, names\) is enough"):
        lo.swap_merged(model, "b")
    lo.set_adapter(model, "a")
    lo.merge(model)
    before = state(model)
    for names, words in [("z", "z"), ([], "no adapter is active")]:
        with pytest.raises((ValueError, KeyError), match=words):
            lo.swap_merged(model, names)
        assert same_state(model, before)
    lo.unmerge(model)
    lo.merge(model, keep_base=False)
    with pytest.raises(ValueError, match="keep_base=False, so the original weights are gone"):
        lo.swap_merged(model, "b")


def test_a_swap_leaves_the_choice_for_quantised_layers_to_merge():
    model = tiny()
    lo.adapt(model, lo.LoRA(r=3, alpha=7, target_modules=["c_attn"]), "a", quantize="nf4")
    lo.adapt(model, lo.LoRA(r=3, alpha=7, target_modules=["c_attn"]), "b")
    lo.merge(model, how="dequantise")
    before = state(model)
    with pytest.raises(ValueError, match=r"is quantised.*merge\(model, how=\.\.\.\)"):
        lo.swap_merged(model, "a")
    assert same_state(model, before)
