"""The training loop: reproducible to the bit, counts right, evaluates right, fails without damage."""

import csv

import pytest
import torch
import torch.nn.functional as F
from models_zoo import gap, logits, same_state, state, tiny

import lowrank_edu as lo
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
    ({"schedule": "cosine"}, "schedule='cosine' is not"),
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
