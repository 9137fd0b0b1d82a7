"""A small probabilistic grammar whose one description generates, scores and reads text.

A template is a line of words with four kinds of holes:

* ``[a|b c|]``       choose one of the alternatives, each equally likely;
* ``{who}``          the variable ``who``; ``{who.they}`` is the same value in its form ``they``;
* ``<rule>``         one of the lines of that rule, each equally likely;
* ``<rule:trait.mood>`` the line-set ``rule.X``, where X is the form ``mood`` of the variable ``trait``.

A variable is chosen (uniformly) where it is first used and keeps its value to the end of the story.
That memory is what a context-free grammar lacks and what a language model has to learn.
"""

import math
import re
from dataclasses import dataclass, field

_HOLES = re.compile(r"\[|\]|\||\{[^}]*\}|<[^>]*>|[^\s\[\]|{}<>]+")
_WORDS = re.compile(r"'s\b|[^\W_]+'?|[^\w\s]|_")


@dataclass(frozen=True)
class Slot:
    """The surface of one variable's value; ``form`` picks which surface."""

    var: str
    form: str


@dataclass(frozen=True)
class Call:
    """A rule; with ``var`` set, the rule of that name for the value of this variable."""

    rule: str
    var: str = ""
    form: str = ""


@dataclass(frozen=True)
class Either:
    """A choice between bodies (tuples of words and holes), all equally likely."""

    bodies: tuple


def words(text: str) -> list[str]:
    """Split a text into words and punctuation marks; the possessive ``'s`` is a word of its own."""
    return _WORDS.findall(text)


def join(parts) -> str:
    """The inverse of `words`: one space before every word (also the first), none before punctuation."""
    return "".join(w if w in {".", ",", ";", "!", "?", ":", "'s"} else " " + w for w in parts)


def compile_template(line: str) -> tuple:
    """Turn one template line into a tuple of words and holes."""
    stack = [[[]]]  # alternatives of the enclosing brackets, innermost last
    for token in _HOLES.findall(line):
        body = stack[-1][-1]
        if token == "[":
            stack.append([[]])
        elif token == "|":
            stack[-1].append([])
        elif token == "]":
            done = stack.pop()
            stack[-1][-1].append(Either(tuple(tuple(b) for b in done)))
        elif token[0] == "{":
            var, _, form = token[1:-1].partition(".")
            body.append(Slot(var, form))
        elif token[0] == "<":
            rule, _, key = token[1:-1].partition(":")
            body.append(Call(rule, *key.partition(".")[::2]))
        else:
            body.append(token)
    if len(stack) != 1 or len(stack[0]) != 1:
        raise ValueError(f"brackets do not match in the template {line!r}")
    return tuple(stack[0][0])


@dataclass
class Reading:
    """How far a text could be read, and which constraints it broke on the way."""

    complete: bool
    position: int
    broken: frozenset = frozenset()
    values: dict = field(default_factory=dict)


