"""Stylesheets without the rules that no page of the book can need: the theme brings all of Bootstrap.

A rule stays unless each of its selectors asks for a class or an id that occurs nowhere: not as a word of any page, not
as one of any script, and not as the end of a name whose beginning a script holds ("bs-" + …).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import tinycss2

WORD = re.compile(r"[\w-]+")
GROUPS = ("media", "supports", "container", "layer")
"""At-rules that hold rules; the others are kept whole."""


@dataclass(frozen=True)
class Words:
    """Every word of the built book's pages and scripts, and the beginnings of names that scripts put together."""

    whole: frozenset[str]
    beginnings: tuple[str, ...]

    @classmethod
    def of(cls, out: Path) -> Words:
        """All of a folder of built pages, the search index left out: it has every word of the prose once more."""
        texts = [p for p in out.rglob("*") if p.suffix in (".html", ".js") and p.name != "searchindex.js"]
        whole = frozenset(word for path in texts for word in WORD.findall(path.read_text("utf-8", "replace")))
        return cls(whole, tuple(word for word in whole if word.endswith("-") and len(word.strip("-")) > 1))

    def __contains__(self, name: str) -> bool:
        return name in self.whole or name.startswith(self.beginnings) or not WORD.fullmatch(name)


def needed(css: str, words: Words) -> str:
    """The stylesheet without the rules that need a class or an id which is not one of `words`."""
    return _needed(tinycss2.parse_stylesheet(css, skip_whitespace=True), words)


def _needed(rules, words):
    kept = []
    for rule in rules:
        if rule.type == "qualified-rule":
            selectors = [s for s in _selectors(rule.prelude) if all(name in words for name in _names(s))]
            head = ",".join(tinycss2.serialize(selector).strip() for selector in selectors)
            kept += [f"{head}{{{tinycss2.serialize(rule.content)}}}"] if selectors else []
        elif rule.type == "at-rule" and rule.lower_at_keyword in GROUPS and rule.content is not None:
            inside = _needed(tinycss2.parse_rule_list(rule.content, skip_whitespace=True), words)
            kept += [f"@{rule.at_keyword}{tinycss2.serialize(rule.prelude)}{{{inside}}}"] if inside else []
        elif rule.type == "at-rule" or (rule.type == "comment" and rule.value.startswith("!")):  # "!": a licence
            kept.append(rule.serialize())
    return "\n".join(kept)


def _selectors(prelude):
    """What the commas of a rule's head separate, each as a list of tokens."""
    parts = [[]]
    for token in prelude:
        if token == ",":
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def _names(selector):
    """The classes and ids that a selector asks for; what stands in brackets, as in :not(.a), may be absent."""
    before = [None, *selector]
    for last, token in zip(before, selector, strict=False):
        if token.type == "hash" or (token.type == "ident" and last == "."):
            yield token.value
