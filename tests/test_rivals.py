"""BitFit and bottleneck adapters: against arithmetic, autograd and published counts; and a method per layer group."""

import copy
import warnings

import numpy as np
import pytest
import torch
import transformers
from models_zoo import CONFIGS, batch, gap, logits, same_state, shaken, state, tiny

import lowrank_edu as lo
from lowrank_edu.rivals import ACTIVATIONS, Bottleneck

METHODS = {
    "bitfit": lo.BitFit(add_missing=True),
    "houlsby": lo.BottleneckAdapter(bottleneck=5),
    "houlsby, zero": lo.BottleneckAdapter(bottleneck=5, init="zero"),
    "pfeiffer": lo.BottleneckAdapter(bottleneck=5, placement="pfeiffer", activation="relu"),
    "adapter_l": lo.BottleneckAdapter(bottleneck=5, placement="pfeiffer", layer_norm=True, activation="silu"),
}
EXACT = ["bitfit", "houlsby, zero"]


def adapted(name="gpt2", kind="houlsby", by=0.1):
    model = tiny(name)
    lo.adapt(model, METHODS[kind] if isinstance(kind, str) else kind)
    return shaken(model, by=by)


# --- every rival, on every architecture -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize("name", CONFIGS)
def test_start_disabled_deleted_unwrapped(name, kind):
    model, base = tiny(name), logits(tiny(name))
    lo.adapt(model, METHODS[kind])
    if kind in EXACT:
        assert torch.equal(logits(model), base)
    else:
        assert 0 < gap(logits(model), base) < 1e-3  # near the base model, as in the reference code
    shaken(model)
    assert gap(logits(model), base) > 0.01
    with lo.disabled(model):
        assert torch.equal(logits(model), base)
    plain = lo.unwrap(copy.deepcopy(model))
    lo.delete_adapter(model, "default")
    for other in (model, plain):
        assert torch.equal(logits(other), base) and same_state(other, state(tiny(name)))


@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_generation_with_a_cache_is_generation_without(name, kind):
    model, ids = adapted(name, kind), batch(3, 6)
    mask = torch.ones_like(ids)
    mask[0, :2] = 0  # left padding
    for how in ({"do_sample": False}, {"do_sample": True}, {"num_beams": 3, "do_sample": False}):
        out = []
        for use_cache in (True, False):
            torch.manual_seed(0)
            out.append(model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=8, use_cache=use_cache, **how))
        assert torch.equal(*out)


@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize("name", ["gpt2", "llama", "bert"])
def test_rows_route_and_folders_come_back(name, kind, tmp_path):
    model = adapted(name, kind)
    whole, base = logits(model), logits(tiny(name))
    with lo.routed(model, ["default", None, "default"]):
        out = logits(model)
    assert gap(out[::2], whole[::2]) < 1e-5 and torch.equal(out[1], base[1])
    lo.save_adapter(model, tmp_path)
    again = tiny(name)
    lo.load_adapter(again, tmp_path, "mine")
    assert torch.equal(logits(again), whole)