class Grammar:
    """Variables with their surface forms, and rules; see the module docstring for the notation.

    ``variables[var][value][form]`` is a surface (text); ``constraint[var]`` names the promise that every later
    mention of the variable keeps.
    """

    def __init__(self, rules: dict, variables: dict, constraint: dict):
        self.rules = {name: tuple(map(compile_template, lines)) for name, lines in rules.items()}
        self.variables = variables
        self.constraint = constraint

    # -- the one description of what may come next ------------------------------------------------
    def branches(self, hole, env: dict, strict: bool = True):
        """Yield (log-probability, env, body, broken constraint or None) for every way to fill a hole.

        Generation draws one, scoring adds up all, and reading with ``strict=False`` also sees the ways
        that break a promise (they have log-probability −∞).
        """
        if isinstance(hole, Either):
            for body in hole.bodies:
                yield -math.log(len(hole.bodies)), env, body, None
        elif isinstance(hole, Call) and not hole.var:
            lines = self.rules[hole.rule]
            for body in lines:
                yield -math.log(len(lines)), env, body, None
        elif hole.var not in env:
            values = self.variables[hole.var]
            for value in values:
                for logp, _, body, _ in self._bodies(hole, value):
                    yield logp - math.log(len(values)), env | {hole.var: value}, body, None
        else:
            yield from ((lp, env, body, None) for lp, _, body, _ in self._bodies(hole, env[hole.var]))
            if not strict:
                kept = {b[2] for b in self._bodies(hole, env[hole.var])}
                others = dict.fromkeys(b[2] for v in self.variables[hole.var] for b in self._bodies(hole, v))
                for body in others:
                    if body not in kept:
                        yield -math.inf, env, body, self.constraint[hole.var]

    def _bodies(self, hole, value):
        surface = self.variables[hole.var][value][hole.form]
        if isinstance(hole, Slot):
            return [(0.0, None, tuple(surface.split()), None)]
        lines = self.rules[f"{hole.rule}.{surface}"]
        return [(-math.log(len(lines)), None, body, None) for body in lines]

    # -- generate ----------------------------------------------------------------------------------
    def generate(self, rng, start: str = "story", style=None, env=None) -> tuple[list[str], float, dict]:
        """Draw one text: (words, log-probability of this derivation in nats, values of the variables)."""
        out, logp, env, todo = [], 0.0, dict(env or {}), [Call(start)]
        while todo:
            item = todo.pop()
            if isinstance(item, str):
                out.extend((item,) if style is None else style(item))
                continue
            options = list(self.branches(item, env))
            lp, env, body, _ = options[_draw(rng, options)]
            logp += lp
            todo.extend(reversed(body))
        return out, logp, env

    # -- score -------------------------------------------------------------------------------------
    def log_prob(self, text_words: list[str], start: str = "story", style=None) -> float:
        """Exact log p in nats, summed over every derivation of these words; −∞ if there is none.

        ``style`` maps a plain word to a tuple of styled words; the score is then that of the styled text.
        """
        total, stack = -math.inf, [(0, 0.0, {}, (Call(start), None))]
        while stack:
            at, logp, env, todo = stack.pop()
            at, todo, matched = _match(text_words, at, todo, style)
            if not matched:
                continue
            if todo is None:
                if at == len(text_words):
                    total = _log_add(total, logp)
                continue
            for lp, grown, body, _ in self.branches(todo[0], env):
                rest = _push(body, todo[1])
                if _may_follow(text_words, at, rest, style):
                    stack.append((at, logp + lp, grown, rest))
        return total

    # -- read --------------------------------------------------------------------------------------
    def read(self, text_words: list[str], start: str = "story", style=None, limit: int = 200_000) -> Reading:
        """The reading that breaks the fewest constraints; if none reaches the end, the one that gets furthest.

        ``limit`` bounds the states looked at, so that strange text cannot take minutes.
        """
        best = Reading(False, -1)
        layer, broken_count = [(0, {}, frozenset(), (Call(start), None))], 0
        while layer and limit > 0:
            later = []
            while layer and limit > 0:
                at, env, broken, todo = layer.pop()
                limit -= 1
                at, todo, matched = _match(text_words, at, todo, style)
                if at > best.position:
                    best = Reading(False, at, broken, env)
                if not matched:
                    continue
                if todo is None:
                    if at == len(text_words):
                        return Reading(True, at, broken, env)
                    continue
                for _, grown, body, bad in self.branches(todo[0], env, strict=False):
                    rest = _push(body, todo[1])
                    if _may_follow(text_words, at, rest, style):
                        new = broken if bad is None else broken | {bad}
                        (layer if len(new) == broken_count else later).append((at, grown, new, rest))
            broken_count += 1
            layer = later  # each hole breaks at most one promise more
        return best


def _draw(rng, options) -> int:
    """Index of one option, drawn with its probability."""
    u = rng.random()
    for i, option in enumerate(options):
        u -= math.exp(option[0])
        if u < 0:
            return i
    return len(options) - 1


def _push(body, todo):
    for item in reversed(body):
        todo = (item, todo)
    return todo


def _match(text, at, todo, style):
    """Consume literal words: (position reached, what is left to do, did all of them match?)."""
    while todo is not None and isinstance(todo[0], str):
        for w in (todo[0],) if style is None else style(todo[0]):
            if at >= len(text) or text[at] != w:
                return at, todo, False
            at += 1
        todo = todo[1]
    return at, todo, True


def _log_add(a: float, b: float) -> float:
    """log(eᵃ + eᵇ), also where one of them is −∞."""
    low, high = sorted((a, b))
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))


def _may_follow(text, at, todo, style) -> bool:
    """Quick look at one word, so that most wrong branches are never stored."""
    if todo is None or not isinstance(todo[0], str):
        return True
    first = (todo[0],) if style is None else style(todo[0])
    return not first or (at < len(text) and text[at] == first[0])
