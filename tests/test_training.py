"""The training loop: reproducible to the bit, counts right, evaluates right, fails without damage."""

import csv
import json

import pytest
import torch
import torch.nn.functional as F
from models_zoo import TARGETS, gap, logits, same_state, state, tiny

import lowrank_edu as lo
from lowrank_edu import training
from lowrank_edu.data import Stream, packed
from lowrank_edu.training import collate

LORA = lo.LoRA(r=3, alpha=7, target_modules=["c_attn", "c_fc"], dropout=0.2)


def examples(n=10, lengths=(5, 9), seed=0):
    """Rows of tokens that count upwards from a random start, so that there is something to learn."""
    generator = torch.Generator().manual_seed(seed)
    data = []
    for _ in range(n):
        start, length = (int(torch.randint(*span, (), generator=generator)) for span in ((3, 80), lengths))
        ids = torch.arange(start, start + length)
        data.append({"input_ids": ids, "labels": ids.clone()})
    return data


def adapted(method=LORA):
    model = tiny()
    lo.adapt(model, method)
    return model


def run(model=None, data=None, **settings):
    model = model or adapted()
    settings = {"steps": 6, "batch_size": 4, "lr": 1e-2, "progress": False, **settings}
    return model, lo.train(model, data or examples(), **settings)


@pytest.mark.parametrize(("method", "lr"), [(LORA, 1e-2), (lo.FullFineTuning(), 1e-2),
                                            (lo.IntrinsicDimension(400), 0.1)], ids=["lora", "full", "p"])  # fmt: skip
def test_the_loss_falls_and_the_base_does_not_move_by_one_bit(method, lr):
    model, history = run(adapted(method), steps=40, lr=lr)
    assert sum(history.loss[-5:]) < 0.9 * sum(history.loss[:5])
    with lo.disabled(model):
        assert torch.equal(logits(model), logits(tiny()))
    base = dict(tiny().named_parameters(remove_duplicate=False))
    for path, layer in lo.adapted_layers(model).items():
        assert all(torch.equal(p, base[f"{path}.{key}"]) for key, p in layer.base.named_parameters())


def test_same_seed_same_bits_other_seed_other_bits():
    (one, a), (other, b), (_, c) = run(seed=5), run(seed=5), run(seed=6)
    assert a == b and same_state(one, state(other)) and a.loss != c.loss
    torch.manual_seed(123)  # the caller's random state changes nothing
    assert run(seed=5)[1] == a


def test_the_callers_random_state_comes_back():
    torch.manual_seed(7)
    wanted = torch.rand(4)
    torch.manual_seed(7)
    run()
    assert torch.equal(torch.rand(4), wanted)


def without_dropout(model):
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def test_it_is_the_plain_loop():
    """Against AdamW written out, without dropout: same losses, same outputs."""
    data, losses = examples(), []
    quiet, plain = (without_dropout(adapted(lo.LoRA(r=3, alpha=7, target_modules=["c_attn"]))) for _ in range(2))
    ours, history = run(quiet, data, steps=5, lr=3e-3, weight_decay=0.1, schedule="linear", seed=2)
    plain.train()
    parameters = [p for p in plain.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=3e-3, weight_decay=0.1)
    order = torch.Generator().manual_seed(2)
    first, second = (torch.randperm(10, generator=order).split(4) for _ in range(2))
    for step, rows in enumerate([*first, *second][:5]):
        batch = collate([data[i] for i in rows.tolist()], "cpu")
        out = plain(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        loss = F.cross_entropy(out[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=-100)
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / 5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert history.loss == pytest.approx(losses, rel=1e-6) and len(set(losses)) == 5
    assert gap(logits(ours.eval()), logits(plain.eval())) < 1e-6


@pytest.mark.parametrize(("n", "batch_size", "epochs", "steps"), [(10, 4, 3, 9), (10, 5, 2, 4), (3, 8, 2, 2)])
def test_epochs_are_rounded_up_to_whole_batches(n, batch_size, epochs, steps):
    _, history = run(data=examples(n), steps=None, epochs=epochs, batch_size=batch_size)
    assert history.step == list(range(1, steps + 1)) and len(history.loss) == steps


def test_every_epoch_sees_every_example_once():
    seen = []

    class Watched(list):
        def __getitem__(self, i):
            seen.append(i)
            return super().__getitem__(i)

    run(data=Watched(examples(10)), steps=None, epochs=2, batch_size=4)
    seen = [i for i in seen if isinstance(i, int)][-20:]
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10)) and seen[:10] != seen[10:]


