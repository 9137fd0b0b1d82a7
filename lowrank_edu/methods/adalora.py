"""AdaLoRA: start with too much rank everywhere, and take it away where it matters least."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..schedules import Schedule
from ..updates import LowRank, weight_of
from .common import (
    Method,
    beside,
    check_alpha,
    check_count,
    check_dropout,
    check_rank,
    check_targets,
    linear_targets,
    require,
    seeded,
)

KEYS = ("core", "A", "B")


@dataclass(frozen=True)
class AdaLoRA(Method):
    """ΔW = P Λ Q with Λ diagonal; entries of Λ are set to zero until a budget is met.   Zhang et al. 2023 · chapter 10.

    Here P is B, Q is A and Λ is the core. Every direction k of every layer is a triplet (λ, row of A, column of B) with
    a score: how much the loss depends on it (|weight · gradient|, smoothed) times how uncertain that is.

    target_r, init_r   rank per layer on average at the end, and of every layer at the start; init_r must be larger
    alpha              loudness: the scale is α/(init_r + 1e-5), also after pruning
    warmup_steps       t_i: all triplets train; final_steps: t_f, the choice is fixed
    every              ΔT: steps between two choices
    total_steps        T; None takes what `attach` or `train` says
    beta1, beta2       smoothing of sensitivity and of uncertainty
    orth_weight        weight of the penalty that keeps the rows of A and the columns of B orthonormal. The penalty is
                       part of what is trained, not of the loss that is reported
    mode               "reference": as Hugging Face PEFT and the authors' code do. "paper": as printed

    The budget over all layers is b(t) = b_T + (b_0 − b_T) · (1 − (t − t_i) / (T − t_i − t_f))³ for t_i < t ≤ T − t_f,
    t counting completed optimizer steps from 1; masks at multiples of ΔT and at T − t_f, where they are fixed for good.
    Before that a λ that was set to zero may come back. In both modes; the paper prints t − t_i − t_f in the numerator,
    which would start above b_0 and miss b_T, so it is read as a misprint. The modes differ in this:

                  reference                                          paper
    scale         α/(init_r + 1e-5)                                  1; alpha is not used
    penalty       mean of the norms ‖AAᵀ − I‖, ‖BᵀB − I‖             sum of their squares
    score         after the step: new weights, old gradients         before the step: both old
    equal scores  drop out together, so fewer than b may stay        exactly b stay, first layers first

    Raises ValueError when the budget cannot fall: init_r ≤ target_r, no steps between warm-up and final phase, or
    none of them a multiple of `every`; as soon as T is known.
    """

    target_r: int = 8
    init_r: int = 12
    alpha: float = 16
    target_modules: Sequence[str] | str | None = None
    dropout: float = 0.0
    warmup_steps: int = 0
    final_steps: int = 0
    every: int = 1
    total_steps: int | None = None
    beta1: float = 0.85
    beta2: float = 0.85
    orth_weight: float = 0.1
    mode: str = "reference"

    peft_type = "ADALORA"

    def __post_init__(self):
        check_rank("target_r", self.target_r)
        check_rank("init_r", self.init_r)
        check_alpha("alpha", self.alpha)
        check_dropout(self.dropout)
        for what, least in {"warmup_steps": 0, "final_steps": 0, "every": 1}.items():
            check_count(what, getattr(self, what), least)
        for what in ("beta1", "beta2"):
            require(0 < getattr(self, what) < 1, f"{what}={getattr(self, what)!r}: a number between 0 and 1.")
        require(0 <= self.orth_weight < float("inf"), f"orth_weight={self.orth_weight!r}: a number ≥ 0.")
        require(self.mode in ("reference", "paper"), f"mode={self.mode!r} is not 'reference' or 'paper'.")
        require(
            self.init_r > self.target_r,
            f"init_r={self.init_r}, target_r={self.target_r}: the rank falls from init_r to target_r on average, so "
            "init_r must be larger; 1.5 times target_r is usual.",
        )
        if self.total_steps is not None:
            self.check_total(self.total_steps)
        check_targets(self)

    def check_total(self, total):
        """ValueError when the budget cannot fall in a run of this length."""
        require(
            total is not None,
            "AdaLoRA's budget falls over the whole run, so it must know its length: attach(model, optimizer, "
            "total_steps=…), or AdaLoRA(total_steps=…).",
        )
        check_count("total_steps", total)
        start, end = self.warmup_steps, total - self.final_steps
        require(
            start < end,
            f"total_steps={total} leaves no step between warmup_steps={start} and final_steps={self.final_steps}, so "
            "the budget would never fall. Make one of them smaller, or train longer.",
        )
        require(
            end // self.every * self.every > start,
            f"every={self.every}: no multiple of it lies between step {start} (end of the warm-up) and step {end} "
            "(start of the final phase), so the budget would never fall gradually. Take a smaller one.",
        )

    def scale(self):
        return self.alpha / (self.init_r + 1e-5) if self.mode == "reference" else 1.0

    def build(self, model, seed=0):
        updates = {}
        for path, base in linear_targets(model, self).items():
            (d_out, d_in), generator = weight_of(base).shape, seeded(seed, path)
            A = torch.randn(self.init_r, d_in, generator=generator) * 0.02
            B = torch.randn(d_out, self.init_r, generator=generator) * 0.02
            A, B, core = beside(weight_of(base), A, B, torch.zeros(self.init_r))
            updates[path] = LowRank(A, B, self.scale(), core=core, dropout=self.dropout)
        return updates

    def schedule(self, model, name, total_steps=None):
        return Budget(model, name, self, self.total_steps or total_steps)


class Budget(Schedule):
    """Scores, budget, masks and penalty of an AdaLoRA adapter.

    history   {"step", "budget", "rank" (in total), "ranks" {path: rank}} at the start and at every choice
    kept      {path: bool (r)} once the choice is final, else None

    An adapter that is on budget already (loaded from a folder with its rows pruned) keeps what it has.
    """

    def __init__(self, model, name, method, total_steps):
        super().__init__(model, name, total_steps)
        self.method, self.kept, self.fresh, self.smooth = method, None, {}, {}
        ranks = {path: update.A.shape[0] for path, update in self.updates.items()}
        self.start, self.goal = sum(ranks.values()), method.target_r * len(ranks)
        if self.start > self.goal:
            method.check_total(total_steps)
        else:
            self.kept = {path: torch.ones(r, dtype=torch.bool) for path, r in ranks.items()}
        self.history.append({"step": 0, "budget": self.start, "rank": self.start, "ranks": ranks})

    def will_keep(self):
        return 2 * sum(p.nbytes for p in self.parameters())  # sensitivity and uncertainty

    @property
    def end(self):
        """The step at which the choice becomes final, T − t_f."""
        return self.total_steps - self.method.final_steps

    def budget(self, t):
        """b(t), how many triplets may stay after step t, over all layers."""
        if t <= self.method.warmup_steps:
            return self.start
        if t > self.end:
            return self.goal
        left = 1 - (t - self.method.warmup_steps) / (self.end - self.method.warmup_steps)
        return int((self.start - self.goal) * left**3 + self.goal)

    @torch.no_grad()
    def measured(self):
        """{path.key: (sensitivity Ī, uncertainty Ū)} after one more gradient, where there is one (eq. 9 to 11)."""
        beta1, beta2, new = self.method.beta1, self.method.beta2, {}
        for path, update in self.updates.items():
            for key in KEYS:
                p = getattr(update, key)
                if p.grad is None:
                    continue
                now = (p * p.grad).abs()
                mean, spread = self.smooth.get(f"{path}.{key}", (torch.zeros_like(p), torch.zeros_like(p)))
                mean = beta1 * mean + (1 - beta1) * now
                new[f"{path}.{key}"] = mean, beta2 * spread + (1 - beta2) * (now - mean).abs()
        return new

    def scores(self):
        """{path: importance (r)} of the triplets: s(λ) + mean s of the row of A + mean s of the column of B (eq. 7)."""

        def s(path, key):
            none = torch.zeros_like(getattr(self.updates[path], key))
            mean, spread = self.smooth.get(f"{path}.{key}", (none, none))
            return mean * spread

        return {p: s(p, "core") + (s(p, "A").mean(1) + s(p, "B").mean(0)) for p in self.updates}

    @torch.no_grad()
    def choose(self, b):
        """{path: bool (r)}, the triplets that stay: the b with the highest scores."""
        scores = {path: score.cpu() for path, score in self.scores().items()}
        flat = torch.cat(list(scores.values()))
        if b >= len(flat):
            kept = torch.ones_like(flat, dtype=torch.bool)
        elif self.method.mode == "reference":
            kept = flat > torch.kthvalue(flat, len(flat) - b).values
        else:
            order = torch.sort(flat, descending=True, stable=True).indices
            kept = torch.zeros_like(flat, dtype=torch.bool).index_fill(0, order[:b], True)
        return dict(zip(scores, kept.split([len(score) for score in scores.values()]), strict=True))

    @torch.no_grad()
    def mask(self, kept):
        """λ = 0 where a triplet does not stay; A and B stay as they are."""
        for path, update in self.updates.items():
            update.core.masked_fill_(~kept[path].to(update.core.device), 0.0)

    def before_step(self, optimizer):
        if self.method.mode == "paper" and self.kept is None:
            self.fresh = self.measured()

    def after_step(self, optimizer):
        if self.kept is not None:
            return self.mask(self.kept)
        t, method = self.step, self.method
        if t < self.end:
            self.smooth |= self.fresh if method.mode == "paper" else self.measured()
        if t >= self.end or (t > method.warmup_steps and t % method.every == 0):
            kept = self.choose(self.budget(t))
            self.mask(kept)
            ranks = {path: int(rows.sum()) for path, rows in kept.items()}
            self.history.append({"step": t, "budget": self.budget(t), "rank": sum(ranks.values()), "ranks": ranks})
            self.kept = kept if t >= self.end else None

    def _gaps(self):
        """[(parameter, AAᵀ − I or BᵀB − I)] of all factors that are trained."""
        factors = [p for update in self.updates.values() for p in (update.A, update.B.T)]
        return [(M, M @ M.T - torch.eye(len(M), dtype=M.dtype, device=M.device)) for M in factors]

    def penalty(self):
        if not self.method.orth_weight:
            return None
        norms = torch.stack([torch.linalg.matrix_norm(gap) for _, gap in self._gaps()])
        return self.method.orth_weight * (norms.mean() if self.method.mode == "reference" else norms.square().sum())

    @torch.no_grad()
    def add_penalty_gradient(self):
        """d‖G‖/dM = 2 G M / ‖G‖ and d‖G‖²/dM = 4 G M for G = M Mᵀ − I, with M = A or Bᵀ."""
        weight, updates = self.method.orth_weight, list(self.updates.values())
        parameters = [p for update in updates for p in (update.A, update.B)]
        for p, (M, gap) in zip(parameters, self._gaps() if weight else [], strict=False):
            if self.method.mode == "reference":
                grad = 2 * weight / len(parameters) * (gap @ M) / torch.linalg.matrix_norm(gap).clamp_min(1e-30)
            else:
                grad = 4 * weight * (gap @ M)
            grad = grad if M is p else grad.T
            p.grad = grad.contiguous() if p.grad is None else p.grad.add_(grad)

    def state(self):
        state = super().state()
        for key, (mean, spread) in self.smooth.items():
            state |= {f"{key}.sensitivity": mean.clone(), f"{key}.uncertainty": spread.clone()}
        return state | {f"{path}.kept": rows.clone() for path, rows in (self.kept or {}).items()}

    def load_state(self, state):
        super().load_state(state)
        device = {f"{path}.{key}": getattr(u, key).device for path, u in self.updates.items() for key in KEYS}
        self.smooth = {
            key: tuple(state[f"{key}.{what}"].to(at, copy=True) for what in ("sensitivity", "uncertainty"))
            for key, at in device.items()
            if f"{key}.sensitivity" in state
        }
        kept = {path: state[f"{path}.kept"].clone() for path in self.updates if f"{path}.kept" in state}
        self.kept, self.fresh = kept or None, {}
