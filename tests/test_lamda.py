"""LaMDA: its starts, the front that really freezes, what is saved for the backward pass, and the ranks of LaMDA++."""

import dataclasses
import functools
import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from loops import OPTIMIZERS, assert_resumes, copies, loop, quiet, trained
from models_zoo import TARGETS, batch, gap, logits, same_state, shaken, state, tiny
from torch import nn
from transformers.pytorch_utils import Conv1D

import lowrank_edu as lo
from lowrank_edu.accounting import Saved
from lowrank_edu.allocation import ORDERS, allocate, energy_at
from lowrank_edu.batches import token_loss
from lowrank_edu.inits import directions
from lowrank_edu.methods.lamda import VARIANTS, FrontLowRank, frozen_columns
from lowrank_edu.schedules import schedule_of
from lowrank_edu.updates import LowRank, weight_of

MODELS = ["gpt2", "llama"]


def updates_of(model, name="default"):
    return {path: layer.updates[name] for path, layer in lo.adapted_layers(model).items()}


# ---- counts: METHODS 1.3, on the meta device ----
@functools.cache
def meta(name):
    """The real architecture without weights. Whoever adapts it unwraps it again."""
    config_class, model_class, settings = BIG[name][0]
    with torch.device("meta"):
        return getattr(transformers, model_class)(getattr(transformers, config_class)(**settings))