def test_evaluations_come_before_between_and_after():
    data = examples()
    model, history = run(data=data, eval_data=data[:3], eval_every=2, steps=5)
    assert history.eval_step == [0, 2, 4, 5] and len(history.eval_loss) == 4
    assert history.eval_loss[0] == lo.evaluate(tiny(), data[:3])
    assert history.eval_loss[-1] == lo.evaluate(model, data[:3])
    assert run(data=data, steps=5)[1].loss == history.loss  # looking changes nothing
    assert run(data=data, steps=4, eval_data=data[:3], eval_every=2)[1].eval_step == [0, 2, 4]


def test_history_as_a_table(tmp_path):
    _, history = run(eval_data=examples(2), eval_every=2, steps=3)
    history.to_csv(tmp_path / "run.csv")
    rows = list(csv.DictReader(open(tmp_path / "run.csv", encoding="utf-8")))
    assert [row["step"] for row in rows] == ["0", "1", "2", "3"]
    assert [bool(row["eval_loss"]) for row in rows] == [True, False, True, True]
    assert rows[0]["loss"] == "" and [float(row["loss"]) for row in rows[1:]] == history.loss


def test_evaluate_is_the_models_own_loss_on_rows_of_one_length():
    data, model = examples(6, (7, 8)), tiny()
    ids = torch.stack([example["input_ids"] for example in data])
    with torch.no_grad():
        wanted = model(input_ids=ids, labels=ids).loss.item()
    assert lo.evaluate(model, data) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_evaluate_is_the_mean_over_tokens_not_over_rows(batch_size):
    data, model = examples(9, (2, 12)), tiny().double()
    data[2]["labels"][1:3] = -100
    data[4]["labels"][1:] = -100  # a row without any target
    total, count = 0.0, 0
    for example in data:  # row by row, without padding
        logp = logits(model, example["input_ids"][None])[0].log_softmax(-1)
        for t, label in enumerate(example["labels"][1:].tolist()):
            if label != -100:
                total, count = total - logp[t, label].item(), count + 1
    assert lo.evaluate(model, data, batch_size=batch_size) == pytest.approx(total / count, rel=1e-6)


