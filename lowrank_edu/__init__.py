"""`lowrank_edu`: low-rank adaptation from scratch, from numpy factorisation to fine-tuned language models.

    import lowrank_edu as lo        # loads numpy only; torch and transformers wait until something needs them

Every public name is reachable from here and is imported on first use. `lr` is only ever the learning rate.
"""

from importlib import import_module

from . import missing

__version__ = "0.1.0"

_HOMES = {
    "models": ["load_model"],
    "methods": [
        "LoRA", "AdaLoRA", "LoRAFA", "VeRA", "LaMDA", "LoRAXS", "AFLoRA", "FullFineTuning", "LISA",
        "IntrinsicDimension",
        "BitFit", "BottleneckAdapter", "PrefixTuning", "PromptTuning",
    ],
    "allocation": ["allocate"],
    "rates": ["parameter_groups"],
    "adapting": ["adapt", "adapted_layers", "Report"],
    "switching": [
        "merge", "unmerge", "set_adapter", "disabled", "routed", "combine", "unwrap", "delete_adapter", "adapter_names",
    ],
    "swapping": ["swap_merged"],
    "quantizing": ["quantize", "Quantization"],
    "paging": ["paged_adamw"],
    "schedules": ["attach"],
    "checkpoint": ["save_adapter", "load_adapter"],
    "batches": ["tokenize", "evaluate"],
    "data": ["read_data", "Stream"],
    "processes": ["shard"],
    "training": ["train"],
    "history": ["History"],
    "sampling": ["sample"],
    "inspecting": ["inspect_adapter"],
    "checking": ["check", "exercises"],
    "passing": ["progress"],
    "colab": ["setup"],
    "fast": ["fast_report"],
}  # fmt: skip
_MODULES = ["factor", "corpus", "figures", "quant", "updates", "inits", "layers", "memory", "exercises", *_HOMES]
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted({*_HOME_OF, *_MODULES})


def __getattr__(name):
    if name in _HOME_OF:  # a name that is both (`exercises`) means the function
        value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    elif name in _MODULES:
        value = import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__():
    return sorted([*globals(), *__all__])


missing.watch()
