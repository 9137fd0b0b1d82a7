"""AFLoRA: two vectors are trained throughout, the matrices between them only until their scores fall."""

from dataclasses import dataclass

import torch

from ..inits import uniform
from ..schedules import Schedule, forget
from ..updates import LowRank
from .common import beside, check_count, require
from .ranked import Ranked


@dataclass(frozen=True)
class AFLoRA(Ranked):
    """ΔW = Λ_b B Λ_d A; A and B are frozen one whole matrix at a time, Λ_b and Λ_d (d_out and r numbers) stay.

    Liu et al. 2024 (arXiv 2403.13269), after the authors' code. A and B start uniform in ±√(6/d_in) and ±√(6/r)
    (Kaiming with a=0), λ_d = 0.1, λ_b = 0. There is no α/r.

    warmup_share   share of the run before anything freezes. The scripts: 1 epoch of 10 or 20
    final_share    share of the run after everything is frozen. The scripts: 7 epochs of 10, 14 of 20
    every          ΔT, steps between two decisions and length of the window over which gradients are averaged
    beta1, beta2   EMA of the importance and of its uncertainty
    """

    r: int = 4
    warmup_share: float = 0.05
    final_share: float = 0.7
    every: int = 10
    beta1: float = 0.85
    beta2: float = 0.95

    def __post_init__(self):
        super().__post_init__()
        check_count("every", self.every)
        for what in ("beta1", "beta2"):
            require(0 < getattr(self, what) < 1, f"{what}={getattr(self, what)!r}: between 0 and 1.")
        warm, final = self.warmup_share, self.final_share
        require(
            0 <= warm and 0 <= final and warm + final < 1,
            f"warmup_share={warm!r} and final_share={final!r}: shares of the run that leave some of it for freezing.",
        )

    def update(self, W0, r, generator):
        d_out, d_in = W0.shape
        A, B = uniform((r, d_in), (6 / d_in) ** 0.5, generator), uniform((d_out, r), (6 / r) ** 0.5, generator)
        A, B, d, b = beside(W0, A, B, torch.full((r,), 0.1), torch.zeros(d_out))
        return LowRank(A, B, 1.0, core=d, gain=b, dropout=self.dropout)

    def schedule(self, model, name, total_steps=None):
        return FreezingByScore(model, name, self, total_steps)


def trainable_share(step, total_steps, warmup, final):
    """ρ(t): 1 up to step `warmup`, 0 after step `total_steps − final`, falling as a cube in between."""
    if step <= warmup:
        return 1.0
    if step > total_steps - final:
        return 0.0
    return (1 - (step - warmup) / (total_steps - warmup - final)) ** 3


MEMORIES = ("window", "mean", "spread")
"""{"path.A": tensor}: importance in this window, its running mean Ī, its running uncertainty Ū."""


class FreezingByScore(Schedule):
    """Freezes A or B of a layer when its mean score is below the quantile 1 − ρ(t) of all scores still in play.

    Importance I = |sign(w) · ∇w|, averaged over windows of ΔT steps; Ī and Ū are running means of I and of
    |I − Ī|; the score is Ī · Ū, entry by entry. As in the authors' code, scores follow the optimizer's step.
    In the final phase all that is left is frozen, also a matrix of equal scores, which their comparison misses.
    history: {"step", "share": ρ, "frozen": ["path.A", …] at this step, "trainable"}, for each decision that froze
    """

    def __init__(self, model, name, method, total_steps):
        super().__init__(model, name, total_steps)
        require(
            total_steps,
            "AFLoRA freezes by shares of the run, so it must know its length: attach(model, optimizer, total_steps).",
        )
        self.method = method
        self.window, self.mean, self.spread = {}, {}, {}  # MEMORIES

    def matrices(self):
        """{"path.A": (update, "A")} of the matrices that are still trained."""
        pairs = [(f"{path}.{f}", (u, f)) for path, u in self.updates.items() for f in "AB"]
        return {key: (u, f) for key, (u, f) in pairs if f not in u.fixed}

    def will_keep(self):
        return len(MEMORIES) * sum(getattr(update, factor).nbytes for update, factor in self.matrices().values())

    @torch.no_grad()
    def after_step(self, optimizer):
        self._score()
        warmup, final = (round(s * self.total_steps) for s in (self.method.warmup_share, self.method.final_share))
        share = trainable_share(self.step, self.total_steps, warmup, final)
        if share == 0 or (share < 1 and self.step % self.method.every == 0):
            self._freeze(share, optimizer)

    def _score(self):
        place, beta1, beta2 = self.step % self.method.every, self.method.beta1, self.method.beta2
        for key, (update, factor) in self.matrices().items():
            p = getattr(update, factor)
            if p.grad is None:
                continue
            now = (p.sign() * p.grad).abs()
            zero = torch.zeros_like(now)
            window, mean, spread = (d.get(key, zero) for d in (self.window, self.mean, self.spread))
            if place == 0:  # a window is full: it moves the running means, and the next one begins
                mean = beta1 * mean + (1 - beta1) * window
                spread = beta2 * spread + (1 - beta2) * (window - mean).abs()
            self.mean[key], self.spread[key] = mean, spread
            self.window[key] = (window * place + now) / (place + 1)

    def _freeze(self, share, optimizer):
        left = self.matrices()
        if share == 0:
            low = list(left)
        else:
            scores = {key: self.mean[key] * self.spread[key] for key in left if key in self.mean}
            values = torch.cat([score.flatten() for score in scores.values()]) if scores else torch.zeros(0)
            k = int(len(values) * (1 - share))
            threshold = values.kthvalue(k).values if k else float("-inf")
            low = [key for key, score in scores.items() if score.mean() < threshold]
        for key in low:
            update, factor = left[key]
            update.fix(factor)
            forget(optimizer, getattr(update, factor))
            for what in MEMORIES:
                getattr(self, what).pop(key, None)
        if low:
            trainable = sum(p.numel() for u in self.updates.values() for p in u.trained().values())
            self.history.append({"step": self.step, "share": share, "frozen": low, "trainable": trainable})

    def state(self):
        memories = {what: {k: t.clone() for k, t in getattr(self, what).items()} for what in MEMORIES}
        return super().state() | memories

    def load_state(self, state):
        super().load_state(state)
        for what in MEMORIES:
            setattr(self, what, {key: tensor.clone() for key, tensor in state[what].items()})
        frozen = {key for entry in self.history for key in entry["frozen"]}
        for path, holder in self.places.items():
            update = holder.updates[self.name]
            update.fixed = {f for f in "AB" if f"{path}.{f}" in frozen}
            update.wake(self.name in holder.active)
