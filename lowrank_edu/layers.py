"""A frozen layer and the named updates that sit beside it.

`AdaptedLayer` wraps; it never inherits from the layer and never changes a weight in `train()` or `eval()`.
Which updates act is plain state (`active`, `enabled`, `rows`, `kept`), set for the whole model by
`switching.py`.
"""

import copy

import torch
from torch import nn

from .quant import all_finite
from .quantized import Quantized
from .updates import Whole, gathered, store_like, weight_of

KEPT_ON = torch.device("cpu")
"""Where the own weights of a merged layer wait: the device has no room to spare for them."""
DROPPED = (
    "the adapter was merged with keep_base=False, so the original weights are gone. "
    "Load the model again, or merge with keep_base=True next time."
)


def swap(model, pairs):
    """Put new wherever the model holds old, {old: new}, in one walk: a model may hold one module under two names."""
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child in pairs:
                parent._modules[name] = pairs[child]


def _tensors(layer):
    return [*layer.parameters(), *layer.buffers()]


def _send(tensors, device):
    for tensor in tensors:
        if tensor.device != device:
            tensor.data = tensor.data.to(device)


class Holder(nn.Module):
    """Named updates at one place of a model, and which of them act. Changed for a whole model by `switching.py`.

    updates  {name: Update}
    active   names that act, in order
    enabled  False inside `lo.disabled`
    rows     None, or one name (or None) per row of the batch, inside `lo.routed`
    kept     None, or what merging replaced
    stacked  None, or what the fast path keeps from one pass to the next inside `lo.routed`
    """

    stacked = None

    def __init__(self):
        super().__init__()
        self.updates = nn.ModuleDict()
        self.active = ()
        self.enabled = True
        self.rows = None
        self.kept = None
        self.merged_names = ()

    def acting_updates(self):
        """The updates here that are active, in order."""
        here = self._modules["updates"]._modules  # asked at every call: torch's own look-up takes four times as long
        return [here[name] for name in self.active if name in here]

    def withdraw(self, model):
        """Leave the model, which then is what it was without this holder."""
        raise NotImplementedError


