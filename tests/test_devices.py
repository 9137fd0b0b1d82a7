"""What a GPU would object to, shown without one: see `stand_in`, and book/scaling.md for what remains unproven.

Whole trainings, merges and files on a device that is not the CPU, number for number those of the CPU; forward passes
on fake CUDA tensors; backward passes on the meta device; and the dtypes under bfloat16 autocast.
"""

import copy
from contextlib import nullcontext

import pytest
import torch
from models_zoo import batch, gap, is_rounding, tiny
from stand_in import DEVICE, DeviceMismatch, FakeCuda, StandIn, here
from test_table import CODES, MODELS, ROWS, method_of
from torch import nn

import lowrank_edu as lo
from lowrank_edu import layers, quant, training

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:.*share one weight")
EXAMPLES = [{"input_ids": row, "labels": row} for row in batch(6, 7)]
PAIRS = [(arch, name) for arch in MODELS for name in ROWS]
every_row = pytest.mark.parametrize(("arch", "name"), PAIRS, ids=lambda value: value.replace(" ", "-"))


@pytest.fixture
def elsewhere(monkeypatch):
    """The stand-in, entered."""
    monkeypatch.setattr(layers, "KEPT_ON", DEVICE)  # such a tensor cannot take its numbers to the CPU by .data
    with StandIn():
        yield DEVICE


def there(arch):
    model = tiny(arch).to(DEVICE)
    model.tie_weights()  # .to() makes new parameters for this kind of tensor, where for CUDA it keeps the old
    return model


def adapted(model, name, **settings):
    return lo.adapt(model, method_of(name, model), quantize=CODES.get(name), **settings)


def trained(model, name):
    adapted(model, name)
    return lo.train(model, EXAMPLES, steps=4, batch_size=3, lr=1e-3, seed=0)


def assert_all_there(model):
    tensors = [*model.named_parameters(), *model.named_buffers()]
    assert [key for key, value in tensors if value.device != DEVICE] == []


def numbers(model):
    return {key: here(value).clone() for key, value in model.state_dict().items()}


# ---- a second device with real numbers


@every_row
def test_training_on_another_device_is_training_on_the_cpu(arch, name, elsewhere):
    one, two = tiny(arch), there(arch)
    history = trained(one, name)
    assert trained(two, name).loss == pytest.approx(history.loss, abs=2e-6)
    assert_all_there(two)
    for key, value in one.state_dict().items():
        if not is_rounding(key) and value.is_floating_point():
            assert gap(here(two.state_dict()[key]), value) < 1e-4, key


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.merge is True])
def test_merging_there_and_taking_it_out_again_moves_no_bit(name, elsewhere):
    model = adapt_and_shake(there("gpt2"), name)
    before, ids = numbers(model), batch().to(DEVICE)
    apart = here(model(input_ids=ids).logits)
    lo.merge(model, how="dequantise" if name in CODES else None)
    assert_all_there(model)
    assert gap(here(model(input_ids=ids).logits), apart) < 1e-4
    lo.unmerge(model)
    assert_all_there(model)
    after = numbers(model)
    assert after.keys() == before.keys() and all(torch.equal(after[key], before[key]) for key in before)


def adapt_and_shake(model, name):
    """Adapted, with every trainable number moved off its start."""
    adapted(model, name)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p += (torch.randn(p.shape, generator=generator) * 0.05).to(p.device)
    return model.eval()


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.route is True and name not in CODES])
def test_a_batch_of_several_adapters_there(name, elsewhere):
    here_, there_ = (adapt_and_shake(model, name) for model in (tiny("gpt2"), there("gpt2")))
    for model in (here_, there_):
        lo.adapt(model, method_of(name, model), name="second", seed=1)
    names = ["default", None, "second"]
    with torch.no_grad(), lo.routed(here_, names), lo.routed(there_, names):
        wanted, found = here_(input_ids=batch()).logits, there_(input_ids=batch().to(DEVICE)).logits
    assert gap(here(found), wanted) < 1e-5


