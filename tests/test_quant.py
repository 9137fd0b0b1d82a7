"""Blockwise quantisation against bitsandbytes 0.50 on the CPU, bit for bit, and against arithmetic."""

from statistics import NormalDist

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peer import bitsandbytes

import lowrank_edu as lo
from lowrank_edu.quant import QTensor, bits_per_parameter, codebook, dequantize, quantize

bnb = bitsandbytes.functional

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SIZES = [1, 2, 63, 64, 65, 127, 128, 130, 4095, 4097, 65_537, 1_000_000]


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def with_zero_blocks(x):
    """The same values with some whole blocks of zeros, one in three and the last, and zeros inside blocks."""
    x = x.clone()
    for start in range(64, x.numel(), 192):
        x[start : start + 64] = 0
    x[::7] = 0
    x[x.numel() // 64 * 64 :] = 0
    return x


def assert_equal_to_bitsandbytes(x, kind, block_size=64):
    packed, state = bnb.quantize_4bit(x, blocksize=block_size, quant_type=kind)
    q = quantize(x, kind, block_size)
    assert q.packed.dtype == torch.uint8 and torch.equal(q.packed, packed)
    assert q.absmax.dtype == torch.float32 and torch.equal(q.absmax, state.absmax)
    there = bnb.dequantize_4bit(packed, state, quant_type=kind).reshape(x.shape)  # it makes one row of a vector
    here = dequantize(q)
    assert here.dtype == x.dtype and here.shape == x.shape and torch.equal(here, there)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_four_bits_are_those_of_bitsandbytes(kind, size, dtype):
    x = normal(size, seed=size, dtype=dtype)
    assert_equal_to_bitsandbytes(x, kind)
    assert_equal_to_bitsandbytes(with_zero_blocks(x), kind)
    assert_equal_to_bitsandbytes(x * 1e-4, kind)


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("block_size", [32, 128, 256, 1024, 4096])
def test_other_block_sizes_and_shapes(kind, block_size):
    for shape in [(3, 43), (7, 64), (1, 5, 33), (77, 130)]:
        assert_equal_to_bitsandbytes(normal(*shape), kind, block_size)


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("size", [64, 100, 640])
def test_denormal_and_huge_blocks(kind, size):
    for factor in (1e-45, 1e-40, 1e-38, 2e-38, 1e37):
        assert_equal_to_bitsandbytes(normal(size) * factor, kind)
    for dtype in DTYPES:
        assert_equal_to_bitsandbytes((normal(size) * 1e-7).to(dtype), kind)


@given(st.integers(1, 400), st.integers(0, 10_000), st.floats(-6, 6), st.sampled_from(["nf4", "fp4"]))
@settings(max_examples=60, deadline=None)
def test_random_sizes_and_scales(size, seed, power, kind):
    assert_equal_to_bitsandbytes(normal(size, seed=seed) * 10**power, kind)


def test_midpoints_go_to_the_lower_level():
    table = codebook("nf4")
    middles = (table[:-1] + table[1:]) / 2
    x = torch.cat([torch.ones(1), middles, torch.zeros(64 - 16)])
    q = quantize(x)
    codes = torch.stack([q.packed >> 4, q.packed & 15], 1).flatten()
    assert codes[1:16].tolist() == list(range(15))
    assert_equal_to_bitsandbytes(x, "nf4")


@pytest.mark.parametrize("size", [16, 64])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_values_on_the_edge_between_two_levels(kind, size):
    """There one bit decides: a whole block multiplies by 1/absmax, a short one divides by absmax."""
    table = codebook(kind).sort().values
    middles = ((table[:-1] + table[1:]) / 2).repeat(5)[: size - 1]
    for top in normal(200).abs():
        assert_equal_to_bitsandbytes(torch.cat([top[None], middles * top]), kind)


def test_nf4_by_hand():
    """Two bytes that can be checked on paper: value 2i sits in the high half of byte i."""
    q = lo.quant.quantize_nf4(torch.tensor([2.0, -2.0, 0.0]))
    assert q.packed.flatten().tolist() == [0xF0, 0x77] and q.absmax.tolist() == [2.0]
    assert lo.quant.dequantize_nf4(q).tolist() == [2.0, -2.0, 0.0]
    assert lo.quant.quantize_nf4(torch.zeros(64)).packed.flatten().tolist() == [0x77] * 32
    q = lo.quant.quantize_nf4(torch.randn(130))
    assert q.packed.shape == (65, 1) and q.absmax.shape == (3,)


def test_the_codebooks():
    for kind in ("nf4", "fp4"):
        assert torch.equal(codebook(kind), bnb.get_4bit_type(kind, device="cpu"))
    assert torch.equal(codebook("dynamic8"), bnb.create_dynamic_map())
    # NF4 from its definition: quantiles of N(0, 1), with torch's float32 linspace, divided by the largest
    inv = NormalDist().inv_cdf
    pos, neg = ([inv(p) for p in torch.linspace(0.9677083, 0.5, n)[:-1].tolist()] for n in (9, 8))
    made = torch.tensor(sorted([-v for v in neg] + [0.0] + pos))
    assert torch.equal(codebook("nf4"), made / made.max())
    assert codebook("int4").tolist()[:15] == pytest.approx([k / 7 for k in range(-7, 8)])
    assert len(codebook("int8")) == 255 and torch.equal(codebook("int8"), -codebook("int8").flip(0))


@pytest.mark.parametrize(("kind", "top"), [("int4", 7), ("int8", 127)])
def test_even_levels_are_round_to_nearest(kind, top):
    """numpy in float64 as the oracle; a value within rounding of a midpoint may go either way."""
    x = normal(37, 29)
    back = dequantize(quantize(x, kind)).double().numpy().ravel()
    flat = x.double().numpy().ravel()
    blocks = np.pad(flat, (0, -len(flat) % 64)).reshape(-1, 64)
    absmax = np.abs(blocks).max(1, keepdims=True)
    nearest = (np.round(blocks / absmax * top) / top * absmax).ravel()[: len(flat)]
    wide = np.repeat(absmax.ravel(), 64)[: len(flat)]
    assert np.all(np.abs(flat - back) <= np.abs(flat - nearest) + 1e-6 * wide)
    assert np.mean(np.abs(back - nearest) < 1e-6 * wide) > 0.999


@pytest.mark.parametrize("dtype", DTYPES)
def test_double_quantisation_is_within_the_bounds_of_the_table_in_bitsandbytes(dtype):
    x = normal(1280, 4096, dtype=dtype)
    packed, state = bnb.quantize_4bit(x, quant_type="nf4", compress_statistics=True)
    q = lo.quant.quantize_nf4(x, double_quant=True)
    assert torch.equal(q.packed, packed) and torch.equal(q.offset, state.offset)
    assert torch.equal(q.scales.absmax, state.state2.absmax)
    same = q.scales.packed == state.absmax
    assert len(same) == 81_920 and same.float().mean() >= 0.995
    plain = quantize(x).absmax
    theirs = bnb.dequantize_blockwise(state.absmax, state.state2) + state.offset
    assert ((q.absmax - theirs).abs() / plain).max() <= 0.02
    assert ((q.absmax - plain).abs() / plain).max() <= 0.03


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(5, 13), (64, 96), (300, 301)])
def test_dequantising_the_state_of_bitsandbytes_is_exact(shape, dtype):
    packed, s = bnb.quantize_4bit(normal(*shape, dtype=dtype), quant_type="nf4", compress_statistics=True)
    scales = QTensor(s.absmax, s.state2.absmax, None, "dynamic8", 256, s.absmax.shape, torch.float32)
    q = QTensor(packed, scales, s.offset, "nf4", 64, s.shape, s.dtype)
    assert torch.equal(lo.quant.dequantize_nf4(q), bnb.dequantize_4bit(packed, s))


