"""Question 5, *storage*: how is W0 kept? As small whole numbers, each a place in a table of levels.

A tensor is read row by row and cut into blocks of 64 values. Each block keeps the largest magnitude, its
`absmax`, and for every value the number of the level nearest to value / absmax. Two 4-bit codes share a byte.
Double quantisation keeps the absmax themselves in 8 bits.   Dettmers et al. 2023 (QLoRA), §3
"""

import math
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F

TINY = 1e-38  # bitsandbytes' floor of absmax: 1 / TINY is finite, and 0 · (1 / TINY) is 0
PIECE = 2**20  # values that are coded or decoded at a time: four megabytes, which a processor's cache holds
ROWS = 8  # that the codes of a piece stand in, for threads to share them
NESTED_BLOCK = 256  # block size of the absmax under double quantisation


def _dynamic8():
    """The signed dynamic 8-bit map: 0, 1 and seven decades, each cut twice as finely as the one below it, so
    that small numbers keep a relative precision of their own.   Dettmers 2015 (arXiv:1511.04561)"""
    middles = []
    for i in range(7):
        edges = torch.linspace(0.1, 1, 2**i + 1, dtype=torch.float32)
        middles.append(10.0 ** (i - 6) * (edges[:-1] + edges[1:]) / 2)
    middles = torch.cat(middles)
    return torch.cat([middles, -middles, torch.tensor([0.0, 1.0])]).sort().values.tolist()


_FP4 = [v / 12 for v in (0, 0.0625, 8, 12, 4, 6, 2, 3)]  # one bit of sign, two of exponent, one of mantissa
LEVELS = {
    # 16 quantiles of N(0, 1), divided by the largest; 0 and ±1 are exact
    "nf4": [
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
        -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
        0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
        0.7229568362236023, 1.0,
    ],
    "fp4": _FP4 + [-v for v in _FP4],  # in bitsandbytes' order of bits; code 8 is a second zero
    "int4": [k / 7 for k in range(-7, 8)] + [1.0],  # evenly spaced; a 16th level would break the symmetry
    "int8": [k / 127 for k in range(-127, 128)],
    "dynamic8": _dynamic8(),
}  # fmt: skip
KINDS = ("nf4", "fp4", "int4", "int8")


def codebook(kind, device="cpu"):
    """The levels of `kind` in the order of their codes, float32: 16 of them, or up to 256 for 8 bits."""
    device = torch.device(device)
    if device.type in ("cpu", "meta"):  # cheap there, and safe where tensors are only shapes
        return torch.tensor(LEVELS[kind], dtype=torch.float32, device=device)
    return _kept_codebook(kind, device)


@cache
def _kept_codebook(kind, device):
    with torch.inference_mode(False):  # the table outlives the call that makes it
        return torch.tensor(LEVELS[kind], dtype=torch.float32, device=device)


def bits_of(kind):
    """Bits per code: 4 or 8."""
    return 4 if len(LEVELS[kind]) == 16 else 8


def bits_per_parameter(kind="nf4", block_size=64, double_quant=False):
    """Bits per value with its share of the absmax: 4 + 32/64 = 4.5 for NF4, and
    4 + 8/64 + 32/(64 · 256) = 4.127 with double quantisation."""
    check(kind, block_size)
    scales = 8 / block_size + 32 / (block_size * NESTED_BLOCK) if double_quant else 32 / block_size
    return bits_of(kind) + scales


@dataclass(frozen=True, eq=False)
class QTensor:
    """A quantised tensor of this `shape` and `dtype`.

    packed   uint8: for 4 bits (⌈n/2⌉, 1), value 2i in the high half of byte i; for 8 bits (n,)
    scales   float32 (blocks,), the absmax; with double quantisation a QTensor of absmax − offset
    offset   None, or the mean of the absmax, float32 ()
    """

    packed: torch.Tensor
    scales: "torch.Tensor | QTensor"
    offset: torch.Tensor | None
    kind: str
    block_size: int
    shape: torch.Size
    dtype: torch.dtype

    @property
    def double_quant(self):
        return self.offset is not None

    @property
    def absmax(self):
        """The factor of every block as dequantising uses it, float32 (blocks,)."""
        return dequantize(self.scales) + self.offset if self.double_quant else self.scales

    @property
    def nbytes(self):
        """Bytes of codes, absmax and offset."""
        return self.packed.nbytes + self.scales.nbytes + (self.offset.nbytes if self.double_quant else 0)

    @property
    def bits_per_parameter(self):
        """Bits per value that this tensor really takes, short blocks and offset included."""
        return 8 * self.nbytes / math.prod(self.shape)