class AdaptedLayer(Holder):
    """y = base(x) + the sum of the active updates, each of which sees only x and base(x).

    `base` is the frozen layer: Linear, Conv1D, Embedding, or any leaf module for updates that replace it.
    `kept` holds that layer alone while a twin with the updates merged into it acts as the base.
    """

    def __init__(self, base):
        super().__init__()
        self.base = base

    def withdraw(self, model):
        swap(model, {self: self.base})

    def forward(self, x, *args, **kwargs):
        if self.rows is not None and self.enabled:
            return self._routed(x, *args, **kwargs)
        if self.kept is not None or not self.enabled:
            return self.base(x, *args, **kwargs)
        layer = self.acting
        y = layer(x, *args, **kwargs)
        if layer is not self.base:
            return y
        changes = [update(x, y, self.base) for update in self.acting_updates()]
        return sum(changes, y).to(y.dtype)

    @property
    def whole(self):
        """The active update that replaces the frozen layer, or None."""
        return next((update for update in self.acting_updates() if isinstance(update, Whole)), None)

    @property
    def acting(self):
        """The layer that computes y: the frozen one, or its trained copy while that is in use."""
        whole = self.whole if self.enabled and self.kept is None and self.rows is None else None
        return self.base if whole is None else whole.copy

    def _routed(self, x, *args, **kwargs):
        if isinstance(self.base, nn.Embedding) and x.shape[0] == 1:
            x = x.expand(len(self.rows), *x.shape[1:])  # position embeddings: all rows share what is looked up
        y0 = y = self.base(x, *args, **kwargs)
        if y.shape[0] != len(self.rows):
            raise ValueError(
                f"this layer sees a batch of {y.shape[0]} rows, but {len(self.rows)} names were routed. Give "
                "one name (or None) per row; a layer that reads positions, which all rows share, cannot be routed."
            )
        rows = {name: [i for i, n in enumerate(self.rows) if n == name] for name in self.rows if name in self.updates}
        together = [name for name in rows if self.updates[name].gathers]
        if together:
            places = torch.tensor([i for name in together for i in rows[name]], device=y.device)
            which = torch.tensor([k for k, name in enumerate(together) for _ in rows[name]], device=y.device)
            new = y0[places] + gathered([self.updates[name] for name in together], which, x[places], self.base)
            y = y.index_copy(0, places, new.to(y.dtype))
        for name in rows.keys() - set(together):  # DoRA, whole layers and the like: one adapter at a time
            places, update = torch.tensor(rows[name], device=y.device), self.updates[name]
            if isinstance(update, Whole):
                new = update.copy(x, *args, **kwargs)[places]
            else:
                new = y0[places] + update(x[places], y0[places], self.base)
            y = y.index_copy(0, places, new.to(y.dtype))
        return y

    def delta(self, name="default"):
        """ΔW (d_out, d_in) of one update, a detached copy in float32 or wider."""
        if name not in self.updates:
            raise ValueError(f"no update {name!r} on this layer; it has {', '.join(self.updates) or 'none'}.")
        return self.updates[name].delta(self._unmerged())

    @torch.no_grad()
    def merge_values(self, names, W=None, room=None):
        """{parameter name: new value} of the base with these updates baked in; nothing is changed.

        Sums are made in float32 or wider and rounded once to the layer's dtype. `W` (d_out, d_in) is used
        instead of the base's weight if given, and `room` is memory that the new weight may take. Raises
        ValueError where a value would not be finite (NaN in an adapter, or an overflow of the layer's dtype).
        """
        updates, new = [self.updates[name] for name in names], {}
        changing = [update for update in updates if update.changes_weight]
        shifts = [update.bias for update in updates if update.bias is not None]
        if self.whole is not None:
            new = dict(self.whole.copy.named_parameters())
        if changing:
            W = weight_of(self.base) if W is None else W
            total = sum((update.delta(self.base) for update in changing[1:]), changing[0].onto(W, self.base, room))
            new["weight"] = store_like(self.base, total).to(W.dtype).contiguous()
        if shifts:
            old = self.base.bias  # None: BitFit may give the layer a bias that it did not have
            dtype = weight_of(self.base).dtype if old is None else old.dtype
            new["bias"] = (sum(shifts) if old is None else old + sum(shifts)).to(dtype)
        for key, value in new.items():
            if not all_finite(value):
                bad = "NaN" if torch.isnan(value).any() else "Inf"
                raise ValueError(
                    f"{key} would hold {bad} in {str(value.dtype).removeprefix('torch.')} after merging "
                    f"{list(names)}. Look for NaN in the adapter, or load the model in a wider dtype."
                )
        return new

    def merged(self, values, memo, how=None):
        """A twin of the base with copies of the merged `values`; values that are one tensor stay one (`memo`).

        A quantised base with a new weight becomes a dense layer, unless `how` is "requantise".
        """
        base, values = self.base, dict(values)
        if isinstance(base, Quantized) and "weight" in values:
            twin = base.with_weight(values.pop("weight"), dense=how != "requantise")
        else:
            twin = copy.copy(base)
        for value in values.values():
            if id(value) not in memo:
                own = value.detach().clone() if isinstance(value, nn.Parameter) else value  # what was added up is new
                memo[id(value)] = nn.Parameter(own, requires_grad=False)
        twin._parameters = {**twin._parameters, **{key: memo[id(value)] for key, value in values.items()}}
        return twin

    def put(self, twin, names, keep_base, shared):
        """Let the merged `twin` act as the base.

        The frozen layer is kept (on the CPU what is its own alone), so that undoing is exact;
        `keep_base=False` drops it.
        """
        old, self.base, self.merged_names = self.base, twin, tuple(names)
        self.kept = (old,) if keep_base else ()
        if keep_base:
            used = {id(tensor) for tensor in _tensors(twin)}
            _send([t for t in _tensors(old) if id(t) not in used and id(t) not in shared], KEPT_ON)

    def exchange(self):
        """Swap the base with the kept layer: merged becomes original, and back again."""
        (other,), current = self.kept, self.base
        _send(_tensors(other), _tensors(current)[0].device)
        self.base, self.kept = other, (current,)

    def restore(self):
        """Undo `put`: the very same layer returns, so tied weights are tied again."""
        self.exchange()
        self.kept, self.merged_names = None, ()

    def original(self, key):
        """The base's parameter `key` as it is without merging."""
        if self.kept == ():
            raise ValueError(DROPPED)
        return getattr(self._unmerged(), key)

    def _unmerged(self):
        """The base as it is without merging (ΔW of a DoRA update depends on W0)."""
        if not self.kept:
            return self.base
        (old,), device = self.kept, _tensors(self.base)[0].device
        return old if all(t.device == device for t in _tensors(old)) else copy.deepcopy(old).to(device)

    def __getattr__(self, name):
        """The layer in use answers for its attributes: `nf`, or a `weight` that a model reads itself."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if "merged_names" not in self.__dict__:  # not built yet: copying and unpickling ask early
                raise
            return getattr(self.acting, name)

    def extra_repr(self):
        return f"active={list(self.active)}" + (", merged" if self.kept is not None else "")
