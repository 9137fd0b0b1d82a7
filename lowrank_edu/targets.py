"""Which layers? A list of suffixes, one regular expression, or "all-linear", resolved against a model."""

import difflib
import re
from collections import Counter

from torch import nn

from .layers import AdaptedLayer, Holder
from .quantized import Quantized

FUSED_HINTS = {
    "c_attn": {"q_proj", "k_proj", "v_proj", "query", "key", "value", "q", "k", "v", "Wq", "Wv"},
}


def is_linear(module):
    return isinstance(module, (nn.Linear, Quantized)) or type(module).__name__ == "Conv1D"


def is_adaptable(module):
    """Linear, Conv1D and Embedding, unless it looks up other rows than its input says (BART's positions)."""
    own_lookup = type(module).forward is not nn.Embedding.forward and not hasattr(module, "embed_scale")
    return is_linear(module) or (isinstance(module, nn.Embedding) and not own_lookup)


def refuse_peft(model):
    """Layers that PEFT has wrapped go by other names and would be wrapped twice."""
    if any(type(module).__module__.partition(".")[0] == "peft" for module in model.modules()):
        names = ", ".join(map(repr, getattr(model, "peft_config", None) or ()))
        raise ValueError(
            f"this model already carries PEFT's adapters{f' ({names})' if names else ''}. Take the plain model: load "
            "it again, or call unload() or merge_and_unload() of the PEFT model. lo.load_adapter reads PEFT's folders."
        )


def leaves(model):
    """{path: module} of all modules without children, looking through wrappers to the frozen layer."""
    found, inside = {}, "."
    for path, module in model.named_modules():
        if path.startswith(inside):
            continue
        if isinstance(module, Holder):
            inside = path + "."  # modules come depth first, so what follows is inside
            module = getattr(module, "base", module)
        if path and next(module.children(), None) is None:
            found[path] = module
    return found


def tied(model):
    """{id of a parameter: [(path, key)] of the layers that hold it} for parameters held more than once."""
    homes = {}
    for path, base in leaves(model).items():
        for key, parameter in base.named_parameters(recurse=False):
            homes.setdefault(id(parameter), []).append((path, key))
    return {parameter: found for parameter, found in homes.items() if len(found) > 1}


def block_paths(model):
    """Paths of the blocks, in order: the members of every ModuleList of alike layers that is not inside another."""
    lists = [p for p, m in model.named_modules() if isinstance(m, nn.ModuleList) and _alike(m)]
    outer = [p for p in lists if not any(p.startswith(f"{other}.") for other in lists)]
    return [f"{path}.{child}" for path in outer for child, _ in model.get_submodule(path).named_children()]


def _alike(modules):
    """Whether a list holds modules of one class, with parameters."""
    return len({type(m) for m in modules}) == 1 and any(True for _ in modules.parameters())


def output_head(model):
    """Path of the output head, or None: "all-linear" leaves it alone, as PEFT does."""
    get = getattr(model, "get_output_embeddings", None)
    head = get() if get is not None else None
    if isinstance(head, AdaptedLayer):
        head = head.base
    return next((path for path, module in leaves(model).items() if module is head), None)


def resolve(model, target):
    """{path: frozen layer} that `target` names.

    A string is a regular expression that the whole path must match, or "all-linear"; a list holds exact
    paths or suffixes that start at a dot. Raises ValueError, listing the candidates, when nothing matches or
    when a match is not a layer that an update can sit on.
    """
    modules = leaves(model)
    if target == "all-linear":
        head = output_head(model)
        found = {p: m for p, m in modules.items() if is_linear(m) and p != head}
    elif isinstance(target, str):
        try:
            found = {p: m for p, m in modules.items() if is_adaptable(m) and re.fullmatch(target, p)}
        except re.error as error:
            raise ValueError(
                f"target_modules={target!r} is a string, so it is read as a regular expression, and {error}. "
                "To name layers, give a list."
            ) from None
    else:
        found = {p: m for p, m in modules.items() if f".{p}".endswith(tuple(f".{name}" for name in target))}
    if not found:
        raise ValueError(no_match(modules, target, output_head(model)))
    wrong = [p for p, m in found.items() if not is_adaptable(m)]
    if wrong:
        raise ValueError(
            f"{wrong[0]} is a {type(found[wrong[0]]).__name__}; updates sit on Linear, Conv1D and Embedding "
            f"layers. Take it out of target_modules={_show(target)}, or train it whole with modules_to_save."
        )
    return found


def no_match(modules, target, head):
    """The error text of `resolve`: the value, what there is, the likely fix."""
    names = [re.sub(r"(^|\.)\d+(?=\.)", "", p) for p, m in modules.items() if is_linear(m) and p != head]
    kinds = Counter(".".join(name.split(".")[-2:]) for name in names)
    there = ", ".join(f"{name} ({n})" for name, n in kinds.items())
    if there:
        there = f"This model's linear layers are: {there}."
    else:
        there = "This model holds no linear layer; a layer on its own goes into nn.Sequential(layer)."
    lines = [f"no module matched target_modules={_show(target)}.", there]
    asked = [target] if isinstance(target, str) else list(target)
    ends = {p.rsplit(".", 1)[-1] for p, m in modules.items() if is_adaptable(m)}
    for fused, parts in FUSED_HINTS.items():
        if fused in ends and parts & set(asked):
            lines.append(f"GPT-2 keeps q, k and v in one layer: did you mean target_modules=['{fused}']?")
            break
    else:
        near = sorted({c for name in asked for c in difflib.get_close_matches(name, ends, n=2, cutoff=0.5)})
        if near:
            lines.append(f"Did you mean target_modules={near}?")
        elif isinstance(target, str):
            lines.append(
                "A string is a regular expression for the whole path; to name layers by suffix, give a list."
            )
    return "\n".join(lines)


def _show(target):
    return repr(target) if isinstance(target, str) else repr(list(target))
