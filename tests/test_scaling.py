"""The page about many GPUs prints what the planner says, and the planner's share is what a process holds."""

import re
from pathlib import Path

import pytest
from models_zoo import tiny

import lowrank_edu as lo
from lowrank_edu.targets import block_paths

PAGE = (Path(__file__).parent.parent / "book" / "scaling.md").read_text(encoding="utf-8")
LORA = lo.LoRA(8, 16, "all-linear")
ROWS = re.findall(r"^\| `([\w.-]+)` \| (.*) \|$", PAGE, flags=re.MULTILINE)


@pytest.mark.parametrize(("model", "cells"), ROWS, ids=[row[0] for row in ROWS])
def test_the_table_is_the_plan(model, cells):
    settings = {"precision": "bf16", "batch": 1, "length": 512, "checkpointing": True}
    plans = [lo.memory.plan(model, LORA, shards=n, **settings) for n in (1, 2, 4, 8)]
    assert cells == " | ".join(f"{plan.total / 1e9:.1f}" for plan in plans)


def test_there_are_rows_and_the_numbers_in_the_text_are_theirs():
    assert len(ROWS) == 4
    xl = lo.memory.plan("gpt2-xl", LORA)
    assert f"sends {xl.gradients / 1e6:.0f} MB a step" in PAGE
    assert f"{lo.memory.plan('gpt2-xl').gradients / 1e9:.1f} GB" in PAGE
    seven = lo.memory.plan("llama-7b", LORA, precision="bf16")
    assert f"takes {seven.held['base, frozen'] / 1e9:.1f} GB" in PAGE
    packed = lo.memory.plan("llama-7b", LORA, precision="bf16", quantize="nf4")
    assert 3.5e9 < sum(n for kind, n in packed.held.items() if kind.endswith("frozen")) < 4.5e9


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_share_is_counted_by_hand(name):
    method = lo.LoRA(3, 7, "all-linear")
    model = tiny(name)
    total = sum(p.nbytes for p in set(model.parameters()))
    blocks = [sum(p.nbytes for p in model.get_submodule(path).parameters()) for path in block_paths(model)]
    whole, share = (lo.memory.plan(tiny(name), method, shards=n) for n in (1, 3))
    expected = -(-total // 3) + (total - sum(blocks)) + sum(sorted(blocks)[-2:])
    assert whole.parameters - share.parameters == total - expected
    assert share.gradients == whole.gradients and share.optimizer == whole.optimizer
    assert share.held["adapters, trained"] == whole.held["adapters, trained"]


def test_shards_are_counted_from_one():
    with pytest.raises(ValueError, match="shards=0: a whole number ≥ 1"):
        lo.memory.plan("gpt2", LORA, shards=0)
