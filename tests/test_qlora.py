"""Adapters on a quantised base: starts, switching, merging in three ways, and PEFT over bitsandbytes."""

import copy
import io
import warnings

import numpy as np
import peft
import pytest
import torch
import transformers
from models_zoo import TARGETS, batch, gap, logits, same_state, shaken, state, tiny
from peer import bitsandbytes
from torch import nn

import lowrank_edu as lo
from lowrank_edu.quant import dequantize, quantize
from lowrank_edu.quantized import Quantized

METHODS = {
    "lora": lo.LoRA(r=3, alpha=7, target_modules=["c_attn", "c_fc"]),
    "rslora": lo.LoRA(r=3, alpha=7, target_modules="all-linear", use_rslora=True),
    "dora": lo.LoRA(r=3, alpha=7, target_modules=["c_attn", "c_fc"], use_dora=True),
    "orthogonal": lo.LoRA(r=4, alpha=7, target_modules=["c_fc"], init="orthogonal"),
    "biases": lo.LoRA(r=3, alpha=7, target_modules=["c_attn"], bias="all", modules_to_save=["ln_f"]),
    "slices": lo.LoRA(r=3, alpha=7, blocks={"c_attn": ("q", "v")}),
    "projected": lo.IntrinsicDimension(50),
    "adalora": lo.AdaLoRA(init_r=4, target_r=2, target_modules=["c_attn", "c_fc"]),
    "vera": lo.VeRA(r=4, target_modules=["c_attn", "c_fc"]),
    "lora-fa": lo.LoRAFA(r=3, target_modules=["c_attn"]),
    "lora-xs": lo.LoRAXS(r=3, target_modules=["c_attn"]),
    "aflora": lo.AFLoRA(r=3, target_modules=["c_attn"]),
}
STARTED = {
    "pissa": {"init": "pissa"}, "olora": {"init": "olora"}, "pissa dora": {"init": "pissa", "use_dora": True},
    "loftq": {"init": "loftq"}, "loftq 5": {"init": "loftq", "loftq_iterations": 5},
    "loftq dora": {"init": "loftq", "use_dora": True}, "loftq rs": {"init": "loftq", "use_rslora": True},
}  # fmt: skip


def quantised(name="gpt2", kind="nf4", **settings):
    model = tiny(name)
    lo.quantize(model, kind, **settings)
    return model


def started(start, **settings):
    model = tiny()
    method = lo.LoRA(**{"r": 3, "alpha": 7, "target_modules": ["c_attn", "c_fc"], **STARTED[start], **settings})
    return model, lo.adapt(model, method, quantize="nf4")


def first(model):
    return next(iter(lo.adapted_layers(model).values()))


@pytest.mark.parametrize("kind", METHODS)
def test_every_update_sits_on_a_quantised_base(kind):
    model, base = quantised(), quantised()
    lo.adapt(model, METHODS[kind])
    assert gap(logits(model), logits(base)) <= (1e-5 if kind == "orthogonal" else 0)
    shaken(model)
    out = logits(model)
    assert gap(out, logits(base)) > 0.01 and torch.equal(logits(copy.deepcopy(model)), out)
    with lo.disabled(model):
        assert torch.equal(logits(model), logits(base))
    if kind != "biases":  # a changed norm cannot be routed before its rows are known to be rows
        with lo.routed(model, ["default", None, "default"]):
            mixed = logits(model)
        assert gap(mixed[[0, 2]], out[[0, 2]]) < 1e-4 and gap(mixed[1], logits(base)[1]) < 1e-4
    model(input_ids=batch(), labels=batch()).loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    lo.delete_adapter(model, "default")
    assert torch.equal(logits(model), logits(base)) and same_state(model, state(base))


