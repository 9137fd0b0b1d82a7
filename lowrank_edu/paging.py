"""Paged optimizer state: what happens when it does not fit, page by page.   Dettmers et al. 2023 (QLoRA), §3

On a CUDA device `paged_adamw` gives the real thing, from bitsandbytes: the state lives in managed memory, and
the driver moves pages between GPU and CPU when the GPU is full. `PagedMemory` is a simulation of that driver
for teaching: it moves no bytes and measures no time, it only counts.
"""

import math
from collections import OrderedDict
from dataclasses import dataclass, field

import torch

MIB = 2**20


@dataclass
class PagedMemory:
    """A simulated GPU that holds pages and sends the least recently used one to the CPU when it is full.

    budget     bytes on the GPU; page  bytes that move at once
    evictions  pages sent to the CPU so far; to_cpu and to_gpu: the traffic, in bytes
    `touch` is a use of a tensor; `pin` takes bytes that cannot move, such as activations in a long batch.
    The first use of a page creates it on the GPU and costs no traffic.
    """

    budget: int
    page: int = 2 * MIB
    evictions: int = field(default=0, init=False)
    to_cpu: int = field(default=0, init=False)
    to_gpu: int = field(default=0, init=False)
    pinned: int = field(default=0, init=False)

    def __post_init__(self):
        for what, value in (("budget", self.budget), ("page", self.page)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{what}={value!r}: a whole number ≥ 1 of bytes.")
        if self.page > self.budget:
            raise ValueError(f"page={self.page} is more than budget={self.budget}: not one page fits. Lower page.")
        self._here, self._away = OrderedDict(), set()  # pages on the GPU, oldest use first; pages on the CPU

    @property
    def room(self):
        """Pages that fit beside what is pinned."""
        return (self.budget - self.pinned) // self.page

    @property
    def resident(self):
        """Bytes of pages on the GPU."""
        return len(self._here) * self.page

    def touch(self, name, nbytes):
        """Use all pages of tensor `name` in order, fetching those that are on the CPU."""
        if nbytes > 0 and self.room < 1:
            raise MemoryError(f"{self.pinned} of {self.budget} bytes are pinned, so not one page of {name!r} fits.")
        for page in ((name, i) for i in range(math.ceil(nbytes / self.page))):
            if page not in self._here:
                self._evict(self.room - 1)
                if page in self._away:
                    self._away.remove(page)
                    self.to_gpu += self.page
            self._here[page] = None
            self._here.move_to_end(page)

    def pin(self, nbytes):
        """Set the bytes that cannot move; pages make way. More than the budget raises MemoryError."""
        if not 0 <= nbytes <= self.budget:
            raise MemoryError(f"{nbytes} bytes cannot be pinned on a GPU of {self.budget}: paging does not help there.")
        self.pinned = nbytes
        self._evict(self.room)

    def _evict(self, most):
        """Send the pages that waited longest to the CPU until at most `most` are left."""
        while len(self._here) > most:
            self._away.add(self._here.popitem(last=False)[0])
            self.evictions += 1
            self.to_cpu += self.page

    def __repr__(self):
        return (
            f"<simulation of paging, nothing was moved: {self.resident:,} of {self.budget:,} bytes in pages, "
            f"{self.pinned:,} pinned; {self.evictions:,} evictions, {self.to_cpu:,} bytes to the CPU, "
            f"{self.to_gpu:,} back>"
        )


def simulate_steps(states, activations, budget, page=2 * MIB):
    """A simulated training run: [{"evictions", "to_cpu", "to_gpu"}] of every step, pages and bytes.

    states       {name: bytes} of optimizer state, all of it used once per step, in this order
    activations  bytes that each step's forward and backward pass needs at its peak, one number per step;
                 they are gone before the optimizer runs
    """
    memory, rows = PagedMemory(budget, page), []
    for peak in activations:
        before = memory.evictions, memory.to_cpu, memory.to_gpu
        memory.pin(peak)
        memory.pin(0)
        for name, nbytes in states.items():
            memory.touch(name, nbytes)
        after = memory.evictions, memory.to_cpu, memory.to_gpu
        rows.append({k: b - a for k, a, b in zip(("evictions", "to_cpu", "to_gpu"), before, after, strict=True)})
    return rows


def paged_adamw(params, lr=1e-3, *, bits=32, **settings):
    """bitsandbytes' AdamW with its state in paged memory; `bits` 32 or 8. Needs a CUDA device.

    Elsewhere it raises RuntimeError instead of giving an ordinary optimizer under this name: paging is the
    work of the CUDA driver. `settings` go to bitsandbytes (betas, eps, weight_decay).
    """
    if bits not in (8, 32):
        raise ValueError(f"bits={bits!r}: the state is kept in 8 or in 32 bits.")
    advice = "Use torch.optim.AdamW here, and PagedMemory to see what paging would do."
    if not torch.cuda.is_available():
        raise RuntimeError(f"paged optimizer state needs a CUDA device, and there is none. {advice}")
    params = list(params)
    tensors = [p for group in params for p in (group["params"] if isinstance(group, dict) else [group])]
    elsewhere = {str(p.device) for p in tensors if p.device.type != "cuda"}
    if elsewhere:
        raise RuntimeError(f"some parameters are on {', '.join(sorted(elsewhere))}: move the model to 'cuda' first.")
    try:
        import bitsandbytes
    except ImportError:
        raise RuntimeError(f"paged state comes from bitsandbytes: pip install bitsandbytes. {advice}") from None
    make = bitsandbytes.optim.PagedAdamW32bit if bits == 32 else bitsandbytes.optim.PagedAdamW8bit
    return make(params, lr=lr, **settings)
