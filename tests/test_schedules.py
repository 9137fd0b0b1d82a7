"""Schedules in anyone's loop: hand-written, accelerate, the Hugging Face Trainer, GradScaler; and who forgets them."""

import copy
import gc
import pickle

import accelerate
import pytest
import torch
import transformers
from loops import copies, quiet, trained
from models_zoo import batch, gap, is_rounding, logits

import lowrank_edu as lo
from lowrank_edu import schedules
from lowrank_edu.reminding import remind
from lowrank_edu.schedules import forget, schedule_of

STEPS, LR, EPS = 6, 1e-2, 1e-4  # an eps that keeps Adam from blowing rounding errors up
ROWS = batch(1, 9).repeat(4, 1)  # all alike, so that a loop may shuffle them
METHOD = lo.AdaLoRA(target_r=2, init_r=4, alpha=7, target_modules=["c_attn", "c_fc"], warmup_steps=1, final_steps=1,
                    orth_weight=0.3, total_steps=STEPS)  # fmt: skip


def start(method=METHOD):
    """(model in training mode, its optimizer), always the same."""
    model, _ = quiet("gpt2")
    lo.adapt(model, method)
    return model, optimizer_of(model)


def optimizer_of(model, **settings):
    return torch.optim.AdamW(trained(model), lr=LR, eps=EPS, weight_decay=0.0, **settings)


def backward(model, rows=slice(None), share=1.0):
    ids = ROWS[rows]
    (model(input_ids=ids, labels=ids).loss * share).backward()


def by_hand(model, optimizer, steps=STEPS):
    for _ in range(steps):
        optimizer.zero_grad()
        backward(model)
        optimizer.step()


def accumulated(model, optimizer):
    for _ in range(STEPS):
        optimizer.zero_grad()
        for rows in (slice(0, 2), slice(2, 4)):
            backward(model, rows, share=0.5)
        optimizer.step()


def with_closure(model, optimizer):
    def closure():
        optimizer.zero_grad()
        backward(model)

    for _ in range(STEPS):
        optimizer.step(closure)


