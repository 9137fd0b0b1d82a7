"""What a byte ledger counts: weights by what they are for, and what autograd saves; each byte once."""

import re
import weakref
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch.nn.modules import module as global_hooks

from .adapting import holders
from .quantized import Quantized
from .updates import Whole


@dataclass(frozen=True)
class Ledger:
    """Bytes of one training step, by what they are for. `trainable` and `weights` are numbers of parameters.

    parameters   all weights and buffers that the model holds; `held` splits them
    gradients    of the trained weights
    optimizer    what the optimizer, and a schedule, remember between steps
    activations  what the forward pass keeps for the backward pass; `saved` splits it; None: not planned
    recomputed   with checkpointing: the most that comes back at once in the backward pass; planned, not measured
    held         {"base, frozen" and the like: bytes}
    saved        {(place, kind of module): bytes}, layer numbers written as *
    """

    parameters: int
    gradients: int
    optimizer: int
    activations: int | None
    trainable: int
    weights: int
    recomputed: int = 0
    held: dict = field(default_factory=dict, repr=False)
    saved: dict = field(default_factory=dict, repr=False)

    @property
    def total(self):
        """The sum of all that is known, in bytes."""
        return self.parameters + self.gradients + self.optimizer + (self.activations or 0) + self.recomputed

    @property
    def share(self):
        """Percent of all weights, adapters included, that are trained: PEFT's percentage."""
        return 100 * self.trainable / max(self.weights, 1)

    def __str__(self):
        rows = [("parameters", self.parameters), *((f"  {kind}", n) for kind, n in self.held.items())]
        rows += [("gradients", self.gradients), ("optimizer state", self.optimizer)]
        rows += [("saved activations", self.activations)]
        places = sorted(self.saved.items(), key=lambda row: -row[1])
        rows += [(f"  {path} ({kind})" if kind else f"  {path}", n) for (path, kind), n in places[:8]]
        rows += [(f"  in {len(places) - 8} other places", sum(n for _, n in places[8:]))] if places[8:] else []
        rows += [("recomputed at a time", self.recomputed)] if self.recomputed else []
        rows += [("total" if self.activations is not None else "total without activations", self.total)]
        width = max(len(what) for what, _ in rows)
        lines = [f"{what:<{width}}  {size(n):>12}" for what, n in rows]
        return "\n".join([*lines, f"{self.trainable:,} of {self.weights:,} weights are trained ({self.share:.2f} %)."])


def size(n):
    """Bytes as a short text, in powers of 1,000: 1.50 MB."""
    if n is None:
        return "not planned"
    power = min((len(str(n)) - 1) // 3, 5)
    return f"{n} B" if power == 0 else f"{n / 1000**power:.2f} {' kMGTP'[power]}B"


def storage(tensor):
    """What tensors that share memory have in common."""
    return tensor.untyped_storage()._cdata


def span(tensor):
    """(first byte, one past the last) that the tensor covers in its storage."""
    last = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True)) + 1
    first, item = tensor.storage_offset(), tensor.element_size()
    return first * item, (first + (last if tensor.numel() else 0)) * item


def unique_bytes(tensors):
    """Bytes that the tensors cover together; memory that several share counts once."""
    spans, total = {}, 0
    for tensor in tensors:
        spans.setdefault(storage(tensor), set()).add(span(tensor))
    for pieces in spans.values():
        end = 0
        for first, last in sorted(pieces):
            total += max(0, last - max(first, end))
            end = max(end, last)
    return total


def tensors_of(model):
    """{kind, "trained" or "frozen": [tensors]} of all weights and buffers, and what merging keeps; each once."""
    kinds, seen, own = {}, set(), {id(t) for t in _both(model)}

    def note(kind, tensors):
        for tensor in tensors:
            if id(tensor) not in seen:
                seen.add(id(tensor))
                kinds.setdefault(f"{kind}, {'trained' if tensor.requires_grad else 'frozen'}", []).append(tensor)

    for holder in holders(model).values():
        for update in holder.updates.values():
            note("copies of layers" if isinstance(update, Whole) else "adapters", _both(update))
        for layer in holder.kept or ():
            note("kept by merging", [t for t in _both(layer) if id(t) not in own])
    for module in model.modules():
        if isinstance(module, Quantized):
            note("quantised base", module.buffers())
    note("base", _both(model))
    return {kind: kinds[kind] for kind in sorted(kinds, key=lambda kind: "base" not in kind)}


def _both(module):
    return [*module.parameters(), *module.buffers()]