def test_evaluate_leaves_the_mode_and_the_random_state():
    model = adapted().train()
    torch.manual_seed(1)
    wanted = torch.rand(2)
    torch.manual_seed(1)
    assert lo.evaluate(model, examples()) == lo.evaluate(model.eval(), examples())
    assert torch.equal(torch.rand(2), wanted)
    lo.evaluate(model.train(), examples())
    assert all(m.training for m in model.modules())


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_comes_back_and_gradients_are_gone(training):
    model, _ = run(adapted().train(training))
    assert {m.training for m in model.modules()} == {training}
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_loss_that_is_not_finite_stops_before_the_step(where):
    model, _ = run(steps=3)
    before = state(model)
    layer = lo.adapted_layers(model)["transformer.h.1.mlp.c_fc"]
    calls = []

    def spoil(module, args, out):
        calls.append(1)
        if len(calls) != 1:
            return out
        if where == "loss":
            return out * float("nan")
        out.register_hook(lambda grad: grad * float("inf"))
        return out

    handle = layer.register_forward_hook(spoil)
    with pytest.raises(FloatingPointError, match=r"at step 1.*before this step.*lr=0.01; try a tenth"):
        run(model)
    handle.remove()
    assert same_state(model, before) and all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(("settings", "words"), [
    ({"steps": None}, "steps=None, epochs=None: give one of them"),
    ({"epochs": 2}, "steps=6, epochs=2: give one of them"),
    ({"steps": 0}, "steps=0: a whole number ≥ 1"),
    ({"steps": None, "epochs": 0}, "epochs=0: a whole number"),
    ({"steps": None, "epochs": 1.5}, "epochs=1.5: a whole number"),
    ({"batch_size": 0}, "batch_size=0: a whole number"),
    ({"eval_every": 0}, "eval_every=0: a whole number"),
    ({"lr": 0}, "lr=0: a learning rate is > 0"),
    ({"lr": float("nan")}, "lr=nan"),
    ({"schedule": "steps"}, "schedule='steps' is not one of 'constant', 'linear', 'cosine'"),
    ({"accumulate": 0}, "accumulate=0: a whole number"),
    ({"warmup_steps": -1}, "warmup_steps=-1: a whole number"),
    ({"precision": "fp8"}, "precision='fp8' is not one of"),
    ({"optimizer": "lion"}, "optimizer='lion' is not one of"),
    ({"label_smoothing": 1.0}, "label_smoothing=1.0"),
    ({"max_grad_norm": 0}, "max_grad_norm=0"),
    ({"patience": 2}, "patience counts evaluations"),
    ({"checkpoint_every": 0}, "checkpoint_every=0"),
])  # fmt: skip
def test_settings_are_checked_first(settings, words):
    model = adapted()
    before = state(model)
    with pytest.raises(ValueError, match=words):
        run(model, **settings)
    assert same_state(model, before)


@pytest.mark.parametrize("data", [["a text"], [{"input_ids": torch.ones(1).long(), "labels": torch.ones(1).long()}]])
def test_data_without_targets_is_refused(data):
    with pytest.raises(ValueError, match="data "):
        lo.evaluate(tiny(), data)
    with pytest.raises(ValueError, match="data is a list of examples"):
        lo.train(adapted(), [], steps=1)


def test_there_must_be_something_to_train():
    model = adapted()
    lo.merge(model)
    with pytest.raises(ValueError, match=r"Call unmerge\(model\) before training"):
        run(model)
    with pytest.raises(ValueError, match="no parameter has a gradient"):
        run(tiny().requires_grad_(False))


def test_a_sleeping_adapter_is_not_trained():
    model = adapted()
    lo.adapt(model, LORA, "second")
    before = {n: p.clone() for n, p in model.named_parameters()}
    run(model)
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]) == (".second." not in name)


def test_collate_pads_on_the_right_and_masks():
    data = examples(3, (3, 9))
    batch = collate(data, "cpu")
    for row, example in enumerate(data):
        n = len(example["input_ids"])
        assert torch.equal(batch["input_ids"][row, :n], example["input_ids"])
        assert batch["attention_mask"][row].tolist() == [1] * n + [0] * (batch["input_ids"].shape[1] - n)
        assert (batch["labels"][row, n:] == -100).all() and torch.equal(batch["labels"][row, :n], example["labels"])


# ---- one step, however it is cut ----------------------------------------
UNEQUAL = examples(16, lengths=(3, 16), seed=4)


