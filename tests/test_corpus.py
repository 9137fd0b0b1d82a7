"""The tiny world against its own book-keeping, brute force, and deliberate damage."""

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowrank_edu import corpus
from lowrank_edu.corpus import tales
from lowrank_edu.corpus.grammar import Grammar, compile_template, join, words
from lowrank_edu.corpus.restaurants import VALUES

STORIES = corpus.stories(40, seed=5)
seeds = st.integers(0, 2**31)


def swap(text, old, new, count=1):
    """Replace the last `count` mentions of a word."""
    parts = words(text)
    at = [i for i, w in enumerate(parts) if w == old][-count:]
    assert at, (old, text)
    return join(new if i in at else w for i, w in enumerate(parts))


def other(var, value):
    return next(v for v in tales.VARIABLES[var] if v != value)


def drawn(seed):
    parts, logp, env = corpus.GRAMMAR.generate(np.random.default_rng(seed))
    return join(parts), logp, env


# ---------------------------------------------------------------- the distribution
@given(seeds)
@settings(max_examples=60, deadline=None)
def test_generator_scorer_and_reader_agree(seed):
    text, logp, env = drawn(seed)
    assert corpus.log_prob(text) == pytest.approx(logp, abs=1e-9)  # no ambiguity: one derivation each
    assert corpus.parse(text).valid
    assert corpus.GRAMMAR.read(words(text)).values == env
    assert text.startswith(" ") and join(words(text)) == text


TOY = Grammar(
    {"story": ["{who} [ran|ran|sat] <tail:who.kind>", "<name> sat ."], "name": ["{who}"],
     "tail.he": ["and he won .", "."], "tail.she": ["and she won ."]},
    {"who": {n: {"": n, "kind": k} for n, k in [("Tom", "he"), ("Ada", "she"), ("Ben", "he")]}},
    {"who": "who"})  # fmt: skip


def test_log_prob_sums_all_derivations_of_an_ambiguous_grammar():
    """Oracle: the probabilities written out by hand, with exact fractions."""
    by_hand = {}
    for name, he in [("Tom", True), ("Ada", False), ("Ben", True)]:
        for verb, p in [("ran", 2 / 3), ("sat", 1 / 3)]:
            tails = [("and he won .", 0.5), (".", 0.5)] if he else [("and she won .", 1.0)]
            for tail, q in tails:
                by_hand[f"{name} {verb} {tail}"] = by_hand.get(f"{name} {verb} {tail}", 0) + p * q / 6
        by_hand[f"{name} sat ."] = by_hand.get(f"{name} sat .", 0) + 1 / 6
    assert sum(by_hand.values()) == pytest.approx(1)
    for text, p in by_hand.items():
        assert math.exp(TOY.log_prob(text.split())) == pytest.approx(p, rel=1e-12), text
    alphabet = sorted({w for t in by_hand for w in t.split()})
    total = sum(
        math.exp(TOY.log_prob(list(w))) for n in range(1, 5) for w in itertools.product(alphabet, repeat=n)
    )
    short = sum(p for t, p in by_hand.items() if len(t.split()) < 5)
    assert total == pytest.approx(short, rel=1e-12)  # nothing else has any probability


def test_generated_frequencies_match_log_prob():
    rng = np.random.default_rng(0)
    n = 6000
    seen = {}
    for _ in range(n):
        text = " ".join(TOY.generate(rng)[0])
        seen[text] = seen.get(text, 0) + 1
    for text, count in seen.items():
        p = math.exp(TOY.log_prob(text.split()))
        assert abs(count - n * p) < 5 * math.sqrt(n * p * (1 - p)), (text, count, n * p)


def test_entropy_agrees_with_a_count_of_the_choices():
    """Independent oracle: the entropy added up by hand from the sizes of the choices that every story
    makes."""
    sizes = [len(v) for v in tales.VARIABLES.values()]
    fixed = sum(math.log(s) for s in sizes)
    means = [corpus.entropy(corpus.stories(150, seed)) for seed in range(3)]
    assert max(means) - min(means) < 0.5
    assert fixed + 5 < np.mean(means) < fixed + 11  # a dozen two- and three-way choices of wording


