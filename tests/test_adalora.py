"""AdaLoRA: PEFT's outputs, gradients, weights and masks; its format both ways; the budget falls and ends exactly."""

import copy
import json

import numpy as np
import peft
import pytest
import torch
from loops import QUIET, loop, quiet, trained
from models_zoo import TARGETS, batch, gap, logits, same_state, shaken, state, tiny
from parity import GRADIENTS, OUTPUTS, WEIGHTS, off_by_one_percent
from safetensors.torch import load_file

import lowrank_edu as lo
from lowrank_edu.schedules import schedule_of

MODELS = ["gpt2", "llama"]
SHAPE = {"target_r": 2, "init_r": 5, "alpha": 7}  # 7/5: a scale that is no power of two
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft", "ignore:Initializing zero-element tensors")


def method(name="gpt2", **changes):
    settings = {"target_modules": TARGETS[name], "warmup_steps": 3, "final_steps": 4, "every": 2, "total_steps": 20}
    return lo.AdaLoRA(**{**SHAPE, **settings, **changes})


def start(name="gpt2", at=0.0, **changes):
    """An adapted model in training mode, without dropout; `at` noise on all factors, so that ΔW is not zero."""
    model, _ = quiet(name)
    lo.adapt(model, method(name, **changes))
    return shaken(model, by=at) if at else model


def adamw(model, lr=1e-2):
    return torch.optim.AdamW(trained(model), lr=lr, weight_decay=0.0)


def run(model, steps=20, lr=1e-2, total=None):
    with lo.attach(model, optimizer := adamw(model, lr), total):
        loop(model, optimizer, steps)
    return schedule_of(model)


def updates(model, name="default"):
    return {path: layer.updates[name] for path, layer in lo.adapted_layers(model).items()}


# ---- PEFT ----
def pefts(name, seed=0, noise=0.0, **changes):
    """PEFT's model on the same base, in training mode, perhaps with noise on its factors.

    task_type matters: without it PEFT's wrapper calls past the place where the penalty joins the loss.
    """
    config = {"target_r": 2, "init_r": 5, "lora_alpha": 7, "tinit": 3, "tfinal": 4, "deltaT": 2, "total_step": 20,
              "orth_reg_weight": 0.5, "target_modules": TARGETS[name], "task_type": "CAUSAL_LM"}  # fmt: skip
    torch.manual_seed(seed)
    base = tiny(name, **QUIET[name])
    theirs = peft.get_peft_model(base, peft.AdaLoraConfig(**{**config, **changes})).train()
    return shaken(theirs, seed=2, by=noise) if noise else theirs


def both(name, folder, **settings):
    """(ours, theirs) with the same weights, ours loaded from the folder that PEFT wrote."""
    theirs = pefts(name, **settings)
    theirs.save_pretrained(folder)
    ours, _ = quiet(name)
    lo.load_adapter(ours, folder)
    return ours, theirs


def factors(model):
    """{name: parameter} of all that is trained, under PEFT's names, in either model."""
    if isinstance(model, peft.PeftModel):
        found = {key.removeprefix("base_model.model."): p for key, p in model.named_parameters() if p.requires_grad}
        return {key.removesuffix(".default"): p for key, p in found.items()}
    names = {"A": "lora_A", "B": "lora_B", "core": "lora_E"}
    return {f"{path}.{names[key]}": getattr(u, key) for path, u in updates(model).items() for key in names}


def furthest(ours, theirs, measure):
    assert ours.keys() == theirs.keys()
    return max(measure(ours[key].detach().flatten(), theirs[key].detach().flatten()) for key in ours)


def relative(x, y):
    return float((x - y).norm() / y.norm())


def five_steps(model):
    """(logits, gradients, trained weights): λ is (r) here and (r, 1) there, so both are compared flat."""
    parameters, gradients = factors(model), {}
    out, optimizer = logits(model), torch.optim.AdamW(parameters.values(), lr=1e-3, weight_decay=0.0)
    if not isinstance(model, peft.PeftModel):
        lo.attach(model, optimizer)
    loop(model, optimizer, 5, lambda step: step or gradients.update({k: p.grad.clone() for k, p in parameters.items()}))
    return out, gradients, parameters


