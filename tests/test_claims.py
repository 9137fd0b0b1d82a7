"""The table of published numbers: what is recorded is what the shapes give, and ✓ and ✗ mean what they say."""

import dataclasses

import pytest

from lowrank_edu import memory
from lowrank_edu.claims import Claim
from lowrank_edu.methods import METHODS

ROWS = {row.id: row for row in memory.claims()}

# ---- the same numbers a second time, by hand: from widths, layers, and the rule of each method

SIZES = [(768, 12), (1024, 24), (1280, 36)]
GPT2, MEDIUM, LARGE = ((50257 + 1024) * d + n * (12 * d * d + 13 * d) + 2 * d for d, n in SIZES)
GPT3 = (50257 + 2048) * 12288 + 96 * (12 * 12288**2 + 13 * 12288) + 2 * 12288
LLAMA = {"7b": (4096, 11008, 32), "13b": (5120, 13824, 40), "65b": (8192, 22016, 80)}
LINEAR = {s: n * (4 * d * d + 3 * d * f) for s, (d, f, n) in LLAMA.items()}
REST = {s: 2 * 32000 * d + (2 * n + 1) * d for s, (d, f, n) in LLAMA.items()}  # embedding, head, norms
ROTARY = 512  # bytes of the two fp32 buffers of rotary frequencies
DEBERTA = 12 * (4 * 2 * 768 + 2 * (768 + 3072))  # what one rank costs on six kinds of matrix
BART = 12 * (4 * 2048 + 2 * 5120) + 12 * (8 * 2048 + 2 * 5120)  # encoder, decoder with cross-attention
NF4, DQ = 32 / 64, 8 / 64 + 32 / (64 * 256)  # bits per weight for the absmax


def lora(s, r):
    d, f, n = LLAMA[s]
    return n * r * (4 * 2 * d + 3 * (d + f))


def vera(s, r):
    d, f, n = LLAMA[s]
    return n * (5 * d + 2 * f + 7 * r)


def dora_share(r, with_m):
    trained = 32 * (r * (3 * 2 * 4096 + 2 * (4096 + 11008)) + with_m * (4 * 4096 + 11008))
    return 100 * trained / (LINEAR["7b"] + REST["7b"] + trained)


def adapters(places, d, b):
    return places * (2 * b * d + d + b)


BY_HAND = {
    "gpt2-m-lora": 24 * 2 * 4 * 2 * 1024, "gpt2-l-lora": 36 * 2 * 4 * 2 * 1280,
    "gpt2-m-checkpoint": 4 * 24 * 2 * 4 * 2 * 1024, "gpt2-l-checkpoint": 4 * 36 * 2 * 4 * 2 * 1280,
    "gpt2-m-total": MEDIUM, "gpt2-l-total": LARGE, "gpt2-m-top2": 2 * (12 * 1024**2 + 13 * 1024),
    "gpt2-m-adapter-6": adapters(24, 1024, 6) + 48 * 1024, "gpt2-m-adapter-224": adapters(24, 1024, 224) + 48 * 1024,
    "gpt2-l-adapter-8": adapters(36, 1280, 8) + 72 * 1280, "gpt2-l-adapter-248": adapters(36, 1280, 248) + 72 * 1280,
    **{f"gpt3-lora-{r}": 96 * 2 * r * 2 * 12288 for r in (1, 8)},
    **{f"gpt3-budget-{r}": 96 * 8 * 2 * 12288 for r in (8, 4, 2)},
    **{f"gpt3-adapter-{b}": adapters(192, 12288, b) for b in (1, 8)},
    "gpt3-prefix-embed": 264 * 12288, "gpt3-prefix-layer": 96 * 16 * 12288, "gpt3-bitfit": (96 * 11 + 1) * 12288,
    "roberta-base-lora": 12 * 2 * 8 * 1536, "roberta-large-lora": 24 * 2 * 8 * 2048,
    "roberta-base-head": 12 * 2 * 8 * 1536 + 768**2 + 768 + 2 * 768 + 2, "deberta-xxl-lora": 48 * 2 * 16 * 2 * 1536,
    "gpt3-weights-fp16": 2 * GPT3, "gpt3-checkpoint": 2 * 18_874_368, "gpt3-fewer": GPT3 / 18_874_368,
    "gpt3-fp32": 4 * GPT3, "gpt3-adam": 12 * GPT3 + 4 * (96 * 12 + 4),  # and a step count for each tensor
    "gpt3-vram-12": 12 * GPT3, "gpt3-vram-16": 16 * GPT3,
    "deberta-lora-8": 8 * DEBERTA, "deberta-lora-2": 2 * DEBERTA,
    **{f"deberta-adalora-{n}": [n * 1536, n * 3840] for n in (576, 288, 144)},
    "deberta-adalora-start": 12 * DEBERTA + 72 * 12,
    **{f"deberta-houlsby-{b}": adapters(24, 768, b) for b in (8, 16, 32)},
    **{f"deberta-pfeiffer-{b}": adapters(12, 768, b) for b in (16, 32, 64)},
    "deberta-bitfit": (12 * 11 + 2) * 768, "bert-base-bitfit": 100 * (12 * 11 + 2) * 768 / 109_482_240,
    "bert-large-bitfit": 100 * (24 * 11 + 2) * 1024 / 335_141_888,
    **{f"bart-lora-{r}": 100 * r * BART / 406_291_456 for r in (16, 8, 2, 1)},
    "roberta-base-vera-1024": 24 * (768 + 1024), "roberta-large-vera-256": 48 * (1024 + 256),
    "gpt2-medium-vera-1024": 48 * (1024 + 1024), "gpt2-large-vera-1024": 72 * (1280 + 1024),
    "llama-7b-vera-256": vera("7b", 256), "llama-7b-vera-1024": vera("7b", 1024),
    "llama-13b-vera-1024": vera("13b", 1024), **{f"gpt3-vera-{r}": 192 * (12288 + r) for r in (16, 256)},
    "llama-7b-lora-64": lora("7b", 64), "llama-13b-lora-64": lora("13b", 64),
    "llama-7b-dora-lora": dora_share(32, 0), "llama-7b-dora-dora": dora_share(32, 1),
    "llama-7b-dora-half": dora_share(16, 1),
    "llama-65b-16bit": 12 * (LINEAR["65b"] + REST["65b"]) + ROTARY,
    "nf4-absmax": NF4, "nf4-double": DQ, "nf4-saved": NF4 - DQ,
    "llama-65b-double": LINEAR["65b"] * (NF4 - DQ) / 8 - 4 * 80 * 7,  # one fp32 mean for each layer
    "llama-65b-48gb": LINEAR["65b"] * (4 + DQ) / 8 + 4 * 80 * 7 + 2 * REST["65b"] + ROTARY + 2 * lora("65b", 64),
    "llama-7b-qlora": 0.002 * 2 * (LINEAR["7b"] + REST["7b"]),
    "llama-7b-base": LINEAR["7b"] * (4 + DQ) / 8 + 4 * 32 * 7 + 2 * REST["7b"] + ROTARY,
    "gpt2-rasbt": 16 * (12 * (4 * 1536 + 2 * (768 + 3072)) + 768 + 2),
    "psoft-deberta-dora": 8 * DEBERTA + 12 * (5 * 768 + 3072), "psoft-deberta-xs": 72 * 136**2,
    "psoft-3b-lora": 28 * 8 * (2 * 6144 + 2 * 4096 + 3 * 11264), "psoft-3b-xs": 28 * 7 * 248**2,
    "psoft-3b-dora": 28 * (8 * (2 * 6144 + 2 * 4096 + 3 * 11264) + 3 * 3072 + 2 * 1024 + 2 * 8192),
    "psoft-8b-lora": 32 * 8 * (8192 + 2 * 5120 + 2 * 18432), "psoft-8b-xs": 32 * 5 * 298**2,
    "psoft-8b-dora": 32 * (8 * (8192 + 2 * 5120 + 2 * 18432) + 2 * 4096 + 2 * 1024 + 14336),
    "psoft-deberta-psoft": 72 * sum(range(46)) + 72 * 92,
    "gpt2-peft": 12 * 8 * (768 + 2304), "gpt2-peft-share": 100 * 294_912 / (GPT2 + 294_912),
    "gpt2-total": GPT2, "roberta-base-total": 124_647_170, "deberta-v3-base-total": 184_423_682,
    "bart-large-total": 406_291_456, "llama-7b-total": LINEAR["7b"] + REST["7b"],
    "lamda-17.7": 8 * DEBERTA / (72 * 32**2),
}  # fmt: skip


