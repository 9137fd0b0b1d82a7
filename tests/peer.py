"""bitsandbytes as the tests ask it.

On processors with AVX512 its CPU kernel for unpacking (0.50.2) takes the scales of other blocks where a row of the
weight is a multiple of 16 but no whole number of blocks: a (20, 16) weight in blocks of 64 comes back with errors of
1.7 σ, the same numbers as one row with 0.3 σ. So its own portable kernel, which it uses for odd rows, unpacks here.
"""

import bitsandbytes
import torch
from bitsandbytes.backends.default.ops import _dequantize_4bit_compute
from bitsandbytes.backends.utils import _get_4bit_code


def portable(A, absmax, blocksize, quant_type, shape, dtype):
    code = _get_4bit_code(quant_type, A.device)
    return _dequantize_4bit_compute(A.view(torch.uint8).reshape(-1), absmax, code, blocksize, shape, dtype)


_KEPT = torch.library.Library("bitsandbytes", "IMPL")
_KEPT.impl("dequantize_4bit", portable, "CPU", allow_override=True)

__all__ = ["bitsandbytes"]