@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_training_lowers_the_loss_and_leaves_the_base(name, kind):
    model = tiny(name)
    lo.adapt(model, METHODS[kind])
    frozen = {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
    data = [{"input_ids": row, "labels": row} for row in batch(2, 9)]
    history = lo.train(model, data, steps=30, batch_size=2, lr=3e-2, progress=False)
    assert history.loss[-1] < 0.9 * history.loss[0]
    assert all(torch.equal(model.get_parameter(n), value) for n, value in frozen.items())


@pytest.mark.parametrize(("kind", "what", "words"), [
    ("houlsby", lambda m: lo.merge(m), "cannot merge: a bottleneck is not linear.* LoRA can be merged"),
    ("houlsby", lambda m: lo.combine(m, {"default": 1.0}, "b"), "cannot combine: only low-rank.* or route"),
    ("bitfit", lambda m: lo.combine(m, {"default": 1.0}, "b"), "cannot combine: only low-rank.* or route"),
])  # fmt: skip
def test_what_they_cannot_do(kind, what, words):
    model = adapted("gpt2", kind)
    before = state(model)
    with pytest.raises(ValueError, match=words):
        what(model)
    assert same_state(model, before)


def test_a_bottleneck_has_no_delta():
    layer = next(iter(lo.adapted_layers(adapted()).values()))
    with pytest.raises(ValueError, match="not linear"):
        layer.delta()


# --- bottlenecks ----------------------------------------------------------------------------------------------------


def numpy_activation(kind, h):
    erf = np.vectorize(__import__("math").erf)
    return {
        "gelu": h * (1 + erf(h / 2**0.5)) / 2,
        "relu": np.maximum(h, 0),
        "silu": h / (1 + np.exp(-h)),
        "tanh": np.tanh(h),
    }[kind]


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_bottleneck_is_its_formula(activation, layer_norm):
    rng = np.random.default_rng(0)
    W1, b1, W2, b2, gain, shift, y = (rng.standard_normal(s) for s in ((3, 7), 3, (7, 3), 7, 7, 7, (2, 5, 7)))
    update = Bottleneck(torch.tensor(W1), torch.tensor(W2), activation, layer_norm)
    values = {"b1": b1, "b2": b2} | ({"norm_gain": gain, "norm_shift": shift} if layer_norm else {})
    with torch.no_grad():
        for key, value in values.items():
            getattr(update, key).copy_(torch.tensor(value))
    h = y
    if layer_norm:
        h = gain * (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-5) + shift
    wanted = numpy_activation(activation, h @ W1.T + b1) @ W2.T + b2
    out = update(torch.zeros(2, 5, 4, dtype=torch.float64), torch.tensor(y), torch.nn.Linear(4, 7))
    np.testing.assert_allclose(out.detach().numpy(), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("activation", ["gelu", "silu", "tanh"])
@pytest.mark.parametrize("layer_norm", [False, True])
def test_gradients_in_float64(activation, layer_norm):
    torch.manual_seed(0)
    update = shaken(Bottleneck(torch.randn(3, 7).double(), torch.randn(7, 3).double(), activation, layer_norm))
    names, base = list(dict(update.named_parameters())), torch.nn.Linear(4, 7).double()

    def run(y, *values):
        return torch.func.functional_call(update, dict(zip(names, values, strict=True)), (y, y, base))

    y = torch.randn(2, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(run, (y, *(p.detach().requires_grad_() for p in update.parameters())))


def test_a_bottleneck_sits_before_the_residual_sum():
    """GPT-2 by hand: the block's own modules, with the bottleneck's formula in between."""
    model, base = adapted(), tiny()
    layers = lo.adapted_layers(model)
    base.config.resid_pdrop = 0.0
    for i, block in enumerate(base.transformer.h):
        for part in ("attn", "mlp"):
            update = layers[f"transformer.h.{i}.{part}.c_proj"].updates["default"]
            add = lambda module, args, y, u=update: y + u.change(None, y, None)  # noqa: E731
            getattr(block, part).c_proj.register_forward_hook(add)
    assert gap(logits(model), logits(base)) < 1e-6


PLACED = {
    "gpt2": (["attn.c_proj", "mlp.c_proj"], ["mlp.c_proj"]),
    "llama": (["self_attn.o_proj", "mlp.down_proj"], ["mlp.down_proj"]),
    "bert": (["attention.output.dense", "output.dense"], ["output.dense"]),
    "deberta": (["attention.output.dense", "output.dense"], ["output.dense"]),
    "bart": (["self_attn.out_proj", "encoder_attn.out_proj", "fc2"], ["fc2"]),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_places(name):
    for kind, wanted in zip(("houlsby", "pfeiffer"), PLACED[name], strict=True):
        paths = lo.adapt(tiny(name), METHODS[kind]).modules
        ends = {".".join(p.rsplit(".", 3 if "attention.output" in p else 2)[1:]).split("0.")[-1] for p in paths}
        ends = {e.removeprefix("1.") for e in ends}
        assert ends == set(wanted), ends


def test_an_unknown_architecture_names_its_layers():
    model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Linear(6, 5))
    with pytest.raises(ValueError, match=r"known to end its attention part. .* target_modules=\[") as caught:
        lo.adapt(model, METHODS["houlsby"])
    assert "linear layers are: 0 (1), 1 (1)" in str(caught.value)
    assert lo.adapt(model, lo.BottleneckAdapter(bottleneck=3, target_modules=["1"])).trainable == 3 * 5 * 2 + 3 + 5


def test_norms_and_heads_are_trained_whole():
    names = ["LayerNorm", "predictions.transform"]
    report = lo.adapt(tiny("bert"), lo.BottleneckAdapter(bottleneck=5, modules_to_save=names))
    whole = sum(p.numel() for n, p in tiny("bert").named_parameters() if any(name in n for name in names))
    assert report.trainable == 4 * (2 * 5 * 24 + 24 + 5) + whole


@pytest.mark.parametrize(("make", "words"), [
    (lambda: lo.BottleneckAdapter(bottleneck=0), "bottleneck=0"),
    (lambda: lo.BottleneckAdapter(placement="lin"), "placement='lin' is not one of houlsby, pfeiffer"),
    (lambda: lo.BottleneckAdapter(activation="swish"), "activation='swish' is not one of gelu"),
    (lambda: lo.BottleneckAdapter(init="kaiming"), "init='kaiming' is not one of normal, zero"),
    (lambda: lo.adapt(tiny(), lo.BottleneckAdapter(target_modules=["wte"])), "wte is an embedding"),
    (lambda: lo.adapt(tiny("llama"), lo.BitFit()), r"has no bias.*BitFit\(add_missing=True\)"),
    (lambda: lo.adapt(tiny("llama"), lo.BitFit(["q_proj"])), r"q_proj has no bias.*BitFit\(add_missing=True\)"),
])  # fmt: skip
def test_bad_settings(make, words):
    with pytest.raises(ValueError, match=words):
        make()


# --- BitFit ---------------------------------------------------------------------------------------------------------


def test_bitfit_is_training_the_biases_of_the_model_itself():
    """The same AdamW steps on the plain model's own biases, layer norms included, give the same biases."""
    model, plain = tiny().double(), tiny().double()
    lo.adapt(model, lo.BitFit())
    for n, p in plain.named_parameters():
        p.requires_grad_(n.endswith("bias"))
    for each in (model, plain):
        optimizer = torch.optim.AdamW([p for p in each.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.0)
        for step in range(5):
            optimizer.zero_grad()
            ids = batch(3, 6 + step)
            each(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
    moved = gap(logits(plain), logits(tiny().double()))
    assert gap(logits(model), logits(plain)) < 1e-9 < moved
    lo.merge(model)
    for n, p in lo.unwrap(model).named_parameters():
        assert gap(p, plain.get_parameter(n)) < 1e-9


@pytest.mark.parametrize("name", CONFIGS)
def test_bitfit_is_lora_with_all_biases_and_no_lora(name):
    if name == "llama":
        return
    biases = {p for p, u in lo.BitFit().build(tiny(name)).items() if u.bias is not None}
    lora = lo.LoRA(r=2, target_modules="all-linear", bias="all").build(tiny(name))
    assert biases == {p for p, u in lora.items() if u.bias is not None} != set()


def test_chosen_biases_only():
    report = lo.adapt(tiny("bert"), lo.BitFit(["query", "intermediate.dense"]))
    assert report.trainable == 2 * (24 + 40) and len(report.modules) == 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_added_biases_merge_and_leave_bit_for_bit(dtype):
    model, base = tiny("llama").to(dtype), tiny("llama").to(dtype)
    assert lo.adapt(model, lo.BitFit(add_missing=True)).trainable == 2 * (16 + 8 + 8 + 20 + 36 + 36 + 20)
    assert torch.equal(logits(model), logits(base))
    shaken(model)
    out, before = logits(model), list(base.state_dict())
    with pytest.warns(UserWarning, match="13 more layers now hold a bias .*attention_bias=True, mlp_bias=True"):
        lo.merge(model)
    assert gap(logits(model), out) <= (0.15 if dtype == torch.bfloat16 else 1e-5)
    with lo.disabled(model):
        assert torch.equal(logits(model), logits(base))
    lo.unmerge(model)
    assert torch.equal(logits(model), out)
    kept = lo.unwrap(copy.deepcopy(model))
    assert same_state(kept, state(base))
    assert all(m.bias is None for m in kept.modules() if isinstance(m, torch.nn.Linear))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lo.merge(model)
    merged = lo.unwrap(model)
    added = {k for k in merged.state_dict() if k not in before}
    assert len(added) == 14 and all(k.endswith("_proj.bias") for k in added)
    if dtype == torch.float32:  # a model of that configuration loads it
        config = copy.deepcopy(merged.config)
        config.attention_bias = config.mlp_bias = True
        again = transformers.LlamaForCausalLM(config).eval()
        again.load_state_dict(merged.state_dict())
        assert gap(logits(again), out) < 1e-5


def test_layer_norm_biases_of_a_small_dtype_keep_the_dtype():
    model = tiny("gpt2").bfloat16()
    lo.adapt(model, lo.BitFit())
    shaken(model)
    assert logits(model).dtype == torch.bfloat16 and gap(logits(model).float(), logits(tiny()).float()) > 0.01


# --- published counts, from shapes alone ----------------------------------------------------------------------------


def on_meta(model, config, **settings):
    """A model of that shape, without memory."""
    with torch.device("meta"):
        return getattr(transformers, model)(getattr(transformers, config)(**settings))


def gpt2_shape(d, layers):
    return on_meta("GPT2LMHeadModel", "GPT2Config", n_embd=d, n_layer=layers, n_head=d // 64)


DEBERTA = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
           "vocab_size": 128100, "relative_attention": True, "position_buckets": 256, "norm_rel_ebd": "layer_norm",
           "share_att_key": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False,
           "type_vocab_size": 0}  # fmt: skip
BERT_LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
LIN = {"placement": "pfeiffer", "layer_norm": True}


@pytest.mark.parametrize(("d", "layers", "settings", "wanted"), [
    (1024, 24, {"bottleneck": 6, **LIN}, 368_784),
    (1024, 24, {"bottleneck": 224, **LIN}, 11_089_152),
    (1280, 36, {"bottleneck": 8, **LIN}, 875_808),
    (1280, 36, {"bottleneck": 248, **LIN}, 23_002_848),
    (12288, 96, {"bottleneck": 1}, 7_078_080),
    (12288, 96, {"bottleneck": 8}, 40_109_568),
])  # fmt: skip
def test_published_adapter_counts_on_gpt(d, layers, settings, wanted):
    """GPT-2 M and L, Adapter_L: 0.37, 11.09, 0.88, 23.00 million. GPT-3, Adapter_H: 7.1, 40.1 million."""
    assert lo.adapt(gpt2_shape(d, layers), lo.BottleneckAdapter(**settings)).trainable == wanted


@pytest.mark.parametrize(("placement", "bottleneck", "wanted"), [
    ("houlsby", 8, 313_536), ("houlsby", 16, 608_640), ("houlsby", 32, 1_198_848),
    ("pfeiffer", 16, 304_320), ("pfeiffer", 32, 599_424), ("pfeiffer", 64, 1_189_632),
])  # fmt: skip
def test_published_adapter_counts_on_deberta(placement, bottleneck, wanted):
    """HAdapter 0.31, 0.61, and PAdapter 0.30, 0.60 million; the 1.22 and 1.18 of the paper are 1.20 and 1.19."""
    model = on_meta("DebertaV2Model", "DebertaV2Config", **DEBERTA)
    assert lo.adapt(model, lo.BottleneckAdapter(bottleneck=bottleneck, placement=placement)).trainable == wanted


def test_published_bitfit_counts():
    """DeBERTa-v3-base 0.1 million; BERT-base 0.09 % and BERT-large 0.08 %; GPT-3 is 11 d per layer, not 12."""
    assert lo.adapt(on_meta("DebertaV2Model", "DebertaV2Config", **DEBERTA), lo.BitFit()).trainable == 102_912
    base = lo.adapt(on_meta("BertModel", "BertConfig"), lo.BitFit())
    assert base.trainable == 12 * 11 * 768 + 2 * 768 == 102_912
    assert 100 * base.trainable / (base.total - base.trainable) == pytest.approx(0.094, abs=5e-4)
    large = lo.adapt(on_meta("BertModel", "BertConfig", **BERT_LARGE), lo.BitFit())
    assert large.trainable == 24 * 11 * 1024 + 2 * 1024
    assert 100 * large.trainable / (large.total - large.trainable) == pytest.approx(0.081, abs=5e-4)
    roberta = lo.adapt(on_meta("RobertaModel", "RobertaConfig"), lo.BitFit())
    assert roberta.trainable == 102_912
    assert lo.adapt(gpt2_shape(12288, 96), lo.BitFit()).trainable == 96 * 11 * 12288 + 12288


# --- a method per layer group ---------------------------------------------------------------------------------------

GROUPS = {
    "lora, bottleneck": (lo.LoRA(r=3, alpha=7, target_modules=r".*attn.*"), METHODS["pfeiffer"]),
    "lora, bitfit": (lo.LoRA(r=3, alpha=7, target_modules=r".*attn.*"),
                     lo.BitFit(r".*mlp.*", add_missing=True)),
    "vera, dora": (lo.VeRA(r=6, target_modules=r".*attn.*proj|.*attn.c_attn"),
                   lo.LoRA(r=3, alpha=7, target_modules=r".*mlp.*", use_dora=True)),
}  # fmt: skip


@pytest.mark.parametrize("case", GROUPS)
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_method_per_layer_group(name, case, tmp_path):
    """Two methods on two groups of layers: both act, both train, each can be saved, and what merges merges."""
    first, second = GROUPS[case]
    model = tiny(name)
    paths = [set(lo.adapt(model, first, "attention").modules), set(lo.adapt(model, second, "feed_forward").modules)]
    assert not paths[0] & paths[1]
    lo.set_adapter(model, ["attention", "feed_forward"])
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    start = {n: p.detach().clone() for n, p in trained.items()}
    data = [{"input_ids": row, "labels": row} for row in batch(2, 9)]
    history = lo.train(model, data, steps=20, batch_size=2, lr=2e-2, progress=False)
    assert history.loss[-1] < 0.9 * history.loss[0]
    moved = {n.split(".updates.")[1].split(".")[0] for n, p in trained.items() if not torch.equal(p, start[n])}
    assert moved == {"attention", "feed_forward"}
    both = logits(model)
    again = tiny(name)
    for group in ("attention", "feed_forward"):
        lo.save_adapter(model, tmp_path / group, group)
        lo.load_adapter(again, tmp_path / group, group)
    lo.set_adapter(again, ["feed_forward", "attention"])
    assert gap(logits(again), both) < 1e-5
    ids = batch(2, 6)
    out = [model.generate(input_ids=ids, do_sample=False, max_new_tokens=6, use_cache=use) for use in (True, False)]
    assert torch.equal(*out)
    for group, other in (("attention", "feed_forward"), ("feed_forward", "attention")):
        lo.set_adapter(model, group)
        assert gap(logits(model), both) > 1e-3
        assert not any(f".{other}." in n for n, p in model.named_parameters() if p.requires_grad)
    lo.set_adapter(model, ["attention", "feed_forward"])
    if "bottleneck" in case:
        with pytest.raises(ValueError, match="cannot merge"):
            lo.merge(model)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            lo.merge(model)
        assert gap(logits(model), both) < 1e-4
