"""Methods by the names that people type, and the settings that a command line can give."""

import typer

NAMES = (
    "lora", "rslora", "lora+", "dora", "pissa", "olora", "lora-fa", "vera", "aflora", "adalora", "lora-xs", "lamda",
    "lisa", "full", "bitfit", "houlsby", "pfeiffer", "prefix", "prompt",
)  # fmt: skip
FIXED = {  # extra settings of the rows that are LoRA
    "lora": {}, "rslora": {"use_rslora": True}, "lora+": {"lr_ratio": 16}, "dora": {"use_dora": True},
    "pissa": {"init": "pissa"}, "olora": {"init": "olora"},
}  # fmt: skip


def known_method(name: str):
    """The name of a method, or a wrong flag."""
    if name == "qlora":
        raise typer.BadParameter("QLoRA is LoRA on a quantised model: --method lora --quantize nf4.")
    if name not in NAMES:
        raise typer.BadParameter(f"{name} is none of {', '.join(NAMES)}.")
    return name


def make_method(name, r, alpha=None, target_modules="all-linear", dropout=0.0):
    """The method of that name as a dataclass, which checks its own settings: ValueError.

    alpha None is 2 r. For a bottleneck r is its width, for a prefix or prompt its length; methods without a scale,
    targets or dropout do not take them.
    """
    from .. import methods as m

    alpha = 2 * r if alpha is None else alpha
    where = {"target_modules": target_modules, "dropout": dropout}
    if name in FIXED:
        return m.LoRA(r, alpha, **where, **FIXED[name])
    made = {
        "lora-fa": lambda: m.LoRAFA(r, alpha, **where),
        "vera": lambda: m.VeRA(r, **where),
        "aflora": lambda: m.AFLoRA(r, **where),
        "adalora": lambda: m.AdaLoRA(r, -(-3 * r // 2), alpha, **where),
        "lora-xs": lambda: m.LoRAXS(r, **where),
        "lamda": lambda: m.LaMDA(r, **where),
        "lisa": lambda: m.LISA(),
        "full": lambda: m.FullFineTuning(),
        "bitfit": lambda: m.BitFit(),
        "houlsby": lambda: m.BottleneckAdapter(r),
        "pfeiffer": lambda: m.BottleneckAdapter(r, "pfeiffer"),
        "prefix": lambda: m.PrefixTuning(r),
        "prompt": lambda: m.PromptTuning(r),
    }
    return made[name]()


def targets(text):
    """"q_proj,v_proj" → a tuple of names; "all-linear" and a regular expression with a dot, bar or star stay text."""
    if text == "all-linear" or any(sign in text for sign in ".|*("):
        return text
    return tuple(name for name in text.replace(" ", "").split(",") if name)
