"""A figure that stands still: an <img>, which is shown where scripts may not run.

A notebook that is not trusted yet, GitHub, and a page with scripts switched off keep an image and its alt text, and
drop scripts with all that is in them. So the picture of a figure's first state travels in an <img>, and its controls in
a script; where scripts run, `page.js` takes the picture out of the image and puts both in place.
"""

import re
import struct
import zlib
from functools import cache
from html import escape, unescape
from pathlib import Path
from textwrap import wrap
from xml.etree import ElementTree

TRUST = "choose “Trust Notebook” in the command palette (Ctrl Shift C)"
NOTE = f"This figure moves once its script may run: in a notebook run the cell or {TRUST}, on a page switch scripts on."
HOLE = "{picture}"  # where page.js puts the picture
LETTER, ROW = 6.3, 18  # width of an average letter of the legend, height of its rows
PAPER = ("color:#323232;background:#fff", "color:#ced6dd;background:#14181e")  # a ground of its own, light and dark
MIXED = "".join(
    f"--{name}:color-mix(in srgb,currentColor {share}%,transparent);"
    for name, share in [("soft", 16), ("faint", 6), ("muted", 78)]
)


def split(stage):
    """(first tag, body, rest) of a stage that begins with its only <svg>; three empty texts for any other."""
    one, body = r"(<svg\b[^>]*>)", r"((?:(?!</?svg\b).)*)"
    found = re.fullmatch(f"{one}{body}</svg>{body}", stage.strip(), re.S)
    return found.groups() if found else ("", "", "")


def image(slug, picture, css="", legend="", alt=""):
    """The <img> of an <svg>, with a ground of its own that follows light and dark, and the legend under it.

    picture: an <svg> from 0 0; what follows it is left out. css: the figure's own rules, of which some apply.
    legend: markup whose `key`s are explained. ValueError: there is no such <svg>, or it is not well-formed.
    """
    head, body, _ = split(picture)
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', head)
    if not box:
        raise ValueError(
            f"figure {slug!r} has a picture that is not one <svg> with a viewBox from 0 0, so it cannot stand where "
            f"scripts may not run. Draw its stage with svg(), or pass the first state as still=svg(…)."
        )
    wide, tall = map(float, box.groups())
    keys, more = _legend(legend, body, wide, tall + 6)
    across, down = f"{wide + 20:g}", f"{tall + more + 20:g}"
    size = f'width="{across}" height="{down}" viewBox="-10 -10 {across} {down}"'
    text = (
        f'<svg xmlns="http://www.w3.org/2000/svg" id="fig-{slug}" {size}><style>{_colours()}{_rules(css, body)}</style>'
        f"<g>{body}</g>{keys}</svg>"
    )
    text = re.sub(r"\s+", " ", text)
    try:
        ElementTree.fromstring(text)
    except ElementTree.ParseError as problem:
        at = text[max(0, problem.position[1] - 40) : problem.position[1] + 20]
        raise ValueError(
            f"figure {slug!r} has a picture that is not well-formed: {problem}, near {at!r}. Quote every attribute and "
            f"close every tag."
        ) from None
    uri = text if "'" in text else text.replace('"', "'")  # shorter than its number
    for sign in '%#<>&"':
        uri = uri.replace(sign, f"%{ord(sign):02X}")
    return f'<img loading="lazy" width="{1.3 * (wide + 20):.0f}" alt="{alt}" src="data:image/svg+xml,{uri}">'


@cache
def _colours():
    """The colours of page.css for light and dark, and what an <svg> inherits there."""
    rules = (Path(__file__).parent / "page.css").read_text("utf-8")
    light, dark = re.findall(r"(--a:#[^;}]+;--b:[^;]+;--c:[^;]+;--d:[^;]+;--e:#\w+)", rules)[:2]
    return (
        f'svg{{{light};{MIXED}{PAPER[0]};font-family:system-ui,sans-serif}}'
        f"@media(prefers-color-scheme:dark){{svg{{{dark};{PAPER[1]}}}}}text{{fill:currentColor;font-size:12px}}"
    )


def _rules(css, body):
    """Those of the figure's rules whose tags and classes are in the picture."""
    found = re.findall(r"([^{}]+)(\{[^{}]*\})", css)
    return "".join(s + rule for s, rule in found if all(word in body for word in re.findall(r"[.\s>]([a-z][\w-]*)", s)))


def _legend(markup, body, wide, top):
    """The `key`s of some markup, if their colour is in the picture, as rows; and the height that they take."""
    x, y, drawn = 0.0, top, ""
    for entry in re.findall(r'<span class="lo-keyed">(.*?)</span>', markup):
        colour, words = re.search(r"var\(--\w\)|$", entry)[0], re.sub(r"<[^>]*>", "", entry)
        if not colour or colour not in body:
            continue
        takes = 14 + LETTER * len(unescape(words)) + 12
        if x and x + takes > wide:
            x, y = 0.0, y + ROW
        drawn += f'<path fill="{colour}" d="M{x:g} {y + 3:g}h9v9h-9z"/>'
        drawn += f'<text x="{x + 14:g}" y="{y + 12:g}">{words}</text>'
        x += round(takes)
    return drawn, (y + ROW - top + 6 if drawn else 0)


def text_picture(text, wide=350, letters=52):
    """A paragraph as an <svg>, for figures whose picture is text."""
    lines = wrap(text, letters)
    rows = "".join(
        f'<text x="12" y="{22 * k + 24}" font-family="Georgia,serif">{escape(line)}</text>'
        for k, line in enumerate(lines)
    )
    bar = f'<path d="M1 4V{22 * len(lines) + 12}" stroke="var(--a)" stroke-width="3"/>'
    return f'<svg viewBox="0 0 {wide} {22 * len(lines) + 16}">{bar}{rows}</svg>'


def png(levels, bits=8):
    """A matrix of whole numbers from 0, black, to 2 ** bits − 1, white, as the bytes of a PNG; bits: 4 or 8.

    It is stored, not compressed: so the bytes are the same with every version of zlib.
    """

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows, columns = levels.shape
    cells = levels.astype("uint8")
    if bits == 4:
        cells = (cells[:, ::2] << 4) | cells[:, 1::2]  # two numbers a byte
    raw = b"".join(b"\0" + row.tobytes() for row in cells)  # each row begins with its filter: none
    blocks = [raw[k : k + 65535] for k in range(0, len(raw), 65535)]
    data = b"\x78\x01"
    for k, block in enumerate(blocks):
        data += struct.pack("<BHH", k == len(blocks) - 1, len(block), 65535 - len(block)) + block
    data += struct.pack(">I", zlib.adler32(raw))
    size = struct.pack(">IIBBBBB", columns, rows, bits, 0, 0, 0, 0)  # grey
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