BIG = {
    "deberta-v3-base": (("DebertaV2Config", "DebertaV2Model", {"vocab_size": 128100, "hidden_size": 768,
                         "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}),
                        ["query_proj", "key_proj", "value_proj", "dense"]),
    "llama2-7b": (("LlamaConfig", "LlamaForCausalLM", {"hidden_size": 4096, "num_hidden_layers": 32,
                   "num_attention_heads": 32, "intermediate_size": 11008, "vocab_size": 32000}), "all-linear"),
    "bart-large": (("BartConfig", "BartForConditionalGeneration", {"d_model": 1024, "encoder_layers": 12,
                    "decoder_layers": 12, "encoder_ffn_dim": 4096, "decoder_ffn_dim": 4096}), "all-linear"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "r", "matrices", "cores"), [
    ("deberta-v3-base", 32, 72, 73_728), ("llama2-7b", 32, 224, 229_376), ("llama2-7b", 64, 224, 917_504),
    ("bart-large", 32, 192, 196_608),
])  # fmt: skip
def test_counts_of_the_square_matrices(name, r, matrices, cores):
    model, targets = meta(name), BIG[name][1]
    for variant, whole in (("svd-residual", False), ("svd-zero", True)):
        method = lo.LaMDA(r=r, target_modules=targets, variant=variant, freeze_share=0 if whole else 0.3)
        report = lo.adapt(model, method)
        B = sum(u.B.numel() for u in updates_of(model).values())
        lo.unwrap(model)
        assert len(report.modules) == matrices
        assert report.trainable == (cores if whole else cores + B)
        if name == "deberta-v3-base":
            assert B == 2_654_208


def test_a_plausible_origin_of_the_published_ratio():
    model = meta("deberta-v3-base")
    lora = lo.adapt(model, lo.LoRA(r=8, target_modules=BIG["deberta-v3-base"][1])).trainable
    lo.unwrap(model)
    assert lora == 1_327_104 and lora / 73_728 == 18.0


# ---- starts ----
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_starts_at_the_base_model(variant, name):
    model = tiny(name)
    before, y = state(model), logits(model)
    lo.adapt(model, lo.LaMDA(r=3, target_modules=TARGETS[name], variant=variant), seed=4)
    error = gap(logits(model), y)
    assert error <= 2.4e-6 if variant == "svd-residual" else error == 0
    with lo.disabled(model):
        assert torch.equal(logits(model), y)
    shaken(model)
    assert gap(logits(model), y) > 1e-2
    with lo.disabled(model):
        assert torch.equal(logits(model), y)
    assert same_state(lo.unwrap(model), before)


def svd(W):
    return np.linalg.svd(W.detach().double().numpy(), full_matrices=False)


@pytest.mark.parametrize("alpha", [None, 7])
@pytest.mark.parametrize("variant", ["svd-residual", "svd-zero"])
def test_the_factors_are_singular_vectors_of_the_weight(variant, alpha):
    model = tiny()
    weights = {p: weight_of(m) for p, m in model.named_modules() if p.endswith(("c_attn", "c_fc"))}
    lo.adapt(model, lo.LaMDA(r=3, target_modules=TARGETS["gpt2"], variant=variant, alpha=alpha))
    for path, update in updates_of(model).items():
        U, S, Vt = svd(weights[path])
        signs = np.sign(np.sum(U[:, :3] * update.B.detach().numpy(), axis=0))
        assert update.scale == (1 if alpha is None else 7 / 3) and update.fixed == {"A"}
        np.testing.assert_allclose(update.A.detach(), signs[:, None] * Vt[:3], atol=1e-5)
        np.testing.assert_allclose(update.B.detach(), signs * U[:, :3], atol=1e-5)
        product = update.scale * (update.B @ update.core @ update.A).detach()
        best = (U[:, :3] * S[:3]) @ Vt[:3] if variant == "svd-residual" else 0 * product
        np.testing.assert_allclose(product, best, atol=1e-5)


def test_the_released_start():
    model = tiny()
    lo.adapt(model, lo.LaMDA(r=8, target_modules=["c_attn"], variant="released"))
    for update in updates_of(model).values():
        assert update.scale == 2 and update.B.abs().max() == 0 and not update.residual
        assert 0.9 * 24**-0.5 < update.A.abs().max() <= 24**-0.5
        assert 0.8 * 8**-0.5 < update.core.abs().max() <= 8**-0.5


@pytest.mark.parametrize("shape", [(9, 5), (5, 9)])
def test_directions(shape):
    W = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    U, S, Vt = svd(W)
    parts = {"top": slice(0, 2), "bottom": slice(3, 5)}
    for which, part in parts.items():
        u, s, vt = directions(W, 2, which, None)
        np.testing.assert_allclose(s, S[part], atol=1e-5)
        np.testing.assert_allclose((u * s) @ vt, (U[:, part] * S[part]) @ Vt[part], atol=1e-5)
    u, s, vt = directions(W, 2, "random", torch.Generator().manual_seed(2))
    np.testing.assert_allclose(s, S[:2], atol=1e-5)
    for orthonormal in (u.T, vt):
        np.testing.assert_allclose(orthonormal @ orthonormal.T, np.eye(2), atol=1e-5)
    assert gap((u * s) @ vt, torch.tensor((U[:, :2] * S[:2]) @ Vt[:2])) > 0.1


# ---- the front ----
@given(r=st.integers(1, 40), total=st.integers(1, 300), percent=st.integers(1, 100))
def test_the_front_is_the_formula(r, total, percent):
    freeze = Fraction(percent / 100).limit_denominator(10**6) * total
    fronts = [frozen_columns(t, r, freeze) for t in range(total + 1)]
    assert fronts == [min(r, 100 * r * t // (percent * total)) for t in range(total + 1)]
    assert fronts[0] == 0 and fronts[-1] == r and all(a <= b for a, b in itertools.pairwise(fronts))
    released = {frozen_columns(t, 64, Fraction(3, 10) * total, as_released=True) for t in range(total + 1)}
    assert max(released) <= 3  # so B with r > 3 is never frozen


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", MODELS)
def test_frozen_columns_do_not_move_by_one_bit(name, optimizer):
    model, targets = quiet(name)
    lo.adapt(model, lo.LaMDA(r=5, target_modules=targets, freeze_share=0.5, rank_pattern={targets[0]: 3}))
    opt = OPTIMIZERS[optimizer](trained(model))
    updates, seen = updates_of(model), []
    start = copies(model)

    def look(step):
        for path, u in updates.items():
            c = min(u.B.shape[1], u.B.shape[1] * step // 6)
            assert u.front == c and u.A.grad is None and u.core.grad.abs().max() > 0
            if c == u.B.shape[1]:
                assert u.B.grad is None and not u.B.requires_grad and u.B not in opt.state
            else:  # zero before the step, so also for whoever clips
                assert u.B.grad[:, :c].abs().sum() == 0 and (u.B.grad[:, c:] != 0).any(dim=0).all()
            seen.append((path, c, u.B.detach().clone(), u.core.detach().clone()))

    with lo.attach(model, opt, total_steps=12):
        loop(model, opt, 12, look, clip=0.5)
    for path, u in updates.items():
        mine = [(c, B, core) for p, c, B, core in seen if p == path]
        for (c, B, core), (_, B2, core2) in itertools.pairwise(mine):
            assert torch.equal(B[:, :c], B2[:, :c])
            assert all(not torch.equal(B[:, k], B2[:, k]) for k in range(c, B.shape[1]))
            assert not torch.equal(core, core2)
        assert torch.equal(u.B, mine[-1][1]) and mine[6][0] == u.B.shape[1]
    now = dict(model.named_parameters())
    assert all(torch.equal(now[k], start[k]) for k in now if not k.endswith((".B", ".core")))


def test_history_and_trainable_count():
    model, targets = quiet("llama")
    lo.adapt(model, lo.LaMDA(r=4, target_modules=targets, freeze_steps=4))
    opt = torch.optim.AdamW(trained(model), lr=1e-2)
    lo.attach(model, opt)
    loop(model, opt, 9)
    history, updates = schedule_of(model).history, updates_of(model).values()
    assert [entry["step"] for entry in history] == [0, 1, 2, 3, 4]
    for c, entry in enumerate(history):  # METHODS 1.3: r² + (r − c(t)) d_out per layer
        assert entry["trainable"] == sum(16 + (4 - c) * u.B.shape[0] for u in updates)
        assert entry["frozen"] == c * len(updates)
    assert lo.adapting.report(model).trainable == 16 * len(updates) == sum(p.numel() for p in trained(model))
    assert sum("exp_avg" in opt.state[p] for p in opt.state) == len(updates)


def test_the_schedule_of_the_released_code():
    """A factor r is missing, and a zero gradient does not freeze: momentum and weight decay go on."""
    model, targets = quiet("llama")
    lo.adapt(model, lo.LaMDA(r=5, target_modules=targets, variant="released", as_released=True))
    opt = OPTIMIZERS["adamw"](trained(model))
    lo.attach(model, opt, total_steps=20)
    updates, fronts = updates_of(model).values(), []

    def look(step):
        fronts.append(next(iter(updates)).front)
        assert all(u.B.grad[:, : u.front].abs().sum() == 0 and u.B.grad[:, u.front :].abs().sum() > 0 for u in updates)
        if step == 7:
            kept.extend(u.B[:, 0].detach().clone() for u in updates)

    kept = []
    loop(model, opt, 20, look)
    assert fronts == [0] * 6 + [1] * 6 + [2] * 6 + [3] * 2
    assert all(u.B.requires_grad for u in updates)
    assert all(not torch.equal(u.B[:, 0], old) for u, old in zip(updates, kept, strict=True))


def test_the_released_variant_freezes_when_it_is_not_as_released():
    model, targets = quiet("llama")
    lo.adapt(model, lo.LaMDA(r=5, target_modules=targets, variant="released"))
    opt = OPTIMIZERS["adamw"](trained(model))
    lo.attach(model, opt, total_steps=10)
    loop(model, opt, 3)
    frozen = {path: u.B.detach().clone() for path, u in updates_of(model).items()}
    loop(model, opt, 4)
    assert all(torch.equal(u.B, frozen[path]) and u.B.abs().max() > 0 for path, u in updates_of(model).items())


@pytest.mark.parametrize("at", [2, 5, 8])
def test_a_resumed_run_is_the_same_run(at):
    def fresh():
        model, targets = quiet("llama")
        lo.adapt(model, lo.LaMDA(r=5, target_modules=targets, freeze_share=0.6), seed=3)
        opt = OPTIMIZERS["adamw"](trained(model))
        lo.attach(model, opt, total_steps=10)
        return model, opt

    straight, again = assert_resumes(fresh, 10, at)
    for a, b in zip(updates_of(again).values(), updates_of(straight).values(), strict=True):
        assert a.front == b.front == 5 and a.fixed == b.fixed == {"A", "B"}


def test_loading_an_earlier_state_thaws_what_was_frozen_later():
    model, targets = quiet("llama")
    lo.adapt(model, lo.LaMDA(r=2, target_modules=targets, freeze_steps=2))
    opt = OPTIMIZERS["adamw"](trained(model))
    lo.attach(model, opt)
    before = schedule_of(model).state()
    loop(model, opt, 3)
    schedule_of(model).load_state(before)
    assert all(u.front == 0 and u.B.requires_grad and not u.A.requires_grad for u in updates_of(model).values())


def test_what_a_schedule_needs():
    model, targets = quiet("llama")
    lo.adapt(model, lo.LaMDA(r=2, target_modules=targets))
    opt = OPTIMIZERS["adamw"](trained(model))
    with pytest.raises(ValueError, match=r"first 30% of the run, so it must know its length: attach\(model"):
        lo.attach(model, opt)
    loop(model, opt, 1)
    with pytest.raises(RuntimeError, match="without the schedule of LaMDA"):
        loop(model, opt, 1)
    model, targets = quiet("llama")
    lo.adapt(model, lo.LaMDA(r=2, target_modules=targets, freeze_share=0))
    opt = OPTIMIZERS["adamw"](trained(model))
    B = [u.B.detach().clone() for u in updates_of(model).values()]
    loop(model, opt, 2)  # nothing to schedule: B is never trained
    assert all(torch.equal(u.B, b) for u, b in zip(updates_of(model).values(), B, strict=True))


# ---- what the backward pass remembers ----
def saved_bytes(method, after=0, tokens=(2, 7), d_in=24, d_out=40):
    """Bytes of activations, parameters left out, that one adapted layer saves for the backward pass."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(d_in, d_out))
    lo.adapt(model, method)
    for update in updates_of(model).values():
        update.front = after
        if after == method.r:
            update.fix("B")
    own = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}
    found = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own and tensor.dim():
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    x = torch.randn(*tokens, d_in, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        y = model(x)
    assert y.requires_grad
    return sum(found.values())


@pytest.mark.parametrize("variant", VARIANTS)
def test_saved_activations_are_r_wide_once_B_is_frozen(variant):
    n, r, size = 14, 6, 4  # tokens, rank, bytes
    method = lo.LaMDA(r=r, target_modules=["0"], variant=variant)
    assert saved_bytes(lo.LoRA(r=r, target_modules=["0"])) == n * (24 + r) * size
    assert saved_bytes(lo.LoRAFA(r=r, target_modules=["0"])) == n * r * size
    assert saved_bytes(method) == n * 2 * r * size  # A x for Σ, Σ A x for B
    assert saved_bytes(method, after=2) == n * 2 * r * size
    assert saved_bytes(method, after=r) == n * r * size  # A x for Σ alone


def gpt2_small():
    """GPT-2 small, random. Its content counts for nothing here: LaMDA's own start would take 48 SVDs, so `released`."""
    no_dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**no_dropout)).train()


def llama_shaped():
    shape = {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4, "num_attention_heads": 4}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape, vocab_size=1024)).train()


def step_keeps(model, method, fast, rows, length):
    """Bytes that autograd keeps of a training step, each storage once, weights apart; the model is unwrapped."""
    ids = torch.randint(0, model.config.vocab_size, (rows, length))
    lo.adapt(model, method, fast=fast)
    saved = Saved(model)
    with saved.listening():
        loss = token_loss(model, {"input_ids": ids, "labels": ids})[0]
        saved.look()
    del loss
    lo.unwrap(model)
    return sum(saved.largest.values())


def rows_of_chapter_11(variant):
    lora = {"LoRA": lo.LoRA(8, 16, target_modules="all-linear")}
    lamda = {
        (r, when): lo.LaMDA(r, target_modules="all-linear", variant=variant, freeze_share=share)
        for r in (8, 32)
        for when, share in (("at first", 0.3), ("B frozen", 0.0))
    }
    return lora | lamda


@pytest.mark.parametrize("fast", [False, True])
def test_what_lamda_keeps_beside_lora_in_gpt2_small(fast):
    """Chapter 11's table. In a block LoRA alone holds x of c_attn, c_fc (d) and the second c_proj (4 d); the fast path
    makes those again, but for the first block's, under which nothing learns. LaMDA then holds B Σ, 9 d r, instead."""
    model, n, d, layers, heads, words = gpt2_small(), 4 * 128, 768, 12, 12, 50257
    targets = 4 * 127
    others = 4 * n * layers * ((10 if fast else 24) * d + 4 + heads)
    others += targets * (4 * d + 1) if fast else 4 * targets * (words + 2) + 4
    assert others == (190_697_980 if fast else 555_504_340)  # the page prints with these
    kept, of_z = {}, {r: 4 * n * layers * 4 * r for r in (8, 32)}
    for name, method in rows_of_chapter_11("released").items():
        kept[name] = step_keeps(model, method, fast, 4, 128)
    print({name: f"{number:,} = {number / kept['LoRA']:.4f} x" for name, number in kept.items()})
    assert kept.pop("LoRA") == others + of_z[8] + 4 * n * d * (1 if fast else 6 * layers)
    for (r, when), number in kept.items():
        product = 4 * layers * 9 * d * r if fast else 0
        assert number == others + of_z[r] * (1 if fast or when == "B frozen" else 2) + product


@pytest.mark.parametrize("variant", ["svd-residual", "svd-zero"])
def test_the_variants_keep_the_same(variant):
    for fast in (False, True):
        for name, method in rows_of_chapter_11("released").items():
            if name != "LoRA":
                small = dataclasses.replace(method, r=3)
                bytes_of = [
                    step_keeps(tiny("gpt2").train(), dataclasses.replace(small, variant=which), fast, 2, 7)
                    for which in ("released", variant)
                ]
                assert bytes_of[0] == bytes_of[1], (name, fast)


def test_in_llama_the_saving_stays_on_the_fast_path():
    """What down_proj reads is a product of two branches, which the fast path keeps for LoRA's dA."""
    model, n, d, inner, layers, r = llama_shaped(), 4 * 128, 256, 688, 4, 8
    methods = rows_of_chapter_11("released")
    plain, quick = (
        [step_keeps(model, methods[which], fast, 4, 128) for which in ("LoRA", (8, "at first"))]
        for fast in (False, True)
    )
    assert quick[0] - quick[1] == 4 * (n * inner * layers + n * d - layers * r * (5 * d + 2 * inner))
    assert round(plain[1] / plain[0], 2) == 0.78 and round(quick[1] / quick[0], 2) == 0.84


@pytest.mark.parametrize("where, share", [("dropout", 0.72), ("16 bits", 0.55), ("autocast", 0.77)])
def test_where_the_fast_path_keeps_x_the_saving_stays(where, share):
    stories = lo.tokenize(lo.load_model("tiny-gpt2")[1], lo.corpus.stories(8, seed=1, style="pirate"))
    examples, kept = lo.training.collate(stories, "cpu"), []
    for method in (lo.LoRA(8, 16, target_modules="all-linear"), lo.LaMDA(8, "all-linear")):
        model, _ = lo.load_model("tiny-gpt2")
        model.train().to(torch.bfloat16 if where == "16 bits" else torch.float32)
        method = dataclasses.replace(method, dropout=0.1 if where == "dropout" else 0.0)
        lo.adapt(model, method, fast=True)
        saved = Saved(model)
        with saved.listening(), torch.autocast("cpu", torch.bfloat16, enabled=where == "autocast"):
            loss = token_loss(model, examples)[0]
            saved.look()
        kept.append(sum(saved.largest.values()))
        del loss
    assert round(kept[1] / kept[0], 2) == share


# ---- LaMDA++ ----
def spectrum(seed, n, decay):
    return np.sort(np.random.default_rng(seed).random(n) * decay ** np.arange(n))[::-1]


@given(data=st.data(), order=st.sampled_from(ORDERS))
def test_the_allocation_is_the_first_in_order_among_all_that_fit(data, order):
    """The oracle lists every choice there is. Rank by rank in the order of the energies, none is larger."""
    layers = data.draw(st.integers(1, 5))
    ranks = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=3, unique=True))
    sizes = [data.draw(st.integers(max(min(ranks), 2), 9)) for _ in range(layers)]
    decays = [data.draw(st.floats(0.3, 1)) for _ in range(layers)]
    spectra = {f"l{i}": spectrum(i, n, d) for i, (n, d) in enumerate(zip(sizes, decays, strict=True))}
    least, most = layers * min(ranks) ** 2, 5 * 9**2  # what five layers of rank 9 cost is the most that least can be
    reference, budget = data.draw(st.integers(1, 6)), data.draw(st.integers(least, most))
    chosen = allocate(spectra, ranks, budget, reference=reference, order=order)
    energy = {k: np.sum(S[:reference] ** 2) / np.sum(S**2) for k, S in spectra.items()}
    line = sorted(spectra, key=lambda k: (round(energy[k] if order == "flat-first" else -energy[k], 12), k))
    possible = [c for c in itertools.product(sorted(ranks), repeat=layers) if sum(r * r for r in c) <= budget
                and all(r <= len(spectra[k]) for k, r in zip(line, c, strict=True))]  # fmt: skip
    assert tuple(chosen[k] for k in line) == max(possible)
    assert list(chosen) == list(spectra)


