"""LoRA+: B learns faster than A.   Hayou et al. 2024

A and B start on different footings: with one rate for both, one of them learns too slowly as layers get wide.
`parameter_groups` gives B the rate λ · lr; `Rates` is what `attach` checks an optimizer with.
"""

import math

from torch import nn

from .schedules import Schedule, places
from .updates import LowRank


def parameter_groups(model, lr, weight_decay=0.0, *, lr_embedding=1e-6):
    """Groups for any torch optimizer of all parameters that have gradients: a list of {"params", "lr", "weight_decay"}.

    Adapters whose method has no `lr_ratio` have the rate `lr` everywhere. With a ratio λ, A has `lr`; B, biases and
    other vectors have λ · lr; both factors of an adapted embedding have `lr_embedding`; biases and LayerNorms do not
    decay. These are the groups of PEFT's `create_loraplus_optimizer`.

    Make the optimizer with them, then call `attach`, which refuses an optimizer whose rates do not have this ratio:

        optimizer = torch.optim.AdamW(lo.parameter_groups(model, lr=1e-4))
        lo.attach(model, optimizer)
    """
    if not 0 < lr < float("inf"):
        raise ValueError(f"lr={lr!r}: a learning rate is a number > 0; adapters usually want 1e-4 to 1e-2.")
    chosen, groups = {}, {}
    for name, method in model.__dict__.get("lowrank_methods", {}).items():
        ratio = getattr(method, "lr_ratio", None)
        for holder in places(model, name).values() if ratio is not None else ():
            update, base = holder.updates[name], holder.base
            for key, p in update.named_parameters():
                if isinstance(update, LowRank) and isinstance(base, nn.Embedding) and key in ("A", "B"):
                    rate = lr_embedding
                else:
                    rate = lr * ratio if key == "B" or p.dim() == 1 else lr
                fixed = key.endswith("bias") or isinstance(base, nn.LayerNorm)
                chosen[id(p)] = rate, 0.0 if fixed else weight_decay
    for p in model.parameters():
        if p.requires_grad:
            groups.setdefault(chosen.get(id(p), (lr, weight_decay)), []).append(p)
    return [{"params": found, "lr": rate, "weight_decay": decay} for (rate, decay), found in groups.items()]


class Rates(Schedule):
    """LoRA+ as a schedule: nothing moves, but the optimizer's rates must have the ratio λ."""

    def __init__(self, model, name, total_steps, ratio):
        super().__init__(model, name, total_steps)
        self.ratio = ratio

    def check(self, optimizer):
        super().check(optimizer)
        rates = {id(p): float(group["lr"]) for group in optimizer.param_groups for p in group["params"]}
        for path, holder in self.places.items():
            update = holder.updates[self.name]
            if not isinstance(update, LowRank) or isinstance(holder.base, nn.Embedding):
                continue
            A, B = rates[id(update.A)], rates[id(update.B)]
            if not math.isclose(B, self.ratio * A, rel_tol=1e-6):
                raise ValueError(
                    f"adapter {self.name!r} has lr_ratio={self.ratio}, but at {path} the optimizer trains A at {A} and "
                    f"B at {B}. Make it so: torch.optim.AdamW(lo.parameter_groups(model, lr)); or drop lr_ratio."
                )
