"""The fast path is the plain one within 1e-5 of the norm, outputs and gradients, and keeps the bytes it promises."""

import copy
import pickle
from contextlib import nullcontext

import accelerate
import peft
import pytest
import torch
import torch.nn.functional as F
from models_zoo import TARGETS, batch, gap, logits, same_state, shaken, state, tiny
from test_table import MODELS, ROWS
from test_table import adapted as row_adapted
from transformers import GPT2Config, GPT2LMHeadModel

import lowrank_edu as lo
from lowrank_edu import fast
from lowrank_edu.accounting import Saved
from lowrank_edu.batches import token_loss
from lowrank_edu.fast import loss as pieces
from lowrank_edu.fast import products, remaking
from lowrank_edu.fast.layer import FastLayer
from lowrank_edu.recomputing import recomputing

pytestmark = [pytest.mark.filterwarnings("ignore::UserWarning:peft", "ignore:.*share one weight")]
BOUND = 1e-5
CLAIMED = {"LoRA", "rsLoRA", "LoRA+", "PiSSA", "OLoRA", "LoRA-FA", "VeRA", "AFLoRA", "AdaLoRA", "LoRA-XS", "LaMDA",
           "LaMDA++"}  # fmt: skip
"""Rows whose adapted layers take the fast product; the others have the norms, the GELU and the loss."""
LORA = {"r": 3, "alpha": 7}


@pytest.fixture(params=["oneDNN", "torch's own"])
def kernel(request, monkeypatch):
    """Each of the two products, whatever the processor."""
    use(monkeypatch, request.param)
    return request.param


def use(monkeypatch, kernel):
    monkeypatch.setattr(products, "processor", lambda: "GenuineIntel" if kernel != "oneDNN" else "another")
    products.onednn.cache_clear()
    if kernel == "oneDNN" and products.onednn() is None:
        pytest.skip("this torch has no such operator")


@pytest.fixture(autouse=True)
def anew():
    yield
    products.onednn.cache_clear()


def quiet(kind="gpt2"):
    """The tiny model without dropout of its own."""
    return tiny(kind, **{"resid_pdrop": 0.0, "attn_pdrop": 0.0, "embd_pdrop": 0.0} if kind == "gpt2" else {})


def adapted(kind="gpt2", method=None):
    model = quiet(kind)
    lo.adapt(model, method or lo.LoRA(**LORA, target_modules="all-linear"))
    return shaken(model).train()


def both(model):
    other = copy.deepcopy(model)
    fast.switch_fast(other)
    return model, other


