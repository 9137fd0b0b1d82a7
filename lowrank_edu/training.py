"""One training loop for all chapters: data in, history out. Only parameters with gradients are trained."""

import math
import os
import signal
import threading
from contextlib import contextmanager, nullcontext

import torch

from .batches import collate, evaluate, need_data, need_stream, targets, token_loss, tokenize
from .data import Stream
from .fast import fast_or_plain, kernels
from .history import History
from .processes import add_up_gradients, processes, shares, start_together, total
from .rates import parameter_groups
from .recomputing import recomputing
from .reporting import check_listeners, reporting
from .resuming import Checkpoints, data_mark, trained_state
from .sampling import sample
from .schedules import attach
from .switching import adapter_names

__all__ = ["History", "collate", "evaluate", "sample", "token_loss", "tokenize", "train", "trainable_parameters"]

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
SHAPES = {  # share of the learning rate after share x of the run, behind the warm-up
    "constant": lambda x: 1.0,
    "linear": lambda x: 1 - x,
    "cosine": lambda x: 0.5 * (1 + math.cos(math.pi * x)),
}
OPTIMIZERS = {
    "adamw": lambda groups: torch.optim.AdamW(groups),
    "sgd": lambda groups: torch.optim.SGD(groups, lr=groups[0]["lr"]),
}


