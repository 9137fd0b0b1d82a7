"""Data to text: a record of five facts about a restaurant, sentences that say them, and an exact scorer."""

from dataclasses import dataclass, fields

import numpy as np

from .grammar import Grammar, join, words

VALUES = {
    "name": "Lantern Anchor Willow Pepper Saffron Olive Juniper Clover Falcon Comet Harvest Mango Cedar Nutmeg "
            "Orchid Tulip".split(),
    "food": "Spanish Chinese Greek Thai Turkish Mexican Korean French".split(),
    "area": "riverside centre suburb airport seaside oldtown".split(),
    "price": "cheap moderate expensive".split(),
    "rating": "poor fair superb excellent".split(),
}

_FORMS = {var: {v: {"": v} for v in values} for var, values in VALUES.items()}
_GRAMMAR = Grammar(
    {
        "sentence": [
            "{name} serves {price} {food} food in the {area} . Guests call it {rating} .",
            "{name} is a {food} restaurant in the {area} with {price} prices and {rating} ratings .",
            "In the {area} you find {name} , a {food} place : {price} meals , {rating} reviews .",
            "Guests find the {food} dishes at {name} {rating} . It is {price} and stands in the {area} .",
            "For {price} {food} cooking in the {area} , visit {name} . Its ratings are {rating} .",
            "{name} cooks {food} dishes at {price} prices . "
            "You find it in the {area} , with {rating} reviews .",
        ]
    },
    _FORMS,
    {var: var for var in VALUES},
)


@dataclass(frozen=True)
class Record:
    """Five facts; every value is one word of `VALUES`."""

    name: str
    food: str
    area: str
    price: str
    rating: str

    def __post_init__(self):
        for slot, values in VALUES.items():
            if getattr(self, slot) not in values:
                raise ValueError(
                    f"{slot}={getattr(self, slot)!r} is not known; choose one of {', '.join(values)}"
                )


def restaurants(n: int, seed: int) -> list[Record]:
    """n records drawn uniformly; the same seed gives the same records."""
    rng = np.random.default_rng(seed)
    return [
        Record(**{slot: values[rng.integers(len(values))] for slot, values in VALUES.items()})
        for _ in range(n)
    ]


def meaning(record: Record) -> str:
    """The record as the text that a model is given; it ends in ``=``."""
    facts = [w for f in fields(record) for w in (f.name, ":", getattr(record, f.name), ",")]
    return join([*facts[:-1], "="])


def sentence(record: Record, rng) -> str:
    """One or two sentences that state all five facts, in wording drawn by a numpy Generator."""
    env = {f.name: getattr(record, f.name) for f in fields(record)}
    return join(_GRAMMAR.generate(rng, "sentence", env=env)[0])


def slot_accuracy(record: Record, text: str) -> float:
    """Share of the five facts that a text states: the right value is there, and no other of its slot."""
    return sum(slots(record, text).values()) / len(VALUES)


def slots(record: Record, text: str) -> dict[str, bool]:
    """Per slot: is the right value there, and no wrong one?"""
    seen = set(words(text))
    return {slot: seen & set(values) == {getattr(record, slot)} for slot, values in VALUES.items()}
