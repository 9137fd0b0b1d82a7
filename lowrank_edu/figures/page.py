"""A figure that moves on a page without a kernel: controls + data + a picture + a few lines of JavaScript.

A subject module (`spectra.py`, …) computes the data and writes `draw(state, data, $)`; this module makes the
page of it: ids that never change, labels, styles for light and dark, keyboard, announcements for screen
readers (`page.js`, `page.css`). The same HTML comes out on every machine, so a committed notebook output can
be compared byte for byte. Where scripts may not run it is a still picture (`still.py`). It imports neither torch
nor matplotlib.
"""

import re
from base64 import b64encode
from dataclasses import dataclass, field
from functools import cache
from html import escape
from json import dumps
from pathlib import Path

import numpy as np

from .controls import Button, Choice, Replay, Select, Slider, Toggle
from .still import HOLE, NOTE, image, split

__all__ = [
    "LIMIT",
    "Button",
    "Choice",
    "Figure",
    "Replay",
    "Select",
    "Slider",
    "Toggle",
    "check_slug",
    "key",
    "meter",
    "pack",
    "rounded",
    "script",
    "svg",
    "tile",
    "tiles",
]
LIMIT = 60_000  # bytes a figure may add to a page


@dataclass(frozen=True, eq=False)
class Figure:
    """One figure: `.html` is all of it; `.alt`, `.data`, `.controls`, `.state` are for other front ends.

    slug      the id on the page is fig-<slug>
    title     the question that it answers;  alt: what the picture shows;  caption: what to try
    stage     the picture's markup in the first state, so that it stands without scripts and in print
    still     an <svg> of the first state, if the stage is not one itself
    panel     what changes beside the controls (`tiles`);  under: the same, under the picture
    draw      a JavaScript function (state, data, $) => sentence for screen readers
    data      numbers, text, lists, dicts, arrays; floats are rounded to `digits` significant digits
    css       a few extra rules, each beginning with #fig-<slug>
    wide      controls above the picture instead of beside it

    ValueError: a field is missing, a name is used twice, or the figure weighs more than LIMIT bytes.
    """

    slug: str
    title: str
    alt: str
    caption: str
    stage: str
    draw: str = "() => {}"
    controls: tuple = ()
    data: dict = field(default_factory=dict)
    panel: str = ""
    under: str = ""
    css: str = ""
    still: str = ""
    wide: bool = False
    digits: int = 4
    html: str = field(init=False, repr=False)

    def __post_init__(self):
        _check(self)
        object.__setattr__(self, "controls", tuple(self.controls))
        object.__setattr__(self, "data", rounded(self.data, self.digits))
        object.__setattr__(self, "html", _page(self))
        _check_page(self)

    @property
    def state(self):
        """The state that the figure opens in: {control: start value}."""
        return {control.name: control.start for control in self.controls}

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"text/html": self.html, "text/plain": f"Figure: {self.title} {self.alt}"}

    def __repr__(self):
        return f"Figure({self.slug!r}, {len(self.html.encode()):,} bytes)"


# ---- pieces for the markup ---------------------------------------------------------------------------------


def svg(width, height, body):
    """An <svg> that fills the stage. Text is 12 units: at width ≤ 360 it stays readable on a phone."""
    return f'<svg viewBox="0 0 {width} {height}" aria-hidden="true" focusable="false">{body}</svg>'


def path(points):
    """The d of a <path> through [(x, y), …]; the same as $.path in draw."""
    return "".join(f"{'L' if k else 'M'}{x:.1f} {y:.1f}" for k, (x, y) in enumerate(points))


def tile(name, value, label):
    """A large number with a line under it; in draw, $.text(name, …) and $.text(name + "-of", …)."""
    return (
        f'<div class="lo-tile"><b data-el="{name}">{escape(value)}</b>'
        f'<span data-el="{name}-of">{escape(label)}</span></div>'
    )


def tiles(*items):
    """Several tiles in a grid: tiles(("energy", "83.1 %", "of the energy is kept"), …)."""
    return f'<div class="lo-tiles">{"".join(tile(*item) for item in items)}</div>'