def test_both_at_once_is_the_same_as_one_after_the_other():
    model, after = tiny(), quantised()
    report = lo.adapt(model, METHODS["lora"], quantize="nf4")
    assert report.total == lo.adapt(after, METHODS["lora"]).total == lo.adapt(tiny(), METHODS["lora"]).total
    assert same_state(model, state(after)) and report.trainable == 2 * (3 * (24 + 72) + 3 * (24 + 40))
    int8 = tiny()
    lo.adapt(int8, METHODS["lora"], quantize=lo.Quantization("int8", False, target_modules=["c_proj"]))
    kinds = {type(m).__name__ for p, m in int8.named_modules() if p.endswith("c_fc.base")}
    assert kinds == {"Conv1D"} and isinstance(int8.transformer.h[1].attn.c_proj, Quantized)


@pytest.mark.parametrize("make", ["linear", "conv1d"])
@pytest.mark.parametrize("dora", [False, True])
def test_gradients_in_float64(make, dora):
    torch.manual_seed(0)
    layer = nn.Linear(6, 5) if make == "linear" else transformers.pytorch_utils.Conv1D(5, 6)
    model = nn.Sequential(layer).double()
    lo.quantize(model, "nf4", block_size=16)
    lo.adapt(model, lo.LoRA(r=2, alpha=3, target_modules=["0"]))
    shaken(model)
    x = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    update = model[0].updates["default"]
    if not dora:  # DoRA counts its norm as a constant, which finite differences do not

        def call(x, A, B):
            return torch.func.functional_call(model, {"0.updates.default.A": A, "0.updates.default.B": B}, x)

        assert torch.autograd.gradcheck(call, (x, update.A, update.B))
        return
    lo.delete_adapter(model, "default")
    lo.adapt(model, lo.LoRA(r=2, alpha=3, target_modules=["0"], use_dora=True))
    shaken(model)
    assert torch.autograd.gradcheck(model, (x,))


def test_dora_with_dropout_unpacks_and_forgets():
    model = nn.Sequential(nn.Linear(90, 110))
    lo.adapt(model, lo.LoRA(r=2, target_modules=["0"], use_dora=True, dropout=0.5), quantize="nf4")
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        model.train()(torch.randn(4, 90, requires_grad=True))
    assert max(saved) < 90 * 110


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_a_spectral_start_leaves_its_product_in_the_factors(start):
    """The base is q(W − scale · B A) and ΔW starts at scale · B A. With PiSSA the sum is closer to W than q(W)."""
    model, _ = started(start)
    plain = tiny()
    lo.adapt(plain, lo.LoRA(r=3, alpha=7, target_modules=["c_attn", "c_fc"], **STARTED[start]))
    for path, layer in lo.adapted_layers(model).items():
        W, update = plain.get_submodule(path).base.weight.T, layer.updates["default"]
        reference = plain.get_submodule(path).updates["default"]
        assert torch.equal(update.A, reference.A) and update.A0 is None and not update.residual
        rest = W - 7 / 3 * (reference.B0 @ reference.A0)
        assert torch.equal(layer.base.weight.T, dequantize(quantize(rest, double_quant=True)))
        before = (W - dequantize(quantize(W, double_quant=True))).norm()
        assert (W - layer.base.weight.T - layer.delta()).norm() < (0.97 if start == "pissa" else 1.2) * before


def by_numpy(W, r, rounds):
    """LoftQ with bitsandbytes' quantiser and numpy's SVD in float64: (Q, product), each of W's shape."""
    product = np.zeros(W.shape)
    for _ in range(rounds):
        packed, s = bitsandbytes.functional.quantize_4bit(torch.tensor(W - product).float(), quant_type="nf4")
        Q = bitsandbytes.functional.dequantize_4bit(packed, s).double().numpy()
        U, S, Vt = np.linalg.svd(W - Q, full_matrices=False)
        product = U[:, :r] * S[:r] @ Vt[:r]
    return Q, product


