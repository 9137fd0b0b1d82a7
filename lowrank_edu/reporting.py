"""What a run tells while it goes: to the bar, to curves and loggers, and to the functions that you hand to `train`."""

import logging
from contextlib import contextmanager

import torch
from tqdm import tqdm  # the text bar: a widget bar is dead on a page, and its text differs from run to run

from .board import board
from .processes import processes, total

REDRAWN = 0.5  # seconds between two drawings of the bar


@contextmanager
def reporting(steps, device, *, progress=True, tensorboard=None, logger=None, on_step=None, on_eval=None):
    """A Reporter for one run of `steps` steps; its bar and curves are closed behind it."""
    first = processes().is_main_process
    with board(tensorboard if first else None) as curves:
        log = log_to(logger, steps) if first else None
        writers = [curves] if log is None else [curves, log]
        found = Reporter(steps, device, progress and first, writers, on_step, on_eval)
        try:
            yield found
        finally:
            if found.bar is not None:
                found.bar.close()


class Reporter:
    """Who is told what, after a step and after an evaluation. See `train` for what a callback may do."""

    def __init__(self, steps, device, shown, writers, on_step, on_eval):
        self.last, self.device, self.shown, self.writers = steps, device, shown, writers
        self.callbacks = {"on_step": on_step, "on_eval": on_eval}
        self.bar, self.beside = None, {}

    def steps(self, done):
        """The numbers of the steps that are left, shown as a bar on stderr with the last losses."""
        self.bar = tqdm(
            range(done + 1, self.last + 1), disable=not self.shown, desc="training", unit="step", mininterval=REDRAWN
        )
        return self.bar

    def stepped(self, step, loss, rate, model):
        """After a step. Returns why the run is to end, or None."""
        self._show(loss=loss)
        self._write(step, loss=loss, learning_rate=rate)
        return self._call("on_step", step, loss, model)

    def evaluated(self, step, loss, score, model):
        """After an evaluation. Returns why the run is to end, or None."""
        self._show(eval=loss)
        self._write(step, eval_loss=loss, **({} if score is None else {"score": score}))
        return self._call("on_eval", step, loss, model)

    def _show(self, **losses):
        self.beside |= {key: f"{loss:.3f}" for key, loss in losses.items()}
        if self.bar is not None:
            self.bar.set_postfix(self.beside, refresh=False)  # drawn when the bar is, not here

    def _write(self, step, **numbers):
        for write in self.writers:
            write(step, **numbers)

    def _call(self, name, step, loss, model):
        asked = False
        if self.callbacks[name] is not None:
            was_training = model.training
            with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
                asked = self.callbacks[name](step, loss, model) is True
            model.train(was_training)
        if processes().num_processes > 1:  # all stop, or none
            asked = total([asked], self.device)[0] > 0
        return f"{name} ended the run after step {step}" if asked and step < self.last else None


def check_listeners(logger, on_step, on_eval):
    """ValueError for what cannot be called or logged to, before anything has begun."""
    for name, value in (("on_step", on_step), ("on_eval", on_eval)):
        if value is not None and not callable(value):
            raise ValueError(f"{name}={value!r}: a function of (step, loss, model).")
    if logger is not None and not callable(getattr(logger, "log", None)):
        raise ValueError(
            f"logger={logger!r} has no log: give wandb or one of its runs, whose log takes (numbers, step=), "
            "or a logging.Logger."
        )


def log_to(logger, steps):
    """A function write(step, **numbers) that tells a logger, or None without one.

    A `logging.Logger` gets lines at level INFO, about a hundred of the steps and every evaluation; anything else is
    called as wandb is, `logger.log(numbers, step=step)`, with everything.
    """
    if logger is None:
        return None
    if not isinstance(logger, logging.Logger | logging.LoggerAdapter):
        return lambda step, **numbers: logger.log(numbers, step=step)
    every = max(1, steps // 100)

    def write(step, **numbers):
        if "eval_loss" in numbers or step % every == 0 or step in (1, steps):
            told = ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())
            logger.info("step %d of %d: %s", step, steps, told)

    return write
