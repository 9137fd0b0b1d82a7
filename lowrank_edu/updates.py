"""Question 1, *shape*: how is ΔW written? And question 3, *scale*: how loud is it?

An update is a small module beside one frozen layer `base`: it adds `update(x, y, base)` to that layer's
output y. Weights are always thought of as W0 (d_out × d_in). `nn.Linear` stores them so; GPT-2's `Conv1D`
and `nn.Embedding` store the transpose, and only `weight_of` and `store_like` know about it.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn


def stored_transposed(base):
    """Whether the layer keeps its weight as (d_in, d_out): GPT-2's `Conv1D`, quantised or not, and `nn.Embedding`."""
    return isinstance(base, nn.Embedding) or type(base).__name__ == "Conv1D" or getattr(base, "transposed", False)


def weight_of(base):
    """W0 as (d_out, d_in), whatever the layer stores: a view, or unpacked afresh from a quantised layer."""
    return base.weight.T if stored_transposed(base) else base.weight


def store_like(base, W):
    """A (d_out, d_in) matrix in the orientation in which `base` stores its weight."""
    return W.T if stored_transposed(base) else W


def widened(tensor):
    """The tensor in float32, or in float64 if it is that already."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def project(x, A, base):
    """A x for every position: (…, d_in) -> (…, r). For an embedding x holds indices: (…) -> (…, r)."""
    if isinstance(base, nn.Embedding):
        # some models multiply their embeddings by a constant; the update must be multiplied too
        return F.embedding(x, A.T, padding_idx=base.padding_idx) * getattr(base, "embed_scale", 1.0)
    return F.linear(x.to(A.dtype), A)


class Update(nn.Module):
    """What every update can do. `bias` is an optional change Δb (d_out) of the layer's bias.

    `fixed` names the own parameters that are not trained: from the start, or since a schedule froze them.
    """

    changes_weight = False
    gathers = False
    """Whether `gathered` can work it out together with others, for a batch with an adapter per row."""
    alone = None
    """Why no other active update may sit at the same place, or None if they add up."""

    def __init__(self):
        super().__init__()
        self.bias = None
        self.fixed = set()

    def trained(self):
        """{name: parameter} of the parameters that are trained while the update is awake."""
        return {name: p for name, p in self.named_parameters() if name not in self.fixed}

    def wake(self, on=True):
        """Give the trained parameters gradients; `wake(False)` and fixed parameters have none."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(on and name not in self.fixed)

    def fix(self, *names):
        """Freeze these parameters: no gradient from now on, and the one that was there is dropped."""
        self.fixed |= set(names)
        for name in names:
            parameter = self.get_parameter(name)
            parameter.grad = None
            parameter.requires_grad_(False)

    def settle(self, base):
        """Called when `base` (a quantised layer) takes the place of the layer that this update was built for."""

    def train_bias(self, bias):
        """Let this update change the layer's bias too; the change Δb starts at zero."""
        self.bias = nn.Parameter(torch.zeros_like(widened(bias)))

    def forward(self, x, y, base):
        """ΔW x + Δb (…, d_out), from the layer's input x (…, d_in) and its frozen output y (…, d_out)."""
        change = self.change(x, y, base)
        return change if self.bias is None else change + self.bias

    def change(self, x, y, base):
        """ΔW x (…, d_out)."""
        return 0.0

    @torch.no_grad()
    def delta(self, base, room=None):
        """ΔW (d_out, d_in), float32 or wider, formed explicitly: only for merging and looking.

        room: memory in the shape of the base's weight that the result may be written into; to fetch new memory can
        take longer than the product. An update that has no use for it gives a new matrix.
        """
        return torch.zeros_like(weight_of(base), dtype=torch.float32)

    @torch.no_grad()
    def onto(self, W, base, room=None):
        """W + ΔW (d_out, d_in), new, its sum made in float32 or wider: what merging bakes in. room: as in `delta`."""
        dW = self.delta(base, room)
        return dW.to(torch.promote_types(dW.dtype, W.dtype)).add_(W)


