"""LoRA-XS: both factors are frozen singular vectors, and only a small square matrix between them is trained."""

from dataclasses import dataclass

import torch

from ..inits import DIRECTIONS, directions
from ..updates import LowRank
from .common import beside, check_alpha, require
from .ranked import Ranked


@dataclass(frozen=True)
class LoRAXS(Ranked):
    """ΔW = α/r · U_r R S_r V_rᵀ with R (r × r) trained, U_r S_r V_rᵀ the best rank-r copy of W0.

    Bałazy et al. 2024 (arXiv 2405.17604): r² numbers per layer, whatever its size. As in the authors' code, the
    singular values stand on the side of the input: A = S_r V_rᵀ, B = U_r. (The paper writes h = x W, so the
    factor that it calls A comes first there, too.)

    std          R starts from N(0, std²). The authors take 1e-5, which is not exactly the base model; the default
                 here is 0, which is. R learns from zero, because A and B are not zero.
    alpha        None: scale 1
    directions   "top", "bottom" or "random" singular directions: see `inits.directions`
    """

    alpha: float | None = None
    std: float = 0.0
    directions: str = "top"

    def __post_init__(self):
        super().__post_init__()
        if self.alpha is not None:
            check_alpha("alpha", self.alpha)
        require(0 <= self.std < float("inf"), f"std={self.std!r}: a number ≥ 0; 0 starts at the base model.")
        check_directions(self.directions)

    def update(self, W0, r, generator):
        U, S, Vt = directions(W0, r, self.directions, generator)
        core = self.std * torch.randn(r, r, generator=generator)
        A, B, core = beside(W0, S[:, None] * Vt, U, core)
        scale = 1.0 if self.alpha is None else self.alpha / r
        return LowRank(A, B, scale, core=core, dropout=self.dropout, fixed={"A", "B"})


def check_directions(which):
    require(which in DIRECTIONS, f"directions={which!r} is not one of {', '.join(DIRECTIONS)}.")