def train(
    model,
    data,
    *,
    steps=None,
    epochs=None,
    batch_size=16,
    lr=1e-3,
    seed=0,
    eval_data=None,
    eval_every=None,
    weight_decay=0.0,
    schedule="constant",
    warmup_steps=0,
    accumulate=1,
    max_grad_norm=None,
    label_smoothing=0.0,
    gradient_checkpointing=False,
    precision="auto",
    optimizer="adamw",
    patience=None,
    scorer=None,
    checkpoint_dir=None,
    checkpoint_every=None,
    tensorboard=None,
    progress=True,
    fast=None,
    on_step=None,
    on_eval=None,
    logger=None,
):
    """Train whatever has gradients; returns a History.

    data             examples made by `tokenize` or `read_data`, or a `Stream` of them
    steps            number of optimizer steps, or give epochs
    batch_size       examples of one forward pass of one process; a step has `accumulate` of them in each process, and
                     its loss is the sum over all its target tokens, everywhere, divided by their number
    schedule         "constant", "linear" or "cosine" (both decay to zero), after `warmup_steps` of linear rise
    eval_data        evaluated before the first step, every `eval_every` steps and at the end, with `scorer(model)` if
                     there is one; after `patience` evaluations without a lower loss the run ends
    precision        "fp32", "bf16" or "fp16" (with loss scaling) for the products, weights as they are; "auto": bf16 on
                     a GPU that has it, fp16 on another, fp32 on a CPU; or what `accelerate launch` was told
    gradient_checkpointing   keep the inputs of the blocks only; a third more time, much less memory
    optimizer        "adamw", "sgd", or a function of parameter groups that makes one
    checkpoint_dir   keep what the run needs to go on, every `checkpoint_every` steps, at Ctrl-C and at the end. The
                     same call again continues there, and ends as if it had never been stopped (see `resuming`)
    tensorboard      a folder for TensorBoard: loss, rate and evaluations by step
    progress         a bar on stderr, with the loss of the last step and of the last evaluation. It is redrawn twice a
                     second at most, from numbers that the run has fetched anyway
    logger           wandb, or one of its runs, or what has the same `log(numbers, step=)`: the numbers of TensorBoard,
                     under the same names; or a `logging.Logger`, which gets a line for each evaluation and for about
                     a hundred of the steps
    on_step, on_eval  functions of (step, loss, model), called after each step and each evaluation; see below
    fast             True or False: the fast path (see `lowrank_edu.fast`) or the plain one for this run; None: as the
                     model is. A run goes on only on the path on which it began

    `on_step` is called when a step is complete: the optimizer and the schedules have moved, and gradients are still
    those of the step. `on_eval` is called after each evaluation, with the model in eval mode, so also before the first
    step, as step 0. Both come before the checkpoint of their step; only the last evaluation comes after it. A callback
    that returns True ends the run after this step, as `patience` does: with a checkpoint, a last evaluation, and the
    reason in `History.stopped`; the same call again returns that history. Any other value means go on. If one raises,
    the error comes out of `train`; the model is as it was when the callback was called, and the checkpoints are those
    of earlier steps, so that the same call continues from there. Random numbers that a callback draws, and
    `model.eval()` in it, change nothing in the run. With several processes it is called in each.

    Under torchrun or `accelerate launch` every process calls this with the same data and settings; see `processes`.

    A method's schedule runs by itself; one that has begun goes on (see `attach`). Order and dropout follow `seed`
    alone; the caller's random state is put back. Raises ValueError when nothing is trainable or an adapter is merged,
    and FloatingPointError with the step when the loss or its gradient is no longer finite: the parameters are then
    those before that step.
    """
    steps = _checked(steps, epochs, data, batch_size, accumulate, lr, schedule, warmup_steps, eval_every)
    _checked_settings(precision, optimizer, label_smoothing, max_grad_norm, patience, eval_data, checkpoint_every)
    check_listeners(logger, on_step, on_eval)
    need_stream(model, data) if isinstance(data, Stream) else need_data(model, data)
    parameters = trainable_parameters(model)
    settings = {
        "steps": steps, "batch_size": batch_size, "accumulate": accumulate, "lr": lr, "seed": seed,
        "schedule": schedule, "warmup_steps": warmup_steps, "weight_decay": weight_decay, "precision": precision,
        "label_smoothing": label_smoothing, "max_grad_norm": max_grad_norm,
        "optimizer": getattr(optimizer, "__name__", optimizer),
        "gradient_checkpointing": gradient_checkpointing, "eval_every": eval_every, "patience": patience,
        "fast": kernels(model, fast),
    }  # fmt: skip
    here = processes()
    if here.num_processes > 1:
        start_together(model, trained_state(model).values(), {"data": data_mark(data)} | settings)
    device, was_training, history = parameters[0].device, model.training, History()
    engine = OPTIMIZERS.get(optimizer, optimizer)(parameter_groups(model, lr, weight_decay))
    rates = torch.optim.lr_scheduler.LambdaLR(engine, lambda t: _rate(schedule, t, warmup_steps, steps))
    schedules = attach(model, engine, steps, penalty_in_loss=True) if adapter_names(model) else None
    cast, scaler = _precision(precision, device)

    def note_eval(step):
        if eval_data is not None and step not in history.eval_step:
            model.eval()  # for the scorer, too
            with cast():
                loss = evaluate(model, eval_data, together=True)
            score = None if scorer is None else float(scorer(model))
            history.eval_step.append(step)
            history.eval_loss.append(loss)
            history.score += [] if score is None else [score]
            asked = tell.evaluated(step, loss, score, model)
            history.stopped = history.stopped or asked

    forked = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
    try:
        path, listeners = fast_or_plain(model, fast), {"logger": logger, "on_step": on_step, "on_eval": on_eval}
        told = reporting(steps, device, progress=progress, tensorboard=tensorboard, **listeners)
        with forked, path, recomputing(model, gradient_checkpointing), _stoppable() as stop, told as tell:
            torch.manual_seed(seed + here.process_index)  # dropout differs between processes
            kept = Checkpoints(
                checkpoint_dir, model, engine, rates, scaler, schedules, data, history, settings, eval_data
            )
            done = kept.resume()
            size = batch_size * accumulate * here.num_processes
            batches = _batches(data, size, torch.Generator().manual_seed(seed), done)
            note_eval(0)
            model.train()
            for step in tell.steps(done):
                if history.stopped:
                    break
                rows = next(batches)
                count = max(sum(targets(row["labels"]) for row in rows), 1)  # there may be no target at all
                parts = [collate(part, device) for part in shares(rows, batch_size)]
                engine.zero_grad(set_to_none=True)
                loss, penalty = _gradients(model, parts, count, label_smoothing, schedules, cast, scaler)
                add_up_gradients(parameters)
                loss, asked = total([loss, stop.is_set()], device)  # all stop, or none
                _clip(parameters, max_grad_norm, engine, scaler)
                if not _finite(loss, parameters, scaler):
                    raise FloatingPointError(_diverged(loss, step, lr))
                rate = rates.get_last_lr()[0]
                if _take(engine, scaler):
                    rates.step()
                history.step.append(step)
                history.loss.append(loss)
                history.penalty += [] if penalty is None else [float(penalty)]
                history.stopped = tell.stepped(step, loss, rate, model)
                if eval_every and step % eval_every == 0 and step < steps:
                    note_eval(step)
                    model.train()
                    history.stopped = history.stopped or _early(history, patience)
                if kept.due(step, checkpoint_every, asked or step == steps or history.stopped):
                    kept.save(step)
                if asked:
                    raise KeyboardInterrupt(f"stopped after step {step} of {steps}. {kept.advice()}")
            note_eval(history.step[-1] if history.step else 0)
    finally:
        engine.zero_grad(set_to_none=True)
        model.train(was_training)
        if schedules is not None:
            schedules.detach()
    return history