def on_a_gaussian(init, rounds, alpha):
    """(W, layer, relative error of base + ΔW): a 256 × 256 Gaussian weight, rank 16, NF4."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 256))
    W = nn.init.normal_(model[0].weight).detach().clone()
    method = lo.LoRA(r=16, alpha=alpha, init=init, loftq_iterations=rounds, target_modules=["0"])
    lo.adapt(model, method, quantize=lo.Quantization(double_quant=False))
    return W, model[0], float((W - model[0].base.weight - model[0].delta()).norm() / W.norm())


@pytest.mark.parametrize("alpha", [16, 32, 5])
def test_loftq_lowers_the_error_whatever_the_scale(alpha):
    errors = [on_a_gaussian(*run, alpha)[2] for run in (("kaiming", 1), ("loftq", 1), ("loftq", 5))]
    assert errors == pytest.approx([0.0920, 0.0815, 0.0715], abs=6e-4)


@pytest.mark.parametrize("rounds", [1, 3])
def test_loftq_is_that_of_numpy_and_bitsandbytes(rounds):
    W, layer, _ = on_a_gaussian("loftq", rounds, 24)
    Q, product = by_numpy(W.double().numpy(), 16, rounds)
    away = (layer.base.weight - torch.tensor(Q)).abs()  # a value at the edge between two codes may fall elsewhere
    assert (away < 1e-4).float().mean() > 0.999
    assert relative(layer.delta(), torch.tensor(product)) < (1e-4 if rounds == 1 else 0.02)


def test_lamda_takes_its_product_out_before_quantising():
    model, method = tiny(), lo.LaMDA(r=3, target_modules=["c_attn"])
    lo.adapt(model, method, quantize="nf4")
    layer, W = first(model), tiny().transformer.h[0].attn.c_attn.weight.T
    U, S, Vt = torch.linalg.svd(W, full_matrices=False)
    rest = W - U[:, :3] * S[:3] @ Vt[:3]
    assert (layer.base.weight.T - rest).norm() < 0.12 * rest.norm() and gap(layer.delta(), W - rest) < 1e-4
    assert_refused("quantised already, and this start takes its product out", quantised(), method)


@pytest.mark.parametrize("start", STARTED)
def test_starts_on_codes_train_copy_and_step_aside(start):
    model, report = started(start)
    assert report.trainable > 0
    base = copy.deepcopy(model)
    lo.delete_adapter(base, "default")
    assert gap(logits(model), logits(tiny())) < gap(logits(base), logits(tiny()))
    shaken(model)
    out = logits(model)
    with lo.disabled(model):  # documented: the quantised rest, not W0
        assert torch.equal(logits(model), logits(base))
    assert torch.equal(logits(copy.deepcopy(model)), out)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    again, _ = started(start)
    again.load_state_dict(torch.load(file))
    assert torch.equal(logits(again), out)


def test_dora_starts_exactly_at_the_quantised_model():
    model, base = tiny(), quantised()
    lo.adapt(model, METHODS["dora"], quantize="nf4")
    assert gap(logits(model), logits(base)) < 1e-5


def assert_refused(words, model, method, name="default", error=ValueError, **settings):
    before, modules = state(model), [id(m) for m in model.modules()]
    flags = [p.requires_grad for p in model.parameters()]
    with pytest.raises(error, match=words):
        lo.adapt(model, method, name, **settings)
    assert same_state(model, before) and [id(m) for m in model.modules()] == modules
    assert [p.requires_grad for p in model.parameters()] == flags


def test_refusals_name_the_way_out_and_leave_the_model():
    lora = METHODS["lora"]
    for init in ("pissa", "olora"):
        method = lo.LoRA(r=3, target_modules=["c_attn"], init=init)
        assert_refused(r"c_attn is quantised already.*adapt\(model, method, quantize='nf4'\)", quantised(), method)
    loftq = lo.LoRA(r=3, target_modules=["c_attn"], init="loftq")
    assert_refused(r"init='loftq'.*adapt\(model, method, quantize='nf4'\)", tiny(), loftq)
    assert_refused(r"init='loftq'.*adapt\(model, method, quantize='nf4'\)", quantised(), loftq)
    assert_refused("c_attn is quantised already, as nf4", quantised(), loftq, quantize="nf4")
    some = lo.Quantization(target_modules=["c_fc"])
    assert_refused(r"loftq' needs a quantised layer, but transformer\.h\.0\.attn\.c_attn", tiny(), loftq, quantize=some)
    wide = lo.LoRA(r=30, target_modules=["c_attn"], init="loftq")
    assert_refused("takes r=30 directions from a 72 × 24", tiny(), wide, quantize="nf4")
    assert_refused("kind='nf9'", tiny(), lora, quantize="nf9")
    assert_refused("FullFineTuning trains these layers whole", tiny(), lo.FullFineTuning(), quantize="nf4")
    assert_refused("is quantised, so it cannot be trained whole", quantised(), lo.FullFineTuning())
    model = tiny()
    lo.adapt(model, lora, "a")
    assert_refused("has adapters.*Quantise first", model, lora, "b", quantize="nf4")
    with pytest.raises(ValueError, match=r"blocks= adapts slices"):
        lo.LoRA(blocks={"c_attn": ("q",)}, init="loftq")
    with pytest.raises(ValueError, match="loftq_iterations=0"):
        lo.LoRA(target_modules=["c_attn"], loftq_iterations=0)


@pytest.mark.parametrize("init", ["loftq", "pissa"])
def test_an_adapter_that_fits_one_base_alone_is_not_saved_without_it(init, tmp_path):
    model, _ = started(init)
    with pytest.raises(ValueError, match=r"started together with its quantised base.*state_dict.*how='dequantise'"):
        lo.save_adapter(model, tmp_path / "a")
    assert not (tmp_path / "a").exists()


# ---------------------------------------------------------------- merging, three ways
def merged(how, kind="lora", name="gpt2", **settings):
    model = quantised(name)
    lo.adapt(model, METHODS[kind] if name == "gpt2" else lo.LoRA(r=3, alpha=7, target_modules=TARGETS[name]))
    shaken(model)
    if how == "full":
        settings["weights"] = tiny(name)
    return model, logits(model), state(model), lo.merge(model, how=how, **settings)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_dequantise_gives_the_trained_model_exactly(name):
    model, out, before, report = merged("dequantise", name=name)
    assert gap(logits(model), out) < 1e-4 and report.error < 1e-6 and "dequantise" in str(report)
    plain = lo.unwrap(copy.deepcopy(model))
    adapted = list(lo.adapted_layers(model))
    assert not any(isinstance(plain.get_submodule(p), Quantized) for p in adapted)
    assert type(plain.get_submodule(adapted[0])).__name__ == ("Conv1D" if name == "gpt2" else "Linear")
    assert gap(logits(plain), out) < 1e-4
    lo.unmerge(model)
    assert same_state(model, before) and torch.equal(logits(model), out)


@pytest.mark.parametrize("kind", ["dora", "biases", "slices", "projected", "rslora"])
@pytest.mark.parametrize("how", ["dequantise", "requantise"])
def test_other_updates_merge_and_come_out_again(kind, how):
    model, out, before, _ = merged(how, kind)
    assert gap(logits(model), out) < (1e-4 if how == "dequantise" else 1.5)
    with lo.disabled(model):
        assert torch.equal(logits(model), logits(quantised()))
    lo.unmerge(model)
    assert same_state(model, before) and torch.equal(logits(model), out)


def test_full_precision_adds_to_the_weights_from_before():
    model, out, before, report = merged("full")
    W = tiny().transformer.h[1].mlp.c_fc.weight.detach()
    layer = model.transformer.h[1].mlp.c_fc
    assert gap(layer.base.weight, W + layer.delta().T) < 1e-6
    # what it is away from the trained model is what quantising had cost
    lost = W - quantised().transformer.h[1].mlp.c_fc.weight
    assert report.layers["transformer.h.1.mlp.c_fc"][0] == pytest.approx(float(lost.norm()), rel=1e-5)
    assert gap(logits(model), out) > 1e-3
    lo.unmerge(model)
    assert same_state(model, before)
    other = merged("dequantise")[0]
    lo.unmerge(other)
    assert lo.merge(other, how="full", weights=tiny().state_dict()).error == report.error


def test_requantise_stays_small_and_says_what_it_costs():
    model, out, before, report = merged("requantise")
    for path, layer in lo.adapted_layers(model).items():
        assert isinstance(layer.base, Quantized) and layer.base.kind == "nf4"
        wanted = quantised().get_submodule(path).weight.T + layer.delta()
        update, W = layer.updates["default"], quantised().get_submodule(path).weight  # (d_in, d_out), as it is stored
        summed = torch.addmm(W, update.A.T, update.B.T, alpha=update.scale).T.detach()  # rounded once, as merging does
        assert gap(summed, wanted) < 1e-6
        assert torch.equal(layer.base.weight.T, dequantize(quantize(summed, double_quant=True)))
        away, moved = report.layers[path]
        assert away == pytest.approx(float((layer.base.weight.T - wanted).norm()), rel=1e-3)
        assert moved == pytest.approx(float(layer.delta().norm()), rel=1e-5)
    total = np.array(list(report.layers.values()))
    assert report.error == pytest.approx(np.linalg.norm(total[:, 0]) / np.linalg.norm(total[:, 1]))
    assert 0.01 < report.error < 1
    lo.unmerge(model)
    assert same_state(model, before) and torch.equal(logits(model), out)


@pytest.mark.parametrize("start", ["pissa", "loftq", "loftq dora"])
def test_starts_on_codes_merge_into_their_own_base_only(start):
    model, _ = started(start)
    shaken(model)
    out, before = logits(model), state(model)
    with pytest.raises(ValueError, match="not q\\(W\\), so its ΔW does not belong on the original weights"):
        lo.merge(model, how="full", weights=tiny())
    assert same_state(model, before)
    assert lo.merge(model, how="dequantise").error < 1e-5 and gap(logits(model), out) < 1e-4


@pytest.mark.parametrize(("settings", "words"), [
    ({}, r"how=None.*h\.0\.attn\.c_attn is quantised.*'dequantise'.*'full' with weights=.*'requantise'"),
    ({"how": "fp16"}, "how='fp16'"),
    ({"how": "full"}, "how='full' with weights=None"),
    ({"how": "requantise", "weights": {}}, r"go with how='full', and only there"),
    ({"how": "full", "weights": {}}, r"has no transformer\.h\.0\.attn\.c_attn\.weight"),
    ({"how": "full", "weights": tiny(n_inner=44)}, r"has a float32 \(24, 44\).*needs floats \(24, 40\)"),
    ({"how": "full", "weights": quantised().state_dict()}, "has no transformer"),
])  # fmt: skip
def test_a_merge_without_a_clear_choice_changes_nothing(settings, words):
    model = quantised()
    lo.adapt(model, METHODS["lora"])
    shaken(model)
    before = state(model)
    with pytest.raises(ValueError, match=words):
        lo.merge(model, **settings)
    assert same_state(model, before) and all(layer.kept is None for layer in lo.adapted_layers(model).values())
    plain = tiny()
    lo.adapt(plain, METHODS["lora"])
    with pytest.raises(ValueError, match="how='dequantise' is for quantised layers, and none is merged here"):
        lo.merge(plain, how="dequantise")


@pytest.mark.parametrize("how", ["dequantise", "requantise"])
def test_nan_in_a_late_layer_leaves_the_early_ones(how):
    model = quantised()
    lo.adapt(model, METHODS["lora"])
    shaken(model)
    path, layer = list(lo.adapted_layers(model).items())[-1]
    with torch.no_grad():
        layer.updates["default"].B[0, 0] = float("nan")
    with pytest.raises(ValueError, match=rf"{path}.*NaN.*Nothing was merged"):
        lo.merge(model, how=how)
    assert all(isinstance(x.base, Quantized) and x.kept is None for x in lo.adapted_layers(model).values())


def test_without_the_base_there_is_no_way_back():
    model, out, _, _ = merged("dequantise", keep_base=False)
    with pytest.raises(ValueError, match="keep_base=False"):
        lo.unmerge(model)
    assert gap(logits(lo.unwrap(model)), out) < 1e-4


# ---------------------------------------------------------------- PEFT over bitsandbytes
def with_bitsandbytes(name, folder, double=False):
    """The tiny model as transformers loads it in 4 bits, on the CPU."""
    tiny(name).save_pretrained(folder)
    config = transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=double,
        bnb_4bit_compute_dtype=torch.float32,
    )  # fmt: skip
    load = transformers.AutoModelForCausalLM.from_pretrained
    model = load(folder, quantization_config=config, device_map="cpu", dtype=torch.float32).eval()
    return safe(model)


def safe(model):
    """In eval() bitsandbytes repacks its weights for another kernel on some processors."""
    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.train()
    return model


def relative(x, y):
    return float((x - y).norm() / y.norm())


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_qlora_adapter_of_peft_is_read_and_one_of_ours_is_read_by_peft(name, tmp_path):
    """GPT-2's Conv1D layers too: transformers quantises their weight as (d_out, d_in), and so do we."""
    base = with_bitsandbytes(name, tmp_path / "base")
    assert sum(isinstance(m, bitsandbytes.nn.Linear4bit) for m in base.modules()) == {"llama": 14, "gpt2": 8}[name]
    ours = quantised(name, double_quant=False)
    assert relative(logits(ours), logits(base)) <= 1e-5 < 0.01 < relative(logits(tiny(name)), logits(base))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peft.get_peft_model(base, peft.LoraConfig(r=3, lora_alpha=7, target_modules=TARGETS[name]))
    assert any(type(m).__module__.startswith("peft.tuners.lora.bnb") for m in theirs.modules())
    safe(shaken(theirs.eval(), seed=3))
    theirs.save_pretrained(tmp_path / "theirs")
    lo.load_adapter(ours, tmp_path / "theirs")
    assert relative(logits(ours), logits(theirs)) <= 1e-5
    with theirs.disable_adapter():
        assert relative(logits(ours), logits(theirs)) > 0.01

    shaken(ours, seed=4)
    lo.save_adapter(ours, tmp_path / "ours")
    (tmp_path / "again").mkdir()
    back = peft.PeftModel.from_pretrained(with_bitsandbytes(name, tmp_path / "again"), tmp_path / "ours").eval()
    assert relative(logits(safe(back)), logits(ours)) <= 1e-5