@pytest.mark.parametrize(("block_size", "mean"), [(64, 0.072798), (128, 0.076831), (4096, 0.092547)])
def test_the_error_table_of_nf4(block_size, mean):
    """Mean |error| on N(0, 1): the numbers of bitsandbytes' own test of its 4-bit quantiser."""
    x = normal(2048, 2048, seed=1)
    error = (x - dequantize(quantize(x, "nf4", block_size))).abs()
    assert float(error.mean()) == pytest.approx(mean, rel=5e-3)
    if block_size == 64:
        assert float((error / (x.abs() + 1e-8)).mean()) == pytest.approx(0.203, rel=0.02)


def test_the_four_kinds_in_order_of_error():
    x = normal(1024, 1024)
    errors = {kind: float((x - dequantize(quantize(x, kind))).abs().mean()) for kind in lo.quant.KINDS}
    assert errors["int8"] < errors["nf4"] < errors["int4"] < 0.1 and errors["nf4"] < errors["fp4"]
    assert errors["fp4"] == pytest.approx(0.096545, rel=5e-3)  # bitsandbytes' own table


@pytest.mark.parametrize("kind", lo.quant.KINDS)
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
def test_quantising_twice_changes_nothing_more(kind, dtype):
    x = normal(9, 31, dtype=dtype)
    once = dequantize(quantize(x, kind))
    again = dequantize(quantize(once, kind))
    assert once.dtype == dtype and once.shape == (9, 31)
    assert (again.double() - once.double()).abs().max() <= 2 * torch.finfo(dtype).eps * x.double().abs().max() + 1e-6


