"""Move every slider of every live panel through all its values: both pictures follow, and the answers agree.

    python tests/panels.py        needs the package alone; `portable.py` runs it with older ipywidgets
"""

from __future__ import annotations

import os
import re
import sys

import ipywidgets

from lowrank_edu import exercises, figures
from lowrank_edu.figures.trials import TRIALS


def sides(html: str) -> dict[str, str]:
    """{"books": picture, "yours": picture} out of a panel's HTML."""
    found = re.split(r'<div class="lo-(books|yours)"', html)
    pictures = [text.split("</div>", 1)[1].split("</div></div>")[0] for text in found[2::2]]
    return dict(zip(found[1::2], pictures, strict=True))


def values_of(slider) -> list:
    """Every value that a slider can have."""
    if hasattr(slider, "options"):
        return [value for _, value in slider.options]
    return list(range(slider.min, slider.max + 1, slider.step))


def move_all(panel) -> int:
    """Move each slider through its values, the start last; how many moves. AssertionError: a picture stood still."""
    moves = 0
    for name, slider in panel.sliders.items():
        start, before = slider.value, panel.picture.value
        for value in [v for v in values_of(slider) if v != start] + [start]:
            slider.value = value
            after = panel.picture.value
            old, new = sides(before), sides(after)
            assert after != before, f"{panel.trial.id}: {name} = {value} changed nothing"
            assert new["books"] == new["yours"], (name, value)
            assert set(old) == set(new) == {"books", "yours"} and "✓" in after, (name, value)
            before, moves = after, moves + 1
    return moves


def main() -> int:
    os.environ.pop("LOWRANK_PAGE", None)  # a panel is what a learner sees
    for trial in TRIALS:
        panel = figures.try_yours(trial, exercises.get(trial).reference)
        print(f"{trial}: {move_all(panel)} moves with ipywidgets {ipywidgets.__version__}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
