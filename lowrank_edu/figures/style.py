"""Matplotlib pictures that belong on the page: palette, light and dark, and an SVG that is the same on every machine.

    with style.book():
        fig, ax = plt.subplots()
        ax.plot(x, y)
    style.picture(fig, "decay", "How fast does it fall?", alt="…", caption="…")     # numbers that never change
    style.photo(fig, alt="…")                                                     # numbers from a live training run
"""

import io
import re
from contextlib import contextmanager

from .page import Figure

INK = "#767676"  # a grey that is readable on white and on black; in an SVG it becomes the colour of the text
PALETTE = {"a": "#0072b2", "b": "#d55e00", "c": "#009e73", "d": "#cc79a7", "e": "#56b4e9"}  # Okabe & Ito 2008
_NEUTRAL = {key: INK for key in ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")}


@contextmanager
def book():
    """Matplotlib settings of the book, restored afterwards: transparent ground, grey ink, Okabe–Ito lines."""
    import matplotlib as mpl
    from cycler import cycler

    settings = _NEUTRAL | {
        "figure.figsize": (5.2, 3.0), "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none",
        "figure.constrained_layout.use": True, "axes.prop_cycle": cycler(color=list(PALETTE.values())),
        "axes.spines.top": False, "axes.spines.right": False, "lines.linewidth": 2, "font.size": 10,
        "legend.frameon": False, "svg.fonttype": "none", "svg.hashsalt": "lowrank_edu",
    }
    with mpl.rc_context(settings):
        yield


def picture(fig, slug, title, alt, caption):
    """A matplotlib figure made inside `book()` as a Figure: inline SVG whose ink and palette follow the page.

    Numbers are cut to 2 decimals and ids are counted, so the same data give the same bytes everywhere. Closes fig.
    """
    return Figure(slug=slug, title=title, alt=alt, caption=caption, stage=clean_svg(_save(fig, "svg").decode(), slug))


def photo(fig, alt):
    """A matplotlib figure as a PNG with readable text on any ground, for numbers that differ between machines. Closes fig."""
    return Photo(_save(fig, "png"), alt)


class Photo:
    """image/png + stable text: strict nbval compares the text only. alt: what the picture shows."""

    def __init__(self, png, alt):
        if not alt.strip():
            raise ValueError(f"photo has alt={alt!r}; a picture needs a sentence that says what it shows. Pass alt=.")
        self.png, self.alt = png, alt

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"image/png": self.png, "text/plain": f"Picture: {self.alt}"}


def clean_svg(text, slug):
    """The <svg> element alone: no metadata, ids fig-<slug>-0, -1 …, 2 decimals, currentColor and var(--a) for the palette."""
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<title>.*?</title>", "", text[text.index("<svg"):], flags=re.S)
    text = re.sub(r'\sxmlns(:xlink)?="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(r'(<svg[^>]*?)\swidth="[^"]*"|(<svg[^>]*?)\sheight="[^"]*"', r"\1\2", text, count=2)
    text = text.replace("<svg", '<svg aria-hidden="true" focusable="false"', 1)
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', text))
    names = {}
    for name in re.findall(r'\sid="([^"]+)"', text):
        if name in used:
            names.setdefault(name, f"fig-{slug}-{len(names)}")
    text = re.sub(r'\sid="([^"]+)"', lambda m: f' id="{names[m[1]]}"' if m[1] in names else "", text)
    text = re.sub(r'(url\(#|href="#)([^")]+)', lambda m: m[1] + names[m[2]], text)
    text = re.sub(r"-?\d+\.\d{3,}", lambda m: f"{float(m[0]) + 0:.2f}".rstrip("0").rstrip("."), text)
    for key, value in ({"#000000": INK} | {v: f"var(--{k})" for k, v in PALETTE.items()} | {INK: "currentColor"}).items():
        text = text.replace(key, value)
    return re.sub(r">\s+<", "><", text).strip()


def _save(fig, kind):
    import matplotlib.pyplot as plt

    out = io.BytesIO()
    empty = {key: None for key in ("Date", "Creator", "Format", "Type")} if kind == "svg" else {"Software": None}
    fig.savefig(out, format=kind, dpi=160, transparent=True, metadata=empty)
    plt.close(fig)
    return out.getvalue()