@pytest.mark.parametrize("name", MODELS)
def test_outputs_gradients_and_weights_are_pefts(name, tmp_path):
    """The update alone: no penalty, and no masks yet."""
    ours, theirs = both(name, tmp_path, noise=0.3, orth_reg_weight=0.0, tinit=10)
    wrong, wanted = off_by_one_percent(ours), five_steps(theirs.eval())
    for model, good in ((ours, True), (wrong, False)):
        out, gradients, weights = five_steps(model.eval())
        distances = (relative(out, wanted[0]), furthest(gradients, wanted[1], relative),
                     furthest(weights, wanted[2], gap))  # fmt: skip
        print(name, distances)
        for distance, bound in zip(distances, (OUTPUTS, GRADIENTS, WEIGHTS), strict=True):
            assert distance <= bound if good else distance > bound


def whole_run(ours, theirs, steps=20, lr=1e-2):
    """Train both over the whole schedule; [(masks are the same, largest |Δ weight|)] after every step."""
    found, optimizers = [], (adamw(ours, lr), adamw(theirs, lr))
    with lo.attach(ours, optimizers[0]):
        for t in range(1, steps + 1):
            ids = (batch(2, 9) + 7 * t) % 90 + 3
            for model, optimizer in zip((ours, theirs), optimizers, strict=True):
                model(input_ids=ids, labels=ids).loss.backward()
                optimizer.step()
                if model is theirs:
                    theirs.base_model.update_and_allocate(t)
                optimizer.zero_grad()
            here, there = map(factors, (ours, theirs))
            same = all(torch.equal(here[k].flatten() != 0, p.flatten() != 0) for k, p in there.items())
            found.append((same, furthest(here, there, gap)))
    return found


SCHEDULES = {
    "the usual": {},
    "penalty 0.1, every step": {"orth_reg_weight": 0.1, "deltaT": 1},
    "no warm-up, no final phase": {"tinit": 0, "tfinal": 0, "deltaT": 3},
    "no penalty": {"orth_reg_weight": 0.0, "beta1": 0.6, "beta2": 0.9},
}


@pytest.mark.parametrize("case", SCHEDULES)
@pytest.mark.parametrize("name", MODELS)
def test_the_whole_schedule_is_pefts(name, case, tmp_path):
    """The same masks after every step, through warm-up, budgeting and final phase, penalty included."""
    ours, theirs = both(name, tmp_path, **SCHEDULES[case])
    found = whole_run(ours, theirs)
    assert all(same for same, _ in found), [t for t, (same, _) in enumerate(found, 1) if not same]
    assert max(distance for _, distance in found) <= WEIGHTS
    schedule, pattern = schedule_of(ours), theirs.peft_config["default"].rank_pattern
    assert {f"{path}.lora_E.default": rows.tolist() for path, rows in schedule.kept.items()} == pattern
    assert sum(map(sum, pattern.values())) == schedule.goal == 2 * len(pattern)


