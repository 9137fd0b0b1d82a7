"""VeRA: all layers share one frozen random pair of matrices; each trains two vectors."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ..updates import LowRank, weight_of
from .common import Method, beside, check_count, check_dropout, check_rank, check_targets, linear_targets, require


class Shared(nn.Module):
    """The frozen pair A (r, largest d_in), B (largest d_out, r) that all layers of one adapter read."""

    def __init__(self, A, B):
        super().__init__()
        self.register_buffer("A", A)
        self.register_buffer("B", B)


class VectorUpdate(LowRank):
    """ΔW = diag(gain) B diag(core) A with A, B the first columns and rows of a `Shared` pair.

    The first layer's update owns the pair, so that it moves, is copied and is saved once; the others refer to it.
    """

    def __init__(self, shared, core, gain, d_in, *, owner, dropout=0.0):
        super().__init__(None, None, 1.0, core=core, gain=gain, dropout=dropout)
        self.d_in = d_in
        if owner:
            self.shared = shared
        else:
            self.__dict__["shared"] = shared  # seen by copies, not registered a second time

    def right(self):
        return self.shared.A[:, : self.d_in].to(self.core.device)

    def left(self):
        return self.shared.B[: len(self.gain)].to(self.core.device)


@dataclass(frozen=True)
class VeRA(Method):
    """ΔW = Λ_b B Λ_d A: A and B random, frozen and shared; the diagonals are trained.   Kopiczko et al. 2023, eq. 2.

    r                rank; it costs one number per layer, so it can be large
    target_modules   list of names or suffixes, a regular expression, or "all-linear": all but the head
    d_initial        Λ_d at the start; Λ_b starts at zero
    projection_seed  seed of A and B, PEFT's projection_prng_key: the same seed gives PEFT's very numbers
    save_projection  save A and B with the adapter; without them they are drawn again from the seed

    Trained per layer: d_out + r. The seed of `adapt` plays no part.
    """

    r: int = 256
    target_modules: Sequence[str] | str | None = None
    d_initial: float = 0.1
    projection_seed: int = 0
    save_projection: bool = True
    dropout: float = 0.0

    peft_type = "VERA"

    def __post_init__(self):
        check_rank("r", self.r)
        check_count("projection_seed", self.projection_seed, least=0)
        good = isinstance(self.d_initial, (int, float)) and 0 < abs(self.d_initial) < float("inf")
        require(good, f"d_initial={self.d_initial!r}: with Λ_b = 0 a Λ_d of zero never learns; take 0.1 or 1e-7.")
        check_dropout(self.dropout)
        check_targets(self)

    def build(self, model, seed=0):
        targets = linear_targets(model, self)
        shapes = {path: weight_of(base).shape for path, base in targets.items()}
        d_out, d_in = (max(sizes) for sizes in zip(*shapes.values(), strict=True))
        shared, updates = None, {}
        for path, base in targets.items():
            W0 = weight_of(base)
            core, gain = beside(W0, torch.full((self.r,), self.d_initial), torch.zeros(len(W0)))
            if shared is None:
                device = "meta" if W0.is_meta else "cpu"
                shared = Shared(*beside(W0, *draw(d_out, d_in, self.r, self.projection_seed, device)))
            updates[path] = VectorUpdate(shared, core, gain, W0.shape[1], owner=not updates, dropout=self.dropout)
        return updates


def draw(d_out, d_in, r, seed, device="cpu"):
    """A (r, d_in), then B (d_out, r), Kaiming-uniform from one CPU generator: number for number what PEFT draws."""

    def uniform(rows, columns):
        bound = math.sqrt(3.0) * (math.sqrt(2) / math.sqrt(columns))
        return torch.empty(rows, columns, device=device).uniform_(-bound, bound, generator=generator)

    generator = torch.Generator().manual_seed(seed) if device == "cpu" else None  # meta: shapes alone, for counting
    return uniform(r, d_in), uniform(d_out, r)
