"""The table: a method is a row, one answer to each of the five questions."""

from .common import Method, pattern_value, require, some
from .lora import FUSED, LoRA
from .whole import FullFineTuning, IntrinsicDimension

METHODS = {row.__name__: row for row in (LoRA, FullFineTuning, IntrinsicDimension)}
"""Every method by its name, as adapters on disk name it."""

__all__ = ["FUSED", "METHODS", "Method", "pattern_value", "require", "some", *METHODS]