def check(kind, block_size):
    """Raise ValueError unless these are settings that `quantize` understands."""
    if kind not in LEVELS:
        raise ValueError(f"kind={kind!r} is not one of {', '.join(KINDS)}.")
    if not isinstance(block_size, int) or isinstance(block_size, bool) or block_size < 1:
        raise ValueError(
            f"block_size={block_size!r}: a block holds a whole number ≥ 1 of values; 64 is QLoRA's."
        )


@torch.no_grad()
def quantize(tensor, kind="nf4", block_size=64, double_quant=False):
    """A QTensor of `tensor`, which may have any shape and floating dtype; the last block may be short.

    kind  "nf4" (quantiles of a Gaussian), "fp4" (a tiny float), "int4" and "int8" (evenly spaced)

    Codes, absmax and rounding are bit for bit those of bitsandbytes 0.50 for "nf4" and "fp4": scaled values
    go to the nearest level, from the middle between two to the lower one. Raises ValueError for an unknown
    kind or block size, an empty or whole-number tensor, NaN and Inf.
    """
    check(kind, block_size)
    _check_values(tensor, kind)
    if tensor.is_meta:
        return _shapes(tensor, kind, block_size, double_quant)
    size = _piece(tensor.numel(), block_size, tensor)
    rooms = tensor.new_empty(3, size, dtype=torch.float32)  # for all pieces: new memory takes longer than the sums
    found = [_coded(piece, kind, block_size, rooms) for piece in tensor.detach().reshape(-1).split(size)]
    absmax, packed = (torch.cat(parts) for parts in zip(*found, strict=True))
    offset = None
    if double_quant:
        offset = absmax.mean()
        absmax = quantize(absmax - offset, "dynamic8", NESTED_BLOCK)
    return QTensor(packed, absmax, offset, kind, block_size, tensor.shape, tensor.dtype)


def _coded(flat, kind, block_size, rooms):
    """(absmax (blocks,), packed) of a vector; `rooms` (3, at least n) are written over."""
    absmax, scaled = _scaled(flat.float(), block_size, rooms[0])
    table, order = codebook(kind, flat.device).sort(stable=True)
    four = bits_of(kind) == 4
    scaled = F.pad(scaled, (0, scaled.numel() % 2)) if four else scaled  # an odd value shares its byte with 0
    codes = _places(scaled, (table[:-1] + table[1:]) / 2, rooms[1:])
    if kind == "fp4":  # whose levels are not in the order of their codes
        codes = order[codes.long()]
    codes = torch.add(codes[1::2], codes[0::2], alpha=16)[:, None] if four else codes
    return absmax, codes.to(torch.uint8)


def _places(values, middles, rooms):
    """For every value, how many of the sorted middles lie below it. Fifteen comparisons of a whole vector are faster
    than a search for each value; 255 are not."""
    if len(middles) > 15 or values.device.type != "cpu":
        return torch.bucketize(values, middles)
    places, above = rooms[:, : len(values)]
    places.zero_()
    for middle in middles.tolist():
        places += torch.gt(values, middle, out=above)
    return places