def _gradients(model, parts, count, label_smoothing, schedules, cast, scaler):
    """Backward of one step, micro-batch by micro-batch: (this process's part of the loss per target token, penalty or
    None), detached. `count` is the number of target tokens of the step in all processes."""
    loss, penalty = 0.0, None
    for number, part in enumerate(parts, 1):
        with cast():
            summed, _ = token_loss(model, part, label_smoothing)
        share = summed / count
        loss = loss + share.detach()
        if number == len(parts) and schedules is not None:
            penalty = schedules.penalty()
            share = share if penalty is None else share + penalty / processes().num_processes  # counted once in all
        (share if scaler is None else scaler.scale(share)).backward()
    return loss, None if penalty is None else penalty.detach()


def _clip(parameters, max_grad_norm, engine, scaler):
    if max_grad_norm is not None:
        if scaler is not None:
            scaler.unscale_(engine)
        torch.nn.utils.clip_grad_norm_(parameters, max_grad_norm)


def _finite(loss, parameters, scaler):
    """Loss and gradients are numbers. With loss scaling a gradient may overflow: that step is left out instead."""
    found = [] if scaler is not None else [p.grad for p in parameters if p.grad is not None]
    return math.isfinite(loss) and all(torch.isfinite(value).all() for value in found)


def _take(engine, scaler):
    """One optimizer step; False if loss scaling left it out."""
    if scaler is None:
        engine.step()
        return True
    before = scaler.get_scale()
    scaler.step(engine)
    scaler.update()
    return scaler.get_scale() >= before


def _diverged(loss, step, lr):
    return (
        f"the loss is {loss} at step {step}, and it or its gradient is not finite; the parameters are those "
        f"before this step. The usual cause is a learning rate that is too high: lr={lr}; try a tenth."
    )


def _rate(schedule, t, warmup, steps):
    """Share of the learning rate in step t + 1."""
    return (t + 1) / warmup if t < warmup else SHAPES[schedule]((t - warmup) / max(steps - warmup, 1))


def _precision(precision, device):
    """(a context for the forward pass, a GradScaler or None)."""
    asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")  # "no" is also what nobody asked for
    if precision == "auto" and asked in PRECISIONS:
        precision = asked
    if precision == "auto":
        on_gpu = "bf16" if device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 8 else "fp16"
        precision = on_gpu if device.type == "cuda" else "fp32"
    if precision == "fp32":
        return nullcontext, None
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    scaler = torch.amp.GradScaler(device.type) if precision == "fp16" else None
    return lambda: torch.autocast(device.type, dtype), scaler