def found_in(state):
    """All tensors inside nested dicts, lists and tuples, such as an optimizer's state."""
    if isinstance(state, torch.Tensor):
        yield state
    elif isinstance(state, (dict, list, tuple)):
        for value in state.values() if isinstance(state, dict) else state:
            yield from found_in(value)


def count(model):
    """(trained, all) numbers of weights. A layer with a trained copy counts once; packed weights count one by one."""
    replaced = (h.base for h in holders(model).values() if any(isinstance(u, Whole) for u in h.acting_updates()))
    spare = {id(p) for base in replaced for p in base.parameters()}
    weights = [p for p in model.parameters() if id(p) not in spare]
    packed = sum(m.shape.numel() for m in model.modules() if isinstance(m, Quantized))
    return sum(p.numel() for p in weights if p.requires_grad), sum(p.numel() for p in weights) + packed


def make_ledger(model, gradients, optimizer, saved=None, recomputed=0):
    """The Ledger of a model whose gradients, optimizer state and activations are counted already."""
    kinds = tensors_of(model)
    return Ledger(
        parameters=unique_bytes(t for tensors in kinds.values() for t in tensors),
        gradients=gradients,
        optimizer=optimizer,
        activations=None if saved is None else sum(saved.largest.values()),
        **dict(zip(("trainable", "weights"), count(model), strict=True)),
        recomputed=recomputed,
        held={kind: unique_bytes(tensors) for kind, tensors in kinds.items()},
        saved={} if saved is None else saved.table(),
    )


class Saved:
    """Listens to what autograd saves during a forward pass, and which module saved it.

    Counted: the bytes of all storages that the graph holds when a backward pass begins (without one, at the
    end), each once and whole, credited to the module that saved it first. Not counted: parameters, buffers and
    their views, and what a checkpoint computes again while the backward pass runs. Of several passes, such as
    the micro-batches of a step, the one that holds most counts.
    """

    def __init__(self, model):
        self.paths = {id(module): (path, type(module).__name__) for path, module in model.named_modules()}
        self.own = {storage(t) for tensors in tensors_of(model).values() for t in tensors}
        self.stack, self.entries, self.fresh, self.largest = [], [], False, {}

    def pack(self, tensor):
        # detached, because a saved output would keep alive the very graph that keeps it
        entry = _Entry(tensor.detach(), self.stack[-1] if self.stack else ("outside the model", ""))
        if torch._C._current_graph_task_id() == -1:  # not inside a backward pass
            self.entries.append(weakref.ref(entry))  # the graph alone keeps it alive
            self.fresh = True
        return entry

    def unpack(self, entry):
        self.look()
        return entry.tensor

    def look(self):
        """Count what the graph holds now, if anything was saved since the last look."""
        if not self.fresh:
            return
        alive = [entry for entry in (reference() for reference in self.entries) if entry is not None]
        self.fresh, self.entries = False, [weakref.ref(entry) for entry in alive]
        places, seen = Counter(), set(self.own)
        for entry in alive:
            if storage(entry.tensor) not in seen:
                seen.add(storage(entry.tensor))
                places[entry.place] += entry.tensor.untyped_storage().nbytes()
        if places.total() > sum(self.largest.values()):
            self.largest = dict(places)

    @contextmanager
    def listening(self):
        """Hooks that are global, so that the model is not touched; they go away even if the step fails."""
        enter = global_hooks.register_module_forward_pre_hook(lambda module, args: self._enter(module))
        leave = global_hooks.register_module_forward_hook(lambda module, *_: self._leave(module), always_call=True)
        try:
            with torch.autograd.graph.saved_tensors_hooks(self.pack, self.unpack):
                yield self
                self.look()
        finally:
            enter.remove()
            leave.remove()

    def _enter(self, module):
        if id(module) in self.paths:
            self.stack.append(self.paths[id(module)])

    def _leave(self, module):
        if id(module) in self.paths and self.stack:
            self.stack.pop()

    def table(self):
        """{(path with * for layer numbers, kind of module): bytes}."""
        rows = Counter()
        for (path, kind), n in self.largest.items():
            rows[re.sub(r"(^|\.)\d+(?=\.|$)", r"\1*", path) or "the model", kind] += n
        return dict(rows)

    def block(self):
        """The most that one numbered block keeps."""
        blocks = Counter()
        for (path, _), n in self.largest.items():
            found = re.match(r"(.*?\.\d+)(\.|$)", path)
            blocks[found and found[1]] += n
        blocks.pop(None, None)
        return max(blocks.values(), default=0)


class _Entry:
    __slots__ = ("__weakref__", "place", "tensor")

    def __init__(self, tensor, place):
        self.tensor, self.place = tensor, place