def _piece(n, block_size, tensor):
    """How many of n values to take at a time: whole blocks that fit a processor's cache. All of them on other devices,
    and for a plan's tensors without content."""
    cut = tensor.device.type == "cpu" and type(tensor).__name__ != "FakeTensor"
    step = 2 * ROWS * block_size  # two codes share a byte, and bytes stand in rows
    return step * -(-(min(n, PIECE) if cut else n) // step)


def _shapes(tensor, kind, block_size, double_quant):
    """The QTensor of a tensor on the meta device, which has shapes but no values: quick, for planning."""
    n = tensor.numel()
    packed = tensor.new_empty((n + 1) // 2, 1, dtype=torch.uint8) if bits_of(kind) == 4 else tensor.new_empty(n).byte()
    absmax, offset = tensor.new_empty(-(-n // block_size), dtype=torch.float32), None
    if double_quant:
        offset = absmax.new_empty(())
        absmax = quantize(absmax, "dynamic8", NESTED_BLOCK)
    return QTensor(packed, absmax, offset, kind, block_size, tensor.shape, tensor.dtype)


def _scaled(flat, block_size, room):
    """(absmax (blocks,), values / absmax (n,)) of a float32 vector; the second in `room`, if all blocks are whole."""
    whole = flat.numel() // block_size
    blocks, rest = flat[: whole * block_size].view(whole, block_size), flat[whole * block_size :]
    room = room[: whole * block_size].view(whole, block_size)
    absmax = torch.abs(blocks, out=room).amax(dim=1)
    scaled = torch.mul(blocks, (1 / absmax.clamp(min=TINY))[:, None], out=room).view(-1)
    if rest.numel():  # bitsandbytes divides in a short block and keeps the floor, so its zero block has TINY
        last = rest.abs().amax().clamp(min=TINY)
        absmax, scaled = torch.cat([absmax, last[None]]), torch.cat([scaled, rest / last])
    return absmax, scaled


@torch.no_grad()
def dequantize(q, dtype=None, out=None):
    """The tensor that a QTensor stands for: level · absmax in float32, then rounded once to `dtype` (that of
    the original unless given), or to that of `out`, a contiguous tensor of the same shape that takes the result."""
    table, absmax = codebook(q.kind, q.packed.device), q.absmax
    out = q.packed.new_empty(q.shape, dtype=dtype or q.dtype) if out is None else out
    # One look into a table of pairs unpacks both codes of a byte. `gather` shares its rows among the threads;
    # `index_select` in one dimension does not.
    width = 2 if bits_of(q.kind) == 4 else 1
    table = torch.cartesian_prod(table, table).view(torch.int64).view(-1) if width == 2 else table
    size = _piece(math.prod(q.shape), q.block_size, q.packed)
    pieces = q.packed.view(-1).split(size // width), absmax.split(size // q.block_size), out.view(-1).split(size)
    numbers = q.packed.new_zeros(ROWS, size // width // ROWS, dtype=torch.int64)
    looked_up = table.new_empty(numbers.shape)
    for codes, scales, room in zip(*pieces, strict=True):
        numbers.view(-1)[: len(codes)].copy_(codes)  # the last piece may be short: then what is old is looked up, too
        torch.gather(table.expand(ROWS, -1), 1, numbers, out=looked_up)
        values = looked_up.view(-1).view(torch.float32)[: len(room)]
        whole = len(room) // q.block_size * q.block_size
        torch.mul(values[:whole].view(-1, q.block_size), scales[: whole // q.block_size, None],
                  out=room[:whole].view(-1, q.block_size))  # fmt: skip
        if whole < len(room):  # the last block may be short
            torch.mul(values[whole:], scales[-1], out=room[whole:])
    return out


def quantize_nf4(tensor, block_size=64, double_quant=False):
    """`quantize` with the 16 levels of NormalFloat: each is as likely as the others for a Gaussian weight."""
    return quantize(tensor, "nf4", block_size, double_quant)


def dequantize_nf4(q):
    """`dequantize`, for a QTensor of kind "nf4"."""
    if q.kind != "nf4":
        raise ValueError(f"this tensor was quantised as {q.kind!r}, not 'nf4': use dequantize(q).")
    return dequantize(q)


def all_finite(tensor):
    """Whether no entry is NaN or Inf. Neither ever leaves a sum again, and one sum is quicker than asking each entry;
    but finite entries may add up to Inf, so then each is asked."""
    total = tensor.sum(dtype=torch.promote_types(tensor.dtype, torch.float32))
    return math.isfinite(total) or bool(torch.isfinite(tensor).all())


def _check_values(tensor, kind):
    if not tensor.is_floating_point():
        raise ValueError(
            f"a tensor of dtype {tensor.dtype} holds no floating-point values to quantise; call .float() first."
        )
    if tensor.numel() == 0:
        raise ValueError(f"a tensor of shape {tuple(tensor.shape)} is empty: there is nothing to quantise.")
    if tensor.is_meta:  # shapes alone, for counting
        return
    values = tensor.float()
    if not all_finite(values):
        finite = torch.isfinite(values)
        where = tuple(int(i) for i in (~finite).nonzero()[0])
        raise ValueError(
            f"{int((~finite).sum())} of {tensor.numel()} values are NaN or Inf in float32, the first at {where}: "
            f"one would spoil its whole block in {kind}. Find where they come from, or leave this tensor out."
        )
