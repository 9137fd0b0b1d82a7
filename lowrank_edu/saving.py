"""`model.save_pretrained` on an adapted model: an adapter folder, never a full model that nobody could load.

The keys of an adapted model are not those of its architecture. transformers would write them, load the folder again
without an error, and fill every adapted layer with random numbers. So while a model carries adapters, its own
`save_pretrained` is covered by one that writes them, which is what transformers' Trainer then does at `save_steps`.
"""

import re
import weakref
from pathlib import Path

from safetensors.torch import save_file

NAME = "save_pretrained"
HARMLESS = ("max_shard_size", "safe_serialization", "save_peft_format", "save_original_format")


def cover(model):
    """Cover the model's `save_pretrained`, if it has one; `uncover` takes that off."""
    if callable(getattr(type(model), NAME, None)):
        model.__dict__[NAME] = SavePretrained(model)


def uncover(model):
    """Give the model its own `save_pretrained` back."""
    if isinstance(model.__dict__.get(NAME), SavePretrained):
        del model.__dict__[NAME]


class SavePretrained:
    """What an adapted model has as `save_pretrained`. A copy of the model, or the model from a pickle, has its own."""

    def __init__(self, model):
        self._model = weakref.ref(model)  # no circle, so that a model that is let go leaves its memory at once

    def __deepcopy__(self, memo):
        return SavePretrained(memo.get(id(self._model()), self._model()))

    def __reduce__(self):
        return SavePretrained, (self._model(),)

    def __call__(self, save_directory, is_main_process=True, **more):
        """Write the model's adapters, not the model: a folder as from `lo.save_adapter`.

        One adapter is written to the folder itself, several to a folder inside for each, with its name: in PEFT's
        format where PEFT has a type for the method, else in ours. To a folder that is called checkpoint-N, as the
        Trainer calls them, also goes model.safetensors with the adapters' parameters as they are, from which the
        Trainer resumes and takes its best model.

        Raises ValueError while adapters are merged, and for arguments that an adapter folder has no use for.
        """
        from .adapting import holders  # here: these modules are where models are covered
        from .checkpoint import save_adapter
        from .resuming import trained_state

        model, folder = self._model(), Path(save_directory)
        unknown = [key for key, value in more.items() if key not in HARMLESS and value]
        if unknown:
            raise ValueError(
                f"save_pretrained of an adapted model writes an adapter folder and has no {unknown[0]}=. Leave it out; "
                "for the full model, call lo.merge(model) and lo.unwrap(model) first."
            )
        if any(holder.kept is not None for holder in holders(model).values()):
            raise ValueError(
                "an adapter is merged but the model is still wrapped, so neither it nor the plain model can be saved "
                "here. For the full model with the adapter baked in, call lo.unwrap(model) first; for the adapter, "
                "lo.unmerge(model), or lo.save_adapter."
            )
        if not is_main_process:
            return
        names = list(model.__dict__["lowrank_methods"])
        for name in names:
            save_adapter(model, folder if len(names) == 1 else folder / name, name)
        if re.fullmatch(r"checkpoint-\d+", folder.name):
            state = {key: value.cpu().clone().contiguous() for key, value in trained_state(model).items()}
            save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
