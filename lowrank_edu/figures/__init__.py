"""Figures: each public function returns a Figure that moves in the page with no kernel.

    from lowrank_edu import figures
    figures.spectrum({"a picture": W})          # the last line of a notebook cell
    figures.try_yours("ch01-best", best_copy)   # where a kernel runs: sliders that drive the learner's function

A function is imported on first use from the subject module named here, so that this package stays light.
"""

from importlib import import_module

# function -> module of this folder. A function may not have the name of a module: the module would hide it.
_HOMES = {
    "merge_drift": "merge_meter",
    "storable_numbers": "ruler",
    "loss_curve": "curves",
    "update_spectra": "updates",
    "loss_against_d": "dimension",
    "spectrum": "spectra",
    "rank_picture": "picture",
    "block_anatomy": "anatomy",
    "training_replay": "samples",
    "facts_replay": "samples",
    "learning_map": "scale_map",
    "start_race": "races",
    "memory_planner": "ledgers",
    "memory_measured": "ledgers",
    "four_bits": "code_use",
    "adalora_replay": "rank_replay",
    "freezing_front": "front_page",
    "rivals_compared": "rivals_page",
    "rank_budget": "energies",
    "method_table": "methods_page",
    "try_yours": "live",
    "quiz": "quizzes",
}
__all__ = sorted(_HOMES)


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no figure {name!r}; it has {', '.join(__all__)}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted([*globals(), *__all__])
