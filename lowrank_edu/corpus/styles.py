"""Styles: word-for-word disguises of a plain story.

A style maps some plain words to others (or to nothing) and puts an opening and a closing mark around the story.
Because the map is fixed, a styled story is exactly as probable as the plain stories that it can come from.
"""

from dataclasses import dataclass, field

from .grammar import join, words


def _table(text: str) -> dict:
    entries = (entry.split("=") for entry in text.split(";"))
    return {plain.strip(): tuple(styled.split()) for plain, styled in entries}


@dataclass(frozen=True)
class Style:
    """``table`` maps a plain word to its styled words; ``before`` and ``after`` stand around the story."""

    name: str
    before: tuple
    after: tuple
    table: dict = field(hash=False)

    def __call__(self, word: str) -> tuple:
        return self.table.get(word, (word,))

    @property
    def marks(self) -> frozenset:
        """Words that only this style writes."""
        written = {w for v in [self.before, self.after, *self.table.values()] for w in v}
        return frozenset(w for w in written if w.isalnum() or w == "/")

    @property
    def reversible(self) -> bool:
        return all(len(v) == 1 for v in self.table.values())


STYLES = {s.name: s for s in (
    Style("pirate", ("Arr", "!"), ("Yo", "ho", "!"), _table(
        "the=tha; The=Tha; and=an; of=o; was=wuz; boy=lad; girl=lass; lived=anchored; gave=tossed;"
        "never=nary; found=plundered; said=growled; good=shipshape; home=aboard; So=Ahoy; But=Blimey;"
        "Then=Avast; Soon=Aye; danced=swaggered; sad=scurvy; loved=yearned")),
    Style("archaic", ("Hark", "!"), ("Verily", "."), _table(
        "the=ye; The=Ye; was=wert; had=hath; said=quoth; you=thou; are=art; boy=youth; girl=maiden;"
        "lived=dwelt; gave=bestowed; never=naught; home=homeward; So=Thus; But=Yet; Then=Anon; Soon=Betimes;"
        "before=ere; sad=woeful; loved=cherished; took=seized")),
    Style("telegram", ("URGENT",), ("END",), _table(
        "the=; The=; a=; was=; .=STOP; !=STOP; :=STOP; and=PLUS; But=HOWEVER; Then=NEXT; So=HENCE; never=NOT;"
        "Soon=SHORTLY")),
    Style("poet", ("O",), ("evermore", "."), _table(
        ".=/; was=shone; boy=dreamer; girl=moonchild; lived=bloomed; gave=whispered; never=nevermore;"
        "found=kissed; said=hummed; good=radiant; home=starward; So=Lo; But=Alas; Then=Woe; Soon=Softly;"
        "day=dawn; sad=sorrowful; danced=drifted; loved=adored")),
)}


def styles() -> list[str]:
    """The names of the styles."""
    return list(STYLES)


def get(style: str) -> Style:
    """The style of this name; ValueError names the styles that exist."""
    if style not in STYLES:
        raise ValueError(f"there is no style {style!r}; the styles are {', '.join(STYLES)}")
    return STYLES[style]


def restyle(text: str, style: str) -> str:
    """Write a plain story in a style."""
    s = get(style)
    return join([*s.before, *(v for w in words(text) for v in s(w)), *s.after])


def unstyle(text: str, style: str) -> str:
    """Undo `restyle`. Only for reversible styles: the telegram has thrown words away."""
    s = get(style)
    if not s.reversible:
        able = ", ".join(n for n, other in STYLES.items() if other.reversible)
        raise ValueError(f"the style {style!r} drops words and cannot be undone; these can: {able}")
    core = strip(words(text), s)
    if core is None:
        frame = f"start with {join(s.before)!r} and end with {join(s.after)!r}"
        raise ValueError(f"not a {style} text: it must {frame}")
    back = {v[0]: w for w, v in s.table.items()}
    return join(back.get(w, w) for w in core)


def strip(text_words: list[str], style: Style) -> list[str] | None:
    """The words between the opening and the closing mark, or None if a mark is missing."""
    n, m = len(style.before), len(style.after)
    framed = tuple(text_words[:n]) == style.before and tuple(text_words[-m:]) == style.after
    return text_words[n:-m] if framed and len(text_words) >= n + m else None


def style_score(text: str, style: str) -> float:
    """How much of a text is in a style: marks of the style / (marks + plain words it would have replaced).

    1 for a restyled story, 0 for a plain one, in between for a mixture.
    """
    s = get(style)
    seen = words(text)
    styled = sum(w in s.marks for w in seen)
    inner = strip(seen, s) or seen  # the frame's own full stop is not a plain word left over
    plain = sum(w in s.table and w not in s.marks for w in inner)
    return styled / (styled + plain) if styled else 0.0
