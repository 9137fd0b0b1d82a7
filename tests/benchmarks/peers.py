"""More peers: loralib, the paper's own package, and torch.compile; and one set of factors for all contenders."""

from __future__ import annotations

import copy
import shutil
import zlib
from functools import cache

import models
import torch
from row import NotRun
from transformers.pytorch_utils import Conv1D

import lowrank_edu as lo

try:
    import loralib
except ImportError:  # an environment that is older than its pin
    loralib = None
NO_LORALIB = NotRun("loralib is not installed")


def with_loralib(size, base, q_and_v=False):
    """GPT-2 with loralib's Linear everywhere, or its MergedLinear on q and v. It knows no Conv1D, so W is turned."""
    model = copy.deepcopy(base)
    for path, layer in list(model.named_modules()):
        name = path.rpartition(".")[2]
        if not isinstance(layer, Conv1D) or name not in (["c_attn"] if q_and_v else models.TARGETS):
            continue
        sides, how = layer.weight.shape, {"r": size.r, "lora_alpha": 2 * size.r}
        new = loralib.MergedLinear(*sides, enable_lora=[True, False, True], **how) if q_and_v else (
            loralib.Linear(*sides, **how))  # fmt: skip
        new.weight.data, new.bias.data = layer.weight.data.T.contiguous(), layer.bias.data.clone()
        setattr(model.get_submodule(path.rpartition(".")[0]), name, new)
    loralib.mark_only_lora_as_trainable(model)
    return model.train()


def factors(model) -> dict:
    """{(path of the layer, name of the adapter): (A, B)} of any contender, in one order."""
    found = {}
    for path, layer in model.named_modules():
        path = path.removeprefix("base_model.model.")
        if isinstance(layer, lo.layers.AdaptedLayer):
            found |= {(path, name): (update.A, update.B) for name, update in layer.updates.items()}
        elif isinstance(getattr(layer, "lora_A", None), torch.nn.ModuleDict):
            found |= {(path, name): (layer.lora_A[name].weight, layer.lora_B[name].weight) for name in layer.lora_A}
        elif isinstance(getattr(layer, "lora_A", None), torch.nn.Parameter):
            found[path, "default"] = layer.lora_A, layer.lora_B
    return dict(sorted(found.items()))


@torch.no_grad()
def equalled(*contenders):
    """The contenders, all with the same factors; B is not zero, or much that is wrong would not show."""
    for model in contenders:
        for place, pair in factors(model).items():
            generator = torch.Generator().manual_seed(zlib.crc32("/".join(place).encode()))
            for factor in pair:  # blocks have B in one dimension more, in the same order
                factor.copy_(0.02 * torch.randn(factor.shape, generator=generator))
    return contenders


def gradients(model, loss, ids):
    """The gradients of all factors as one vector."""
    model.zero_grad()
    loss(model, ids).backward()
    found = torch.cat([factor.grad.flatten() for pair in factors(model).values() for factor in pair])
    model.zero_grad()
    return found


@cache
def why_not_compiled(backend: str) -> str | None:
    """None if torch.compile works here with this backend, or why it does not."""
    torch._logging.set_logs(dynamo=40, inductor=40)  # errors only: it warns of every graph that it breaks
    try:
        torch.compile(lambda x: x * 2 + 1, backend=backend)(torch.ones(8))
    except Exception as problem:
        if not any(map(shutil.which, ("g++", "clang++"))):
            return "no C++ compiler"
        return f"torch.compile fails: {type(problem).__name__}"
    return None