@pytest.mark.parametrize("order", ORDERS)
def test_both_orders_keep_the_budget(order):
    flat, steep = np.ones(32), 0.5 ** np.arange(32)
    spectra = {f"flat.{i}": flat for i in range(6)} | {f"steep.{i}": steep for i in range(6)}
    chosen = allocate(spectra, (4, 8, 16), 12 * 64, reference=8, order=order)
    assert sum(r * r for r in chosen.values()) == 12 * 64  # 2 layers of rank 16, 4 of rank 8 − …: met exactly here
    first, last = ("flat", "steep") if order == "flat-first" else ("steep", "flat")
    assert min(chosen[f"{first}.{i}"] for i in range(6)) >= max(chosen[f"{last}.{i}"] for i in range(6))
    assert chosen[f"{first}.0"] == 16 and chosen[f"{last}.5"] == 4
    assert allocate(spectra, (8,), 12 * 64, reference=8, order=order) == dict.fromkeys(spectra, 8)


@given(st.lists(st.floats(0, 1e150), min_size=1, max_size=8), st.integers(1, 10))
def test_the_energy(values, k):
    S = sorted(values, reverse=True)
    exact = [Fraction(s) ** 2 for s in S]
    expected = float(sum(exact[:k]) / sum(exact)) if sum(exact) else 1.0
    assert math.isclose(energy_at(S, k), expected, rel_tol=1e-9)


