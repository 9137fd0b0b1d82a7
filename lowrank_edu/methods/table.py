"""The table of all methods: one row each, an answer to each of the five questions, and what the method can do.

What can be asked of a method (merge, route, combine, PEFT type, own format) is asked of the code; the rest is here.
"""

from dataclasses import dataclass

from .adalora import AdaLoRA
from .aflora import AFLoRA
from .common import no_peft
from .lamda import LaMDA
from .lora import LoRA
from .lorafa import LoRAFA
from .loraxs import LoRAXS
from .prompts import PrefixTuning, PromptTuning
from .rivals import BitFit, BottleneckAdapter
from .vera import VeRA
from .whole import LISA, FullFineTuning, IntrinsicDimension

ANY = "any: fp32, bf16, NF4"
SEES = "any; codes through adapt(quantize=), so that the start sees W0"
WHOLE = "fp32, bf16; codes cannot be trained"
WIDE = {"target_modules": "all-linear"}
STATED = {  # name: (class, settings, shape, start, scale, schedule, storage, source)
    "LoRA": (LoRA, WIDE, "B A", "A random, B = 0", "α/r", "all train", ANY, "Hu et al. 2021"),
    "rsLoRA": (
        LoRA, WIDE | {"use_rslora": True}, "B A", "A random, B = 0", "α/√r", "all train", ANY, "Kalajdzievski 2023",
    ),
    "LoRA+": (
        LoRA, WIDE | {"lr_ratio": 16}, "B A", "A random, B = 0", "α/r", "all train, B at λ times the rate of A", ANY,
        "Hayou et al. 2024",
    ),
    "DoRA": (
        LoRA, WIDE | {"use_dora": True}, "m ⊙ V/‖V‖ − W0, V = W0 + B A", "A random, B = 0, m = ‖W0‖",
        "α/r; m is learned", "all train", ANY, "Liu et al. 2024",
    ),
    "PiSSA": (
        LoRA, WIDE | {"init": "pissa"}, "B A − its start", "top singular directions of W0", "α/r", "all train", SEES,
        "Meng et al. 2024",
    ),
    "OLoRA": (
        LoRA, WIDE | {"init": "olora"}, "B A − its start", "Q and R of W0", "α/r", "all train", SEES,
        "Büyükakyüz 2024",
    ),
    "LoftQ": (
        LoRA, WIDE | {"init": "loftq"}, "B A", "top singular directions of what quantising loses", "α/r", "all train",
        "codes, made with the start: adapt(quantize=)", "Li et al. 2023",
    ),
    "LoRA-FA": (LoRAFA, WIDE, "B A", "A random, B = 0", "α/r", "B trains, A never", ANY, "Zhang, L. et al. 2023"),
    "VeRA": (
        VeRA, WIDE, "Λ_b B Λ_d A; A, B shared by all layers", "A, B random, λ_b = 0, λ_d = 0.1", "1; λ_b is learned",
        "the vectors train, A and B never", ANY, "Kopiczko et al. 2023",
    ),
    "AFLoRA": (
        AFLoRA, WIDE, "Λ_b B Λ_d A", "A, B random, λ_b = 0, λ_d = 0.1", "1; λ_b is learned",
        "the vectors train; A and B, matrix by matrix, until their scores fall", ANY, "Liu, Z. et al. 2024",
    ),
    "AdaLoRA": (
        AdaLoRA, WIDE, "P Λ Q", "P, Q random, Λ = 0", "α/init_r to the end",
        "all train; the total rank falls to a budget", ANY, "Zhang, Q. et al. 2023",
    ),
    "LoRA-XS": (
        LoRAXS, WIDE, "B R A", "A, B top singular directions of W0, R = 0", "1, or α/r", "R trains, A and B never",
        SEES, "Bałazy et al. 2024",
    ),
    "LaMDA": (
        LaMDA, WIDE, "B Σ A − its start", "top singular directions and values of W0", "1, or α/r",
        "Σ trains, A never, B column by column ever less", SEES, "Azizi et al. 2024; variants are our reading",
    ),
    "LaMDA++": (
        LaMDA, WIDE, "B Σ A − its start; a rank per layer from the spectrum of W0",
        "top singular directions and values of W0", "1, or α/r", "Σ trains, A never, B column by column ever less",
        SEES, "Azizi et al. 2024; our reconstruction",
    ),
    "intrinsic dimension": (
        IntrinsicDimension, {"d": 100}, "P θ, one θ for all layers", "θ = 0, P random", "1", "θ trains, P never", ANY,
        "Li et al. 2018, Aghajanyan et al. 2021",
    ),
    "full fine-tuning": (FullFineTuning, {}, "a whole matrix", "0", "1", "all train", WHOLE, ""),
    "LISA": (
        LISA, {}, "a whole matrix", "0", "1", "embeddings and head train, and a few blocks drawn anew every K steps",
        WHOLE, "Pan et al. 2024",
    ),
    "BitFit": (BitFit, {}, "no ΔW; Δb", "0", "1", "biases train", ANY, "Ben-Zaken et al. 2022"),
    "Houlsby adapter": (
        BottleneckAdapter, {}, "no ΔW; a bottleneck behind attention and feed-forward", "near 0", "1",
        "all train", ANY, "Houlsby et al. 2019",
    ),
    "Pfeiffer adapter": (
        BottleneckAdapter, {"placement": "pfeiffer"}, "no ΔW; a bottleneck behind feed-forward", "near 0", "1",
        "all train", ANY, "Pfeiffer et al. 2021",
    ),
    "prefix tuning": (
        PrefixTuning, {"length": 10}, "no ΔW; keys and values in front of the text, in every layer",
        "those of random tokens", "1", "all train", ANY, "Li and Liang 2021",
    ),
    "prompt tuning": (
        PromptTuning, {"length": 10}, "no ΔW; embeddings in front of the text", "those of random tokens", "1",
        "all train", ANY, "Lester et al. 2021",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One method. `merge`, `route`, `combine`, `peft` and `own` are True, or the reason why not and what to do instead.

    method      a row of the code with example settings: `adapt(model, row.method)`
    peft        whether save_adapter(format="peft") can; `peft_type` is what PEFT then loads, and `native` whether that
                is a type of its own and not the plain LoRA that it equals
    own         whether save_adapter(format="own") can
    """

    name: str
    method: object
    shape: str
    start: str
    scale: str
    schedule: str
    storage: str
    merge: bool | str
    route: bool | str
    combine: bool | str
    peft: bool | str
    own: bool | str
    peft_type: str | None
    native: bool
    source: str

    @property
    def call(self):
        """How the method is written, such as LoRA(target_modules='all-linear', use_rslora=True)."""
        kind, settings = STATED[self.name][:2]
        return f"{kind.__name__}({', '.join(f'{key}={value!r}' for key, value in settings.items())})"


def table():
    """All methods: a list of Row, the low-rank ones first."""
    return [_row(name, *stated) for name, stated in STATED.items()]


def _row(name, kind, settings, shape, start, scale, schedule, storage, source):
    method = kind(**settings)
    merge, route, combine, save = (method.cannot(what) or True for what in ("merge", "route", "combine", "save"))
    peft = no_peft(method) or save
    peft_type = (method.peft_type or "LORA") if peft is True else None
    return Row(
        name, method, shape, start, scale, schedule, storage, merge, route, combine, peft, save, peft_type,
        peft_type is not None and peft_type == method.peft_type, source,
    )  # fmt: skip
