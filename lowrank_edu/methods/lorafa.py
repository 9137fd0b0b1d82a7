"""LoRA-FA: LoRA whose A stays as it was drawn. Zhang et al. 2023."""

from dataclasses import dataclass

import torch

from ..schedules import Schedule
from ..updates import LowRank, widened
from .common import linear_targets, require
from .lora import LoRA


@dataclass(frozen=True)
class LoRAFA(LoRA):
    """LoRA with A frozen at its random start; B alone is trained.   Zhang et al. 2023, §3.

    Trained per layer: d_out · r. For the backward pass a layer keeps A x (r numbers per token) instead of x
    (d_in numbers). All other settings are LoRA's; embeddings are refused, because their A starts at zero.

    precondition   False is LoRA-FA as the first version of the paper has it: B follows its own gradient.
                   True is what PEFT's optimizer of that name does instead, and needs `lo.attach`: the gradient
                   of B becomes 1/scale² · g (A Aᵀ + 1e-8 I)⁺, so that the step of ΔW comes closest to the one that
                   full fine-tuning would make.

    Saved as PEFT's LoRA, which is what it computes, and loaded as such; `save_adapter(format="own")` keeps the method.
    """

    precondition: bool = False

    def __post_init__(self):
        super().__post_init__()
        require(
            self.lr_ratio is None,
            f"lr_ratio={self.lr_ratio} compares the rates of A and B, and LoRA-FA does not train A. Leave it out.",
        )

    def build(self, model, seed=0):
        linear_targets(model, self)  # refuses embeddings
        updates = super().build(model, seed)
        for update in updates.values():
            if isinstance(update, LowRank):
                update.fix("A")
                if update.residual:
                    update.keep_start()  # again: a fixed A needs no copy
        return updates

    def schedule(self, model, name, total_steps=None):
        return Precondition(model, name, total_steps) if self.precondition else None

    @property
    def scheduled(self):
        return self.precondition


class Precondition(Schedule):
    """Before each step, the gradient of every B becomes 1/scale² · g (A Aᵀ + 1e-8 I)⁺.   peft/optimizers/lorafa.py

    With A fixed the best ΔW-step towards −G, the gradient of the whole weight, is the least-squares one: it
    minimises ‖scale · ΔB A − G‖_F.
    """

    @torch.no_grad()
    def before_step(self, optimizer):
        for update in self.updates.values():
            if isinstance(update, LowRank) and update.B.grad is not None:
                g = update.B.grad  # (…, d_out, r): blocks have several B, and rows of A for each
                A = widened(update.A).view(*g.shape[:-2], g.shape[-1], -1)
                gram = A @ A.mT + 1e-8 * torch.eye(A.shape[-2], dtype=A.dtype, device=A.device)
                update.B.grad = (g.to(A.dtype) @ torch.linalg.pinv(gram) / update.scale**2).to(g.dtype)