@pytest.mark.parametrize(("change", "words"), [
    ({"order": "largest"}, "order='largest' is not one of flat-first, steep-first"),
    ({"ranks": ()}, r"ranks=\[\]: give at least one of both"),
    ({"ranks": (0, 4)}, "a rank in ranks=0"),
    ({"ranks": (4, 8)}, "budget=30: rank 4 on each of 2 layers costs 32 already"),
    ({"ranks": (40,)}, "a has 32 directions, fewer than the smallest rank 40"),
    ({"reference": 0}, "reference=0"),
    ({"spectra": {}}, "0 layers"),
    ({"spectra": {"a": [1, 2, 3.0]}}, "read as singular values"),
])  # fmt: skip
def test_allocations_that_cannot_be(change, words):
    settings = {"spectra": {"a": np.ones(32), "b": np.ones(32)}, "ranks": (2, 4), "budget": 30, "reference": 4} | change
    with pytest.raises(ValueError, match=words):
        allocate(settings.pop("spectra"), settings.pop("ranks"), settings.pop("budget"), **settings)


@pytest.mark.parametrize("name", MODELS)
def test_ranks_read_off_a_model(name):
    model = tiny(name)
    plain = lo.LaMDA(r=4, target_modules=TARGETS[name])
    chosen = {order: plain.allocated(model, (2, 4, 7), order=order) for order in ORDERS}
    assert chosen["flat-first"] != chosen["steep-first"]
    for method in chosen.values():
        fresh = tiny(name)
        lo.adapt(fresh, method)
        ranks = {path: u.core.shape[0] for path, u in updates_of(fresh).items()}
        assert ranks == method.rank_pattern and set(ranks.values()) <= {2, 4, 7}
        budget = 16 * len(ranks)
        assert budget - (16 - 4) < sum(r * r for r in ranks.values()) <= budget