@pytest.mark.parametrize(("batch_size", "accumulate"), [(1, 8), (2, 4), (3, 3)])
def test_micro_batches_give_the_loss_of_all_target_tokens(batch_size, accumulate):
    """The sum over target tokens by their number in the whole step, not the mean of the means."""
    size = batch_size * accumulate
    data, method = UNEQUAL[: size * (len(UNEQUAL) // size)], lo.LoRA(r=3, alpha=7, target_modules=["c_attn"])
    (whole, a), (parts, b) = (
        run(without_dropout(adapted(method)), data, batch_size=rows, accumulate=times, steps=4)
        for rows, times in ((size, 1), (batch_size, accumulate))
    )
    assert a.loss == pytest.approx(b.loss, rel=1e-6) and gap(logits(whole), logits(parts)) < 1e-5
    first = [data[i] for i in torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[:size].tolist()]
    means = [lo.evaluate(adapted(method), [example]) for example in first]
    assert abs(sum(means) / size - b.loss[0]) > 1e-3  # what the mean of the means would be


METHODS = [LORA, lo.LoRA(3, 7, ["c_attn"], use_dora=True), lo.LoRA(3, 3, ["c_attn"], init="pissa"),
           lo.VeRA(4, ["c_attn"]), lo.LaMDA(3, ["c_attn"]), lo.AdaLoRA(2, 3, 6, ["c_attn"]), lo.FullFineTuning(),
           lo.BitFit(), lo.BottleneckAdapter(4)]  # fmt: skip


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__ + getattr(m, "init", ""))
def test_checkpointing_with_a_frozen_base_trains_the_same(method):
    (plain, a), (again, b) = (run(adapted(method), gradient_checkpointing=wanted) for wanted in (False, True))
    assert a.loss == pytest.approx(b.loss, rel=1e-6) and gap(logits(plain), logits(again)) < 1e-5
    assert gap(logits(again), logits(adapted(method))) > 1e-4  # the gradient did reach the adapters
    assert not again.is_activation_checkpointing


def test_checkpointing_computes_again_what_it_saves():
    calls = {}
    for wanted in (False, True):
        model = adapted()
        layer, calls[wanted] = lo.adapted_layers(model)["transformer.h.0.mlp.c_fc"], []
        layer.register_forward_pre_hook(lambda *_, found=calls[wanted]: found.append(1))
        run(model, steps=1, gradient_checkpointing=wanted)
    assert len(calls[True]) == 2 * len(calls[False]) == 2


def test_bf16_computes_in_bf16_and_keeps_fp32_weights():
    seen, model = [], adapted()
    layer = lo.adapted_layers(model)["transformer.h.0.mlp.c_fc"]
    layer.register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    _, half = run(model, precision="bf16")
    assert set(seen) == {torch.bfloat16} and {p.dtype for p in model.parameters()} == {torch.float32}
    full = run()[1].loss
    assert half.loss == pytest.approx(full, abs=0.05) and half.loss != full


def test_fp16_scales_the_loss_and_leaves_out_steps_that_overflow():
    _, history = run(precision="fp16", steps=8)
    assert history.loss == pytest.approx(run(steps=8)[1].loss, abs=0.05)
    fresh = adapted()
    before = state(fresh)
    parameters = training.trainable_parameters(fresh)
    engine, scaler = torch.optim.AdamW(parameters, lr=1.0), torch.amp.GradScaler("cpu")
    for p in parameters:
        p.grad = torch.full_like(p, float("inf"))
    scaler.scale(torch.ones(()))
    assert not training._take(engine, scaler) and same_state(fresh, before) and scaler.get_scale() == 2.0**15


def test_clipping_bounds_the_step():
    """SGD with rate 1 moves by the gradient, so by max_grad_norm where that is smaller."""
    sgd = lambda groups: torch.optim.SGD(groups, lr=1.0)  # noqa: E731
    moved = {}
    for norm in (None, 1e-3):
        model = adapted()
        start = [p.detach().clone() for p in model.parameters() if p.requires_grad]
        run(model, steps=1, lr=1.0, optimizer=sgd, max_grad_norm=norm)
        ends = [p for p in model.parameters() if p.requires_grad]
        moved[norm] = sum(float((a - b.detach()).pow(2).sum()) for a, b in zip(start, ends, strict=True)) ** 0.5
    assert moved[None] > 0.01 and moved[1e-3] == pytest.approx(1e-3, rel=1e-3)


def test_label_smoothing_is_torch_s_and_only_in_training():
    data = examples(4)
    model = without_dropout(adapted())
    batch = collate(data, "cpu")
    out = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    want = F.cross_entropy(out.flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=-100, label_smoothing=0.1)
    _, history = run(model, data, steps=1, label_smoothing=0.1, eval_data=data)
    assert history.loss[0] == pytest.approx(want.item(), rel=1e-5)
    assert history.eval_loss[0] == lo.evaluate(tiny(), data)


@pytest.mark.parametrize(("schedule", "shares"), [
    ("constant", [1 / 3, 2 / 3, 1, 1, 1, 1, 1]), ("linear", [1 / 3, 2 / 3, 1, 1, 0.75, 0.5, 0.25]),
    ("cosine", [1 / 3, 2 / 3, 1, 1, 0.8535533905932737, 0.5, 0.14644660940672627]),
])  # fmt: skip
def test_rates_rise_and_fall_as_named(schedule, shares):
    rates = []

    def spy(groups):
        optimizer = torch.optim.SGD(groups, lr=1.0)
        optimizer.register_step_pre_hook(lambda o, *_: rates.append(o.param_groups[0]["lr"] / 1e-3))
        return optimizer

    run(steps=7, lr=1e-3, schedule=schedule, warmup_steps=3, optimizer=spy)
    assert rates == pytest.approx(shares)


def test_early_stopping_ends_the_run_and_says_where_it_was_best():
    data = examples()
    _, history = run(data=data, steps=40, lr=1e-15, eval_data=data[:4], eval_every=1, patience=2)  # nothing improves
    assert len(history.step) < 10 and "no lower loss in 2 evaluations" in history.stopped
    best = min(range(len(history.eval_loss)), key=history.eval_loss.__getitem__)
    assert len(history.eval_loss) - 1 - best == 2 and f"step {history.eval_step[best]}" in history.stopped
    assert run(data=data, steps=6, lr=1e-3, eval_data=data[:4], eval_every=1, patience=2)[1].stopped is None


def test_scores_perplexity_and_json(tmp_path):
    data = examples()
    _, history = run(data=data, eval_data=data[:3], eval_every=3, scorer=lambda model: model.training + 0.5)
    assert history.score == [0.5, 0.5, 0.5]  # a scorer always finds the model in eval mode
    assert history.perplexity == pytest.approx([2.718281828 ** loss for loss in history.eval_loss])
    history.to_json(tmp_path / "h.json")
    assert json.loads((tmp_path / "h.json").read_text()) == vars(history)


# ---- packed rows ----------------------------------------
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_packed_rows_have_the_loss_and_gradient_of_separate_rows(name):
    data, losses, grads = examples(6, lengths=(3, 7)), [], []
    for rows in (data, [packed(data[:4]), packed(data[4:])]):
        model = tiny(name)
        lo.adapt(model, lo.LoRA(3, 7, TARGETS[name], init="pissa"))
        total, count = lo.training.token_loss(model, collate(rows, "cpu"))
        (total / count).backward()
        losses.append((total.item(), count))
        grads.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5) and gap(*grads) < 1e-5


@pytest.mark.parametrize("most", [None, 33])
def test_a_stream_that_may_outgrow_the_model_is_refused_before_the_first_step(most):
    class Tok:
        eos_token_id = 2

        def __call__(self, text, add_special_tokens=False):
            return {"input_ids": [5] * len(text)}

    model = adapted()
    before = state(model)
    rows = [{"text": "short"}, {"text": "x" * 40}]
    with pytest.raises(ValueError, match=rf"max_length={most}; this model sees 32: Stream\(…, max_length=32\)"):
        run(model, Stream(rows, Tok(), max_length=most))
    assert same_state(model, before)
    assert len(run(model, Stream(rows, Tok(), max_length=32))[1].loss) == 6