class LowRank(Update):
    """ΔW = scale · diag(gain) B core A, never formed: x (…, d_in) -> (…, d_out).

    A is (r, d_in), B is (d_out, r). LoRA has nothing else (Hu et al. 2021, eq. 3 · chapter 3). `core` sits
    between the two: a vector (r), standing for a diagonal matrix, or a matrix (r, r). `gain` (d_out) makes
    every output louder or quieter. `fixed` names the factors that are not trained.

    With `residual=True` the starting product is taken away again by frozen copies, so ΔW is zero at step 0
    and W0 is never overwritten (chapter 4). A fixed A needs no copy.
    """

    changes_weight = True
    folded = False
    """Whether the base is what is left of W0 without the start, so that this ΔW fits that base alone."""

    def __init__(self, A, B, scale, *, core=None, gain=None, dropout=0.0, residual=False, fixed=()):
        super().__init__()
        for key, value in {"A": A, "B": B, "core": core, "gain": gain}.items():
            self.register_parameter(key, None if value is None else nn.Parameter(value))
        self.scale = scale
        self.dropout = nn.Dropout(dropout)
        self.fixed = set(fixed)
        self.register_buffer("A0", None)
        self.register_buffer("B0", None)
        if residual:
            self.keep_start()

    @torch.no_grad()
    def keep_start(self):
        """From now on ΔW is what has changed since this moment."""
        A, B = self.factors()
        self.A0, self.B0 = None if "A" in self.fixed else A.detach().clone(), B.detach().clone()

    @torch.no_grad()
    def fold(self):
        """The residual start as a matrix (d_out, d_in), which the base must be without from now on."""
        A0, B0 = map(widened, self.start())
        self.A0 = self.B0 = None
        self.folded = True
        return self.scale * (B0 @ A0)

    def right(self):
        """A as a matrix (r, d_in), gradients attached."""
        return self.A

    def left(self):
        """B as a matrix (d_out, r), gradients attached."""
        return self.B

    def factors(self):
        """(A, B) as plain matrices (r, d_in), (d_out, r) with core and gain folded into B."""
        B, core, gain = self.left(), self.core, self.gain
        if core is not None:
            B = B @ core if core.dim() == 2 else B * core
        return self.right(), B if gain is None else gain[:, None] * B

    @property
    def gathers(self):
        return self.bias is None and not (self.training and self.dropout.p)

    @property
    def residual(self):
        """Whether the starting product is taken away again."""
        return self.B0 is not None

    def start(self):
        """(A0, B0) of a residual start, as plain matrices."""
        return self.right() if self.A0 is None else self.A0, self.B0

    def drop(self, x, base):
        return x if isinstance(base, nn.Embedding) else self.dropout(x)

    def low_rank(self, x, base):
        """ΔW x, for an x whose dropout has been applied."""
        z = z0 = project(x, self.right(), base)  # (…, d_in) -> (…, r)
        if self.core is not None:
            z = F.linear(z, self.core) if self.core.dim() == 2 else z * self.core
        out = F.linear(z, self.left()) * self.scale  # (…, r) -> (…, d_out)
        out = out if self.gain is None else out * self.gain
        if self.residual:
            z0 = z0 if self.A0 is None else project(x, self.A0, base)
            out = out - F.linear(z0, self.B0) * self.scale
        return out

    def change(self, x, y, base):
        return self.low_rank(self.drop(x, base), base)

    def product(self, transposed=False, room=None):
        """ΔW as a matrix (d_out, d_in), in float32 or wider. transposed: in the memory order of ΔWᵀ (d_in, d_out)."""
        dW = self._product(*self.factors(), transposed, room)
        return dW - self._product(*self.start(), transposed) if self.residual else dW

    def _product(self, A, B, transposed, room=None):
        A, B, scale = widened(A), widened(B), self.scale
        if math.frexp(scale)[0] == 0.5:  # a power of two shifts no digit, so the small factor may carry it
            B, scale = B * scale, 1.0
        room = room if room is not None and room.dtype == A.dtype else None
        product = torch.mm(A.T, B.T, out=room).T if transposed else torch.mm(B, A, out=room)
        return product if scale == 1 else product.mul_(scale)

    @torch.no_grad()
    def delta(self, base, room=None):
        return self.product(stored_transposed(base), room)

    @torch.no_grad()
    def onto(self, W, base, room=None):
        A, B = self.factors()
        alike = A.dtype == B.dtype == W.dtype == widened(W).dtype
        if self.residual or type(self).delta is not LowRank.delta or not alike:
            return super().onto(W, base, room)
        if stored_transposed(base):  # the product and the sum in one pass over the memory
            return torch.addmm(W.T, A.T, B.T, alpha=self.scale, out=room).T
        return torch.addmm(W, B, A, alpha=self.scale, out=room)

    def as_lora(self):
        """(A, B) of the plain LoRA with the same ΔW and scale, gradients attached. A residual start doubles the
        rank, unless A is fixed: then only B has moved."""
        A, B = self.factors()
        if not self.residual:
            return A, B
        if self.A0 is None:
            return A, B - self.B0
        return torch.cat([A, self.A0]), torch.cat([B, -self.B0], dim=1)


def gathered(updates, which, x, base):
    """ΔW x with an update per row: row i of x takes updates[which[i]]. Two batched products for all rows at once.

    (rows, …, d_in) -> (rows, …, d_out). This is the BGMV of Punica (Chen et al. 2023, §4). Ranks may differ: zero
    rows and columns pad every A and B to the largest.
    """
    pairs = [update.as_lora() for update in updates]
    rank = max(A.shape[0] for A, _ in pairs)
    A = torch.stack([F.pad(A, (0, 0, 0, rank - A.shape[0])) for A, _ in pairs])  # (n, r, d_in)
    B = torch.stack([F.pad(B * u.scale, (0, rank - B.shape[1])) for u, (_, B) in zip(updates, pairs, strict=True)])
    if isinstance(base, nn.Embedding):
        tokens, shape = x.flatten(1), x.shape
        z = A.mT[which[:, None], tokens] * getattr(base, "embed_scale", 1.0)  # each token picks a column of its A
        if base.padding_idx is not None:
            z = torch.where((tokens == base.padding_idx)[..., None], z.detach(), z)
    else:
        tokens, shape = x.reshape(len(x), -1, x.shape[-1]), x.shape[:-1]
        z = tokens.to(A.dtype) @ A[which].mT  # (rows, tokens, d_in) -> (rows, tokens, r)
    return (z @ B[which].mT).view(*shape, -1)  # -> (rows, …, d_out)


