"""The controls of a figure, as data: a page figure writes them as HTML, a live panel reads the same fields.

Each has a `name` (the key in the figure's state), a `label` that a person reads, and a `start` value.
"""

from dataclasses import dataclass, field
from html import escape
from json import dumps


def _attribute(value):
    """`value` as a quoted JSON attribute: values="[1, 2]"."""
    return escape(dumps(value, ensure_ascii=False), quote=True)


def _position(control, values):
    """Where the start value stands in `values`; an error that lists them if it is not there."""
    if len(values) < 2:
        raise ValueError(
            f"control {control.name!r} has {len(values)} value(s) to choose from; a control needs two "
            f"or more. Leave it out, or give it more values."
        )
    if control.start not in values:
        raise ValueError(
            f"control {control.name!r} starts at {control.start!r}, which is not one of its values "
            f"{list(values)}. Choose start= from them."
        )
    return list(values).index(control.start)


@dataclass(frozen=True)
class Slider:
    """A range input. `values`: a range (state = the number) or a list (state = the value at that position).

    labels: what is shown for each value, if not the value itself. unit: text after it, such as " bits".
    """

    name: str
    label: str
    values: range | list
    start: float | str | None = None
    labels: list[str] | None = None
    unit: str = ""

    def __post_init__(self):
        if self.start is None and len(self.values):
            object.__setattr__(self, "start", self.values[0])
        _position(self, self.values)
        if self.labels is not None and len(self.labels) != len(self.values):
            raise ValueError(
                f"control {self.name!r} has {len(self.values)} values and {len(self.labels)} labels; "
                f"each value needs one label."
            )

    def html(self, prefix):
        plain = isinstance(self.values, range)
        at = _position(self, self.values)
        low, high, step, value = (
            (self.values[0], self.values[-1], self.values.step, self.start)
            if plain
            else (0, len(self.values) - 1, 1, at)
        )
        text = escape((self.labels[at] if self.labels else str(self.start)) + self.unit)
        extra = "" if plain else f' data-values="{_attribute(list(self.values))}"'
        extra += f' data-labels="{_attribute(self.labels)}"' if self.labels else ""
        extra += f' data-unit="{escape(self.unit)}"' if self.unit else ""
        extra += f' aria-valuetext="{text}"' if self.labels or self.unit or not plain else ""
        return (
            '<div class="lo-control"><div class="lo-head"><label '
            f'for="{prefix}-{self.name}">{escape(self.label)}</label>'
            f'<output for="{prefix}-{self.name}" data-out="{self.name}" aria-live="off">{text}</output></div>'
            f'<input type="range" id="{prefix}-{self.name}" data-control="{self.name}" '
            f'min="{low}" max="{high}" step="{step}" value="{value}"{extra}></div>'
        )


@dataclass(frozen=True)
class Replay(Slider):
    """A slider over the frames of a recording, with ▶ and step buttons; a frame stays for `milliseconds`."""

    milliseconds: int = 400

    def html(self, prefix):
        buttons = "".join(
            f'<button type="button" {attribute} aria-label="{label}">{sign}</button>'
            for attribute, label, sign in [
                ('data-by="-1"', "One step back", "◂"),
                ("data-play", "Play", "▶"),
                ('data-by="1"', "One step forward", "▸"),
            ]
        )
        slider = super().html(prefix)
        return f'<div data-replay="{self.milliseconds}">{slider}<div class="lo-play">{buttons}</div></div>'


@dataclass(frozen=True)
class Choice:
    """Radio buttons in a row. options: {value: what is shown} or a list; state = the value, a string."""

    name: str
    label: str
    options: dict[str, str] | list[str]
    start: str | None = None

    def __post_init__(self):
        options = self.options if isinstance(self.options, dict) else {str(o): str(o) for o in self.options}
        object.__setattr__(self, "options", {str(k): str(v) for k, v in options.items()})
        object.__setattr__(
            self, "start", next(iter(self.options), None) if self.start is None else str(self.start)
        )
        _position(self, list(self.options))

    def html(self, prefix):
        options = "".join(
            f'<label><input type="radio" name="{prefix}-{self.name}" data-control="{self.name}" '
            f'value="{escape(value)}"'
            f"{' checked' if value == self.start else ''}><span>{escape(text)}</span></label>"
            for value, text in self.options.items()
        )
        return (
            f'<fieldset class="lo-control"><legend>{escape(self.label)}</legend>'
            f'<div class="lo-options">{options}</div></fieldset>'
        )


@dataclass(frozen=True)
class Select(Choice):
    """Choice as a drop-down list, for more than six options."""

    def html(self, prefix):
        options = "".join(
            "<option "
            f'value="{escape(value)}"{" selected" if value == self.start else ""}>{escape(text)}</option>'
            for value, text in self.options.items()
        )
        return (
            f'<div class="lo-control"><label for="{prefix}-{self.name}">{escape(self.label)}</label>'
            f'<select id="{prefix}-{self.name}" data-control="{self.name}">{options}</select></div>'
        )


@dataclass(frozen=True)
class Toggle:
    """A checkbox; state = true or false."""

    name: str
    label: str
    start: bool = False

    def html(self, prefix):
        return (
            f'<div class="lo-control"><label><input type="checkbox" data-control="{self.name}" '
            f"{'checked' if self.start else ''}>{escape(self.label)}</label></div>"
        )


@dataclass(frozen=True)
class Button:
    """A push button; state = how often it was pressed. In draw, $.changed names the control just used."""

    name: str
    label: str
    start: int = field(default=0, init=False)

    def html(self, prefix):
        return f'<button type="button" data-control="{self.name}" value="0">{escape(self.label)}</button>'
