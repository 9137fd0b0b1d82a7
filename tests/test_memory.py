"""The plan, from shapes, against the ledger, from a real step; and the ledger against counting by hand."""

import dataclasses
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
import transformers
from models_zoo import TARGETS, same_state, state, tiny
from torch import nn
from torch.nn.modules import module as global_hooks

import lowrank_edu as lo
from lowrank_edu import accounting, memory
from lowrank_edu.architectures import ARCHITECTURES, configuration, skeleton
from lowrank_edu.methods import METHODS
from lowrank_edu.quantized import Quantized
from lowrank_edu.recomputing import switch_on
from lowrank_edu.training import collate, token_loss

BYTES = ("parameters", "gradients", "optimizer", "activations", "total", "trainable", "weights")


def step_of(model, optimizer, batch, length, autocast=False, zero=True):
    """A step as `lo.train` makes it, on a batch without padding."""
    ids = torch.randint(3, model.config.vocab_size, (batch, length), generator=torch.Generator().manual_seed(0))
    data = [{"input_ids": row, "labels": row.clone()} for row in ids]
    model.train()

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            if getattr(model.config, "num_labels", 0) and hasattr(model, "classifier"):
                loss = F.cross_entropy(model(input_ids=ids).logits.float(), ids[:, 0] % 2)
            else:
                loss = token_loss(model, collate(data, "cpu"))[0]
        loss.backward()
        optimizer.step()
        if zero:
            optimizer.zero_grad()

    return step


