"""The simulator of paging against a simple list and against arithmetic; the real optimizer is never pretended."""

import types

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lowrank_edu.paging import MIB, PagedMemory, paged_adamw, simulate_steps


class ByHand:
    """LRU with plain lists."""

    def __init__(self, budget, page):
        self.budget, self.page, self.pages, self.seen = budget, page, [], []
        self.evictions = self.back = self.pinned = 0

    def shrink(self, most):
        while len(self.pages) > most:
            self.pages.pop(0)
            self.evictions += 1

    def touch(self, name, nbytes):
        for i in range(-(-nbytes // self.page)):
            key = f"{name}{i}"
            if key in self.pages:
                self.pages.remove(key)
            else:
                self.back += key in self.seen
                self.shrink((self.budget - self.pinned) // self.page - 1)
            self.pages.append(key)
            self.seen.append(key)

    def pin(self, nbytes):
        self.pinned = nbytes
        self.shrink((self.budget - nbytes) // self.page)


USES = st.lists(st.tuples(st.sampled_from(["a.", "b.", "c.", "pin"]), st.integers(0, 90)), max_size=40)


@given(USES, st.integers(100, 140), st.integers(1, 10))
@settings(max_examples=200, deadline=None)
def test_it_counts_what_plain_lists_count(uses, budget, page):
    memory, oracle = PagedMemory(budget, page), ByHand(budget, page)
    for name, size in uses:
        for each in (memory, oracle):
            each.pin(size) if name == "pin" else each.touch(name, size)
        assert memory.resident + memory.pinned <= budget
    assert (memory.evictions, memory.to_cpu) == (oracle.evictions, oracle.evictions * page)
    assert memory.to_gpu == oracle.back * page and memory.resident == len(oracle.pages) * page


def test_nothing_moves_while_everything_fits():
    rows = simulate_steps({"exp_avg": 40, "exp_avg_sq": 40}, [20, 20, 20], budget=100, page=10)
    assert rows == [{"evictions": 0, "to_cpu": 0, "to_gpu": 0}] * 3


def test_one_long_batch_costs_two_trips_of_what_had_to_leave():
    rows = simulate_steps({"exp_avg": 40, "exp_avg_sq": 40}, [20, 50, 20], budget=100, page=10)
    assert [r["evictions"] for r in rows] == [0, 3, 0]
    # LRU in a loop: what left is what is needed first, and fetching it is free once the long batch is over
    assert [(r["to_cpu"], r["to_gpu"]) for r in rows] == [(0, 0), (30, 30), (0, 0)]


def test_a_state_that_never_fits_travels_in_full_every_step():
    """The oldest page leaves just before it is needed: with 11 pages in room for 10, all 11 move in each step."""
    rows = simulate_steps({"state": 110}, [0, 0, 0], budget=100, page=10)
    assert [r["to_gpu"] for r in rows] == [0, 110, 110] and [r["evictions"] for r in rows] == [1, 11, 11]


def test_a_small_page_moves_less_than_a_large_one():
    traffic = [simulate_steps({"s": 64 * MIB}, [0, 33 * MIB], 96 * MIB, page)[1]["to_cpu"] for page in (MIB, 4 * MIB)]
    assert traffic == [1 * MIB, 4 * MIB]


def test_it_says_that_it_is_a_simulation():
    memory = PagedMemory(100, 10)
    memory.touch("s", 200)
    assert "simulation" in repr(memory) and "nothing was moved" in repr(memory) and "10 evictions" in repr(memory)
    assert "simulat" in PagedMemory.__doc__ and "simulat" in simulate_steps.__doc__


@pytest.mark.parametrize(("call", "error", "words"), [
    (lambda: PagedMemory(0), ValueError, "budget=0"),
    (lambda: PagedMemory(10, 2.5), ValueError, "page=2.5"),
    (lambda: PagedMemory(10, 11), ValueError, "not one page fits"),
    (lambda: PagedMemory(10, 5).pin(11), MemoryError, "11 bytes cannot be pinned on a GPU of 10"),
    (lambda: simulate_steps({"s": 4}, [12], 10, 2), MemoryError, "paging does not help"),
    (lambda: paged_adamw([], bits=16), ValueError, "bits=16"),
])  # fmt: skip
def test_what_cannot_be_is_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_a_pinned_gpu_has_no_room_for_a_page():
    memory = PagedMemory(10, 5)
    memory.pin(8)
    with pytest.raises(MemoryError, match="8 of 10 bytes are pinned"):
        memory.touch("s", 1)


def test_without_cuda_no_optimizer_is_made(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match=r"needs a CUDA device, and there is none\. Use torch\.optim\.AdamW"):
        paged_adamw([torch.nn.Parameter(torch.ones(2))])


def test_with_cuda_it_is_the_one_of_bitsandbytes(monkeypatch):
    """No GPU here: device and library are stood in for, to see what would be called."""
    calls = []
    names = ("PagedAdamW32bit", "PagedAdamW8bit")
    optim = types.SimpleNamespace(**{n: lambda params, n=n, **kw: calls.append((n, params, kw)) or n for n in names})
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", types.SimpleNamespace(optim=optim))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(RuntimeError, match="some parameters are on cpu"):
        paged_adamw([{"params": [torch.nn.Parameter(torch.ones(2))]}])
    p = types.SimpleNamespace(device=torch.device("cuda", 0))
    assert paged_adamw([p], 3e-4, weight_decay=0.1) == "PagedAdamW32bit"
    assert paged_adamw([{"params": [p], "lr": 1}], bits=8) == "PagedAdamW8bit"
    assert calls[0] == ("PagedAdamW32bit", [p], {"lr": 3e-4, "weight_decay": 0.1})