@pytest.mark.parametrize("name", [name for name in ROWS if name not in CODES])
def test_a_folder_goes_there_and_back(name, elsewhere, tmp_path):
    model, ids = adapt_and_shake(there("gpt2"), name), batch().to(DEVICE)
    lo.save_adapter(model, tmp_path, format="own")
    other = there("gpt2")
    lo.load_adapter(other, tmp_path)
    assert_all_there(other)
    with torch.no_grad():
        assert gap(here(other(input_ids=ids).logits), here(model(input_ids=ids).logits)) == 0


@pytest.mark.parametrize("kind", ["nf4", "fp4", "int4", "int8"])
def test_codes_made_there_are_those_made_here(kind, elsewhere):
    one, two = tiny("gpt2"), there("gpt2")
    for model in (one, two):
        lo.quantize(model, kind)
    assert_all_there(two)
    after = numbers(two)
    assert all(torch.equal(after[key], value) for key, value in one.state_dict().items())


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.method.scheduled])
def test_a_killed_run_goes_on_there(name, elsewhere, tmp_path):
    whole, first, second = (there("gpt2") for _ in range(3))
    settings = {"steps": 6, "batch_size": 3, "lr": 1e-3, "eval_data": EXAMPLES, "eval_every": 4}
    for model in (whole, first, second):
        adapted(model, name)
    lo.train(whole, EXAMPLES, scorer=lambda model: 0.0, **settings)
    kept = {"checkpoint_dir": tmp_path, "checkpoint_every": 1}
    with pytest.raises(RuntimeError, match="the power fails"):
        lo.train(first, EXAMPLES, scorer=failing(2), **settings, **kept)
    lo.train(second, EXAMPLES, scorer=lambda model: 0.0, **settings, **kept)
    wanted, found = numbers(whole), numbers(second)
    assert all(torch.equal(found[key], value) for key, value in wanted.items())


def failing(call):
    """A scorer that fails the `call`-th time it is asked."""
    left = iter(range(call - 1))

    def score(model):
        if next(left, None) is None:
            raise RuntimeError("the power fails")
        return 0.0

    return score


def test_a_start_is_worked_out_on_the_cpu_wherever_the_model_is(elsewhere, monkeypatch):
    """A GPU's SVD may turn the signs of a pair of vectors, and the same seed would start elsewhere."""
    seen, svd = set(), torch.linalg.svd
    monkeypatch.setattr(torch.linalg, "svd", lambda W, **more: seen.add(W.device.type) or svd(W, **more))
    for name in ("LoftQ", "PiSSA", "LaMDA"):
        adapted(there("gpt2"), name)
    assert seen == {"cpu"}


def test_what_lies_elsewhere_is_seen(elsewhere):
    model = there("gpt2")
    adapted(model, "LoRA")
    layer = next(iter(lo.adapted_layers(model).values()))
    layer.updates["default"].A = nn.Parameter(torch.zeros(3, 24))  # made on the CPU and left there
    with pytest.raises(DeviceMismatch, match="cpu"):
        model(input_ids=batch().to(DEVICE))
    with pytest.raises(DeviceMismatch):
        torch.zeros(4)[torch.tensor([1], device=DEVICE)]


# ---- fake CUDA tensors: no numbers, but the type is "cuda"


def faked(model):
    """All parameters and buffers as fake CUDA tensors, tied ones once."""
    memo = {}

    def fake(t):
        if id(t) not in memo:
            new = torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="cuda")
            memo[id(t)] = nn.Parameter(new, t.requires_grad) if isinstance(t, nn.Parameter) else new
        return memo[id(t)]

    for module in model.modules():
        for store in (module._parameters, module._buffers):
            store.update({key: fake(value) for key, value in store.items() if value is not None})
    return model


def on_cuda(arch, name):
    model = tiny(arch)
    adapted(model, name)
    if ROWS[name].route is True and name not in CODES:
        lo.adapt(model, method_of(name, model), name="second", seed=1)
    return model


