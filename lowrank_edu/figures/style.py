"""Matplotlib pictures that belong on the page: palette, light and dark, an SVG that is the same everywhere.

with style.book():
    fig, ax = plt.subplots()
    ax.plot(x, y)
style.picture(fig, "decay", "How fast does it fall?", alt="…", caption="…")  # numbers that never change
style.photo(fig, alt="…")  # numbers from a live training run
"""

import io
import re
from contextlib import contextmanager

from .page import Figure

INK = "#767676"  # a grey that is readable on white and on black; in an SVG it becomes the colour of the text
PALETTE = {"a": "#0072b2", "b": "#d55e00", "c": "#009e73", "d": "#cc79a7", "e": "#6f6f6f"}  # Okabe & Ito 2008
_NEUTRAL = dict.fromkeys(
    ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK
)


@contextmanager
def book():
    """Matplotlib settings of the book, restored afterwards: transparent ground, grey ink, Okabe–Ito lines."""
    import matplotlib as mpl
    from cycler import cycler

    settings = _NEUTRAL | {
        "figure.figsize": (5.2, 3.0),
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "savefig.facecolor": "none",
        "figure.constrained_layout.use": True,
        "axes.prop_cycle": cycler(color=list(PALETTE.values())),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "lines.linewidth": 2,
        "font.size": 10,
        "legend.frameon": False,
        "svg.fonttype": "none",
        "svg.hashsalt": "lowrank_edu",
    }
    with mpl.rc_context(settings):
        yield


def picture(fig, slug, title, alt, caption):
    """A matplotlib figure made inside `book()` as a Figure: inline SVG whose ink and palette follow the page.

    Coordinates have 2 decimals and ids are counted: the same data give the same bytes everywhere. Closes fig.
    """
    return Figure(
        slug=slug, title=title, alt=alt, caption=caption, stage=clean_svg(_save(fig, "svg").decode(), slug)
    )


def photo(fig, alt):
    """A matplotlib figure as a PNG that reads on any ground, for numbers of one machine. Closes fig."""
    return Photo(_save(fig, "png"), alt)


class Photo:
    """image/png + stable text: strict nbval compares the text only. alt: what the picture shows."""

    def __init__(self, png, alt):
        if not alt.strip():
            raise ValueError(
                f"photo has alt={alt!r}; a picture needs a sentence that says what it shows. Pass alt=."
            )
        self.png, self.alt = png, alt

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"image/png": self.png, "text/plain": f"Picture: {self.alt}"}


def clean_svg(text, slug):
    """The <svg> element alone: ids fig-<slug>-0, -1 …, 2 decimals, currentColor and var(--a) … var(--e)."""
    text = re.sub(r"<(metadata|title|style)\b.*?</\1>|<!--.*?-->", "", text[text.index("<svg") :], flags=re.S)
    head, body = text.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)[0]
    body = re.sub(r"<[^>]*>", _clean_tag, body).replace("xlink:href", "href")
    names = {}  # ids in the order of their use; the others go
    for name in re.findall(r'(?:url\(#|href="#)([^")]+)', body):
        names.setdefault(name, f"fig-{slug}-{len(names)}")
    body = re.sub(r'\sid="([^"]+)"', lambda m: f' id="{names[m[1]]}"' if m[1] in names else "", body)
    body = re.sub(r'(url\(#|href="#)([^")]+)', lambda m: m[1] + names[m[2]], body)
    for name, colour in PALETTE.items():
        body = body.replace(colour, f"var(--{name})")
    body = body.replace("#000000", "currentColor").replace(INK, "currentColor")
    return f'<svg {box} aria-hidden="true" focusable="false">' + re.sub(r">\s+<", "><", body).strip()


def _clean_tag(match):
    """One tag with 2 decimals, the page's font, no line breaks; the words between tags stay as is."""
    tag = re.sub(r"-?\d+\.\d{3,}", lambda m: f"{float(m[0]):.2f}".rstrip("0").rstrip("."), match[0])
    tag = re.sub(r"font-family:[^;\"]*;? ?", "", tag)
    return re.sub(r"\s+", " ", tag).replace("-0 ", "0 ")


def _save(fig, kind):
    import matplotlib.pyplot as plt

    out = io.BytesIO()
    empty = dict.fromkeys(("Date", "Creator", "Format", "Type")) if kind == "svg" else {"Software": None}
    with book():  # text stays text when it is saved, not when it is drawn
        fig.savefig(out, format=kind, dpi=160, transparent=True, metadata=empty)
    plt.close(fig)
    return out.getvalue()
