"""The tiny world: short stories from our own grammar, whose exact probability is known.

    from lowrank_edu import corpus
    texts = corpus.stories(3, seed=0)           # list of str, each starting with a space
    corpus.log_prob(texts[0])                   # exact, in nats; −inf for what is not a story
    corpus.parse(texts[0]).valid                # grammar, who, where, what, resolution: one verdict each
    corpus.floor(texts, n_tokens)               # nats per token that no model can beat on average
    corpus.restyle(texts[0], "pirate")          # corpus.styles() lists the styles
    corpus.restaurants(3, seed=0)               # records for data-to-text

stdlib and numpy only.
"""

import math
from dataclasses import dataclass

import numpy as np

from . import tales
from .grammar import Grammar, join, words
from .restaurants import VALUES, Record, meaning, restaurants, sentence, slot_accuracy, slots
from .styles import STYLES, Style, get, restyle, strip, style_score, styles, unstyle

__all__ = [
    "CONSTRAINTS",
    "GRAMMAR",
    "STYLES",
    "Record",
    "Style",
    "Verdict",
    "entropy",
    "floor",
    "join",
    "lexicon",
    "log_prob",
    "meaning",
    "mixture",
    "parse",
    "restaurants",
    "restyle",
    "sentence",
    "slot_accuracy",
    "slots",
    "stories",
    "style",
    "style_score",
    "styles",
    "unstyle",
    "validity",
    "words",
]

CONSTRAINTS = tales.CONSTRAINTS
GRAMMAR = Grammar(tales.RULES, tales.VARIABLES, tales.CONSTRAINT)


@dataclass(frozen=True)
class Verdict:
    """What `parse` found. ``grammar`` is False where the words do not form a story at all;
    the other verdicts then speak about ``read``, the part that could be followed."""

    grammar: bool
    who: bool
    where: bool
    what: bool
    resolution: bool
    read: str

    @property
    def valid(self) -> bool:
        return self.grammar and self.who and self.where and self.what and self.resolution

    @property
    def failed(self) -> tuple:
        return tuple(c for c in ("grammar", *CONSTRAINTS) if not getattr(self, c))


def stories(n: int, seed: int, style: str | None = None) -> list[str]:
    """n stories, drawn independently; the same seed gives the same stories."""
    if n < 0:
        raise ValueError(f"n must be 0 or more, not {n}")
    rng = np.random.default_rng(seed)
    texts = [join(GRAMMAR.generate(rng)[0]) for _ in range(n)]
    return texts if style is None else [restyle(t, style) for t in texts]


def style(name: str):
    """The function that writes a plain story in this style."""
    get(name)
    return lambda text: restyle(text, name)


def log_prob(text: str, style: str | None = None) -> float:
    """Exact log p(text) in nats, summed over all derivations; −inf if the grammar cannot write it.

    With ``style``, the probability of this text among stories restyled into it.
    """
    seen, s = _inner(text, style)
    return -math.inf if seen is None else GRAMMAR.log_prob(seen, style=s)


def parse(text: str, style: str | None = None) -> Verdict:
    """Read a text by replaying the grammar, and judge each constraint.

    * who: names, pronouns and relatives agree;
    * where: the place, its preposition and its sights agree;
    * what: the thing, its colour and its use agree;
    * resolution: the deed and the end follow from the trait and the trouble.

    The reading with the fewest broken constraints counts. A story that cannot be read to its end has no
    resolution.
    """
    seen, s = _inner(text, style)
    if seen is None:
        return Verdict(False, *(False,) * len(CONSTRAINTS), read="")
    reading = GRAMMAR.read(seen, style=s)
    broken = reading.broken | (set() if reading.complete else {"resolution"})
    return Verdict(
        reading.complete, *(c not in broken for c in CONSTRAINTS), read=join(seen[: reading.position])
    )


def validity(texts, style: str | None = None) -> dict[str, float]:
    """Share of texts that keep each constraint, and of those that are ``valid`` in all."""
    verdicts = [parse(t, style) for t in texts]
    return {
        c: sum(getattr(v, c) for v in verdicts) / len(verdicts) for c in ("valid", "grammar", *CONSTRAINTS)
    }


def entropy(texts, style: str | None = None) -> float:
    """Mean −log p per story, in nats: an estimate of the entropy of the grammar if the texts are its own."""
    return -float(np.mean([log_prob(t, style) for t in texts]))


def floor(texts, n_tokens: int, style: str | None = None) -> float:
    """−log p of these stories / number of target tokens (each story's end token is one), in nats per token."""
    if n_tokens <= 0:
        raise ValueError(f"n_tokens must be positive, not {n_tokens}")
    return entropy(texts, style) * len(texts) / n_tokens


def lexicon() -> list[str]:
    """Every word that stories, styles and restaurant sentences can contain, sorted."""
    rng = np.random.default_rng(0)
    plain = {w for _ in range(4000) for w in GRAMMAR.generate(rng)[0]}
    styled = {w for s in STYLES.values() for v in (s.before, s.after, *s.table.values()) for w in v}
    tables = {w for r in restaurants(400, 0) for t in (meaning(r), sentence(r, rng)) for w in words(t)}
    return sorted(plain | styled | tables)


def mixture(n: int, seed: int, share: float) -> list[str]:
    """Text for pretraining: plain stories and a ``share`` of others, half styled, half data-to-text."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(n):
        u = rng.random()
        if u < share / 2:
            record = Record(**{k: v[rng.integers(len(v))] for k, v in VALUES.items()})
            out.append(meaning(record) + sentence(record, rng))
        else:
            text = join(GRAMMAR.generate(rng)[0])
            out.append(text if u >= share else restyle(text, styles()[rng.integers(len(STYLES))]))
    return out


def _inner(text, style):
    """Words between the style's marks, and the style; a text that does not start with a space is no story."""
    seen = words(text)
    if not seen or join(seen) != text:
        return None, None
    if style is None:
        return seen, None
    return strip(seen, get(style)), get(style)