@every_row
def test_fake_cuda_tensors_pass_forward_in_train_mode(arch, name):
    model = on_cuda(arch, name)
    with FakeCuda():
        ids = torch.zeros(3, 7, dtype=torch.long, device="cuda")
        out = faked(model).train()(input_ids=ids).logits
        assert out.device.type == "cuda" and out.shape == (3, 7, 97)
        if ROWS[name].route is True and name not in CODES:
            with lo.routed(model, ["second", None, "default"]):
                assert model.eval()(input_ids=ids).logits.device.type == "cuda"


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_fake_cuda_weights_are_quantised_and_read(kind, monkeypatch):
    monkeypatch.setattr(quant, "_check_values", lambda *_: None)  # it asks for numbers, and here are none
    model = tiny("gpt2")
    with FakeCuda():
        lo.quantize(faked(model), kind)
        assert {b.device.type for b in model.buffers()} == {"cuda"}
        assert model(input_ids=torch.zeros(3, 7, dtype=torch.long, device="cuda")).logits.device.type == "cuda"


def test_a_cpu_tensor_among_fake_cuda_ones_is_seen():
    model = on_cuda("gpt2", "LoRA")
    layer = next(iter(lo.adapted_layers(model).values()))
    with FakeCuda():
        faked(model)
        layer.updates["second"].A = nn.Parameter(torch.zeros(3, 24))
        with pytest.raises(RuntimeError, match="device"):
            model(input_ids=torch.zeros(3, 7, dtype=torch.long, device="cuda"))


# ---- the meta device: gradients reach what they should


def loss_of(model, device="cpu"):
    model.config.pad_token_id = None  # or transformers would look for padding, which meta tensors cannot tell
    return model(input_ids=batch().to(device)).logits.float().logsumexp(-1).sum()


@every_row
def test_backward_on_the_meta_device_reaches_what_trains(arch, name):
    model = tiny(arch)
    adapted(model, name)
    on_meta = copy.deepcopy(model).to("meta").train()
    model.train()
    loss_of(on_meta, "meta").backward()
    loss_of(model).backward()
    reached, wanted = (
        {key for key, p in m.named_parameters(remove_duplicate=False) if p.grad is not None} for m in (on_meta, model)
    )
    assert reached == wanted  # both names of what is shared: on the way to meta it becomes two
    assert reached and all(p.grad.shape == p.shape for p in on_meta.parameters() if p.grad is not None)


# ---- the precision that "auto" chooses


@pytest.mark.parametrize(("device", "capability", "dtype"), [
    ("cuda", (7, 5), torch.float16),  # a T4: it has no bfloat16, and fp16 needs its loss scaled
    ("cuda", (8, 0), torch.bfloat16), ("cuda", (9, 0), torch.bfloat16), ("cpu", None, None),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*GradScaler is enabled, but CUDA is not available")
def test_auto_is_what_the_device_can(device, capability, dtype, monkeypatch):
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    monkeypatch.setattr(torch, "autocast", lambda *chosen: chosen)
    cast, scaler = training._precision("auto", torch.device(device))
    assert (scaler is not None) == (dtype is torch.float16)
    assert isinstance(cast(), nullcontext) if dtype is None else cast() == (device, dtype)


# ---- autocast


@every_row
def test_under_bfloat16_autocast_products_are_bf16_and_what_trains_stays_fp32(arch, name):
    model = adapt_and_shake(tiny(arch), name)
    exact = model(input_ids=batch()).logits
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(input_ids=batch()).logits
    assert rounded.dtype == torch.bfloat16 and 1e-3 < float((rounded - exact).norm() / exact.norm()) < 0.04
    rounded.float().logsumexp(-1).sum().backward()
    grown = [p for p in model.parameters() if p.grad is not None]
    assert grown and {p.dtype for p in grown} == {p.grad.dtype for p in grown} == {torch.float32}
