"""The frozen quantised layer against dense layers and bitsandbytes, and `lo.quantize` on whole models."""

import copy
import gc
import io

import pytest
import torch
from models_zoo import CONFIGS, batch, gap, logits, same_state, state, tiny
from peer import bitsandbytes
from torch import nn
from transformers.pytorch_utils import Conv1D

import lowrank_edu as lo
from lowrank_edu.quantized import Quantized


def linear(d_in=48, d_out=80, bias=True, dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    return nn.Linear(d_in, d_out, bias=bias).to(dtype)


def conv1d(d_in=48, d_out=80, dtype=torch.float32):
    torch.manual_seed(0)
    layer = Conv1D(d_out, d_in)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    return layer.to(dtype)


def x_of(layer, *rows, dtype=torch.float32):
    return torch.randn(*rows, layer.in_features, generator=torch.Generator().manual_seed(1)).to(dtype)


def unpacked(layer, quantized):
    """The dense layer whose weight is exactly what the quantised one stands for."""
    dense = copy.deepcopy(layer)
    dense.weight.data = quantized.weight
    return dense


@pytest.mark.parametrize("make", [linear, conv1d])
@pytest.mark.parametrize("kind", lo.quant.KINDS)
@pytest.mark.parametrize("double", [False, True])
def test_outputs_and_input_gradients_are_those_of_the_unpacked_weight(make, kind, double):
    layer = make()
    q = Quantized(layer, kind, 32, double)
    assert q.weight.shape == layer.weight.shape and 0 < gap(q.weight, layer.weight) < 1
    assert (q.in_features, q.out_features, q.nx, q.nf) == (48, 80, 48, 80)
    results = []
    for module in (q, unpacked(layer, q)):
        x = x_of(q, 3, 5).requires_grad_()
        y = module(x)
        (y * torch.linspace(-1, 2, 80)).sum().backward()
        results.append((y, x.grad, module.bias.grad.clone()))
        module.bias.grad = None
    for ours, dense in zip(*results, strict=True):
        assert gap(ours, dense) < 1e-5
    assert not any(name == "weight" for name, _ in q.named_parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_the_layer_of_bitsandbytes_gives_the_same(kind, double, dtype):
    layer = linear(64, 96, dtype=dtype)
    theirs = bitsandbytes.nn.Linear4bit(64, 96, quant_type=kind, compress_statistics=double)
    theirs.load_state_dict(layer.state_dict())
    theirs = theirs.to("cpu").train()  # in eval() it repacks its weight for a kernel in bfloat16 on some processors
    q = Quantized(layer, kind, 64, double)
    results = []
    for module in (q, theirs):
        x = x_of(q, 7, 3, dtype=dtype).requires_grad_()
        y = module(x)
        y.pow(2).sum().backward()
        results.append((y, x.grad))
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    for ours, reference in zip(*results, strict=True):
        assert ours.dtype == reference.dtype
        assert (ours - reference).float().norm() <= tolerance * reference.float().norm()
    if not double:
        assert torch.equal(q.packed, theirs.weight.data) and torch.equal(q.absmax, theirs.weight.quant_state.absmax)


@pytest.mark.parametrize("make", [linear, conv1d])
def test_the_input_gradient_in_float64(make):
    q = Quantized(make(d_in=7, d_out=5, dtype=torch.float64), "nf4", 16)
    x = x_of(q, 2, 3, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(q, (x,)) and torch.autograd.gradgradcheck(q, (x,))


@pytest.mark.parametrize("make", [linear, conv1d])
def test_nothing_of_the_size_of_the_weight_stays_alive(make):
    q = Quantized(make(d_in=130, d_out=170), "nf4")
    saved, size = [], 130 * 170
    x = x_of(q, 4).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        y = q(x)
    assert all(t.numel() < size for t in saved)
    tensors = [t for t in gc.get_objects() if issubclass(type(t), torch.Tensor)]
    alive = [t for t in tensors if t.is_floating_point() and t.numel() == size]
    assert not alive and y.grad_fn is not None


def test_only_asked_gradients_are_made():
    q = Quantized(linear(), "nf4").requires_grad_(False)
    y = q(x_of(q, 4))
    assert not y.requires_grad
    q.bias.requires_grad_(True)
    q(x_of(q, 4)).sum().backward()
    assert torch.equal(q.bias.grad, torch.full((80,), 4.0))


@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16, torch.float64])
def test_products_are_made_in_compute_dtype_and_come_back_in_the_dtype_of_the_input(compute):
    layer = linear()
    q = Quantized(layer, "nf4", compute_dtype=compute)
    x = x_of(q, 6)
    wanted = nn.functional.linear(x.to(compute), q.weight.to(compute), layer.bias.to(compute)).float()
    assert q(x).dtype == torch.float32 and torch.equal(q(x), wanted)
    assert q(x.half()).dtype == torch.float16


@pytest.mark.parametrize("double", [False, True])
def test_casting_and_moving_keep_the_codes(double):
    layer = linear()
    q = Quantized(layer, "nf4", 64, double)
    W, codes = q.weight, {k: v.clone() for k, v in q.named_buffers()}
    for cast in (lambda m: m.half(), lambda m: m.to(torch.bfloat16), lambda m: m.double(), lambda m: m.to("cpu")):
        twin = cast(copy.deepcopy(nn.Sequential(q)))[0]
        assert {k: v.dtype for k, v in twin.named_buffers()} == {k: v.dtype for k, v in codes.items()}
        assert all(torch.equal(v, codes[k]) for k, v in twin.named_buffers())
        assert twin.weight.dtype == twin.bias.dtype and torch.equal(twin.weight, W.to(twin.bias.dtype))
    assert q.half().to("meta").packed.is_meta and q.to_empty(device="cpu").absmax.dtype == codes["absmax"].dtype


@pytest.mark.parametrize("double", [False, True])
def test_copies_and_saved_states_are_exact(double):
    model = nn.Sequential(linear(), conv1d(80, 30))
    lo.quantize(model, "nf4", double_quant=double)
    x = torch.randn(3, 48)
    y = model(x)
    assert torch.equal(copy.deepcopy(model)(x), y)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = nn.Sequential(linear(seed=5), conv1d(80, 30))
    with torch.no_grad():
        other[1].weight += 1
    lo.quantize(other, "nf4", double_quant=double)
    assert gap(other(x), y) > 0.1
    other.load_state_dict(torch.load(file))
    assert torch.equal(other(x), y) and gap(other[0].weight, model[0].weight) == 0


@pytest.mark.parametrize("name", CONFIGS)
def test_all_linear_layers_but_the_head_are_quantised(name):
    model = tiny(name)
    dense, before = logits(model), dict(model.named_modules())
    report = lo.quantize(model, "int8")
    wanted = lo.targets.resolve(tiny(name), "all-linear")
    assert report.modules == list(wanted)
    for path, module in model.named_modules():
        assert isinstance(module, Quantized) == (path in wanted)
        assert path in wanted or module is before[path]
    assert 0 < gap(logits(model), dense) < 0.1 * dense.abs().max()
    stored = sum(t.nbytes for t in model.state_dict(keep_vars=True).values())
    tied = sum(t.nbytes for t in model.state_dict(keep_vars=True).values()) - sum(
        t.nbytes for t in {id(t): t for t in model.state_dict(keep_vars=True).values()}.values()
    )
    hidden = sum(b.nbytes for n, b in model.named_buffers() if n not in model.state_dict())
    assert report.bytes_after == stored - tied + hidden < report.bytes_before
    assert 8.127 < report.bits_per_parameter < 8.7 and "bits per weight" in str(report)


def test_the_numbers_of_a_7b_llama_from_shapes_alone():
    """FACTS: NF4 with double quantisation and embeddings in bfloat16 is 3,865 MB."""
    import transformers

    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig()).to(torch.bfloat16)
    report = lo.quantize(model, "nf4", double_quant=True)
    assert len(report.modules) == 7 * 32 and report.bits_per_parameter == pytest.approx(4.12695, abs=1e-4)
    assert report.bytes_after / 1e6 == pytest.approx(3865, abs=2)