# ---- everything that one does with an adapter ----
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", MODELS)
def test_merge_route_combine(name, variant):
    model, y0 = tiny(name), logits(tiny(name))
    for adapter in ("a", "b"):
        lo.adapt(model, lo.LaMDA(r=3, target_modules=TARGETS[name], variant=variant), adapter, seed=ord(adapter))
        shaken(model, seed=ord(adapter))
    outs = {}
    for adapter in ("a", "b"):
        lo.set_adapter(model, adapter)
        outs[adapter] = logits(model)
        lo.merge(model)
        assert gap(logits(model), outs[adapter]) < 1e-4 and gap(outs[adapter], y0) > 1e-2
        lo.unmerge(model)
        assert torch.equal(logits(model), outs[adapter])
    with lo.routed(model, ["b", None, "a"]):
        mixed = logits(model)
    for row, expected in enumerate((outs["b"], y0, outs["a"])):
        assert gap(mixed[row], expected[row]) < 1e-4
    deltas = {p: 0.3 * l.delta("a") - 0.7 * l.delta("b") for p, l in lo.adapted_layers(model).items()}
    lo.combine(model, {"a": 0.3, "b": -0.7}, "c")
    for path, layer in lo.adapted_layers(model).items():
        assert gap(layer.delta("c"), deltas[path]) < 1e-4
        assert layer.updates["c"].A.shape[0] == 6  # A is fixed: the residual costs no rank


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", MODELS)
def test_saved_and_loaded(name, variant, tmp_path):
    model = tiny(name)
    method = lo.LaMDA(r=3, target_modules=TARGETS[name], variant=variant, rank_pattern={TARGETS[name][0]: 2})
    lo.adapt(model, method, seed=5)
    y = logits(shaken(model))
    lo.save_adapter(model, tmp_path)
    assert (tmp_path / "lowrank_config.json").exists()
    other = tiny(name)
    report = lo.load_adapter(other, tmp_path)
    assert torch.equal(logits(other), y)
    assert report.trainable == lo.adapting.report(model).trainable
    assert other.lowrank_methods["default"] == method


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", MODELS)
def test_exported_to_peft_as_plain_lora_of_the_same_rank(name, variant, tmp_path):
    from peft import PeftModel

    model = tiny(name)
    lo.adapt(model, lo.LaMDA(r=3, target_modules=TARGETS[name], variant=variant, alpha=5))
    y = logits(shaken(model))
    lo.save_adapter(model, tmp_path, format="peft")
    peft_model = PeftModel.from_pretrained(tiny(name), tmp_path)
    assert gap(logits(peft_model), y) <= 1e-5 * float(y.norm())
    assert all(p.shape[0] == 3 for key, p in peft_model.named_parameters() if "lora_A" in key)
    ours = tiny(name)
    lo.load_adapter(ours, tmp_path)
    assert gap(logits(ours), y) <= 1e-5 * float(y.norm())