def test_floor_is_nats_over_tokens_and_the_same_for_every_style():
    texts = STORIES[:10]
    assert corpus.floor(texts, 1000) == pytest.approx(-sum(map(corpus.log_prob, texts)) / 1000)
    for name in corpus.styles():
        styled = [corpus.restyle(t, name) for t in texts]
        assert corpus.floor(styled, 1000, style=name) == pytest.approx(corpus.floor(texts, 1000))
    with pytest.raises(ValueError, match="positive"):
        corpus.floor(texts, 0)


def test_seeds_reproduce_and_differ():
    assert corpus.stories(5, 1) == corpus.stories(5, 1) != corpus.stories(5, 2)
    assert corpus.stories(0, 1) == []
    assert corpus.stories(3, 1) == corpus.stories(5, 1)[:3]
    with pytest.raises(ValueError, match="0 or more"):
        corpus.stories(-1, 1)


# ---------------------------------------------------------------- constraints
@pytest.mark.parametrize(("var", "constraint"), [
    ("who", "who"), ("kin", "who"), ("place", "where"), ("thing", "what"), ("color", "what"),
    ("trait", "resolution")])  # fmt: skip
def test_a_changed_entity_breaks_exactly_its_constraint(var, constraint):
    for seed in range(15):
        text, _, env = drawn(seed)
        if var == "who":
            same = tales.SHE if env["who"] in tales.SHE else tales.HE
            new = next(n for n in same if n != env["who"])
        elif var == "trait":
            mood = tales.TRAITS[env["trait"]]
            new = next(t for t, m in tales.TRAITS.items() if m == mood and t != env["trait"])
        elif var == "place":
            new = next(
                p
                for p, v in tales.PLACES.items()
                if p != env["place"] and v.split()[0] == tales.PLACES[env["place"]].split()[0]
            )
        else:
            new = other(var, env[var])
        broken = swap(text, env[var], new)
        assert corpus.log_prob(broken) == -math.inf
        verdict = corpus.parse(broken)
        assert verdict.failed == (constraint,), (broken, verdict)


def test_wrong_pronoun_preposition_sight_use_and_deed_are_caught():
    text = (
        " Mia was a brave girl who lived in the cave. She loved to fly the red kite of her uncle. "
        "But in the cave near the bats the kite got lost. So Mia went alone into the dark. "
        "Soon the red kite was found. How brave you are, said her uncle."
    )
    assert corpus.parse(text).valid
    for old, new, constraint in [
        ("She loved", "He loved", "who"), ("girl", "boy", "who"), ("But in", "But on", "where"),
        ("bats", "gulls", "where"), ("fly", "kick", "what"),
        ("went alone into the dark", "ran the wrong way", "resolution"),
        ("Soon the red kite was found", "Soon the red kite was mended", "resolution"),
        ("Soon the red kite was found. How brave you are", "The red kite was never found. Do not be so brave",
         "resolution"),
    ]:  # fmt: skip
        assert old in text
        verdict = corpus.parse(text.replace(old, new))
        assert verdict.failed == (constraint,), (old, new, verdict)
    assert corpus.parse(text.replace("fly", "kick").replace("bats", "gulls")).failed == ("where", "what")


@given(seeds, st.integers(0, 10**6), st.sampled_from(["drop", "double", "zebra"]))
@settings(max_examples=40, deadline=None)
def test_damaged_grammar_is_never_valid(seed, where, damage):
    text, _, _ = drawn(seed)
    parts = words(text)
    i = where % len(parts)
    parts[i : i + 1] = {"drop": [], "double": [parts[i]] * 2, "zebra": ["zebra"]}[damage]
    broken = join(parts)
    verdict = corpus.parse(broken)
    assert not verdict.valid and corpus.log_prob(broken) == -math.inf
    assert broken.startswith(verdict.read)


def test_text_that_is_no_story():
    for text in ["", " ", STORIES[0][1:], STORIES[0] + " ", " Once upon a time .", STORIES[0] + STORIES[1],
                 words(STORIES[0])[0], STORIES[0].replace(" ", "  ")]:  # fmt: skip
        assert corpus.log_prob(text) == -math.inf and not corpus.parse(text).valid, text
    assert corpus.parse(STORIES[0] + STORIES[1]).read == STORIES[0]
    half = join(words(STORIES[0])[:20])
    verdict = corpus.parse(half)
    assert (verdict.grammar, verdict.who, verdict.resolution, verdict.read) == (False, True, False, half)