class BlockLowRank(LowRank):
    """One LowRank per chosen slice of a fused layer's output, each with an A of its own.

    A (n·r, d_in) stacks the n slices' A. B (n, d_slice, r) holds their B. The equivalent plain LoRA has rank
    n·r with B placed block by block, as in loralib's MergedLinear.
    """

    def __init__(self, A, B, scale, rows, d_out, dropout=0.0, residual=False):
        super().__init__(A, B, scale, dropout=dropout)
        self.d_out = d_out
        # (n · d_slice,) output rows that the blocks change
        self.register_buffer("rows", rows, persistent=False)
        if residual:
            self.keep_start()

    def left(self):
        blocks = torch.block_diag(*self.B)  # (n · d_slice, n · r)
        return blocks.new_zeros(self.d_out, blocks.shape[1]).index_copy(0, self.rows, blocks)


class DoRA(LowRank):
    """W = m ⊙ V / ‖V‖ with V = W0 + scale · B A, one norm per output row.   Liu et al. 2024, eq. 5.

    m (d_out) is learned and starts at ‖W0‖, so the start is exact. The norm counts as a constant in the
    backward pass (their §4.3).
    """

    def __init__(self, A, B, scale, base, dropout=0.0, residual=False):
        super().__init__(A, B, scale, dropout=dropout, residual=residual)
        self.m = nn.Parameter(self.row_norm(base).clone())

    gathers = False  # the norm of every row depends on W0, too

    @torch.no_grad()
    def settle(self, base):
        self.m.copy_(self.row_norm(base))

    @torch.no_grad()
    def row_norm(self, base):
        """‖W0 + scale · B A‖ of every row (d_out), in float32 or wider."""
        return torch.linalg.norm(weight_of(base) + self.product(), dim=1)

    def change(self, x, y, base):
        dropped = self.drop(x, base)
        gain = self.m / self.row_norm(base)
        if dropped is not x:  # dropout acts on all that the adapter sees
            y = base(dropped)
        W0x = y if getattr(base, "bias", None) is None else y - base.bias
        return (gain - 1) * W0x + gain * self.low_rank(dropped, base)

    @torch.no_grad()
    def delta(self, base, room=None):
        W0 = weight_of(base)
        return (self.m / self.row_norm(base))[:, None] * (W0 + self.product()) - W0


class Projected(Update):
    """ΔW = reshape(P θ), one short vector θ (d) for all layers, P fixed and random.   Li et al. 2018, eq. 2.

    P is sparse: each weight takes one entry of θ with a random sign, so the columns of P are orthogonal.
    `spread` is the common length 1/√(weights per entry) that makes those columns unit vectors on average.
    """

    changes_weight = True

    def __init__(self, theta, base, spread, generator, seed):
        super().__init__()
        self.theta, self.seed = theta, seed  # θ is shared between layers; the seed makes P again
        shape = weight_of(base).shape
        entry = torch.randint(theta.numel(), shape, generator=generator, dtype=torch.int32)
        sign = torch.randint(2, shape, generator=generator, dtype=torch.int8) * 2 - 1
        self.register_buffer("entry", entry.to(base.weight.device), persistent=False)
        self.register_buffer("sign", sign.to(base.weight.device), persistent=False)
        self.spread = spread

    def matrix(self):
        """P θ as (d_out, d_in), gradients attached."""
        entries = self.theta.index_select(0, self.entry.flatten()).view(self.entry.shape)
        return entries * self.sign * self.spread

    def change(self, x, y, base):
        if isinstance(base, nn.Embedding):
            return project(x, self.matrix(), base)
        return F.linear(x.to(self.theta.dtype), self.matrix())

    @torch.no_grad()
    def delta(self, base, room=None):
        return self.matrix()


class Whole(Update):
    """A trainable copy of the whole layer, used in its place: full fine-tuning, one layer at a time.

    The frozen layer stays beside it, so that the base model can be had back bit for bit. `AdaptedLayer`
    calls the copy instead of the frozen layer, so there is nothing to add.
    """

    alone = "replaces the whole layer"

    def __init__(self, copy):
        super().__init__()
        self.copy = copy.requires_grad_(True)

    @torch.no_grad()
    def delta(self, base, room=None):
        return widened(weight_of(self.copy)) - widened(weight_of(base))
