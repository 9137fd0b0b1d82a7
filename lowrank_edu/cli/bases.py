"""Which model a command takes: the one that was named, or the one that the adapter names as its base."""

import json
from pathlib import Path

import typer

ALIASES = {  # what folders call a base -> the name that load_model knows
    "openai-community/gpt2": "gpt2",
    "openai-community/gpt2-medium": "gpt2-medium",
    "openai-community/gpt2-large": "gpt2-large",
    "openai-community/gpt2-xl": "gpt2-xl",
    "HuggingFaceTB/SmolLM2-135M-Instruct": "smollm2-135m",
    "smollm2-135m-instruct (dequantised from GGUF Q4_1)": "smollm2-135m",  # written by 0.1.0 before its release
}
DEFAULT = "tiny-gpt2"


def base_of(folder: Path) -> str | None:
    """The base that an adapter folder names, by the name that load_model knows; None where it names none."""
    for file in ("adapter_config.json", "lowrank_config.json"):
        try:
            named = json.loads((folder / file).read_text("utf-8")).get("base_model_name_or_path")
        except (OSError, ValueError, AttributeError):
            continue  # reading the folder will say what is wrong with it
        if isinstance(named, str) and named:
            return ALIASES.get(named, named)
    return None


def is_model(name: str) -> bool:
    """Whether load_model can try this name: one that it knows, `owner/name` on the hub, or a folder with a model."""
    from ..models import HUB_ID, NAMES

    return name in NAMES or (Path(name) / "config.json").is_file() or bool(HUB_ID.fullmatch(name))


def chosen(model: str | None, folders: list[Path]) -> str:
    """The model to load for these adapters.  A wrong flag says which names contradict each other, and what to do."""
    bases = {folder: base for folder in folders if (base := base_of(folder))}
    if model is not None:
        asked = ALIASES.get(model, model)
        for folder, base in bases.items():
            if asked != base and not (Path(model) / "config.json").is_file():  # a folder may be a copy of the base
                raise typer.BadParameter(
                    f"{folder} was trained on {base}, and --model is {model}. Leave --model out, or name a folder that "
                    f"holds {base}."
                )
        return asked
    names = sorted(set(bases.values()))
    if len(names) > 1:
        told = ", ".join(f"{folder} on {base}" for folder, base in bases.items())
        raise typer.BadParameter(f"these adapters were trained on different models: {told}. Take them one at a time.")
    if not names:
        if folders:
            raise typer.BadParameter(f"{folders[0]} does not say which model it was trained on: give --model.")
        return DEFAULT
    if not is_model(names[0]):
        raise typer.BadParameter(
            f"the adapter says that its base is {names[0]}, which is no name that this command knows, no owner/name "
            "on the hub and no folder here: give --model."
        )
    return names[0]
