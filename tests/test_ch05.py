"""Chapter 5: each planted wrong answer gets its own sentence; the committed data are what a run gives."""

import numpy as np
import torch
from helpers import assert_distinct_sentences, assert_notebook_shows

from lowrank_edu import exercises


# ---- exercises ----------------------------------------
def by_view(x):
    """bf16 by hand, another way: add half a step to the fp32 bit pattern, ties to even, and cut."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).view(np.float32)


def mantissa(x, bits, rounding):
    exponent = np.floor(np.log2(np.abs(x))) + 1
    return rounding(x / 2.0**exponent * 2.0**bits) / 2.0**bits * 2.0**exponent


def test_bf16_names_each_mistake():
    assert_distinct_sentences(
        exercises.get("ch05-bf16"),
        wrong_answers={
            "cut off": lambda x: mantissa(x, 8, np.fix),
            "rounded down": lambda x: mantissa(x, 8, np.floor),
            "stored bits": lambda x: mantissa(x, 7, np.round),
            "leading bit counted twice": lambda x: mantissa(x, 9, np.round),
            "half precision": lambda x: x.astype(np.float16).astype(float),
            "steps of 1/256": lambda x: np.round(256 * x) / 256,
            "two decimals": lambda x: np.array([round(v, 2) for v in x.flat]).reshape(x.shape),
            "exponent lost": lambda x: 256 * mantissa(x, 8, np.round),
        },
        right_answers=[
            by_view,
            lambda x: torch.as_tensor(x).bfloat16(),
            lambda x: mantissa(x, 8, np.round).tolist(),
        ],
    )


def test_no_case_is_so_small_that_fp16_would_lose_more_bits():
    assert min(np.abs(case[0]).min() for case in exercises.get("ch05-bf16").fresh_cases()) > 2.0**-14


def test_drift_has_a_sentence_for_each_guess():
    wrong = {guess: guess for guess in ("zero", "Smaller", "30 times", "1000 times")}
    assert_distinct_sentences(exercises.get("ch05-drift"), wrong, ["The same", " the same."])


def second_merge_adds(layer):
    layer.kept = layer.W.copy()
    layer.W = layer.W + layer.scale * (layer.B @ layer.A)


def raises_after(layer):
    merged = layer.kept is not None
    old = layer.W.copy()
    layer.W = layer.W + layer.scale * (layer.B @ layer.A)
    if merged:
        raise ValueError("too late")
    layer.kept = old


def same_matrix(layer):
    if layer.kept is None:
        layer.kept = layer.W
        layer.W += layer.scale * (layer.B @ layer.A)
    else:
        raise ValueError("no")


def says_nothing(layer):
    if layer.kept is not None:
        return
    layer.kept = layer.W.copy()
    layer.W = layer.W + layer.scale * (layer.B @ layer.A)


def asserts(layer):
    assert layer.kept is None
    says_nothing(layer)


def refusing(body):
    def merge(layer):
        if layer.kept is not None:
            raise ValueError("merged already")
        body(layer)

    return merge


@refusing
def keeps_the_wrong_one(layer):
    layer.W = layer.W + layer.scale * (layer.B @ layer.A)
    layer.kept = layer.W.copy()


@refusing
def keeps_the_update(layer):
    layer.kept = layer.scale * (layer.B @ layer.A)
    layer.W = layer.W + layer.kept


@refusing
def keeps_nothing(layer):
    layer.W = layer.W + layer.scale * (layer.B @ layer.A)


@refusing
def forgets_scale(layer):
    layer.kept = layer.W.copy()
    layer.W = layer.W + layer.B @ layer.A


@refusing
def wrong_product(layer):
    layer.W = layer.W + layer.scale * layer.A @ layer.B


def in_place_with_a_copy(layer):
    if layer.kept is not None:
        raise ValueError("first unmerge")
    layer.kept = layer.W.copy()
    layer.W += np.einsum("or,ri->oi", layer.B, layer.A) * layer.scale


def test_merge_names_each_mistake():
    wrong = [second_merge_adds, raises_after, same_matrix, says_nothing, asserts, keeps_the_wrong_one,
             keeps_the_update, keeps_nothing, forgets_scale, wrong_product]  # fmt: skip
    assert_distinct_sentences(
        exercises.get("ch05-merge"), {f.__name__: f for f in wrong}, [in_place_with_a_copy]
    )


def test_combine_names_each_mistake():
    def root_of_each(A1, B1, A2, B2, w1, w2):
        return (
            torch.tensor(np.hstack([w1**0.5 * B1, w2**0.5 * B2])),
            np.vstack([w1**0.5 * A1, w2**0.5 * A2]),
        )

    def by_svd(A1, B1, A2, B2, w1, w2):
        U, S, Vt = np.linalg.svd(w1 * B1 @ A1 + w2 * B2 @ A2, full_matrices=False)
        return U * S, Vt

    assert_distinct_sentences(
        exercises.get("ch05-combine"),
        wrong_answers={
            "average": lambda A1, B1, A2, B2, w1, w2: (w1 * B1 + w2 * B2, w1 * A1 + w2 * A2),
            "squared": lambda A1, B1, A2, B2, w1, w2: (np.c_[w1 * B1, w2 * B2], np.r_[w1 * A1, w2 * A2]),
            "loud": lambda A1, B1, A2, B2, w1, w2: (np.c_[B1, B2], np.r_[A1, A2]),
            "exchanged": lambda A1, B1, A2, B2, w1, w2: (np.c_[B1, B2], np.r_[w2 * A1, w1 * A2]),
            "A first": lambda A1, B1, A2, B2, w1, w2: (np.r_[A1, A2], np.c_[w1 * B1, w2 * B2]),
            "other axes": lambda A1, B1, A2, B2, w1, w2: (np.r_[w1 * B1, w2 * B2], np.c_[A1, A2]),
            "matrix": lambda A1, B1, A2, B2, w1, w2: w1 * (B1 @ A1) + w2 * (B2 @ A2),
        },
        right_answers=[root_of_each, by_svd],
    )


def test_dropout_has_a_sentence_for_each_option():
    exercise = exercises.get("ch05-dropout")
    assert_distinct_sentences(
        exercise, {o: o.upper() for o in exercise.options if o != "nowhere"}, ["Nowhere."]
    )