FAULTS = {
    "a scale 1 % off": lambda s: [setattr(u, "scale", u.scale * 1.01) for u in s.updates.values()],
    "a penalty 1 % off": lambda s: vars(s.method).update(orth_weight=0.505),
    "squared norms": lambda s: vars(s.method).update(mode="paper"),
    "sensitivity not smoothed": lambda s: vars(s.method).update(beta1=0.1),
    "a mask one step late": lambda s: vars(s.method).update(final_steps=3),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_comparison_sees_small_faults(fault, tmp_path):
    ours, theirs = both("llama", tmp_path)
    with lo.attach(ours, adamw(ours)):
        FAULTS[fault](schedule_of(ours))
    found = whole_run(ours, theirs)
    assert not all(same for same, _ in found) or max(distance for _, distance in found) > WEIGHTS


@pytest.mark.parametrize("name", MODELS)
def test_the_masks_alone_tell_a_scale_that_is_one_percent_off(name, tmp_path):
    """Many triplets and a choice at every step, so that some scores lie closer to each other than 1 %."""
    for scale, alike in {1.0: True, 1.01: False}.items():
        ours, theirs = both(name, tmp_path / str(scale), noise=0.1, init_r=16, target_r=4, deltaT=1, tinit=1, tfinal=2)
        for update in updates(ours).values():
            update.scale *= scale
        assert all(same for same, _ in whole_run(ours, theirs)) == alike


def tensors_of(folder):
    return load_file(folder / "adapter_model.safetensors")


def config_of(folder):
    return json.loads((folder / "adapter_config.json").read_text())


def assert_folder(folder, name, wanted):
    """The folder gives these logits in PEFT and here, and here they are compared closely enough."""
    there, here = peft.PeftModel.from_pretrained(tiny(name), folder).eval(), tiny(name)
    assert relative(logits(there), wanted) <= OUTPUTS
    lo.load_adapter(here, folder)
    assert relative(logits(here), wanted) <= OUTPUTS < relative(logits(off_by_one_percent(here)), wanted)
    return here


@pytest.mark.parametrize("name", MODELS)
def test_folders_go_both_ways_once_rows_are_pruned(name, tmp_path):
    ours, theirs = both(name, tmp_path / "start")
    whole_run(ours, theirs)
    wanted = logits(ours.eval())
    lo.save_adapter(ours, tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    configs, files = ([read(tmp_path / who) for who in ("ours", "theirs")] for read in (config_of, tensors_of))
    assert {k: v.shape for k, v in files[0].items()} == {k: v.shape for k, v in files[1].items()}
    assert max(gap(files[0][key], files[1][key]) for key in files[0] if files[0][key].numel()) <= WEIGHTS
    assert sum(len(value) for key, value in files[0].items() if key.endswith("lora_E")) == 2 * len(updates(ours))
    own = set(configs[0]) - {"auto_mapping", "revision", "target_modules"}
    assert all(configs[0][key] == configs[1][key] for key in own & set(configs[1])) and configs[0]["rank_pattern"]
    for folder in ("ours", "theirs"):
        again = assert_folder(tmp_path / folder, name, wanted)
        lo.save_adapter(again, tmp_path / "again" / folder)  # which rows stayed is unknown now, how many is not
        assert_folder(tmp_path / "again" / folder, name, wanted)


@pytest.mark.parametrize("name", MODELS)
def test_folders_go_both_ways_before_the_final_phase(name, tmp_path):
    """Step 11 comes after a choice and after λs have come back: all rows are saved, without a rank_pattern.

    PEFT cuts the rows of its last choice off even then, so its own folder is another model than it was.
    """
    ours, theirs = both(name, tmp_path / "start")
    whole_run(ours, theirs, steps=11)
    wanted = logits(ours.eval())
    lo.save_adapter(ours, tmp_path / "ours")
    assert config_of(tmp_path / "ours")["rank_pattern"] is None
    assert all(value.shape[key.endswith("lora_B")] == 5 for key, value in tensors_of(tmp_path / "ours").items())
    assert_folder(tmp_path / "ours", name, wanted)
    assert relative(logits(theirs.eval()), wanted) <= OUTPUTS
    theirs.save_pretrained(tmp_path / "theirs")
    cut = logits(peft.PeftModel.from_pretrained(tiny(name), tmp_path / "theirs").eval())
    assert relative(cut, wanted) > 10 * OUTPUTS
    assert_folder(tmp_path / "theirs", name, cut)


def pruned_folder(folder, ranks=(0, 1, 3, 4)):
    """A folder of an adapter whose layers kept these numbers of triplets."""
    model = start(at=0.1)
    schedule = run(model, steps=17)
    schedule.kept = {p: torch.arange(5) < r for p, r in zip(schedule.updates, ranks, strict=True)}
    schedule.mask(schedule.kept)
    lo.save_adapter(model, folder)
    return model.eval()


def test_a_layer_without_any_rank_left(tmp_path):
    model = pruned_folder(tmp_path / "a")
    again = tiny()
    lo.load_adapter(again, tmp_path / "a")
    assert [u.A.shape[0] for u in updates(again).values()] == [0, 1, 3, 4]
    assert gap(logits(again), logits(model)) < 1e-5
    there = peft.PeftModel.from_pretrained(tiny(), tmp_path / "a").eval()
    assert gap(logits(there), logits(model)) < 1e-5
    wanted = logits(again)
    lo.combine(again, {"default": 1.0}, "sum")
    assert gap(logits(again), wanted) < 1e-5 and len(updates_named(again, "sum")) == 3
    lo.set_adapter(again, "default")
    lo.merge(again)
    assert gap(logits(again), wanted) < 1e-5


def updates_named(model, name):
    return [layer for layer in lo.adapted_layers(model).values() if name in layer.updates]


@pytest.mark.parametrize("ranks", [(0, 1, 3, 4), (0, 0, 3, 4)], ids=["on budget", "below it"])
def test_a_pruned_adapter_trains_on_with_the_ranks_it_has(ranks, tmp_path):
    pruned_folder(tmp_path, ranks)
    again, _ = quiet("gpt2")
    lo.load_adapter(again, tmp_path)
    schedule = run(again, steps=4)
    assert [len(u.core) for u in updates(again).values()] == list(ranks) and len(schedule.history) == 1
    lo.save_adapter(again, tmp_path / "again")


def test_the_papers_scale_of_one_survives_the_folder(tmp_path):
    model = start(mode="paper", at=0.1).eval()
    assert next(iter(updates(model).values())).scale == 1.0
    lo.save_adapter(model, tmp_path)
    there = peft.PeftModel.from_pretrained(tiny(), tmp_path).eval()
    assert relative(logits(there), logits(model)) <= OUTPUTS


def test_a_fresh_adapter_is_the_base_model_and_its_length_may_be_unknown(tmp_path):
    model = start(total_steps=None).eval()
    assert torch.equal(logits(model), logits(tiny()))
    lo.save_adapter(model, tmp_path)
    peft.PeftModel.from_pretrained(tiny(), tmp_path)
    again, _ = quiet("gpt2")
    lo.load_adapter(again, tmp_path)
    with pytest.raises(ValueError, match=r"total_steps="):
        lo.attach(again, adamw(again))
    run(again, total=20)


BAD_FOLDERS = {
    "target_r": (lambda c: c | {"target_r": 5}, "init_r=5, target_r=5"),
    "init_r": (lambda c: {k: v for k, v in c.items() if k != "init_r"}, "no init_r"),
    "bias": (lambda c: c | {"bias": "all"}, "uses bias"),
    "saved modules": (lambda c: c | {"modules_to_save": ["ln_f"]}, "uses modules_to_save"),
    "a pattern of another rank": (lambda c: c | {"rank_pattern": {"transformer.h.0.attn.c_attn.lora_E": [True] * 4}},
                                  "does not fit"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_FOLDERS)
def test_folders_that_do_not_fit_change_nothing(case, tmp_path):
    change, message = BAD_FOLDERS[case]
    lo.save_adapter(start(), tmp_path)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    model = tiny()
    before = state(model)
    with pytest.raises(ValueError, match=message):
        lo.load_adapter(model, tmp_path)
    assert same_state(model, before)


# ---- the paper's own way ----
def test_paper_mode_against_float64_numpy():
    """Importance from old weights and old gradients, in numpy; exactly b stay; the penalty is a sum of squares."""
    model = start("llama", mode="paper", at=0.1, orth_weight=0.01)
    beta, smooth, old = 0.85, {}, {}

    def look(step):
        for key, p in factors(model).items():
            old[key] = p.detach().double().numpy().copy()
        terms = [p for key, p in old.items() if not key.endswith("lora_E")]
        if step == 0:
            gaps = [A @ A.T - np.eye(5) if A.shape[0] == 5 else A.T @ A - np.eye(5) for A in terms]
            assert float(schedule.penalty().detach()) == pytest.approx(0.01 * sum((g**2).sum() for g in gaps), rel=1e-5)

    class Watching(torch.optim.SGD):
        """The gradients as they are when the weights move, penalty included."""

        @torch.no_grad()
        def step(self, closure=None):
            for key, p in factors(model).items():
                now = np.abs(old[key] * p.grad.double().numpy())
                mean, spread = smooth.get(key, (0.0, 0.0))
                mean = beta * mean + (1 - beta) * now
                smooth[key] = mean, beta * spread + (1 - beta) * np.abs(now - mean)
            return super().step(closure)

    torch.optim.SGD(trained(model), lr=1e-2)  # from here on SGD's own step runs the hooks, too
    optimizer = Watching(trained(model), lr=1e-2)
    lo.attach(model, optimizer)
    schedule = schedule_of(model)
    loop(model, optimizer, 5, look)
    s = {key: mean * spread for key, (mean, spread) in smooth.items()}
    for path, score in schedule.scores().items():
        mine = s[f"{path}.lora_E"] + s[f"{path}.lora_A"].mean(1) + s[f"{path}.lora_B"].mean(0)
        assert np.allclose(score.detach().numpy(), mine, rtol=1e-3, atol=1e-12)
    late = start("llama", mode="reference", at=0.1, alpha=5 + 1e-5, orth_weight=0.0)  # scored after the step
    assert run(late, steps=5).scores().keys() == schedule.scores().keys()


def test_the_modes_choose_differently():
    same = {"at": 0.1, "alpha": 5 + 1e-5, "orth_weight": 0.0}  # scale 1 in both
    chosen = {mode: run(start("llama", mode=mode, **same)) for mode in ("paper", "reference")}
    assert any(not torch.equal(chosen["paper"].kept[p], chosen["reference"].kept[p]) for p in chosen["paper"].kept)


@pytest.mark.parametrize("mode", ["reference", "paper"])
def test_ties(mode):
    """With equal scores the reference drops the whole tie and falls below the budget; the paper's way keeps b."""
    schedule = run(start(mode=mode), steps=4)
    schedule.smooth = {key: tuple(torch.ones_like(t) for t in both) for key, both in schedule.smooth.items()}
    kept = torch.cat(list(schedule.choose(8).values()))
    assert int(kept.sum()) == (0 if mode == "reference" else 8)
    if mode == "paper":
        assert kept[:8].all()  # the first layers first
    assert all(rows.all() for rows in schedule.choose(20).values())  # nothing to take away


# ---- properties ----
PLANS = [(20, 3, 4, 2), (20, 0, 0, 1), (23, 5, 3, 4), (12, 10, 0, 1), (31, 0, 20, 3)]


@pytest.mark.parametrize("plan", PLANS, ids=str)
@pytest.mark.parametrize("mode", ["reference", "paper"])
def test_the_total_rank_never_rises_and_ends_exactly_on_budget(mode, plan):
    total, warmup, final, every = plan
    model = start(mode=mode, warmup_steps=warmup, final_steps=final, every=every, total_steps=total)
    schedule = run(model, steps=total)
    steps, budgets, ranks = zip(*((e["step"], e["budget"], e["rank"]) for e in schedule.history), strict=True)
    assert (steps[0], ranks[0], ranks[-1]) == (0, 20, 8) and steps[-1] == total - final
    assert list(ranks) == sorted(ranks, reverse=True) and ranks == budgets
    assert all(step > warmup and (step % every == 0 or step == total - final) for step in steps[1:])
    assert all(entry["rank"] == sum(entry["ranks"].values()) for entry in schedule.history)
    assert sum(int((u.core != 0).sum()) for u in updates(model).values()) == 8
    curve = [schedule.budget(t) for t in range(total + 1)]
    assert curve == sorted(curve, reverse=True) and curve[warmup] == 20 and curve[total - final] == 8


def test_a_direction_may_come_back_until_the_choice_is_final():
    model, alive = start(every=4, warmup_steps=2, total_steps=24), []
    optimizer = adamw(model)
    lo.attach(model, optimizer)
    schedule = schedule_of(model)

    def look(step):
        alive.append(torch.cat([u.core.detach() != 0 for u in schedule.updates.values()]))

    loop(model, optimizer, 24, look)
    back = [t for t in range(1, 24) if (alive[t] & ~alive[t - 1]).any()]
    assert [t for t in back if 4 < t <= 20] == [5, 9, 13, 17]  # one step after each choice,
    assert max(back) < 21  # then never
    assert all(torch.equal(alive[t], alive[21]) for t in range(21, 24))


@pytest.mark.parametrize("mode", ["reference", "paper"])
def test_the_penaltys_gradient_in_closed_form(mode):
    model = start("llama", mode=mode, at=0.2, orth_weight=0.3).double()
    schedule = method("llama", mode=mode, orth_weight=0.3).schedule(model, "default")
    wanted = torch.autograd.grad(schedule.penalty(), [p for u in schedule.updates.values() for p in (u.A, u.B)])
    for model_has_gradients in (False, True):
        for p in trained(model):
            p.grad = torch.ones_like(p) if model_has_gradients else None
        schedule.add_penalty_gradient()
        found = [p.grad - float(model_has_gradients) for u in schedule.updates.values() for p in (u.A, u.B)]
        assert all(torch.allclose(f, w, rtol=1e-12, atol=1e-14) for f, w in zip(found, wanted, strict=True))
    assert all(float(g.norm()) > 1e-3 for g in wanted)


def test_orthonormal_factors_have_no_penalty_and_no_gradient():
    model = start(orth_weight=0.3)
    schedule = method(orth_weight=0.3).schedule(model, "default")
    with torch.no_grad():
        for u in schedule.updates.values():
            u.A.copy_(torch.eye(*u.A.shape))
            u.B.copy_(torch.eye(*u.B.shape))
    schedule.add_penalty_gradient()
    assert float(schedule.penalty().detach()) == 0 and all(not u.A.grad.any() for u in schedule.updates.values())


def test_gradcheck():
    layer = torch.nn.Linear(4, 3).double()
    model = torch.nn.Sequential(layer)
    lo.adapt(model, lo.AdaLoRA(target_r=1, init_r=2, alpha=7, target_modules=["0"]))
    update = shaken(model, by=0.5)[0].updates["default"]
    x = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    y = torch.zeros(5, 3, dtype=torch.float64)

    def change(x, A, B, core):
        return torch.func.functional_call(update, {"A": A, "B": B, "core": core}, (x, y, layer))

    assert torch.autograd.gradcheck(change, (x, update.A, update.B, update.core))


@pytest.mark.parametrize("name", MODELS)
def test_merge_disable_route_and_combine(name):
    model = start(name)
    run(model)
    model.eval()
    wanted, base = logits(model), logits(tiny(name))
    assert gap(wanted, base) > 1e-3
    with lo.disabled(model):
        assert torch.equal(logits(model), base)
    with lo.routed(model, ["default", None, "default"]):
        out = logits(model)
    assert gap(out[[0, 2]], wanted[[0, 2]]) < 1e-5 and gap(out[1], base[1]) < 1e-5
    lo.merge(model)
    assert gap(logits(model), wanted) < 1e-5
    lo.unmerge(model)
    lo.combine(model, {"default": 0.5}, "halved")
    lo.set_adapter(model, ["halved", "default"])
    for update in updates(model, "halved").values():
        update.B.data *= -2.0
    assert gap(logits(model), base) < 1e-5  # the half, twice, taken away again
    assert all(method(name).cannot(what) is None for what in ("merge", "route", "combine"))


@pytest.mark.parametrize("mode", ["reference", "paper"])
@pytest.mark.parametrize("cut", [2, 7, 8, 16, 18])
def test_going_on_from_a_state_is_bit_for_bit_the_uninterrupted_run(cut, mode):
    whole = start(mode=mode)
    run(whole)
    first = start(mode=mode)
    optimizer = adamw(first)
    lo.attach(first, optimizer)
    loop(first, optimizer, cut)
    saved = copy.deepcopy((first.state_dict(), optimizer.state_dict(), schedule_of(first).state()))
    assert all(torch.is_tensor(v) or json.dumps(v) for v in saved[2].values())
    loop(first, optimizer, 1)  # what was saved must not move with the model
    second, _ = quiet("gpt2")
    lo.adapt(second, method(mode=mode, total_steps=None), seed=9)
    second.load_state_dict(saved[0])
    optimizer = adamw(second)
    optimizer.load_state_dict(saved[1])
    schedule = lo.attach(second, optimizer, total_steps=20).schedules["default"]
    schedule.load_state(saved[2])
    for step in range(cut, 20):
        ids = (batch(2, 9) + 7 * step) % 90 + 3
        optimizer.zero_grad()
        second(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(trained(second), trained(whole), strict=True))
    assert schedule.history == schedule_of(whole).history and schedule.step == 20


def test_the_rank_schedule_shows_after_lo_train():
    model = start(total_steps=None)
    data = [{"input_ids": ids, "labels": ids.clone()} for ids in batch(8, 9)]
    history = lo.train(model, data, steps=20, batch_size=4, lr=1e-2, progress=False)
    shown = schedule_of(model).history
    assert [entry["step"] for entry in shown] == [0, 4, 6, 8, 10, 12, 14, 16] and shown[-1]["rank"] == 8
    assert list(shown[0]["ranks"]) == list(lo.adapted_layers(model)) and len(history.penalty) == 20
    assert min(shown[-1]["ranks"].values()) < max(shown[-1]["ranks"].values())  # ranks differ: that is the point
    assert min(history.loss) > 0 and history.penalty[-1] < history.penalty[0]


def test_equal_gradients_give_equal_choices():
    one, other = run(start()), run(start())
    assert one.history == other.history and all(torch.equal(one.kept[p], other.kept[p]) for p in one.kept)


def test_importance_where_there_are_gradients_and_nowhere_else():
    model = start(at=0.1)
    schedule = method().schedule(model, "default")
    layer = next(iter(schedule.updates))
    schedule.updates[layer].A.grad = torch.ones_like(schedule.updates[layer].A)
    schedule.smooth |= schedule.measured()
    assert list(schedule.smooth) == [f"{layer}.A"]
    assert [bool(score.any()) for score in schedule.scores().values()] == [True, False, False, False]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_base_dtypes(dtype):
    model, _ = quiet("llama")
    lo.adapt(model.to(dtype), method("llama"))
    assert trained(model)[0].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert run(model).history[-1]["rank"] == 12


# ---- refusals ----
REFUSED = {
    "no fall": ({"init_r": 2}, r"init_r=2, target_r=2.*must be larger"),
    "a rise": ({"init_r": 1}, r"init_r=1, target_r=2"),
    "no budgeting phase": ({"total_steps": 7}, r"total_steps=7 leaves no step between warmup_steps=3"),
    "no masks": ({"every": 17}, r"every=17: no multiple"),
    "mode": ({"mode": "loralib"}, "mode='loralib'"),
    "beta1": ({"beta1": 1.0}, "beta1=1.0"),
    "beta2": ({"beta2": 0}, "beta2=0"),
    "orth_weight": ({"orth_weight": -0.1}, "orth_weight=-0.1"),
    "warm-up": ({"warmup_steps": -1}, "warmup_steps=-1"),
    "final": ({"final_steps": 1.5}, "final_steps=1.5"),
    "every": ({"every": 0}, "every=0"),
    "alpha": ({"alpha": 0}, "alpha=0"),
    "dropout": ({"dropout": 1}, "dropout=1"),
    "length": ({"total_steps": 0}, "total_steps=0"),
    "targets": ({"target_modules": None}, "target_modules is missing"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_at_construction(case):
    changes, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        method(**changes)


@pytest.mark.parametrize(("total", "message"), [(7, "leaves no step"), (None, "must know its length")])
def test_refusals_once_the_length_is_known(total, message):
    model = start(total_steps=None)
    optimizer = adamw(model)
    with pytest.raises(ValueError, match=message):
        lo.attach(model, optimizer, total)
    assert "lowrank_schedules" not in model.__dict__ and not optimizer._optimizer_step_pre_hooks
    if total:
        data = [{"input_ids": ids, "labels": ids} for ids in batch(4, 9)]
        with pytest.raises(ValueError, match=message):
            lo.train(model, data, steps=total, progress=False)


def test_embeddings_are_refused():
    with pytest.raises(ValueError, match=r"wte is an embedding"):
        lo.adapt(tiny(), method(target_modules=["wte", "c_attn"]))
