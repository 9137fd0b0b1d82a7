"""What a row of the table is: contenders, the ratios that are to be reached, and what must be equal."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch


@dataclass
class NotRun:
    """Stands in for a contender that cannot run here, and says why."""

    why: str


@dataclass
class Row:
    """Contenders {name: a function that does the work once, or NotRun}, and the ratios wanted.

    A ratio is (label, contender, contender, target): the median of first / second is to be at most the target.

    same     {name: a function that returns a tensor}: what contenders with equal factors must agree on
    facts    {what: number}, exact or nearly so, told beside the times
    note     a sentence for the page
    why      {label of a ratio: what keeps it above its target}, told only if it is above
    rounds   its own number of rounds, 3 at the least, where one round is long
    """

    title: str
    works: dict
    ratios: list = field(default_factory=list)
    note: str = ""
    same: dict = field(default_factory=dict)
    facts: dict = field(default_factory=dict)
    why: dict = field(default_factory=dict)
    rounds: int | None = None

    def __post_init__(self):
        if self.rounds is not None and self.rounds < 3:
            raise ValueError(f"rounds={self.rounds}: a median needs 3 at the least. Leave it out, or pass more.")


def apart(same: dict) -> dict:
    """{name: ‖its − first's‖ / ‖first's‖} for all contenders but the first."""
    found = {name: work().detach().double() for name, work in same.items()}
    first = next(iter(found.values()), None)
    norm = None if first is None else max(float(torch.linalg.vector_norm(first)), 1e-300)
    return {name: float(torch.linalg.vector_norm(its - first)) / norm for name, its in list(found.items())[1:]}