def meter(name, share):
    """A bar that is filled up to `share`, and turns orange above 1; in draw, $.meter(name, share)."""
    style = f"width:{min(100, 100 * share):.1f}%;background:var(--{'b' if share > 1 else 'a'})"
    return f'<div class="lo-meter" aria-hidden="true"><i data-el="{name}" style="{style}"></i></div>'


def key(colour, text):
    """A legend entry: a square of the palette colour 'a' … 'e', and what it stands for."""
    square = f'<i class="lo-key" style="background:var(--{colour})"></i>'
    return f'<span class="lo-keyed">{square}{escape(text)}</span>'


def script(name):
    """The text of a .js or .css file of this folder, without comment lines and indentation."""
    lines = (Path(__file__).parent / name).read_text(encoding="utf-8").splitlines()
    return "\n".join(line.strip() for line in lines if line.strip() and not line.strip().startswith("//"))


# ---- data --------------------------------------------------------------------------------------------------


def rounded(value, digits=4, where="data"):
    """`value` as plain JSON types, floats with `digits` significant digits, and 0 below 1e-12.

    Rounding makes the page the same on every processor. Compute in float64: there the digit after the last
    one shown differs between machines about once in 10¹⁰ numbers, in float32 about once in a thousand.
    """
    if isinstance(value, dict):
        return {str(k): rounded(v, digits, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v, digits, f"{where}[{i}]") for i, v in enumerate(value)]
    if isinstance(value, np.ndarray | np.generic):
        return rounded(value.tolist(), digits, where)
    if isinstance(value, bool | str | int | None):
        return value
    if not isinstance(value, float):
        raise ValueError(
            f"{where} is a {type(value).__name__}; a figure's data are numbers, text, lists, dicts and numpy "
            f"arrays. Convert it first, a tensor with .double().numpy()."
        )
    if not np.isfinite(value):
        raise ValueError(f"{where} is {value}, which JSON cannot hold. Leave it out, or use None for a gap.")
    if abs(value) < 1e-12:
        return 0
    number = float(f"{value:.{digits}g}")
    return int(number) if number.is_integer() and abs(number) < 1e15 else number


def pack(array, lo=None, hi=None):
    """A matrix as base64 bytes: int8 exactly, others in 256 levels from lo to hi (default: its own range).

    In draw it is a Float32Array with .shape. Values outside lo … hi are clipped. Compute floats in float64
    (see `rounded`).
    """
    array = np.asarray(array)
    if array.dtype == np.int8:
        return {"$packed": b64encode(array.tobytes()).decode(), "shape": list(array.shape), "signed": True}
    if array.size == 0 or not np.isfinite(array).all():
        raise ValueError(
            f"cannot pack an array of shape {array.shape} that is empty or not finite. Check how it was made."
        )
    lo, hi = float(array.min() if lo is None else lo), float(array.max() if hi is None else hi)
    if hi <= lo:
        raise ValueError(f"cannot pack with lo={lo} and hi={hi}: hi must be larger. Pass lo= and hi= by hand.")
    levels = np.rint((np.clip(array, lo, hi) - lo) / (hi - lo) * 255).astype(np.uint8)
    return {"$packed": b64encode(levels.tobytes()).decode(), "shape": list(array.shape), "lo": lo, "hi": hi}


# ---- the page ----------------------------------------------------------------------------------------------


@cache
def _shared(name):
    return script(name)