@pytest.mark.parametrize("variant", VARIANTS)
def test_on_a_quantised_base(variant):
    model, y = tiny("llama"), logits(tiny("llama"))
    lo.adapt(model, lo.LaMDA(r=3, target_modules=TARGETS["llama"], variant=variant), quantize="int8")
    assert gap(logits(model), y) < 0.2
    opt = OPTIMIZERS["adamw"](trained(model.train()))
    lo.attach(model, opt, total_steps=4)
    loop(model, opt, 4)
    assert all("B" in u.fixed for u in updates_of(model).values())


def test_training_with_our_loop_lowers_the_loss():
    model, targets = quiet("llama")
    lo.adapt(model, lo.LaMDA(r=4, target_modules=targets))
    data = [{"input_ids": row, "labels": row} for row in batch(8, 12)]
    history = lo.train(model, data, steps=60, lr=2e-2, progress=False)
    assert history.loss[-1] < 0.9 * history.loss[0]
    assert all("B" in u.fixed for u in updates_of(model).values())


# ---- the update itself ----
@pytest.mark.parametrize("kind", ["linear", "conv1d"])
@pytest.mark.parametrize("residual", [False, True])
def test_the_update_against_numpy_and_finite_differences(kind, residual):
    torch.manual_seed(1)
    base = (nn.Linear(5, 8) if kind == "linear" else Conv1D(8, 5)).double().requires_grad_(False)
    A, B, core = torch.randn(3, 5).double(), torch.randn(8, 3).double(), torch.randn(3, 3).double()
    start = (B @ core).numpy()
    update = FrontLowRank(A, B, 7 / 3, core=core, residual=residual, fixed={"A"})
    shaken(update, by=0.3, every=True)
    x = torch.randn(2, 4, 5).double()
    a, b, c = (p.detach().numpy() for p in (update.A, update.B, update.core))
    dW = 7 / 3 * (b @ c @ a - (start @ a if residual else 0))
    np.testing.assert_allclose(update(x, base(x), base).detach(), x.numpy() @ dW.T, atol=1e-11)
    np.testing.assert_allclose(update.delta(base), dW, atol=1e-11)
    A, B = update.as_lora()
    assert A.shape == (3, 5)
    np.testing.assert_allclose(7 / 3 * (B @ A).detach(), dW, atol=1e-11)
    parameters = dict(update.named_parameters())

    def run(*values):
        return torch.func.functional_call(update, dict(zip(parameters, values, strict=True)), (x, base(x), base))

    values = tuple(p.detach().clone().requires_grad_(True) for p in parameters.values())
    assert torch.autograd.gradcheck(run, values)
    whole = torch.autograd.grad(run(*values).square().sum(), values)
    update.front = 2
    cut = torch.autograd.grad(run(*values).square().sum(), values)
    for key, g, h in zip(parameters, whole, cut, strict=True):
        assert torch.equal(g[:, 2:] if key == "B" else g, h[:, 2:] if key == "B" else h)
        assert key != "B" or h[:, :2].abs().max() == 0
    assert isinstance(update, LowRank)