def test_gradients_are_those_of_peft_over_bitsandbytes(tmp_path):
    base = with_bitsandbytes("llama", tmp_path / "base")
    theirs = peft.get_peft_model(base, peft.LoraConfig(r=3, lora_alpha=7, target_modules=TARGETS["llama"]))
    safe(shaken(theirs.eval(), seed=3))
    theirs.save_pretrained(tmp_path / "theirs")
    ours = quantised("llama", double_quant=False)
    lo.load_adapter(ours, tmp_path / "theirs")
    for model in (ours, theirs):
        model(input_ids=batch(), labels=batch()).loss.backward()
    wanted = {n.replace("base_model.model.", ""): p.grad for n, p in theirs.named_parameters() if p.requires_grad}
    assert len(wanted) == 2 * 6
    for path, layer in lo.adapted_layers(ours).items():
        for factor in "AB":
            got, want = getattr(layer.updates["default"], factor).grad, wanted[f"{path}.lora_{factor}.default.weight"]
            assert relative(got, want) <= 1e-4


def test_with_double_quantisation_they_agree_within_its_bounds(tmp_path):
    base = with_bitsandbytes("llama", tmp_path / "base", double=True)
    assert relative(logits(quantised("llama")), logits(base)) <= 0.02


def test_training_on_codes_lowers_the_loss_and_moves_no_code():
    model, tokenizer = lo.load_model("tiny-gpt2")
    lo.adapt(model, lo.LoRA(r=4, alpha=8, target_modules=["c_attn"], init="loftq"), quantize="nf4")
    codes = {k: v.clone() for k, v in model.named_buffers()}
    data = lo.tokenize(tokenizer, ["The cat sat on the red mat and sang."] * 4)
    history = lo.train(model, data, steps=8, batch_size=4, lr=5e-3, seed=0, progress=False)
    assert history.loss[-1] < 0.8 * history.loss[0]
    assert all(torch.equal(v, codes[k]) for k, v in model.named_buffers())
