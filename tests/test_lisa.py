"""LISA trains exactly what it drew: nothing else moves by a bit, and a resumed run draws the same."""

import itertools
from collections import Counter

import pytest
import torch
from loops import OPTIMIZERS, assert_resumes, copies, loop, quiet, trained
from models_zoo import batch, logits, same_state, state, tiny
from torch import nn

import lowrank_edu as lo
from lowrank_edu.schedules import schedule_of

MODELS = {"gpt2": ("n_layer", "transformer.h"), "llama": ("num_hidden_layers", "model.layers")}


def build(name, blocks=5, seed=0, **settings):
    count, _ = MODELS[name]
    model, _ = quiet(name, **{count: blocks})
    lo.adapt(model, lo.LISA(**settings), seed=seed)
    return model


def block_of(key, name):
    """The number of the block that a parameter belongs to, or None."""
    inside = key.partition(f"{MODELS[name][1]}.")[2]
    return int(inside.split(".")[0]) if inside else None


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", MODELS)
def test_it_trains_exactly_what_it_drew(name, optimizer):
    model = build(name, active_blocks=2, every=3)
    opt = OPTIMIZERS[optimizer](trained(model))
    lo.attach(model, opt)
    schedule, seen = schedule_of(model), []

    def look(step):
        drawn = {block for key, p in model.named_parameters() if p.grad is not None for block in [block_of(key, name)]}
        assert drawn == {None, *schedule.history[-1]["blocks"]} and len(drawn) == 3
        held = {block_of(key, name) for key, p in model.named_parameters() if p in opt.state}
        assert held <= drawn
        seen.append((schedule.history[-1]["blocks"], copies(model)))

    loop(model, opt, 12, look, clip=1.0)
    seen.append((None, copies(model)))
    for (drawn, before), (_, after) in itertools.pairwise(seen):
        moved = {key for key in before if not torch.equal(before[key], after[key])}
        expected = {key for key in before if ".copy." in key and block_of(key, name) in (None, *drawn)}
        assert moved == expected
    assert [entry["step"] for entry in schedule.history] == [0, 3, 6, 9, 12]
    assert len({tuple(entry["blocks"]) for entry in schedule.history}) > 1


@pytest.mark.parametrize("name", MODELS)
def test_the_count_is_what_is_always_trained_and_the_drawn_blocks(name):
    model = build(name, active_blocks=2)
    plain, _ = quiet(name, **{MODELS[name][0]: 5})
    sizes = Counter()
    for key, p in plain.named_parameters():
        sizes[block_of(key, name)] += p.numel()
    assert lo.adapting.report(model).trainable == sum(sizes.values())  # before the first draw: all
    lo.attach(model, OPTIMIZERS["adamw"](trained(model)))
    expected = sizes[None] + 2 * sizes[0]
    assert lo.adapting.report(model).trainable == schedule_of(model).history[0]["trainable"] == expected
    assert sum(p.numel() for p in trained(model)) == expected


def test_draws_are_uniform_without_replacement_and_follow_the_seed():
    model = build("llama", blocks=4, active_blocks=2, every=1, seed=1)
    lo.attach(model, OPTIMIZERS["adamw"](trained(model)))
    schedule, counts, draws = schedule_of(model), Counter(), []
    for schedule.step in range(1200):
        drawn = schedule.drawn()
        assert len(set(drawn)) == 2 and set(drawn) <= set(range(4))
        counts[tuple(drawn)] += 1
        draws.append(drawn)
    assert len(counts) == 6 and all(abs(n - 200) < 5 * (1200 * 5 / 36) ** 0.5 for n in counts.values())
    other = build("llama", blocks=4, active_blocks=2, every=1, seed=2)
    lo.attach(other, OPTIMIZERS["adamw"](trained(other)))
    again = schedule_of(other)
    for again.step in range(50):
        draws[again.step] = draws[again.step] == again.drawn()
    assert 0 < sum(draws[:50]) < 30


@pytest.mark.parametrize("at", [2, 3, 7])
@pytest.mark.parametrize("name", MODELS)
def test_a_resumed_run_is_the_same_run(name, at):
    def fresh(seed):
        model = build(name, active_blocks=2, every=3, seed=seed)
        opt = OPTIMIZERS["adamw"](trained(model))
        lo.attach(model, opt)
        return model, opt

    # the seed of the draws is part of the state
    assert_resumes(lambda: fresh(4), 10, at, stranger=lambda: fresh(99))