def test_chosen_layers_only():
    model = tiny()
    report = lo.quantize(model, "nf4", target_modules=["c_attn"])
    assert report.modules == ["transformer.h.0.attn.c_attn", "transformer.h.1.attn.c_attn"]
    assert lo.quantize(model, "fp4", target_modules=r".*c_fc").modules[0] == "transformer.h.0.mlp.c_fc"


def refuse(model, words, **settings):
    before, modules = state(model), [id(m) for m in model.modules()]
    with pytest.raises(ValueError, match=words):
        lo.quantize(model, **settings)
    assert [id(m) for m in model.modules()] == modules
    now = model.state_dict()
    assert all(torch.equal(now[k].nan_to_num(7), v.nan_to_num(7)) for k, v in before.items())


def test_refusals_leave_the_model_as_it_was():
    refuse(tiny(), "kind='nf3' is not one of nf4, fp4, int4, int8", kind="nf3")
    refuse(tiny(), "kind='dynamic8'", kind="dynamic8")
    refuse(tiny(), "block_size=0", block_size=0)
    refuse(tiny(), "compute_dtype='bf16'", compute_dtype="bf16")
    refuse(tiny(), "compute_dtype=torch.int8", compute_dtype=torch.int8)
    refuse(tiny(), r"no module matched target_modules=\['nope'\]", target_modules=["nope"])
    refuse(tiny(), "transformer.wte is a Embedding; only linear", target_modules=["wte"])
    refuse(tiny(), "lm_head shares its weight", target_modules=["lm_head", "c_attn"])
    model = tiny()
    lo.quantize(model, target_modules=["c_attn"])
    refuse(model, "c_attn is quantised already, as nf4")
    model = tiny()
    lo.adapt(model, lo.LoRA(target_modules=["c_attn"]))
    refuse(model, r"has adapters.*adapt\(model, method, quantize=\.\.\.\)")
    model = tiny()
    model.transformer.h[1].mlp.c_proj.weight.data[3, 2] = float("nan")
    refuse(model, r"1 of 960 values are NaN or Inf")


def test_the_untouched_parts_are_the_same_objects():
    model = tiny()
    head, bias = model.lm_head.weight, model.transformer.h[0].attn.c_attn.bias
    lo.quantize(model)
    assert model.lm_head.weight is head is model.transformer.wte.weight
    assert model.transformer.h[0].attn.c_attn.bias is bias
    twin = copy.deepcopy(model)
    assert torch.equal(logits(twin, batch()), logits(model, batch())) and same_state(twin, state(model))
