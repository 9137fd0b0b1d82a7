"""LaMDA: A frozen, a square matrix in the middle, and B frozen column by column while training runs.

Azizi, Kundu & Pedram 2024. The paper's text leaves open where which singular vectors go, how Σ starts and how the
ranks of LaMDA++ are chosen; the authors' code holds no SVD at all. Variants that begin with "svd" and the
allocation are our reading, and are called so wherever they are shown.
"""

import dataclasses
from dataclasses import dataclass
from fractions import Fraction

import torch

from ..allocation import allocate
from ..factor import singular_values
from ..inits import directions, uniform
from ..schedules import Schedule, forget
from ..updates import LowRank, weight_of
from .common import beside, check_alpha, check_count, linear_targets, require
from .loraxs import check_directions
from .ranked import Ranked

VARIANTS = ("svd-residual", "svd-zero", "released")
RELEASED_ALPHA = 16  # of the authors' scripts


@dataclass(frozen=True)
class LaMDA(Ranked):
    """ΔW = scale · B Σ A: A (r × d_in) is never trained, Σ (r × r) always, B (d_out × r) only at first.

    variant        A           B      Σ              ΔW at step 0    scale
    svd-residual   V_rᵀ        U_r    diag(S_r)      its start is subtracted (our reading, the default)    1
    svd-zero       V_rᵀ        U_r    0              0 (our reading)                                       1
    released       U(±1/√d_in) 0      U(±1/√r)       0 (the authors' code)                                 16/r

    alpha          scale α/r instead; Σ of svd-residual is divided by it, so that the start stays the same
    directions     "top", "bottom" or "random": which singular vectors, see `inits.directions`
    freeze_share   share η of the run after which all of B is frozen, column by column, in the order of the
                   singular values; 0: B is never trained
    freeze_steps   the same as a number of steps; then total_steps is not needed
    as_released    with variant="released": freeze as the authors' code does, which misses a factor r and only
                   zeroes gradients, so that momentum and weight decay go on moving the columns
    """

    variant: str = "svd-residual"
    alpha: float | None = None
    directions: str = "top"
    freeze_share: float = 0.3
    freeze_steps: int | None = None
    as_released: bool = False

    def __post_init__(self):
        super().__post_init__()
        require(self.variant in VARIANTS, f"variant={self.variant!r} is not one of {', '.join(VARIANTS)}.")
        check_directions(self.directions)
        if self.alpha is not None:
            check_alpha("alpha", self.alpha)
        share = self.freeze_share
        require(0 <= share <= 1, f"freeze_share={share!r}: a share of the run, from 0 to 1.")
        if self.freeze_steps is not None:
            check_count("freeze_steps", self.freeze_steps, least=0)
        released = self.variant == "released"
        require(
            released or not self.as_released,
            f"as_released=True repeats what the authors' code does; it needs variant='released', not {self.variant!r}.",
        )
        require(
            not released or self.directions == "top",
            f"directions={self.directions!r} needs a variant that starts from singular vectors; 'released' does not.",
        )

    @property
    def scheduled(self):
        """Whether B is trained at all."""
        return (self.freeze_share if self.freeze_steps is None else self.freeze_steps) > 0

    def update(self, W0, r, generator):
        d_out, d_in = W0.shape
        alpha = RELEASED_ALPHA if self.alpha is None and self.variant == "released" else self.alpha
        scale = 1.0 if alpha is None else alpha / r
        if self.variant == "released":
            A, B = uniform((r, d_in), d_in**-0.5, generator), torch.zeros(d_out, r)
            core = uniform((r, r), r**-0.5, generator)
        else:
            B, S, A = directions(W0, r, self.directions, generator)
            core = torch.diag(S / scale) if self.variant == "svd-residual" else torch.zeros(r, r)
        A, B, core = beside(W0, A, B, core)
        residual, fixed = self.variant == "svd-residual", {"A"} if self.scheduled else {"A", "B"}
        return FrontLowRank(A, B, scale, core=core, dropout=self.dropout, residual=residual, fixed=fixed)

    def schedule(self, model, name, total_steps=None):
        return FreezingFront(model, name, self, total_steps) if self.scheduled else None

    def allocated(self, model, ranks, *, budget=None, reference=None, order="flat-first"):
        """LaMDA++: this row with a `rank_pattern` read off the spectra of the model's weights. Our reconstruction.

        ranks       the ranks that a layer may have
        budget      Σ r² over the layers, default: what rank r everywhere costs
        reference   the rank at which the energies are compared, default: r
        order       "flat-first" or "steep-first": see `allocation.allocate`
        """
        layers = linear_targets(model, self)
        spectra = {path: singular_values(weight_of(base)) for path, base in layers.items()}
        budget = len(layers) * self.r**2 if budget is None else budget
        reference = self.r if reference is None else reference
        chosen = allocate(spectra, ranks, budget, reference=reference, order=order)
        return dataclasses.replace(self, rank_pattern=chosen)