def examples(rows=3, length=7):
    ids = batch(rows, length)
    labels = ids.clone()
    labels[0, : length // 2] = -100
    return {"input_ids": ids, "labels": labels}


def away(x, y, floor=0.0):
    """‖x − y‖ / ‖x‖, or / floor where x is smaller."""
    x, y = x.detach().double(), y.detach().double()
    return float((x - y).norm() / x.norm().clamp(min=floor or 1e-30))


def distances(one, other, cast=nullcontext, rows=3, length=7):
    """(outputs, loss, the worst gradient) of two models on one batch; float32 gradients are judged against float64,
    for the two round their sums each in its own way."""
    found = [passed(model, cast, rows, length) for model in (one, other, *exact(one, cast))]
    (out, loss, grads), (out2, loss2, grads2), *best = found
    right = best[0][2] if best else grads
    assert grads and grads.keys() == grads2.keys() == right.keys()
    # one token attends to itself: its query has no gradient, and small sums of large terms have few right digits
    least = 1e-2 * max(g.norm() for g in grads.values())
    return away(out, out2), away(loss, loss2), max(away(right[name], grads2[name], least) for name in grads)


def exact(model, cast):
    """[a copy of the model in float64], or nothing if it does not compute in float32."""
    single = cast is nullcontext and {p.dtype for p in model.parameters()} == {torch.float32}
    return [copy.deepcopy(model).double()] if single else []


def passed(model, cast, rows, length):
    """(outputs, loss, {name: gradient}) of one batch."""
    with cast():
        out = model(input_ids=batch(rows, length)).logits
        loss = token_loss(model, examples(rows, length), 0.1)[0] if length > 1 else out.logsumexp(-1).sum()
    loss.backward()
    return out, loss, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def alike(*models, bound=BOUND, **how):
    found = distances(*models, **how)
    print("outputs, loss, gradients:", found)
    return max(found) <= bound


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("name", ROWS)
def test_every_row_of_the_table(name, kind):
    plain, quick = both(row_adapted(name, kind).eval())  # eval: no dropout, and gradients all the same
    report = lo.fast_report(quick)
    assert bool(report.layers) == (name in CLAIMED), report
    assert alike(plain, quick)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("rows, length", [(1, 1), (1, 2), (1, 7), (5, 1), (2, 32)])
def test_shapes_and_kernels(kernel, kind, rows, length):
    plain, quick = both(adapted(kind))
    assert lo.fast_report(quick).products == kernel and lo.fast_report(quick).loss is None
    assert alike(plain, quick, rows=rows, length=length)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes(kernel, kind, dtype):
    plain, quick = both(adapted(kind).to(dtype))
    assert alike(plain, quick, bound=BOUND if dtype == torch.float64 else 0.0)
    assert away(logits(plain), logits(quick)) <= (1e-14 if dtype == torch.float64 else 0.0)


@pytest.mark.parametrize("kind", MODELS)
def test_a_16_bit_base_under_32_bit_adapters_and_autocast(kind):
    method = lo.LoRA(**LORA, target_modules="all-linear")
    base = tiny(kind).to(torch.bfloat16).eval()
    lo.adapt(base, method)
    assert alike(*both(shaken(base)), bound=0.0)
    assert alike(*both(adapted(kind)), bound=0.0, cast=lambda: torch.autocast("cpu", torch.bfloat16))


def test_adapters_narrower_than_the_base():
    plain, quick = both(tiny_with_a_wide_base())
    assert alike(plain, quick)
    with lo.routed(plain, ["default"] * 3), lo.routed(quick, ["default"] * 3):
        assert torch.equal(logits(plain), logits(quick))


def tiny_with_a_wide_base():
    model = adapted().eval().to(torch.float64)
    for layer in lo.adapted_layers(model).values():
        layer.updates.to(torch.float32)
    return model


@pytest.mark.parametrize("kind", MODELS)
def test_gradient_checkpointing(kernel, kind):
    plain, quick = both(adapted(kind))
    kept = []
    for model in (plain, quick):
        with recomputing(model):
            kept.append(saved_bytes(model, lambda model=model: token_loss(model, examples())[0]))
    assert kept[1] <= kept[0]  # what is made again does not keep what the checkpoint has thrown away
    with recomputing(plain), recomputing(quick):
        assert alike(plain, quick)
    assert alike(adapted(kind), quick) is False  # gradients have been added up: the comparison can fail


SETTINGS = {
    "biases": {"bias": "all"},
    "slices": {"target_modules": ["c_attn", "c_fc"], "blocks": {"c_attn": ("q", "v")}},
    "a residual start": {"init": "pissa"},
    "embeddings and a trained norm": {"target_modules": ["wte", "c_fc"], "modules_to_save": ["ln_f"]},
    "a trained head": {"modules_to_save": ["lm_head"]},
    "an adapted head": {"target_modules": ["lm_head", "c_attn"]},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings(kernel, name):
    method = lo.LoRA(**{**LORA, "target_modules": "all-linear", **SETTINGS[name]})
    plain, quick = both(adapted(method=method))
    assert lo.fast_report(quick).layers and alike(plain, quick)


@pytest.mark.parametrize("kind", MODELS)
def test_several_adapters_act_together(kernel, kind):
    model = adapted(kind)
    lo.adapt(model, lo.LoRA(r=2, alpha=3, target_modules=TARGETS[kind], init="gaussian"), "b")
    lo.set_adapter(model, ["default", "b"])
    assert alike(*both(shaken(model, seed=3)))


def test_where_it_does_not_fit_it_is_plain_and_says_why():
    def reasons(model):
        return set(lo.fast_report(both(model)[1]).plain.values())

    dropout = adapted(method=lo.LoRA(**LORA, target_modules="all-linear", dropout=0.5))
    assert reasons(dropout) == {"dropout draws an input of its own for each update"}
    assert not reasons(dropout.eval())
    found = distances(*map(seeded, both(dropout.train())))
    assert max(found) <= BOUND
    assert reasons(adapted(method=lo.LoRA(**LORA, target_modules=["c_fc"], use_dora=True))).pop().startswith("DoRA")
    coded = tiny()
    lo.adapt(coded, lo.LoRA(**LORA, target_modules=["c_fc"]), quantize="nf4")
    assert reasons(coded) == {"the base is quantised"} and alike(*both(shaken(coded)))
    trained = adapted()
    trained.get_submodule("transformer.h.0.attn.c_attn").base.weight.requires_grad_(True)
    assert reasons(trained) == {"the base is trained"} and alike(*both(trained))
    heard = adapted()
    heard.get_submodule("transformer.h.0.attn.c_attn").base.register_forward_hook(lambda *_: None)
    assert reasons(heard) == {"a hook listens at the base"}
    heard, calls = both(adapted())[1], []
    layer = heard.get_submodule("transformer.h.0.attn.c_attn")
    layer.updates["default"].register_forward_hook(lambda *_: calls.append(1))
    assert reasons(heard) == {"a hook listens at the update"} and alike(*both(heard)) and calls
    quick = both(adapted())[1]
    accelerate.cpu_offload(quick.get_submodule("transformer.h.0.attn.c_attn").base)  # its weight is fetched when called
    assert set(lo.fast_report(quick).plain.values()) == {"the base was given another forward"}
    assert away(logits(adapted()), logits(quick)) <= BOUND
    with lo.routed(quick, ["default", None, "default"]):
        assert away(logits(adapted())[0], logits(quick)[0]) <= BOUND
    quick = both(adapted())[1]
    accelerate.cpu_offload(quick)  # its factors, too
    with lo.routed(quick, ["default", None, "default"]), pytest.raises(RuntimeError, match="meta"):
        logits(quick)  # and no numbers made from factors that are not there
    assert "BertForMaskedLM" in lo.fast_report(both(adapted("bert"))[1]).loss
    whole = adapted(method=lo.LoRA(**LORA, target_modules=["c_fc"], modules_to_save=["lm_head"]))
    assert lo.fast_report(both(whole)[1]).loss == "the head is not a plain linear layer"
    open_head = adapted()
    open_head.lm_head.weight.requires_grad_(True)
    assert lo.fast_report(both(open_head)[1]).loss == "the head is trained" and alike(*both(open_head))
    assert "not asked for" in str(lo.fast_report(adapted()))


def seeded(model):
    """The model, whose every forward pass draws the same dropout."""
    model.register_forward_pre_hook(lambda *_: torch.manual_seed(0) and None)
    return model


def test_the_shipped_model():
    model, _ = lo.load_model()
    lo.adapt(model, lo.LoRA(**LORA, target_modules="all-linear"))
    plain, quick = both(shaken(model, by=0.02))
    report = lo.fast_report(quick)
    layers = len(model.transformer.h)
    assert (report.norms, report.gelus, report.loss) == (2 * layers + 1, layers, None)
    assert alike(plain, quick)
    n, d = 3 * 7, model.config.n_embd
    kept = [saved_bytes(m, lambda m=m: m(input_ids=batch(), use_cache=False).logits.sum()) for m in (plain, quick)]
    again = layers * (d + d + 4 * d)  # both norms' and the GELU's outputs
    assert kept[0] - kept[1] == 4 * n * (again - d)  # the first norm's input is kept for nothing else


@pytest.mark.parametrize("kind", ["bert", "bart", "deberta"])
def test_other_architectures(kernel, kind):
    model = tiny(kind).eval()
    lo.adapt(model, lo.LoRA(**LORA, target_modules=TARGETS[kind]))
    plain, quick = both(shaken(model))
    found = []
    for m in (plain, quick):
        out = m(input_ids=batch()).logits
        out.logsumexp(-1).sum().backward()
        found.append((out, [p.grad for p in m.parameters() if p.grad is not None]))
    assert away(found[0][0], found[1][0]) <= BOUND
    assert max(away(g, h) for g, h in zip(found[0][1], found[1][1], strict=True)) <= BOUND


# ---- kernels are chosen by what there is ---------------------------------------------------


@pytest.mark.parametrize("broken", ["missing", "raises", "wrong"])
def test_without_the_operator_torch_multiplies(monkeypatch, broken):
    use(monkeypatch, "oneDNN")
    right = torch.ops.mkldnn._linear_pointwise

    class Namespace:
        pass

    def operator(*args):
        if broken == "raises":
            raise RuntimeError("no such kernel")
        return right(*args) * 1.01

    if broken != "missing":
        Namespace._linear_pointwise = staticmethod(operator)
    monkeypatch.setattr(torch.ops, "mkldnn", Namespace)
    products.onednn.cache_clear()
    plain, quick = both(adapted())
    assert lo.fast_report(quick).products == "torch's own"
    assert alike(plain, quick)


def test_onednn_is_taken_where_it_is_right(monkeypatch):
    use(monkeypatch, "oneDNN")
    calls, right = [], products.onednn()
    monkeypatch.setattr(products, "onednn", lambda: lambda *args: calls.append(1) or right(*args))
    _, quick = both(adapted())
    token_loss(quick, examples())[0].backward()
    assert len(calls) == 2 * 8 - 1 + 2  # all products there and back, but for the first layer's dx; and the head


# ---- planted faults ------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["gelu", "norm", "scale", "loss"])
def test_planted_faults_are_seen(monkeypatch, fault):
    plain, quick = both(adapted())
    if fault == "gelu":
        monkeypatch.setattr(remaking, "fused_gelu", F.gelu)  # the one with erf
    elif fault == "norm":
        for module in quick.modules():
            if hasattr(module, "eps"):
                module.register_forward_hook(lambda m, args, y: setattr(y, "made_from", (lambda x: x, args[0])))
    elif fault == "scale":
        quick.get_submodule("transformer.h.1.mlp.c_fc").updates["default"].scale *= 1.001
    else:
        right = pieces._piece
        monkeypatch.setattr(pieces, "_piece", lambda *args: right(*args) + 0 * args[-1].mul_(1.0001).sum())
    assert not alike(plain, quick)


# ---- the loss ------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [1, 97, 200, 10**6])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("bias", [False, True])
def test_the_loss_against_torch_in_float64(monkeypatch, kernel, most, smoothing, bias):
    monkeypatch.setattr(pieces, "PIECE", most)
    g = torch.Generator().manual_seed(1)
    h, W, b = (torch.randn(*n, generator=g) for n in ((11, 6), (97, 6), (97,)))
    labels = torch.randint(0, 97, (11,), generator=g)
    h.requires_grad_()
    loss = pieces.HeadLoss.apply(h, W, b if bias else None, labels, smoothing)
    (3 * loss).backward()
    x = h.detach().double().requires_grad_()
    wanted = F.cross_entropy(F.linear(x, W.double(), b.double() if bias else None), labels, reduction="sum",
                             label_smoothing=smoothing)  # fmt: skip
    (3 * wanted).backward()
    assert away(wanted, loss) < 1e-6 and away(x.grad, h.grad) < 2e-6


def test_a_batch_without_targets_and_evaluation():
    plain, quick = both(adapted())
    nothing = {"input_ids": batch(), "labels": torch.full((3, 7), -100)}
    summed, count = token_loss(quick, nothing)
    assert summed.item() == 0 and count == 0
    summed.backward()
    assert all(p.grad is None or not p.grad.any() for p in quick.parameters())
    data = [{"input_ids": ids, "labels": ids} for ids in batch(5, 9)]
    assert lo.evaluate(quick, data) == pytest.approx(lo.evaluate(plain, data), rel=1e-6)
    assert "forward" not in quick.lm_head.__dict__
    assert gap(logits(plain), logits(quick)) < 1e-5  # and afterwards the head multiplies again


def test_a_prefix_and_a_schedule_go_through_the_model_itself():
    model = tiny()
    lo.adapt(model, lo.PrefixTuning(length=3))
    assert alike(*both(shaken(model)))
    scheduled = tiny()
    lo.adapt(scheduled, lo.LaMDA(r=2, target_modules=["c_fc"]), fast=True)
    seen = []
    scheduled.register_forward_pre_hook(lambda *_: seen.append(1))
    token_loss(scheduled, examples())
    assert seen  # the hook that reminds of `attach` hears of it as well


# ---- the façade -----------------------------------------------------------------------------


def test_asked_for_by_adapt_and_followed_by_later_adapters(tmp_path):
    model = tiny()
    before = list(model.state_dict())
    lo.adapt(model, lo.LoRA(**LORA, target_modules=["c_fc"]), "a", fast=True)
    assert fast.is_fast(model) and len(lo.fast_report(model).layers) == 2
    lo.adapt(model, lo.LoRA(**LORA, target_modules=["c_attn"]), "b")
    shaken(model)
    assert len(lo.fast_report(model).layers) == 2 and len(lo.fast_report(model).plain) == 2  # a sleeps
    lo.save_adapter(model, tmp_path / "b", name="b")
    lo.load_adapter(model, tmp_path / "b", name="c")
    lo.set_adapter(model, "c")
    assert len(lo.fast_report(model).layers) == 2
    lo.adapt(model, lo.LoRA(**LORA, target_modules=["c_fc"]), "d", fast=False)
    assert not fast.is_fast(model) and not any(isinstance(m, FastLayer) for m in model.modules())
    for name in "abcd":
        lo.delete_adapter(model, name)
    assert list(model.state_dict()) == before


@pytest.mark.parametrize("kind", MODELS)
def test_weights_names_and_files_are_those_of_the_plain_model(kind, tmp_path):
    plain, quick = both(adapted(kind))
    assert same_state(quick, state(plain))
    for model, name in ((plain, "plain"), (quick, "quick")):
        lo.save_adapter(model, tmp_path / name)
    one, other = ((tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("plain", "quick"))
    assert one == other
    assert gap(logits(pickle.loads(pickle.dumps(quick))), logits(quick)) == 0
    fast.switch_fast(quick)  # twice is once
    fast.switch_fast(quick, False)
    assert repr(quick) == repr(plain) and torch.equal(logits(quick), logits(plain))


@pytest.mark.parametrize("kind", MODELS)
def test_disabled_merged_and_unwrapped_are_the_plain_ones_bit_for_bit(kind):
    plain, quick = both(adapted(kind).eval())
    with lo.disabled(plain), lo.disabled(quick):
        assert torch.equal(logits(plain), logits(quick)) and torch.equal(logits(quick), logits(quiet(kind)))
    for model in (plain, quick):
        lo.merge(model)
    assert torch.equal(logits(plain), logits(quick))
    for model in (plain, quick):
        lo.unmerge(model)
    with lo.routed(plain, [None] * 3), lo.routed(quick, [None] * 3):
        assert torch.equal(logits(plain), logits(quick))
    lo.unwrap(quick)
    assert repr(quick) == repr(quiet(kind)) and torch.equal(logits(quick), logits(quiet(kind)))


@pytest.mark.parametrize("kind", MODELS)
def test_merged_inside_a_routed_block_is_what_the_plain_layer_makes_of_it(kind):
    plain, quick = both(adapted(kind).eval())
    names, found = ["default", None, "default"], []
    for model in (plain, quick):
        with lo.routed(model, names), torch.no_grad():
            lo.merge(model)
            found.append(logits(model))
    assert gap(*found) < BOUND


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("other", [{}, {"r": 2}, {"target_modules": "embeddings"}, {"use_dora": True}, {"bias": "all"}])
def test_routed_rows(kind, other):
    model = adapted(kind)
    method = {**LORA, "target_modules": "all-linear", **other}
    if other.get("target_modules"):
        method["target_modules"] = ["wte"] if kind == "gpt2" else ["embed_tokens"]
    lo.adapt(model, lo.LoRA(**method), "b", seed=1)
    plain, quick = both(shaken(model, seed=2).eval())
    for rows in (["default", "b", "default"], ["b", None, "default"], ["b"] * 3, [None, "b", None]):
        with lo.routed(plain, rows), lo.routed(quick, rows):
            assert away(logits(plain), logits(quick)) <= BOUND
            assert away(*(m(input_ids=batch()).logits for m in (plain, quick))) <= BOUND  # with gradients, too
    lo.set_adapter(quick, "b")
    alone = logits(quick)
    with lo.routed(quick, ["default", "b", None]):
        assert away(alone[1], logits(quick)[1]) <= BOUND < away(alone[0], logits(quick)[0])
    with lo.routed(quick, ["b", "b"]), pytest.raises(ValueError, match="2 names were routed"):
        logits(quick)


def test_a_hook_hears_routed_rows():
    quick, heard = both(adapted().eval())[1], []
    quick.transformer.h[0].attn.c_attn.base.register_forward_hook(lambda *_: heard.append(1))
    with lo.routed(quick, ["default", None, "default"]):
        logits(quick)
    assert heard == [1]


def test_stacked_factors_are_kept_inside_a_routed_block_and_never_stale():
    model = adapted().eval()
    lo.adapt(model, lo.LoRA(**LORA, target_modules="all-linear"), "b", seed=1)
    plain, quick = both(shaken(model, seed=2).eval())
    layer = quick.transformer.h[0].attn.c_attn
    with lo.routed(plain, ["b", None, "default"]), lo.routed(quick, ["b", None, "default"]):
        before = logits(quick)
        assert layer.stacked[2] is None  # a single pass keeps none
        assert torch.equal(before, logits(quick))
        kept = layer.stacked[2]
        assert torch.equal(before, logits(quick)) and layer.stacked[2] is kept is not None
        for change in (in_place, other_scale, another_parameter):
            for model in (plain, quick):
                change(model.transformer.h[0].attn.c_attn.updates["b"])
            after = [logits(quick) for _ in range(2)][1]
            assert away(logits(plain), after) <= BOUND < away(before, after), change.__name__
            before = after
        for model in (plain, quick):
            model.double()  # gives each parameter another `.data`
        assert away(logits(plain), logits(quick)) <= 1e-14
    assert layer.stacked is None


@torch.no_grad()
def in_place(update):
    update.B.mul_(2)


def other_scale(update):
    update.scale *= 3


def another_parameter(update):
    update.A = torch.nn.Parameter(update.A.detach() + 1)


def test_routed_rows_compile_into_one_graph_that_reads_the_factors_at_each_call():
    quick = both(adapted().eval())[1]
    names, update = ["default", None, "default"], quick.transformer.h[0].attn.c_attn.updates["default"]
    compiled = torch.compile(quick, backend="eager", fullgraph=True)
    with lo.routed(quick, names), torch.no_grad():
        for _ in range(2):
            assert away(logits(quick), compiled(input_ids=batch()).logits) <= BOUND
            update.B.mul_(2)


def test_routed_factors_that_were_made_in_inference_mode():
    with torch.inference_mode():
        plain, quick = both(adapted().eval())
        names = ["default", None, "default"]
        with lo.routed(plain, names), lo.routed(quick, names):
            assert away(logits(plain), logits(quick)) <= BOUND


def test_training_on_the_fast_path_ends_as_on_the_plain_one(tmp_path):
    data = [{"input_ids": ids, "labels": ids} for ids in batch(8, 9)]
    plain, quick = (copy.deepcopy(adapted()) for _ in "ab")
    how = {"steps": 6, "batch_size": 4, "lr": 1e-3, "progress": False, "eval_data": data, "weight_decay": 0.1}
    first = lo.train(plain, data, **how)
    second = lo.train(quick, data, **how, fast=True, checkpoint_dir=tmp_path, checkpoint_every=3)
    assert not fast.is_fast(quick)  # for the run only
    assert first.loss == pytest.approx(second.loss, rel=1e-5) and first.eval_loss == pytest.approx(
        second.eval_loss, rel=1e-5
    )
    with pytest.raises(ValueError, match="fast"):
        lo.train(quick, data, **how, checkpoint_dir=tmp_path)
    always = adapted()
    fast.switch_fast(always)
    lo.train(always, data, **{**how, "eval_data": None}, fast=False)
    assert fast.is_fast(always)


# ---- bytes ----------------------------------------------------------------------------------


def saved_bytes(model, forward):
    """Bytes of all storages that autograd keeps for the backward pass, the model's own apart, each once."""
    saved = Saved(model)
    with saved.listening():
        kept = forward()
        saved.look()
    del kept
    return sum(saved.largest.values())


def half_gpt2():
    """GPT-2 small with half its width, heads and words, so with the same shares of everything that is kept."""
    torch.manual_seed(0)
    sizes = {"n_embd": 384, "n_head": 6, "n_layer": 12, "vocab_size": 25128, "n_positions": 128}
    no_dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return GPT2LMHeadModel(GPT2Config(**sizes, **no_dropout, bos_token_id=0, eos_token_id=0)).train()


def test_saved_bytes_beside_peft_and_the_model_without_adapter(monkeypatch):
    targets, ids = ["c_attn", "c_proj", "c_fc"], torch.randint(0, 25128, (4, 128))
    base = half_gpt2()
    theirs = peft.get_peft_model(
        copy.deepcopy(base), peft.LoraConfig(r=4, lora_alpha=8, target_modules=targets, fan_in_fan_out=True)
    )
    of_peft = saved_bytes(theirs, lambda: theirs(input_ids=ids, labels=ids, use_cache=False).loss)
    ours = lo.LoRA(r=4, alpha=8, target_modules=targets)
    quick = copy.deepcopy(base)
    lo.adapt(quick, ours, fast=True)
    step = lambda model: token_loss(model, {"input_ids": ids, "labels": ids})[0]  # noqa: E731
    mine = saved_bytes(quick, lambda: step(quick))
    bound = without_adapter(base, ids)
    print(f"PEFT {of_peft:,}, ours {mine:,} = {mine / of_peft:.4f} x, bound {bound:,}: {mine / bound:.4f} x")
    assert mine <= 0.31 * of_peft and mine <= 1.02 * bound
    n, d, r, layers = 4 * 128, 384, 4, 12
    per_layer = 10 * d + 4 * r  # h, q, k, v, attention, h again, and 4 d into the GELU; z of four layers
    statistics = 4 + 6  # mean and deviation of two norms, a logarithm for each head
    last = d + 2 - 2  # the last norm; the first one has no gradient to give, so no statistics
    head = 4 * 127 * (4 * d + 1)  # dh and which tokens are targets
    assert mine == 4 * n * (layers * (per_layer + statistics) + last) + head
    for module in quick.modules():  # a planted fault: one kind of output is kept after all
        module._forward_hooks.clear()
    assert saved_bytes(quick, lambda: step(quick)) > 0.31 * of_peft


def without_adapter(base, ids):
    """What the same model keeps on the same path with frozen weights alone, when the embeddings want a gradient."""
    model = copy.deepcopy(base).requires_grad_(False)
    fast.switch_fast(model)
    model.transformer.wte.register_forward_hook(lambda m, args, y: y.requires_grad_())
    return saved_bytes(model, lambda: token_loss(model, {"input_ids": ids, "labels": ids})[0])
