"""The table: a method is a row, one answer to each of the five questions."""

from .adalora import AdaLoRA
from .aflora import AFLoRA
from .common import Method, pattern_value, require, some
from .lamda import LaMDA
from .lora import FUSED, LoRA
from .lorafa import LoRAFA
from .loraxs import LoRAXS
from .prompts import PrefixTuning, PromptTuning
from .rivals import BitFit, BottleneckAdapter
from .table import Row, table
from .vera import VeRA
from .whole import LISA, FullFineTuning, IntrinsicDimension

_ROWS = [
    LoRA,
    AdaLoRA,
    LoRAFA,
    VeRA,
    LaMDA,
    LoRAXS,
    AFLoRA,
    FullFineTuning,
    LISA,
    IntrinsicDimension,
    BitFit,
    BottleneckAdapter,
    PrefixTuning,
    PromptTuning,
]
METHODS = {row.__name__: row for row in _ROWS}
"""Every method by its name, as adapters on disk name it."""

__all__ = ["FUSED", "METHODS", "Method", "pattern_value", "require", "some", "Row", "table", *METHODS]