def _page(f):
    """The figure as one piece of HTML. Data write `<` as \\u003c, so that no text can end the script."""
    me = f"fig-{f.slug}"
    data = dumps(f.data, ensure_ascii=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        data = data.replace(sign, f"\\u{ord(sign):04x}")
    draw = f.draw.replace("</script", r"<\/script")  # the same in JavaScript, and it cannot end the script
    still = image(f.slug, f.still or f.stage, f.css, f.stage + f.panel + f.under, escape(f.alt))
    note = f"<p>{NOTE}</p>" if f.controls else ""
    return (
        f'<figure class="lo-fig{" lo-wide" if f.wide else ""}" id="{me}" aria-labelledby="{me}-title">'
        f"<style>{_shared('page.css')}{f.css}</style>"
        f'<p class="lo-title" id="{me}-title">{escape(f.title)}</p>'
        f'<div class="lo-still">{still}{note}</div>'
        f'<script type="text/html">{_moving(f, me)}</script>'
        f'<p class="lo-live" aria-live="polite"></p><figcaption>{escape(f.caption)}</figcaption>'
        f'<script>(\n{_shared("page.js")}\n)(document.currentScript,"{me}",{data},\n{draw}\n)</script></figure>'
    )


def _moving(f, me):
    """What stands on the page where scripts run; a stage that is in the image already is not sent again."""
    side = "".join(control.html(me) for control in f.controls) + f.panel
    side = f'<div class="lo-side">{side}</div>' if side else ""
    head, _, rest = split(f.stage)
    stage = f.stage if f.still else f"{head}{HOLE}</svg>{rest}"
    picture = f'<div class="lo-stage" role="img" aria-label="{escape(f.alt)}">{stage}</div>'
    if f.under:
        picture = f'<div style="flex:3 1 300px;min-width:0;max-width:100%">{picture}{f.under}</div>'
    return f'<div class="lo-row">{picture}{side}</div>'


def check_slug(slug):
    """ValueError for a slug that cannot be part of an id."""
    if not re.fullmatch(r"[a-z][a-z0-9-]*", slug):
        raise ValueError(
            f"slug {slug!r} cannot be part of an id: use lower-case letters, digits and hyphens, such as "
            f"'rank-picture'."
        )


def _check(f):
    check_slug(f.slug)
    for name in ("title", "alt", "caption", "stage"):
        if not getattr(f, name).strip():
            raise ValueError(
                f"figure {f.slug!r} has {name}={getattr(f, name)!r}; a figure needs text there. {_NEEDS[name]}"
            )
    markup = f.stage + f.still + f.panel + f.under
    if re.search(r"<!--|</?script", markup):
        raise ValueError(f"figure {f.slug!r} has a script or a comment in its markup. Move what it does to draw.")
    _check_borders(f.slug, markup)
    names = [control.name for control in f.controls]
    bad = [name for name in names if names.count(name) > 1 or not re.fullmatch(r"[A-Za-z]\w*", name)]
    if bad:
        raise ValueError(
            f"figure {f.slug!r} has the control name {bad[0]!r} twice or badly spelt; names are its keys in "
            f"state. Use one plain word for each."
        )


def _check_page(f):
    size = len(f.html.encode())
    if size > LIMIT:
        data = len(dumps(f.data))
        raise ValueError(
            f"figure {f.slug!r} has {size:,} bytes, {data:,} of them data; a page figure may have {LIMIT:,}. "
            f"Show fewer frames, round to fewer digits, or pack() matrices."
        )
    _check_borders(f.slug, f.html)


def _check_borders(slug, markup):
    """The figure's own ids, and no address: on a page it is one of many, and asks the network for nothing."""
    foreign = [i for i in re.findall(r'\sid="([^"]*)"', markup) if not i.startswith(f"fig-{slug}")]
    if foreign:
        raise ValueError(
            f"figure {slug!r} uses id={foreign[0]!r}, which another figure on the page may use too. Mark "
            f"elements with data-el= and find them with $(name), or begin the id with fig-{slug}-."
        )
    if re.search(r"https?://(?!www\.w3\.org/2000/svg)", markup):
        raise ValueError(
            f"figure {slug!r} contains a web address; a figure asks the network for nothing. Embed what it "
            f"needs, and put links in the text beside it."
        )


_NEEDS = {
    "title": "Ask the question that it answers.",
    "alt": "Say what the picture shows, as to a friend on the telephone.",
    "caption": "Say what to try and what to see.",
    "stage": "Draw its first state.",
}
