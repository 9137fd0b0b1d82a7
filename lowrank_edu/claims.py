"""Published numbers beside our own count of them: which reproduce, and which do not.

The rows are data (assets/claims.json), so the book and the tests read the same table. A row says what was
published and where, which shapes give it, what we count, and if the two do not meet, why.
"""

import functools
import json
import math
import re
from dataclasses import dataclass, field

from .quant import bits_per_parameter
from .shipped import ASSETS

UNITS = {"": 1, "M": 1e6, "MB": 1e6, "MiB": 2**20, "GB": 1e9, "TB": 1e12, "%": 1, "bit": 1, "×": 1}


@dataclass(frozen=True)
class Claim:
    """One published number.

    published, unit  as printed; `step` is the last digit that was printed, or "<" for "less than"; with `cut` the
                     digits after it were left out, not rounded
    source, mark     where; S: read in the reference, R: run, C: counted, M: as reported, text not at hand
    cite             its key in the bibliography, if it has one
    plans, count     what to count: {name: arguments of memory.plan}, {name: [model, regular expression of weights]}
    what             the number as an expression in those names; two expressions for bounds
    computed         our number, recorded; `compute` counts it anew
    reproduces       True, False, or None where arithmetic gives only bounds; `why` says what is different
    """

    id: str
    claim: str
    published: float
    unit: str
    step: float | str
    source: str
    mark: str
    what: str | list
    computed: float | list
    reproduces: bool | None
    why: str = ""
    cut: bool = False
    cite: str | None = None
    plans: dict = field(default_factory=dict, repr=False)
    count: dict = field(default_factory=dict, repr=False)
    names: dict = field(default_factory=dict, repr=False)

    def compute(self):
        """The number from the shapes, counted now. Takes from nothing to a few seconds."""
        known = {"bits": bits_per_parameter, **self.names}
        known |= {name: _planned(json.dumps(call)) for name, call in self.plans.items()}
        known |= {name: _matching(*call) for name, call in self.count.items()}
        found = [eval(what, {"__builtins__": {}}, known) for what in _listed(self.what)]  # expressions of our own file
        return found if isinstance(self.what, list) else found[0]

    def meets(self, value):
        """Whether `value` rounds to the published number (or lies below it, or its bounds around it)."""
        values = [v / UNITS[self.unit] for v in _listed(value)]
        if len(values) == 2:
            return values[0] <= self.published <= values[1]
        if self.step == "<":
            return values[0] < self.published
        up = 0 if self.cut else 0.5
        return math.isclose(math.floor(values[0] / self.step + up) * self.step, self.published, rel_tol=1e-9)

    def show(self, value):
        """The number in the unit of the claim, with one digit more than was printed."""
        step = 1 if self.step == "<" else self.step
        digits = max(0, 1 - math.floor(math.log10(step))) if step != 1 or self.unit else 0
        return " to ".join(f"{v / UNITS[self.unit]:,.{digits}f}" for v in _listed(value)) + f" {self.unit}".rstrip()

    def __str__(self):
        sign = {True: "✓", False: "✗", None: "·"}[self.reproduces]
        printed = f"{'< ' if self.step == '<' else ''}{self.published:,} {self.unit}".rstrip()
        text = f"{sign} {self.claim}: {printed} [{self.source}]; we count {self.show(self.computed)}"
        return f"{text}: {self.why}" if self.why else text


class Claims(list):
    """The rows, readable when printed."""

    def __str__(self):
        good = sum(row.reproduces is True for row in self)
        return "\n".join([*map(str, self), f"{good} of {len(self)} reproduce."])

    __repr__ = __str__


def claims():
    """All rows of the table, with our recorded numbers; printing them prints the table."""
    rows = json.loads((ASSETS / "claims.json").read_text(encoding="utf-8"))
    return Claims(Claim(**row) for row in rows)


def _listed(value):
    return value if isinstance(value, list) else [value]


@functools.cache
def _planned(call):
    from . import methods
    from .architectures import configuration
    from .memory import plan

    call = json.loads(call)
    model, method = call.pop("model"), call.pop("method", None)
    if isinstance(model, list):
        model = configuration(model[0], **model[1])
    if method is not None:
        ((name, settings),) = method.items()
        method = methods.METHODS[name](**settings)
    return plan(model, method, **call)


def _matching(model, pattern):
    """How many weights the model has in parameters whose name matches."""
    from .architectures import skeleton

    return sum(p.numel() for name, p in skeleton(model).named_parameters() if re.fullmatch(pattern, name))