def frozen_columns(step, r, freeze_steps, as_released=False):
    """c(t) = min(r, ⌊r t / t_i⌋): how many columns of B are frozen after `step` steps, t_i = freeze_steps.

    The authors' code has no factor r: ⌊t / t_i⌋ ends at 3 for t_i = 0.3 T, so that B with r > 3 never freezes.
    """
    return min(r, int((1 if as_released else r) * step // freeze_steps))


class _Cut(torch.autograd.Function):
    """B itself, with a gradient that is zero in the first `front` columns: clipping sees the zeros, too."""

    @staticmethod
    def forward(ctx, B, front):
        ctx.front = front
        return B.view_as(B)

    @staticmethod
    def backward(ctx, grad):
        grad = grad.clone()
        grad[:, : ctx.front] = 0
        return grad, None


class FrontLowRank(LowRank):
    """A LowRank whose first `front` columns of B have no gradient any more."""

    front = 0

    def left(self):
        return _Cut.apply(self.B, self.front) if self.front and "B" not in self.fixed else self.B


class FreezingFront(Schedule):
    """Freezes B from its first column to its last, and then as a whole.

    A zero gradient does not freeze: AdamW moves on with momentum and weight decay. So the frozen columns are put
    back after each step, to the bit. When all are frozen, B has no gradient and no optimizer state any more.
    history: {"step", "frozen": columns of B over all layers, "trainable": numbers still trained}, at each change
    """

    def __init__(self, model, name, method, total_steps):
        super().__init__(model, name, total_steps)
        self.as_released, self.freeze_steps = method.as_released, method.freeze_steps
        if self.freeze_steps is None:
            require(
                total_steps,
                f"LaMDA freezes B over the first {method.freeze_share:.0%} of the run, so it must know its length: "
                "attach(model, optimizer, total_steps=…), or LaMDA(freeze_steps=…).",
            )
            # 0.3 means 3/10, so that no rounding moves a column by a step
            self.freeze_steps = Fraction(method.freeze_share).limit_denominator(10**6) * total_steps
        self.kept = {}

    def begin(self, optimizer):
        self.advance(optimizer)

    def before_step(self, optimizer):
        kept = {} if self.as_released else self.updates
        self.kept = {path: u.B[:, : u.front].detach().clone() for path, u in kept.items() if "B" not in u.fixed}

    @torch.no_grad()
    def after_step(self, optimizer):
        updates = self.updates
        for path, columns in self.kept.items():
            updates[path].B[:, : columns.shape[1]] = columns
        self.kept = {}
        self.advance(optimizer)

    def advance(self, optimizer=None):
        """Bring every front to where it belongs after `step` steps."""
        updates = list(self.updates.values())
        for update in updates:
            r = update.B.shape[1]
            update.front = frozen_columns(self.step, r, self.freeze_steps, self.as_released)
            if update.front == r and "B" not in update.fixed:
                update.fix("B")
                if optimizer is not None:
                    forget(optimizer, update.B)
        frozen = sum(update.front for update in updates)
        moving = sum((u.B.shape[1] - u.front) * u.B.shape[0] for u in updates)
        entry = {"step": self.step, "frozen": frozen, "trainable": moving + sum(u.core.numel() for u in updates)}
        if not self.history or self.history[-1]["frozen"] != frozen:
            self.history.append(entry)

    def load_state(self, state):
        super().load_state(state)
        self.freeze_steps = Fraction(state["freeze_steps"])
        for holder in self.places.values():
            update = holder.updates[self.name]
            update.fixed.discard("B")
            update.wake(self.name in holder.active)
        self.advance()

    def state(self):
        return super().state() | {"freeze_steps": str(self.freeze_steps)}