@pytest.mark.parametrize(("settings", "words"), [
    ({"variant": "svd"}, "variant='svd' is not one of svd-residual, svd-zero, released"),
    ({"directions": "middle"}, "directions='middle' is not one of top, bottom, random"),
    ({"freeze_share": 1.5}, r"freeze_share=1.5: a share of the run, from 0 to 1"),
    ({"freeze_steps": -1}, "freeze_steps=-1: a whole number ≥ 0"),
    ({"as_released": True}, "needs variant='released', not 'svd-residual'"),
    ({"variant": "released", "directions": "bottom"}, "'released' does not"),
    ({"alpha": 0}, "alpha=0: alpha is a number > 0"),
    ({"r": 0}, "r=0: a rank"),
    ({"rank_pattern": {"c_fc": 2.5}}, "rank_pattern.*=2.5: a rank"),
    ({"dropout": 1}, "dropout=1: a share"),
    ({"target_modules": None}, "target_modules is missing"),
])  # fmt: skip
def test_settings_are_checked(settings, words):
    with pytest.raises(ValueError, match=words):
        lo.LaMDA(**{"target_modules": ["c_attn"], **settings})


@pytest.mark.parametrize(("settings", "words"), [
    ({"r": 25}, r"h\.0\.attn\.c_attn: directions='top' takes r=25 directions from a 72 × 24 weight"),
    ({"target_modules": ["wte"]}, "transformer.wte is an embedding"),
    ({"rank_pattern": {"c_proj": 2}}, "rank_pattern names 'c_proj', but no adapted layer"),
])  # fmt: skip
def test_a_row_that_does_not_fit_leaves_the_model_as_it_was(settings, words):
    model = tiny()
    before = [(name, id(p), p.requires_grad) for name, p in model.named_parameters()]
    with pytest.raises(ValueError, match=words):
        lo.adapt(model, lo.LaMDA(**{"target_modules": ["c_attn"], **settings}))
    assert [(name, id(p), p.requires_grad) for name, p in model.named_parameters()] == before