def test_a_second_optimizer_made_while_blocks_sleep():
    model = build("llama", active_blocks=1, every=2)
    data = [{"input_ids": row, "labels": row} for row in batch(6, 9)]
    first = lo.train(model, data, steps=5, lr=1e-3, progress=False)
    second = lo.train(model, data, steps=6, lr=1e-3, progress=False)
    assert second.loss[-1] < first.loss[0]
    assert [entry["step"] for entry in schedule_of(model).history] == [0, 2, 4, 6, 8, 10]
    start = copies(build("llama", active_blocks=1, every=2))
    drawn = {block for entry in schedule_of(model).history[:-1] for block in entry["blocks"]}
    drawn |= set(schedule_of(model).history[-1]["blocks"])
    moved = {block_of(key, "llama") for key, p in model.named_parameters() if not torch.equal(p, start[key])}
    assert moved == {None, *drawn}


@pytest.mark.parametrize("name", MODELS)
def test_disabled_merged_routed_saved(name, tmp_path):
    model = build(name, active_blocks=2, every=2, seed=6)
    with lo.disabled(model):
        y0 = logits(model.eval())
    opt = OPTIMIZERS["adamw"](trained(model.train()))
    with lo.attach(model, opt):
        loop(model, opt, 5)
    y = logits(model.eval())
    assert not torch.allclose(y, y0, atol=1e-2)
    with lo.disabled(model):
        assert torch.equal(logits(model), y0)
    lo.merge(model)
    assert torch.equal(logits(model), y)
    lo.unmerge(model)
    with pytest.raises(ValueError, match="cannot combine"):
        lo.combine(model, {"default": 1.0}, "c")
    lo.save_adapter(model, tmp_path)
    other, _ = quiet(name, **{MODELS[name][0]: 5})
    lo.load_adapter(other.eval(), tmp_path)
    assert torch.equal(logits(other), y)
    lo.attach(other, OPTIMIZERS["adamw"](trained(other)))
    assert schedule_of(other).seed == 6  # and so the same draws


def test_blocks_are_found_in_any_model():
    assert lo.LISA().blocks(tiny("bart", encoder_layers=2)) == [
        "model.encoder.layers.0", "model.encoder.layers.1", "model.decoder.layers.0",
    ]  # fmt: skip
    assert lo.LISA().blocks(tiny("bert")) == ["bert.encoder.layer.0", "bert.encoder.layer.1"]
    assert lo.LISA(layers="model.decoder.layers").blocks(tiny("bart")) == ["model.decoder.layers.0"]

    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.experts = nn.ModuleList([nn.Linear(3, 5), nn.Linear(3, 5)])

    body, mixed = nn.ModuleList([Experts(), Experts()]), nn.ModuleList([nn.Linear(2, 2), nn.GELU()])
    assert lo.LISA().blocks(nn.ModuleDict({"body": body, "mixed": mixed})) == ["body.0", "body.1"]


@pytest.mark.parametrize(("model", "settings", "words"), [
    (lambda: nn.Sequential(nn.Linear(3, 5)), {}, "layers=None finds none here.*this model has none"),
    (lambda: nn.ModuleDict({"body": nn.Sequential(nn.Linear(3, 5))}), {}, "Sequential that holds the blocks: body"),
    (tiny, {"layers": "transformer.wte"}, "layers='transformer.wte' finds none here.*transformer.h"),
    (tiny, {"active_blocks": 3}, "active_blocks=3, but this model has 2 blocks"),
])  # fmt: skip
def test_a_model_without_blocks_is_told_so(model, settings, words):
    model = model()
    before = state(model)
    with pytest.raises(ValueError, match=words):
        lo.adapt(model, lo.LISA(**settings))
    assert same_state(model, before)


@pytest.mark.parametrize(("settings", "words"), [
    ({"active_blocks": 0}, "active_blocks=0: a whole number ≥ 1"), ({"every": 2.0}, "every=2.0: a whole number"),
])  # fmt: skip
def test_settings_are_checked(settings, words):
    with pytest.raises(ValueError, match=words):
        lo.LISA(**settings)


def test_training_without_the_schedule_is_an_error():
    model = build("llama")
    opt = OPTIMIZERS["adamw"](trained(model))
    loop(model, opt, 1)
    with pytest.raises(RuntimeError, match="without the schedule of LISA"):
        loop(model, opt, 1)