def _early(history, patience):
    """Why to stop now, or None."""
    if patience is None or len(history.eval_loss) <= patience:
        return None
    best = min(range(len(history.eval_loss)), key=history.eval_loss.__getitem__)
    if len(history.eval_loss) - 1 - best < patience:
        return None
    return f"no lower loss in {patience} evaluations; the lowest was at step {history.eval_step[best]}"


@contextmanager
def _stoppable():
    """An event that Ctrl-C sets, so that a step is never cut in half. A second Ctrl-C stops at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.getsignal(signal.SIGINT)

    def ask(number, frame):
        signal.signal(signal.SIGINT, before)
        stop.set()

    signal.signal(signal.SIGINT, ask)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def _batches(data, size, generator, skipped):
    """Endless lists of examples, in a new order each epoch; a stream in its own order, from where it stands."""
    while isinstance(data, Stream):
        yield [next(data) for _ in range(size)]
    while True:
        for part in torch.randperm(len(data), generator=generator).split(size):
            skipped -= 1
            if skipped < 0:
                yield [data[i] for i in part.tolist()]


def trainable_parameters(model):
    """The parameters that training will move; ValueError when there are none or when W0 is merged away."""
    from .adapting import adapted_layers

    if any(layer.kept is not None for layer in adapted_layers(model).values()):
        raise ValueError("an adapter is merged, so its factors are not in use. Call unmerge(model) before training.")
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError("no parameter has a gradient. Call adapt first, or load_adapter(…, trainable=True).")
    return parameters


def _checked(steps, epochs, data, batch_size, accumulate, lr, schedule, warmup_steps, eval_every):
    """The number of steps; ValueError for settings that cannot be."""
    if (steps is None) == (epochs is None):
        raise ValueError(f"steps={steps}, epochs={epochs}: give one of them.")
    if schedule not in SHAPES:
        raise ValueError(f"schedule={schedule!r} is not one of {', '.join(map(repr, SHAPES))}.")
    counts = {"batch_size": batch_size, "steps": steps, "epochs": epochs, "eval_every": eval_every}
    counts |= {"accumulate": accumulate, "warmup_steps": warmup_steps or None}
    for name, value in counts.items():
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ValueError(f"{name}={value!r}: a whole number ≥ 1.")
    if not lr > 0:
        raise ValueError(f"lr={lr!r}: a learning rate is > 0; adapters usually want 1e-4 to 1e-2.")
    if steps is None and isinstance(data, Stream):
        raise ValueError("a stream has no end to count epochs by: give steps.")
    return steps or epochs * -(-len(data) // (batch_size * accumulate * processes().num_processes))


def _checked_settings(precision, optimizer, label_smoothing, max_grad_norm, patience, eval_data, checkpoint_every):
    rules = [
        (precision in PRECISIONS, f"precision={precision!r} is not one of {', '.join(map(repr, PRECISIONS))}."),
        (optimizer in OPTIMIZERS or callable(optimizer), f"optimizer={optimizer!r} is not one of {list(OPTIMIZERS)}, "
         "nor a function of parameter groups."),
        (0 <= label_smoothing < 1, f"label_smoothing={label_smoothing!r}: a number from 0 to below 1."),
        (max_grad_norm is None or max_grad_norm > 0, f"max_grad_norm={max_grad_norm!r}: a number > 0."),
        (patience is None or eval_data is not None, "patience counts evaluations: give eval_data and eval_every."),
        (checkpoint_every is None or checkpoint_every >= 1, f"checkpoint_every={checkpoint_every!r}: a number ≥ 1."),
    ]  # fmt: skip
    for holds, problem in rules:
        if not holds:
            raise ValueError(problem)