def test_a_view_is_read_in_its_own_order():
    x = normal(40, 24)
    assert torch.equal(dequantize(quantize(x.T)), dequantize(quantize(x.T.contiguous())))
    assert dequantize(quantize(torch.tensor(0.3))).item() == pytest.approx(0.3)


def test_bits_per_parameter():
    assert bits_per_parameter("nf4") == 4.5 and bits_per_parameter("int8") == 8.5
    assert bits_per_parameter("nf4", double_quant=True) == pytest.approx(4.12695, abs=1e-5)
    x = normal(1024, 512)
    assert quantize(x).bits_per_parameter == 4.5
    assert quantize(x, double_quant=True).bits_per_parameter == pytest.approx(4.12695, abs=1e-4)
    assert quantize(x).nbytes == 1024 * 512 // 2 + 4 * 1024 * 512 // 64
    saved = (bits_per_parameter() - bits_per_parameter(double_quant=True)) * 65e9 / 8
    assert saved == pytest.approx(3.03e9, rel=0.01)  # "about 3 GB for a 65B model"


def test_shapes_alone():
    q = quantize(torch.empty(7, 33, device="meta"), double_quant=True)
    assert q.packed.shape == (116, 1) and q.packed.is_meta and q.nbytes == 116 + 4 + 4 + 4


@pytest.mark.parametrize(("call", "words"), [
    (lambda: quantize(torch.tensor([1.0, float("nan")])), r"1 of 2 values are NaN or Inf.*first at \(1,\)"),
    (lambda: quantize(torch.tensor([[1.0, float("-inf")]])), r"first at \(0, 1\).*leave this tensor out"),
    (lambda: quantize(torch.tensor([1e300], dtype=torch.float64)), "NaN or Inf in float32"),
    (lambda: quantize(torch.arange(4)), r"int64.*call \.float\(\) first"),
    (lambda: quantize(torch.empty(0, 3)), r"\(0, 3\) is empty"),
    (lambda: quantize(torch.ones(4), "nf3"), "kind='nf3' is not one of nf4, fp4, int4, int8"),
    (lambda: quantize(torch.ones(4), block_size=0), "block_size=0.*64 is QLoRA's"),
    (lambda: quantize(torch.ones(4), block_size=64.0), r"block_size=64\.0"),
    (lambda: bits_per_parameter("nf4", True), "block_size=True"),
    (lambda: lo.quant.dequantize_nf4(quantize(torch.ones(4), "fp4")), r"'fp4', not 'nf4': use dequantize\(q\)"),
])  # fmt: skip
def test_bad_input_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