def measured(model, batch, length, make=torch.optim.AdamW, **how):
    optimizer = make([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    return memory.ledger(step_of(model, optimizer, batch, length, **how), model, optimizer)


def differences(plan, ledger, within=0.02):
    """{what: (planned, measured)} of all that is further apart than the share `within`."""
    pairs = {what: (getattr(plan, what), getattr(ledger, what)) for what in BYTES}
    pairs |= {kind: (plan.held.get(kind), ledger.held.get(kind)) for kind in {**plan.held, **ledger.held}}
    return {
        what: (p, m) for what, (p, m) in pairs.items() if p is None or m is None or abs(p - m) > within * max(m, 1)
    }


def on(make, **settings):
    return lambda name: make(**settings, target_modules=TARGETS[name])


ROWS = {
    "in place": lambda name: None,
    "lora": on(lo.LoRA, r=3),
    "dropout": on(lo.LoRA, r=2, dropout=0.1, bias="all"),
    "dora": on(lo.LoRA, r=2, use_dora=True),
    "pissa": on(lo.LoRA, r=2, init="pissa"),
    "adalora": on(lo.AdaLoRA, init_r=4, target_r=2, total_steps=100, warmup_steps=5, final_steps=9),
    "lora-fa": on(lo.LoRAFA, r=3),
    "vera": on(lo.VeRA, r=5),
    "lamda": on(lo.LaMDA, r=3),
    "lamda zero": on(lo.LaMDA, r=3, variant="svd-zero"),
    "lora-xs": on(lo.LoRAXS, r=3),
    "aflora": on(lo.AFLoRA, r=3, every=1),
    "full": lambda name: lo.FullFineTuning(),
    "lisa": lambda name: lo.LISA(active_blocks=1),
    "intrinsic": on(lo.IntrinsicDimension, d=7),
    "bitfit": lambda name: lo.BitFit(add_missing=name == "llama"),
    "houlsby": lambda name: lo.BottleneckAdapter(bottleneck=4),
    "pfeiffer": lambda name: lo.BottleneckAdapter(bottleneck=4, placement="pfeiffer", layer_norm=True),
    "prefix": lambda name: lo.PrefixTuning(length=3),
    "prompt": lambda name: lo.PromptTuning(length=3),
}
REST = [("bart", "lora"), ("bart", "full"), ("bart", "in place"), ("deberta", "lora"), ("deberta", "dora")]
CASES = [(name, row, 2, 9) for name in ("gpt2", "llama") for row in ROWS]
CASES += [("bert", row, 2, 9) for row in ROWS if not row.startswith("pr")]
CASES += [(name, row, 3, 16) for name, row in REST] + [("gpt2", "lora", 1, 31), ("llama", "dora", 5, 2)]


def test_every_row_of_the_table_is_planned_here():
    assert {type(row("gpt2")).__name__ for row in ROWS.values()} - {"NoneType"} == set(METHODS)


@pytest.mark.filterwarnings("ignore:.*target_modules")
@pytest.mark.parametrize("name, row, batch, length", CASES)
def test_the_plan_agrees_with_a_step(name, row, batch, length):
    model, method = tiny(name), ROWS[row](name)
    plan = memory.plan(model, method, batch=batch, length=length)
    if method is not None:
        lo.adapt(model, method)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    scheduled = method is not None and method.scheduled
    with lo.attach(model, optimizer, 100) if scheduled else nullcontext():
        step = step_of(model, optimizer, batch, length)
        step()  # so that a schedule has its memories
        ledger = memory.ledger(step, model, optimizer)
    # BART makes a mask of its own, which it skips only when it can read that nothing is masked
    assert not differences(plan, ledger, within=0.02 if name == "bart" else 0)


def test_quantising_while_adapting_is_planned_too():
    model, method = tiny("llama"), lo.LoRA(r=3, target_modules="all-linear", init="loftq")
    plan = memory.plan(model, method, batch=2, length=9, quantize="nf4")
    lo.adapt(model, method, quantize="nf4")
    assert not differences(plan, measured(model, 2, 9), within=0)


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert"])
@pytest.mark.parametrize("how", [
    {"precision": "mixed"}, {"precision": "bf16"}, {"checkpointing": True},
    {"quantize": "nf4", "precision": "bf16"}, {"quantize": "nf4", "double_quant": False}, {"quantize": "int8"},
], ids=str)  # fmt: skip
def test_the_plan_agrees_in_other_precisions_and_with_checkpointing(name, how):
    model, method = tiny(name), lo.LoRA(r=3, target_modules=TARGETS[name])
    plan = memory.plan(model, method, batch=2, length=9, **how)
    if how.get("precision") == "bf16":
        model.to(torch.bfloat16)
    if "quantize" in how:
        lo.quantize(model, how["quantize"], double_quant=how.get("double_quant", True))
    lo.adapt(model, method)
    if "checkpointing" in how:
        switch_on(model)
        assert plan.recomputed > plan.activations // 4
        plan = dataclasses.replace(plan, recomputed=0)  # a step hides it from the ledger
    ledger = measured(model, 2, 9, autocast=how.get("precision") == "mixed")
    assert not differences(plan, ledger)
    if "quantize" in how:
        sizes = [m.shape.numel() for m in model.modules() if isinstance(m, Quantized)]
        packed = sum(n if how["quantize"] == "int8" else -(-n // 2) for n in sizes)
        blocks = [-(-n // 64) for n in sizes]
        double = how.get("double_quant", True)
        scales = sum(b + 4 * -(-b // 256) + 4 if double else 4 * b for b in blocks)
        assert ledger.held["quantised base, frozen"] == packed + scales


REAL = {
    "gpt2": ({"n_layer": 4}, lo.LoRA(r=4, blocks={"c_attn": ("q", "v")})),
    "bert-base": ({"num_hidden_layers": 2}, lo.LoRA(r=8, target_modules=["query", "value"])),
    "llama-7b": ({"num_hidden_layers": 1, "vocab_size": 512}, lo.LoRA(r=8, target_modules="all-linear")),
}


@pytest.mark.parametrize("name, batch, length", [("gpt2", 1, 160), ("bert-base", 4, 96), ("llama-7b", 2, 64)])
def test_real_widths_agree(name, batch, length):
    changes, method = REAL[name]
    config = configuration(name, **changes)
    plan = memory.plan(config, method, batch=batch, length=length)
    model = getattr(transformers, config.architectures[0])(config)
    lo.adapt(model, method)
    assert not differences(plan, measured(model, batch, length))


# ---------------------------------------------------------------- the ledger, by hand


class Net(nn.Module):
    """x (n, 5) -> 7 -> 3, where a second layer reads x too."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(5, 7), nn.Linear(5, 7), nn.Linear(7, 3)

    def forward(self, x):
        return self.last(torch.tanh(self.first(x) + self.second(x)))


def net_step(net, optimizer=None, rows=11, times=1):
    def step():
        for _ in range(times):
            net(torch.randn(rows, 5)).square().sum().backward()
        if optimizer is not None:
            optimizer.step()
            optimizer.zero_grad()

    return step


def test_a_small_net_by_hand():
    net, n = Net(), 11
    optimizer = torch.optim.AdamW(net.parameters())
    got = memory.ledger(net_step(net, optimizer), net, optimizer)
    weights = 2 * (5 * 7 + 7) + 7 * 3 + 3
    x, hidden, out = 4 * n * 5, 4 * n * 7, 4 * n * 3  # tanh's output is also the input of `last`: one storage
    assert (got.trainable, got.weights) == (weights, weights)
    assert (got.parameters, got.gradients) == (4 * weights, 4 * weights)
    assert got.optimizer == 8 * weights + 6 * 4  # two moments, and a step count for each of the six tensors
    assert got.activations == x + hidden + out
    assert got.saved == {("first", "Linear"): x, ("the model", "Net"): hidden, ("outside the model", ""): out}
    assert got.total == 4 * weights * 4 + 24 + x + hidden + out and got.share == 100


def test_what_is_frozen_saves_nothing_and_lora_saves_x_and_ax():
    net, n = Net(), 11
    net.requires_grad_(False)
    net.first.bias.requires_grad_(True)
    got = memory.ledger(net_step(net), net)
    assert got.saved == {("the model", "Net"): 4 * n * 7, ("outside the model", ""): 4 * n * 3}
    assert got.held == {"base, trained": 28, "base, frozen": 4 * (42 + 42 + 24 - 7)}
    net = Net()
    lo.adapt(net, lo.LoRA(r=2, target_modules=["first", "second"]))
    got = memory.ledger(net_step(net), net)
    path = "first.updates.default", "second.updates.default"
    assert got.saved[path[0], "LowRank"] == 4 * n * (5 + 2)  # x and A x
    assert got.saved[path[1], "LowRank"] == 4 * n * 2  # the same x counts once
    assert got.held == {"base, frozen": 4 * 108, "adapters, trained": 4 * 2 * 2 * (5 + 7)}


def test_of_several_passes_the_largest_counts_not_the_sum():
    net = Net()
    once = memory.ledger(net_step(net), net).activations
    assert memory.ledger(net_step(net, times=3), net).activations == once

    def both():  # two graphs alive at once are two
        a, b = net(torch.randn(11, 5)), net(torch.randn(11, 5))
        (a.square().sum() + b.square().sum()).backward()

    assert memory.ledger(both, net).activations == 2 * once
    def shrinking():
        net_step(net)()
        net_step(net, rows=2)()

    assert memory.ledger(shrinking, net).activations == once

    def dropped():  # a graph that is thrown away before the backward pass holds nothing
        net(torch.randn(50, 5)).square().sum()
        net_step(net)()

    assert memory.ledger(dropped, net).activations == once


def test_what_a_checkpoint_computes_again_is_not_counted():
    net, x = Net(), torch.randn(11, 5, requires_grad=True)

    def step():
        torch.utils.checkpoint.checkpoint(net, x, use_reentrant=True).square().sum().backward()

    assert memory.ledger(step, net).activations == 4 * 11 * (5 + 3)  # its input, and the output for the square


def test_views_and_shared_memory_count_once():
    whole = torch.zeros(6, 10)
    assert accounting.unique_bytes([whole]) == 240
    assert accounting.unique_bytes([whole, whole[2:4], whole.T, whole.view(60)]) == 240
    assert accounting.unique_bytes([whole[:2], whole[1:3]]) == 3 * 40  # not the storage behind the views
    assert accounting.unique_bytes([whole, whole.clone()]) == 480
    assert accounting.unique_bytes([torch.zeros(0), torch.zeros(()).to(torch.int64)]) == 8


def test_tied_weights_count_once():
    model = tiny("gpt2")
    assert model.lm_head.weight is model.transformer.wte.weight
    got = memory.ledger(lambda: None, model)
    assert got.weights == sum(p.numel() for p in model.parameters())
    assert got.parameters == 4 * got.weights + sum(b.nbytes for b in model.buffers())


def test_copies_of_full_fine_tuning_and_kept_weights_of_a_merge_are_counted():
    model, n = tiny("llama"), sum(p.numel() for p in tiny("llama").parameters())
    lo.adapt(model, lo.FullFineTuning())
    got = memory.ledger(lambda: None, model)
    assert got.held["copies of layers, trained"] == 4 * n == got.held["base, frozen"] - _buffers(model)
    assert got.trainable == got.weights == n
    model = tiny("llama")
    report = lo.adapt(model, lo.LoRA(r=3, target_modules=["q_proj", "v_proj"]))
    lo.merge(model)
    kept = 4 * sum(model.get_submodule(path).base.weight.numel() for path in report.modules)
    assert memory.ledger(lambda: None, model).held["kept by merging, frozen"] == kept


def _buffers(model):
    return sum(b.nbytes for b in model.buffers())


# ---------------------------------------------------------------- nothing is left behind


def test_a_failing_step_comes_through_and_leaves_nothing():
    model = tiny("gpt2")
    lo.adapt(model, lo.LoRA(r=2, target_modules=["c_attn"]))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    before = state(model)
    hooks = dict(global_hooks._global_forward_hooks), dict(global_hooks._global_forward_pre_hooks)

    def step():
        model(torch.zeros(1, 4, dtype=torch.long))
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        memory.ledger(step, model, optimizer)
    assert same_state(model, before)
    assert hooks == (global_hooks._global_forward_hooks, global_hooks._global_forward_pre_hooks)
    assert not optimizer._optimizer_step_pre_hooks and not any(m._forward_hooks for m in model.modules())
    x = torch.ones(2, requires_grad=True)
    assert (x * x).grad_fn._saved_self is not None  # saved tensors are themselves again


def test_a_plan_only_reads_the_model():
    model = tiny("gpt2")
    before, modules = state(model), [(name, type(m)) for name, m in model.named_modules()]
    memory.plan(model, lo.LoRA(r=2, target_modules=["q", "v"]), batch=2, length=5, checkpointing=True)
    assert same_state(model, before) and not model.training
    assert modules == [(name, type(m)) for name, m in model.named_modules()]
    assert all(p.requires_grad and not p.is_meta for p in model.parameters())
    lo.adapt(model, lo.LoRA(r=2, target_modules=["c_attn"]))  # a second adapter can be planned beside the first
    plan = memory.plan(model, lo.LoRA(r=3, target_modules=["c_proj"]))
    assert lo.adapter_names(model) == ["default"] and set(plan.held) >= {"adapters, trained", "adapters, frozen"}


def test_accelerate_may_wrap_the_optimizer():
    from accelerate import Accelerator

    net = Net()
    optimizer = Accelerator(cpu=True).prepare(torch.optim.AdamW(net.parameters()))
    got = memory.ledger(net_step(net, optimizer), net, optimizer)
    assert got.optimizer == 8 * 108 + 24 and got.gradients == 4 * 108


# ---------------------------------------------------------------- the plan


def test_a_named_model_is_planned_without_its_weights():
    plan = memory.plan("gpt3-175b", lo.LoRA(r=4, target_modules=["q", "v"]))
    assert plan.trainable == 18_874_368 and plan.activations is None
    assert plan.parameters == 4 * (174_604_259_328 + 18_874_368)
    assert plan.total == plan.parameters + 4 * plan.trainable + plan.optimizer
    assert "not planned" in str(plan) and "18,874,368 of 174,623,133,696" in str(plan)


@pytest.mark.parametrize("name, weights", {  # counted from the tables of the papers, by hand
    "gpt2": 50257 * 768 + 1024 * 768 + 12 * (12 * 768**2 + 13 * 768) + 2 * 768,
    "gpt2-xl": 50257 * 1600 + 1024 * 1600 + 48 * (12 * 1600**2 + 13 * 1600) + 2 * 1600,
    "gpt3-175b": 50257 * 12288 + 2048 * 12288 + 96 * (12 * 12288**2 + 13 * 12288) + 2 * 12288,
    "llama-7b": 2 * 32000 * 4096 + 32 * (4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096) + 4096,
    "llama-30b": 2 * 32000 * 6656 + 60 * (4 * 6656**2 + 3 * 6656 * 17920 + 2 * 6656) + 6656,
    "llama-65b": 2 * 32000 * 8192 + 80 * (4 * 8192**2 + 3 * 8192 * 22016 + 2 * 8192) + 8192,
    "llama-3.2-3b": 128256 * 3072 + 28 * (3072 * (2 * 3072 + 2 * 1024 + 3 * 8192) + 2 * 3072) + 3072,
    "llama-3.1-8b": 2 * 128256 * 4096 + 32 * (4096 * (2 * 4096 + 2 * 1024 + 3 * 14336) + 2 * 4096) + 4096,
    "roberta-large": 355_361_794, "bert-base": 109_483_778, "deberta-v2-xxl": 1_566_913_538,
}.items())  # fmt: skip
def test_the_shapes_of_named_models(name, weights):
    assert sum(p.numel() for p in skeleton(name).parameters()) == weights


def test_every_named_model_runs_a_forward_pass():
    for name in ARCHITECTURES:
        layers = "n_layer" if name.startswith("gpt") else "num_hidden_layers"
        small = {"encoder_layers": 1, "decoder_layers": 1} if name.startswith("bart") else {layers: 1}
        assert memory.plan(configuration(name, **small), batch=1, length=8).activations > 0


def test_activations_are_linear_in_rows_and_in_layers():
    def acts(batch=1, **changes):
        return memory.plan(configuration("gpt2", n_embd=96, n_head=4, **changes), batch=batch, length=32).activations

    two, three, six = (acts(batch=b, n_layer=2) for b in (2, 3, 6))
    assert six - three == 3 * (three - two)
    two, three, seven = (acts(n_layer=n) for n in (2, 3, 7))
    assert seven - three == 4 * (three - two)


def test_q_and_v_of_a_fused_layer():
    apart = memory.plan("gpt2", lo.LoRA(r=4, target_modules=["q", "v"]), length=64)
    fused = memory.plan("gpt2", lo.LoRA(r=4, blocks={"c_attn": ("q", "v")}), length=64)
    assert apart.trainable == fused.trainable == 12 * 2 * 4 * (768 + 768)
    assert apart.weights == fused.weights and abs(apart.activations / fused.activations - 1) < 0.05
    with pytest.raises(ValueError, match="no module matched"):
        memory.plan("llama-3.2-3b", lo.LoRA(target_modules=["q"]))


@pytest.mark.parametrize("config, kind", [
    (transformers.BertConfig(num_hidden_layers=1), "BertForSequenceClassification"),
    (transformers.LlamaConfig(num_hidden_layers=1, vocab_size=64), "LlamaForCausalLM"),
    (transformers.BartConfig(encoder_layers=1, decoder_layers=1), "BartForConditionalGeneration"),
])  # fmt: skip
def test_a_configuration_gets_its_usual_class(config, kind):
    assert type(skeleton(config)).__name__ == kind
    assert next(skeleton(config, torch.float16).parameters()).dtype is torch.float16
    assert memory.plan(config, length=4).activations > 0


def test_any_module_with_a_loss_of_its_own():
    net = Net()
    method = lo.LoRA(r=2, target_modules=["first"])
    plan = memory.plan(net, method, batch=11, length=5, loss=lambda m, ids: m(ids.float()).square().sum())
    lo.adapt(net, method)
    optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad])
    assert not differences(plan, memory.ledger(net_step(net, optimizer), net, optimizer), within=0)


def bits(name):
    import bitsandbytes as bnb

    return getattr(bnb.optim, name)


@pytest.mark.parametrize("name, make, precision", [
    ("adamw", lambda: torch.optim.AdamW, "fp32"), ("adamw", lambda: torch.optim.AdamW, "bf16"),
    ("sgd", lambda: torch.optim.SGD, "fp32"), ("sgd-momentum", lambda: _momentum, "bf16"),
    ("adamw32", lambda: bits("AdamW32bit"), "fp32"), ("adamw8", lambda: bits("AdamW8bit"), "fp32"),
    ("paged-adamw32", lambda: bits("PagedAdamW32bit"), "fp32"),
    ("paged-adamw8", lambda: bits("PagedAdamW8bit"), "fp32"),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore")
def test_what_optimizers_keep(name, make, precision):
    model = tiny("gpt2", n_embd=96, n_inner=120)  # tensors on both sides of 4,096 entries
    plan = memory.plan(model, optimizer=name, precision=precision)
    got = measured(model.to(memory.PRECISIONS[precision]), 1, 4, make=make())
    assert abs(plan.optimizer - got.optimizer) <= 0.001 * got.optimizer
    assert plan.gradients == got.gradients


def _momentum(parameters, lr):
    return torch.optim.SGD(parameters, lr=lr, momentum=0.9)


def test_sixteen_bytes_and_twelve():
    weights = 124_439_808
    for optimizer, each in [("adamw-master", 16), ("adamw32", 12), ("sgd", 4)]:
        assert memory.plan("gpt2", optimizer=optimizer, precision="bf16").total == each * weights
    assert memory.plan("gpt2", optimizer="adamw-master").total == 16 * weights  # fp32 weights need no copy


def test_lora_saves_gradients_and_optimizer_state_but_hardly_activations():
    full = memory.plan("gpt2", batch=4, length=128)
    lora = memory.plan("gpt2", lo.LoRA(r=4, blocks={"c_attn": ("q", "v")}), batch=4, length=128)
    assert (lora.gradients + lora.optimizer) / (full.gradients + full.optimizer) < 0.002
    assert lora.activations / full.activations > 0.6


@pytest.mark.parametrize("wrong, words", [
    ({"model": "gpt5"}, "no shapes are written down for a model 'gpt5'; there are tiny-gpt2, gpt2"),
    ({"model": 7}, "not a int"),
    ({"optimizer": "adam"}, "optimizer='adam' is not one of sgd"),
    ({"precision": "fp8"}, "precision='fp8' is not one of None, fp32"),
    ({"batch": 0, "length": 3}, "batch=0: a whole number"),
    ({"length": 1.5}, "length=1.5: a whole number"),
    ({"length": 1025}, "length=1025 is more than this model sees: 1024"),
    ({"quantize": "nf3"}, "'nf3' is not one of"),
])  # fmt: skip
def test_wrong_requests_say_what_is_possible(wrong, words):
    with pytest.raises(ValueError) as error:
        memory.plan(**{"model": "gpt2", **wrong})
    assert words in str(error.value)


def test_a_model_that_looks_at_values_is_refused():
    with pytest.raises(ValueError, match="BartForConditionalGeneration looks at values"):
        memory.plan(tiny("bart"), precision="fp16", length=4)


def test_a_ledger_wants_a_function_and_a_model():
    with pytest.raises(ValueError, match="a function without arguments"):
        memory.ledger(tiny("gpt2"), lambda: None)


def test_a_ledger_reads_well():
    net = Net()
    text = str(memory.ledger(net_step(net), net))
    assert "parameters" in text.splitlines()[0] and "432 B" in text and "  first (Linear)" in text
    assert text.splitlines()[-1] == "108 of 108 weights are trained (100.00 %)."
    assert [accounting.size(n) for n in (0, 999, 1500, 10**6, 349_208_518_656, None)] == [
        "0 B", "999 B", "1.50 kB", "1.00 MB", "349.21 GB", "not planned"]  # fmt: skip


# ---------------------------------------------------------------- the comparison notices


@pytest.mark.parametrize("fault", ["views twice", "second moment", "weights as activations"])
def test_planted_faults_are_seen(fault, monkeypatch):
    model, method = tiny("llama"), lo.LoRA(r=3, target_modules=TARGETS["llama"])
    lo.adapt(model, method)
    ledger = measured(model, 2, 9)
    if fault == "views twice":
        monkeypatch.setattr(accounting, "storage", id)
    if fault == "second moment":
        monkeypatch.setitem(memory.OPTIMIZERS, "adamw", lambda n, size: n * size + 4)
    if fault == "weights as activations":
        true = accounting.tensors_of
        monkeypatch.setattr(accounting, "tensors_of", lambda model: {k: v for k, v in true(model).items() if "ad" in k})
    plan = memory.plan(tiny("llama"), method, batch=2, length=9)
    assert differences(plan, ledger)


# ---- models of today, by their published configurations

PUBLISHED = {  # numbers of parameters as their pages state them
    "llama-3.2-1b": 1_235_814_400, "llama-3.2-3b": 3_212_749_824, "llama-3.1-8b": 8_030_261_248,
    "llama-3.3-70b": 70_553_706_496, "smollm2-135m": 134_515_008, "mistral-7b": 7_248_023_552,
    "qwen3-0.6b": 596_049_920, "qwen3-1.7b": 1_720_574_976, "qwen3-4b": 4_022_468_096, "qwen3-8b": 8_190_735_360,
    "gemma-3-1b": 999_885_952, "tiny-gpt2": 2_068_416,
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_model_of_today_has_the_numbers_that_it_is_known_for(name):
    assert sum(p.numel() for p in skeleton(name).parameters()) == PUBLISHED[name]


def test_the_text_model_of_gemma_3_4b_counted_by_hand():
    d, inner, layers, heads, pairs, width, vocabulary = 2560, 10240, 34, 8, 4, 256, 262208
    attention = d * width * (heads + 2 * pairs) + heads * width * d + 2 * width  # q, k, v; o; norms of q and k
    block = attention + 3 * d * inner + 4 * d  # gate, up and down; four norms
    assert sum(p.numel() for p in skeleton("gemma-3-4b").parameters()) == vocabulary * d + layers * block + d


@pytest.mark.parametrize("name", ["llama-3.2-1b", "qwen3-0.6b", "gemma-3-1b", "mistral-7b"])
def test_lora_on_a_model_of_today_is_planned_from_its_shapes(name):
    """r (d_in + d_out) for every linear layer of a block, with fewer heads for k and v than for q."""
    config = configuration(name)
    d, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    width = getattr(config, "head_dim", None) or d // config.num_attention_heads
    q, kv = width * config.num_attention_heads, width * config.num_key_value_heads
    sides = (d + q) + 2 * (d + kv) + (q + d) + 3 * (d + inner)
    found = memory.plan(name, lo.LoRA(r=4, target_modules="all-linear"), batch=1, length=32)
    assert found.trainable == 4 * layers * sides
    assert found.weights == PUBLISHED[name] + found.trainable