def known(row):
    return all(name in METHODS for call in row.plans.values() for name in call.get("method", {}))


@pytest.mark.parametrize("row", [row for row in ROWS.values() if known(row)], ids=lambda row: row.id)
def test_the_shapes_give_what_is_recorded_and_the_mark_is_true(row):
    value = row.compute()
    assert value == pytest.approx(row.computed, rel=1e-12)
    assert value == pytest.approx(BY_HAND[row.id], rel=1e-12)
    assert row.meets(value) == (row.reproduces is not False)


def test_every_row_is_complete():
    assert len(ROWS) == len(memory.claims()) and ROWS.keys() == BY_HAND.keys()
    for row in ROWS.values():
        assert row.mark in "SRCM" and row.source
        assert row.why or row.reproduces, f"{row.id}: a number that does not reproduce needs its reason"


def test_a_wrong_count_is_seen():
    row = ROWS["gpt3-lora-1"]
    assert row.meets(row.computed) and not row.meets(2 * row.computed)
    method = {"LoRA": {"r": 2, "target_modules": ["q", "v"]}}
    wrong = dataclasses.replace(row, plans={"p": {**row.plans["p"], "method": method}})
    assert wrong.compute() == 2 * row.computed
    assert not ROWS["llama-65b-48gb"].meets(48.1e9) and ROWS["llama-65b-48gb"].meets(47.9e9)
    assert not ROWS["deberta-adalora-576"].meets([1.28e6, 2e6])


@pytest.mark.parametrize("published, step, unit, value, meets", [
    (4.7, 0.1, "M", 4_749_999, True), (4.7, 0.1, "M", 4_750_000, False), (4.7, 0.1, "M", 4_649_999, False),
    (350, 10, "GB", 354.9e9, True), (350, 10, "GB", 355e9, False), (0.127, 0.001, "bit", 0.126953125, True),
    (1.5, 0.1, "MiB", 1_572_864, True), (1.5, 0.1, "MB", 1_572_864, False), (18.0, 1, "M", 18_874_368, False),
])  # fmt: skip
def test_rounding(published, step, unit, value, meets):
    row = Claim("", "", published, unit, step, "", "M", "", value, True)
    assert row.meets(value) is meets


def test_the_table_prints():
    text = str(memory.claims())
    assert text.count("\n") == len(ROWS) and "<" not in text.replace("< 48 GB", "")
    assert "✗ GPT-2 medium, LoRA r=4 on q and v: trained: 0.35 M [microsoft/LoRA, README]; we count 0.393 M: " in text
    assert text.splitlines()[-1] == f"{sum(r.reproduces is True for r in ROWS.values())} of {len(ROWS)} reproduce."
