"""What the rows between LoRA and a single square matrix share: a rank per layer, linear layers, a start from W0."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..updates import weight_of
from .common import (
    Method,
    check_dropout,
    check_rank,
    check_targets,
    check_used,
    linear_targets,
    pattern_value,
    seeded,
)


@dataclass(frozen=True)
class Ranked(Method):
    """A row with one update of rank r on each chosen linear layer; `rank_pattern` {name or regex: r} makes exceptions.

    A row of this kind defines `update(W0, r, generator)`, which makes the Update of one layer.
    """

    r: int = 8
    target_modules: Sequence[str] | str | None = None
    dropout: float = 0.0
    rank_pattern: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self):
        check_rank("r", self.r)
        for key, r in self.rank_pattern.items():
            check_rank(f"rank_pattern[{key!r}]", r)
        check_dropout(self.dropout)
        check_targets(self)

    def rank(self, path):
        return pattern_value(self.rank_pattern, path, self.r)

    def build(self, model, seed=0):
        targets = linear_targets(model, self)
        check_used(self, targets, "rank_pattern")
        return {p: self.layer(p, weight_of(base), seeded(seed, p)) for p, base in targets.items()}

    def layer(self, path, W0, generator):
        """The update of the layer at `path`; errors name it."""
        try:
            return self.update(W0, self.rank(path), generator)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def update(self, W0, r, generator):
        """The Update of a layer with weight W0 (d_out, d_in)."""
        raise NotImplementedError