def with_scaler(model, optimizer):
    """GradScaler meets Inf in its third step and skips it; the schedule must skip it too."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for step in range(STEPS + 1):
        optimizer.zero_grad()
        ids = ROWS
        scaler.scale(model(input_ids=ids, labels=ids).loss).backward()
        if step == 2:
            trained(model)[0].grad[0] = torch.inf
        scaler.step(optimizer)
        scaler.update()


def on_accelerate(model, optimizer, accumulate=1):
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=accumulate)
    model, optimizer = accelerator.prepare(model, optimizer)
    attachment = lo.attach(model, optimizer, STEPS)
    for _ in range(STEPS):
        for part in torch.arange(4).chunk(accumulate):
            with accelerator.accumulate(model):
                ids = ROWS[part]
                accelerator.backward(model(input_ids=ids, labels=ids).loss)
                optimizer.step()
                optimizer.zero_grad()
    attachment.detach()


def huggingface(model, folder, accumulate=1, **settings):
    arguments = transformers.TrainingArguments(
        folder, max_steps=STEPS, per_device_train_batch_size=4 // accumulate, gradient_accumulation_steps=accumulate,
        learning_rate=LR, lr_scheduler_type="constant", max_grad_norm=0.0, adam_epsilon=EPS,
        disable_tqdm=True, use_cpu=True, report_to=[], save_strategy="no", logging_strategy="no",
    )  # fmt: skip
    first = torch.arange(ROWS.shape[1]) == 0  # the Trainer divides by all labels, also the one that nobody predicts
    rows = [{"input_ids": ids, "labels": ids.masked_fill(first, -100)} for ids in ROWS]
    return transformers.Trainer(model, arguments, train_dataset=rows, **settings)


def assert_same(model, wanted):
    """Trained to the same weights, after the same number of steps, with the same choices."""
    for key, value in copies(wanted).items():
        assert is_rounding(key) or gap(model.get_parameter(key), value) < 2e-6, key
    ours, theirs = schedule_of(model), schedule_of(wanted)
    assert ours.step == theirs.step == STEPS and ours.history == theirs.history
    assert len(ours.history) > 1, "the schedule had something to do"


@pytest.fixture(scope="module")
def wanted():
    """What the plain loop makes of it."""
    model, optimizer = start()
    with lo.attach(model, optimizer):
        by_hand(model, optimizer)
    history = schedule_of(model).history
    assert history[-1]["rank"] == 2 * 4 < history[0]["rank"]
    return model


LOOPS = {"plain": by_hand, "accumulating gradients": accumulated, "closure": with_closure, "GradScaler": with_scaler}


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("loop", LOOPS)
def test_every_hand_written_loop(loop, fused, wanted):
    model, _ = start()
    optimizer = optimizer_of(model, fused=fused)
    lo.attach(model, optimizer)
    LOOPS[loop](model, optimizer)
    assert_same(model, wanted)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_accelerate_whose_optimizer_is_a_wrapper(accumulate, wanted):
    model, optimizer = start()
    on_accelerate(model, optimizer, accumulate)
    assert_same(model, wanted)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_hugging_face_trainer(accumulate, wanted, tmp_path):
    model, optimizer = start()
    lo.attach(model, optimizer)
    huggingface(model, tmp_path, accumulate, optimizers=(optimizer, None)).train()
    assert_same(model, wanted)


def test_the_hugging_face_trainer_with_its_own_optimizer(wanted, tmp_path):
    model, _ = start()
    trainer = huggingface(model, tmp_path)
    lo.attach(model, trainer.create_optimizer())
    trainer.train()
    assert_same(model, wanted)


OTHERS = {
    "LaMDA": lo.LaMDA(r=4, target_modules=["c_attn", "c_fc"], freeze_share=0.5),
    "AFLoRA": lo.AFLoRA(r=3, target_modules=["c_attn", "c_fc"], warmup_share=0.1, final_share=0.3, every=1),
    "LISA": lo.LISA(active_blocks=1, every=2),
}


@pytest.mark.parametrize("name", OTHERS)
def test_the_other_schedules_follow_accelerate_and_the_trainer(name, tmp_path):
    (plain, optimizer), (first, its), (second, _) = (start(OTHERS[name]) for _ in range(3))
    with lo.attach(plain, optimizer, STEPS):
        by_hand(plain, optimizer)
    on_accelerate(first, its)
    assert_same(first, plain)
    trainer = huggingface(second, tmp_path, 2)
    lo.attach(second, trainer.create_optimizer(), STEPS)
    trainer.train()
    assert_same(second, plain)


def test_the_hugging_face_trainer_without_attach_stops(tmp_path):
    model, _ = start()
    with pytest.raises(RuntimeError, match=r"adapter 'default'.*AdaLoRA.*lo\.attach\(model, optimizer\)"):
        huggingface(model, tmp_path).train()


class Inherited(torch.optim.AdamW):
    """Its step calls that of AdamW, and torch runs the hooks in both."""

    def step(self, closure=None):
        return super().step(closure)


@pytest.mark.parametrize("loop", [by_hand, with_closure])
def test_a_step_inside_the_step_of_a_subclass_counts_once(loop, wanted):
    model, _ = start()  # AdamW's own step has its hooks from here on
    optimizer = Inherited(trained(model), lr=LR, eps=EPS, weight_decay=0.0)
    lo.attach(model, optimizer)
    loop(model, optimizer)
    assert schedule_of(model).step == STEPS
    assert_same(model, wanted)


def examples():
    return [{"input_ids": ids, "labels": ids.clone()} for ids in ROWS]


@pytest.mark.parametrize("mode", ["reference", "paper"])
def test_train_adds_the_penalty_to_the_loss_and_reports_the_task_loss(mode):
    """The hook adds the gradient of the penalty in closed form, lo.train lets autograd find it: same weights."""
    method = lo.AdaLoRA(**{**vars(METHOD), "mode": mode, "orth_weight": 0.05})
    (model, _), (other, _) = start(method), start(method)
    optimizer = torch.optim.AdamW(trained(other), lr=LR, weight_decay=0.0)
    history = lo.train(model, examples(), steps=STEPS, batch_size=4, lr=LR, progress=False)
    losses, penalties = [], []
    with lo.attach(other, optimizer) as attachment:
        for _ in range(STEPS):
            optimizer.zero_grad()
            ids = ROWS
            loss = other(input_ids=ids, labels=ids).loss
            loss.backward()
            losses.append(float(loss.detach()))
            penalties.append(float(attachment.penalty().detach()))
            optimizer.step()
    assert max(gap(p, q) for p, q in zip(trained(model), trained(other), strict=True)) < 2e-6
    assert torch.allclose(torch.tensor(history.loss), torch.tensor(losses), atol=1e-5)
    assert torch.allclose(torch.tensor(history.penalty), torch.tensor(penalties), rtol=1e-5)
    assert schedule_of(model).history == schedule_of(other).history
    assert schedules.attached_to(model) is None  # lo.train detaches at its end


def test_the_penalty_is_zero_without_a_weight_and_there_is_none_for_lora():
    for method in (lo.AdaLoRA(**{**vars(METHOD), "orth_weight": 0.0}), lo.LoRA(target_modules=["c_attn"])):
        model, _ = start(method)
        assert lo.train(model, examples(), steps=2, lr=LR, progress=False).penalty == []


def test_training_goes_on_where_the_schedule_stands():
    model, _ = start()
    lo.train(model, examples(), steps=2, lr=LR, progress=False)
    assert schedule_of(model).step == 2 and schedule_of(model).kept is None
    lo.train(model, examples(), steps=4, lr=LR, progress=False)
    assert schedule_of(model).step == STEPS and schedule_of(model).kept is not None


# ---- forgetting ----
def by_hand_without_optimizer(model):
    backward(model)
    with torch.no_grad():
        for p in trained(model):
            p -= 0.1 * p.grad
            p.grad = None


def one_step(**settings):
    return lambda model: by_hand(model, optimizer_of(model, **settings), steps=1)


TRAINERS = {"adamw": one_step(), "foreach": one_step(foreach=True), "fused": one_step(fused=True),
            "no optimizer": by_hand_without_optimizer}  # fmt: skip


@pytest.mark.parametrize("how", TRAINERS)
def test_training_without_the_schedule_raises_at_the_next_step_and_at_the_next_save(how, tmp_path):
    model, _ = start()
    TRAINERS[how](model)
    with pytest.raises(RuntimeError, match=r"'default'.*AdaLoRA.*lo\.attach"):
        backward(model)
    with pytest.raises(RuntimeError, match=r"'default'.*AdaLoRA.*lo\.attach"):
        lo.save_adapter(model, tmp_path / "here")
    assert not (tmp_path / "here").exists()
    model.eval()
    logits(model)  # looking at what came out is no training


def test_training_in_eval_mode_is_noticed_too_and_measuring_is_not(tmp_path):
    model, optimizer = start()
    model.eval()
    for _ in range(3):  # as finite differences do
        backward(model)
        with torch.no_grad():
            trained(model)[0].add_(0.1)
    lo.save_adapter(model, tmp_path / "a")
    by_hand(model, optimizer, steps=1)
    with pytest.raises(RuntimeError, match=r"lo\.attach"):
        backward(model)
    with pytest.raises(RuntimeError, match=r"lo\.attach"):
        lo.save_adapter(model, tmp_path / "a")
    lo.attach(model.train(), optimizer)  # from here on it is right again
    by_hand(model, optimizer, steps=2)
    lo.save_adapter(model, tmp_path / "a")


def test_attached_to_another_optimizer(tmp_path):
    model, optimizer = start()
    lo.attach(model, optimizer)
    other = optimizer_of(model)
    by_hand(model, other, steps=1)
    with pytest.raises(RuntimeError, match=r"with the optimizer that takes the steps"):
        by_hand(model, other, steps=1)
    with pytest.raises(RuntimeError):
        lo.save_adapter(model, tmp_path)


def test_a_model_whose_own_forward_never_ran_is_looked_at_when_saving(tmp_path):
    model, optimizer = start()
    model.transformer(input_ids=ROWS).last_hidden_state.square().sum().backward()
    optimizer.step()
    with pytest.raises(RuntimeError, match=r"lo\.attach"):
        lo.save_adapter(model, tmp_path)


def test_attaching_again_makes_it_right_again(tmp_path):
    model, optimizer = start()
    with lo.attach(model, optimizer):
        by_hand(model, optimizer, steps=1)
    by_hand(model, optimizer, steps=1)
    with pytest.raises(RuntimeError, match=r"lo\.attach"):
        backward(model)
    lo.attach(model, optimizer)
    by_hand(model, optimizer, steps=1)
    lo.save_adapter(model, tmp_path)


def test_what_is_no_training_raises_nothing(tmp_path):
    model, optimizer = start()
    lo.save_adapter(model, tmp_path / "fresh")
    again, _ = quiet("gpt2")
    lo.load_adapter(again, tmp_path / "fresh")
    lo.save_adapter(again, tmp_path / "again")
    for m in (model, again):
        for _ in range(3):  # several forward passes of one step, other modes in between
            backward(m)
            m.eval()
            logits(m)
            m.train()
        m.load_state_dict(m.state_dict())  # changes every tensor in place
        backward(m)
        backward(copy.deepcopy(m))
        backward(pickle.loads(pickle.dumps(m)))
    lo.attach(model, optimizer)
    optimizer.zero_grad()
    by_hand(model, optimizer, steps=2)
    lo.save_adapter(model, tmp_path / "trained")


def test_a_sleeping_adapter_is_not_watched_and_does_not_move():
    model, _ = start()
    lo.adapt(model, lo.LoRA(r=3, target_modules=["c_attn"]), name="plain")
    by_hand(model, optimizer_of(model), steps=2)
    lo.set_adapter(model, ["default", "plain"])
    optimizer = optimizer_of(model)
    lo.attach(model, optimizer)
    by_hand(model, optimizer, steps=2)
    lo.set_adapter(model, "plain")
    by_hand(model, optimizer, steps=2)
    assert schedule_of(model).step == 2


def test_a_sleeping_adapter_needs_no_length_and_has_no_penalty():
    model, _ = start(lo.AdaLoRA(**{**vars(METHOD), "total_steps": None}))
    lo.adapt(model, lo.LoRA(r=3, target_modules=["c_attn"]), name="plain")
    with lo.attach(model, optimizer_of(model)) as attachment:
        assert attachment.schedules == {}
    lo.set_adapter(model, "default")
    with lo.attach(model, optimizer_of(model), STEPS) as attachment:
        assert attachment.penalty() > 0
        lo.set_adapter(model, "plain")
        assert attachment.penalty() is None


def test_a_step_without_gradients_does_not_count():
    model, optimizer = start()
    lo.attach(model, optimizer)
    by_hand(model, optimizer, steps=1)
    before = copies(model)
    optimizer.zero_grad()
    optimizer.step()
    assert schedule_of(model).step == 1
    assert all(torch.equal(p, before[key]) for key, p in model.named_parameters())


def hooks(model):
    return [hook for hook in model._forward_pre_hooks.values() if hook is remind]


def test_the_reminder_leaves_with_the_adapter():
    model, optimizer = start()
    lo.attach(model, optimizer).detach()
    assert len(hooks(model)) == 1
    lo.adapt(model, lo.LoRA(target_modules=["c_attn"]), name="plain")
    assert len(hooks(model)) == 1  # one for the whole model
    lo.delete_adapter(model, "default")
    assert not hooks(model) and not model._load_state_dict_post_hooks
    with pytest.raises(ValueError, match="no schedule"):
        schedule_of(model)
    model, optimizer = start()
    lo.attach(model, optimizer).detach()
    lo.unwrap(model)
    assert not hooks(model) and not [key for key in model.__dict__ if key.startswith("lowrank")]


# ---- attaching ----
def test_attaching_twice_raises_and_detaching_allows_it_again():
    model, optimizer = start()
    attachment = lo.attach(model, optimizer)
    for which, other in {"this": optimizer, "another": optimizer_of(model)}.items():
        with pytest.raises(ValueError, match=rf"{which} optimizer.*detach"):
            lo.attach(model, other)
    with pytest.raises(ValueError, match="detach"):
        lo.train(model, examples(), steps=1, progress=False)
    by_hand(model, optimizer, steps=2)
    attachment.detach()
    assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks
    with lo.attach(model, optimizer) as attachment:
        by_hand(model, optimizer, steps=1)
        assert attachment.schedules["default"].step == 3  # it goes on
    assert schedules.attached_to(model) is None


def test_an_optimizer_that_is_gone_is_no_obstacle():
    """A notebook cell that makes an optimizer and attaches it can be run again."""
    model, _ = start()
    gc.disable()
    try:
        for _ in range(2):
            optimizer = optimizer_of(model)
            optimizer.itself = optimizer  # a cycle, as learning-rate schedulers make one
            attachment = lo.attach(model, optimizer)
            by_hand(model, optimizer, steps=1)
    finally:
        gc.enable()
    assert attachment.schedules["default"].step == 2


def wrong_parameters(model):
    return torch.optim.AdamW([torch.nn.Parameter(torch.zeros(3))])


def some_parameters(model):
    return torch.optim.AdamW(trained(model)[:-1])


REFUSED = {
    "no adapter": (lambda m: lo.delete_adapter(m, "default"), optimizer_of, {}, "no adapter"),
    "an optimizer of something else": (None, wrong_parameters, {}, "does not hold 12 of the trained parameters"),
    "an optimizer of a part": (None, some_parameters, {}, "does not hold 1 of the trained parameters"),
    "no optimizer": (None, lambda m: "adamw", {}, "'adamw' is not a torch optimizer"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_change_nothing(case):
    prepare, make, settings, message = REFUSED[case]
    model, _ = start()
    optimizer = make(model)
    if prepare:
        prepare(model)
    before = set(model.__dict__)
    with pytest.raises(ValueError, match=message):
        lo.attach(model, optimizer, **settings)
    assert set(model.__dict__) == before and schedules.attached_to(model) is None
    assert not getattr(optimizer, "_optimizer_step_pre_hooks", None)


def test_a_method_without_a_schedule_may_be_attached():
    model, optimizer = start(lo.LoRA(target_modules=["c_attn"]))
    with lo.attach(model, optimizer) as attachment:
        by_hand(model, optimizer, steps=2)
    assert attachment.schedules == {} and attachment.penalty() is None
    assert not lo.LoRA(target_modules=["c_attn"]).scheduled and METHOD.scheduled


def test_a_copy_has_a_schedule_of_its_own(wanted):
    model, optimizer = start()
    lo.attach(model, optimizer)
    by_hand(model, optimizer, steps=2)
    twin = copy.deepcopy(model)
    second = optimizer_of(twin)
    second.load_state_dict(optimizer.state_dict())
    del model, optimizer
    gc.collect()
    lo.attach(twin, second)
    by_hand(twin, second, steps=STEPS - 2)
    assert_same(twin, wanted)


class Failing(torch.optim.AdamW):
    broken = False

    @torch.no_grad()
    def step(self, closure=None):
        if self.broken:
            raise OSError("the machine is on fire")
        return super().step(closure)


@pytest.mark.parametrize("mode", ["reference", "paper"])
def test_a_failing_step_leaves_the_schedule_as_it_was(mode):
    runs = []
    for fails in (False, True):
        model, _ = start(lo.AdaLoRA(**{**vars(METHOD), "mode": mode}))
        optimizer = Failing(trained(model), lr=LR, weight_decay=0.0)
        lo.attach(model, optimizer)
        by_hand(model, optimizer, steps=2)
        if fails:
            before, optimizer.broken = schedule_of(model).state(), True
            with pytest.raises(OSError):
                by_hand(model, optimizer, steps=1)
            after, optimizer.broken = schedule_of(model).state(), False
            assert before.keys() == after.keys()
            assert all(torch.equal(v, after[k]) if torch.is_tensor(v) else v == after[k] for k, v in before.items())
        by_hand(model, optimizer, steps=STEPS - 2)
        runs.append(model)
    assert all(torch.equal(p, q) for p, q in zip(trained(runs[0]), trained(runs[1]), strict=True))


def test_forget_frees_the_moments_of_a_frozen_parameter():
    model, optimizer = start(lo.LoRA(target_modules=["c_attn"]))
    by_hand(model, optimizer, steps=1)
    update = next(iter(lo.adapted_layers(model).values())).updates["default"]
    update.fix("B")
    forget(optimizer, update.B)
    before = update.B.detach().clone()
    by_hand(model, optimizer, steps=2)
    assert update.B not in optimizer.state and update.A in optimizer.state and torch.equal(update.B, before)