def test_validity_counts_shares():
    broken = swap(STORIES[0], next(w for w in words(STORIES[0]) if w in tales.COLORS), "purple")
    shares = corpus.validity([STORIES[0], STORIES[1], broken, ""])
    assert shares["valid"] == 0.5 and shares["who"] == 0.75


def test_every_entity_is_mentioned_at_least_twice():
    for seed in range(60):
        text, _, env = drawn(seed)
        for var in ("who", "place", "thing", "color", "kin", "trait"):
            assert words(text).count(env[var]) >= 2, (var, text)


def test_a_template_with_unbalanced_brackets_is_refused():
    with pytest.raises(ValueError, match="brackets"):
        compile_template("a [b|c")


# ---------------------------------------------------------------- styles
@pytest.mark.parametrize("name", corpus.styles())
def test_style_round_trip_score_and_exact_probability(name):
    style = corpus.STYLES[name]
    for text in STORIES:
        styled = corpus.style(name)(text)
        assert corpus.style_score(styled, name) == 1 and corpus.style_score(text, name) == 0
        assert sum(w in style.marks for w in words(styled)) >= 4  # visible in every story
        assert corpus.log_prob(styled, style=name) == pytest.approx(corpus.log_prob(text), abs=1e-9)
        assert corpus.parse(styled, style=name).valid and not corpus.parse(styled).valid
        assert corpus.log_prob(text, style=name) == -math.inf
        for another in corpus.styles():
            assert another == name or corpus.style_score(styled, another) < 0.35
        if style.reversible:
            assert corpus.unstyle(styled, name) == text
    assert len({corpus.restyle(t, name) for t in STORIES}) == len(STORIES)


def test_style_score_grows_with_the_share_of_styled_words():
    plain, styled = words(STORIES[0]), words(corpus.restyle(STORIES[0], "pirate"))
    half = join(styled[: len(styled) // 2] + plain[len(plain) // 2 :])
    assert 0.2 < corpus.style_score(half, "pirate") < 0.8
    assert corpus.style_score("", "pirate") == 0


def test_style_marks_are_not_plain_words_and_tables_have_no_dead_entries():
    plain = {w for t in corpus.stories(3000, seed=0) for w in words(t)}
    for style in corpus.STYLES.values():
        assert not style.marks & plain
        assert set(style.table) <= plain
        if style.reversible:
            assert len(set(style.table.values())) == len(style.table)


def test_style_errors_name_what_exists():
    with pytest.raises(ValueError, match="pirate, archaic, telegram, poet"):
        corpus.restyle(STORIES[0], "robot")
    with pytest.raises(ValueError, match="cannot be undone; these can: pirate"):
        corpus.unstyle(STORIES[0], "telegram")
    with pytest.raises(ValueError, match="not a pirate text"):
        corpus.unstyle(STORIES[0], "pirate")


# ---------------------------------------------------------------- data to text
@given(seeds)
@settings(max_examples=40, deadline=None)
def test_sentences_state_their_record(seed):
    record = corpus.restaurants(1, seed)[0]
    text = corpus.sentence(record, np.random.default_rng(seed))
    assert corpus.slot_accuracy(record, text) == 1
    assert corpus.meaning(record).startswith(" name:") and corpus.meaning(record).endswith(" =")
    for slot, values in VALUES.items():
        right = getattr(record, slot)
        wrong = next(v for v in values if v != right)
        replaced = swap(text, right, wrong)
        assert corpus.slots(record, replaced) == {s: s != slot for s in VALUES}
        assert corpus.slot_accuracy(record, replaced) == pytest.approx(0.8)
        assert corpus.slot_accuracy(record, text + " " + wrong) == pytest.approx(0.8)  # both is not exact
    assert corpus.slot_accuracy(record, "") == 0


def test_a_record_refuses_an_unknown_value():
    with pytest.raises(ValueError, match="food='Lunar' is not known; choose one of Spanish"):
        corpus.Record("Lantern", "Lunar", "centre", "cheap", "fair")


def test_corpus_needs_only_numpy():
    heavy = "{'torch', 'transformers', 'matplotlib'}"
    code = f"import sys, lowrank_edu.corpus; sys.exit(not {heavy}.isdisjoint(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
