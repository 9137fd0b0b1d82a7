"""Devices that are not the processor, on a machine that has no other.

`StandIn`: tensors there hold real numbers, gradients work. `FakeCuda`: shapes without numbers, whose type is "cuda".

A GPU makes two demands that a run on the CPU never tests: every tensor of an operation lies on the same device, and
nothing is read back by accident. `StandIn` is such a device, called "lazy" (a name that torch knows and for which
nothing is installed). An operation on its tensors is computed on the CPU, after this rule: a tensor with a dimension
or more that lies elsewhere is an error, as on CUDA. Gradients work, so whole trainings can be compared with those on
the CPU, number for number. What it cannot show: CUDA's kernels, their rounding, their memory, and code that asks for
the type "cuda".
"""

from contextlib import ExitStack

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from lowrank_edu import quant

DEVICE = torch.device("lazy", 0)
MOVES = {"_to_copy", "copy_", "_copy_from", "_copy_from_and_resize"}
CPU_TOO = {"index", "index_put", "index_put_", "_index_put_impl_"}  # CUDA takes indices from the processor as well


class There(torch.Tensor):
    """A tensor on the stand-in; `numbers` holds them."""

    @staticmethod
    def __new__(cls, numbers):
        return torch.Tensor._make_wrapper_subclass(
            cls, numbers.shape, strides=numbers.stride(), storage_offset=numbers.storage_offset(),
            dtype=numbers.dtype, device=DEVICE, requires_grad=False,
        )  # fmt: skip

    def __init__(self, numbers):
        self.numbers = numbers

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})

    def __repr__(self):
        return f"There({self.numbers})"


class DeviceMismatch(RuntimeError):
    """An operation was given tensors of two devices."""


def run(func, args, kwargs):
    """Compute an operation on the CPU, put its result where the operation says it belongs."""
    name = func._schema.name.split("::")[1]
    flat, _ = tree_flatten((args, kwargs))
    tensors = [t for t in flat if isinstance(t, torch.Tensor)]
    there = [t for t in tensors if isinstance(t, There)]
    elsewhere = [t for t in tensors if not isinstance(t, There) and t.dim()]
    target = kwargs.get("device")
    if there and elsewhere and name not in MOVES | CPU_TOO:
        raise DeviceMismatch(f"{func}: a tensor on {elsewhere[0].device}, another on {DEVICE}.")
    if name in CPU_TOO and there and not isinstance(args[0], There):
        raise DeviceMismatch(f"{func}: {elsewhere[0].device} is indexed from {DEVICE}.")
    if target is not None and torch.device(target).type == DEVICE.type:
        kwargs = kwargs | {"device": "cpu"}
    bare = lambda x: x.numbers if isinstance(x, There) else x  # noqa: E731
    result = func(*tree_map(bare, args), **tree_map(bare, kwargs))
    if (name.endswith("_") and not name.endswith("__")) or name == "set_":
        return args[0]
    on = torch.device(target).type == DEVICE.type if target is not None else bool(there)
    if name == "copy_":
        on = isinstance(args[0], There)
    known = {id(t.numbers): t for t in there} if on else {}

    def wrap(x):
        if not on or not isinstance(x, torch.Tensor):
            return x
        return known[id(x)] if id(x) in known else There(x)

    return tree_map(wrap, result)


class StandIn(TorchDispatchMode):
    """While this is entered there is a second device, `DEVICE`."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})

    def __enter__(self):
        self.before = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor([...], device=…) makes it here, then moves it
        return super().__enter__()

    def __exit__(self, *problem):
        torch._C._set_only_lift_cpu_tensors(self.before)
        return super().__exit__(*problem)


def here(tensor):
    """The numbers of a tensor, on the CPU and outside of the mode."""
    tensor = tensor.detach()
    return tensor.numbers if isinstance(tensor, There) else tensor


class FakeCuda:
    """While this is entered, tensors made on "cuda" are shapes only; without gradients, for which torch needs a GPU.

    A torch without CUDA cannot index such tensors, copy them, nor make them contiguous, in its own short cuts; here
    all three take the long way.
    """

    def __enter__(self):
        self.modes = ExitStack()
        quant._kept_codebook.cache_clear()
        for mode in (FakeTensorMode(), torch.no_grad(), _LongWay()):
            self.modes.enter_context(mode)

    def __exit__(self, *problem):
        quant._kept_codebook.cache_clear()  # what it keeps belongs to this mode
        return self.modes.__exit__(*problem)


class _LongWay(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.Tensor.__getitem__:
            return _indexed(*args)
        if func is torch.Tensor.contiguous:
            return args[0].clone(memory_format=torch.contiguous_format)
        if func is torch.Tensor.copy_:
            return torch.ops.aten.copy_.default(*args)
        return func(*args, **(kwargs or {}))


def _indexed(x, index):
    """x[index], an axis at a time."""
    index, aten, axis = index if isinstance(index, tuple) else (index,), torch.ops.aten, 0
    if any(isinstance(i, torch.Tensor) for i in index):
        return aten.index.Tensor(x, [i if isinstance(i, torch.Tensor) else None for i in index])
    if Ellipsis in index:
        at, given = index.index(Ellipsis), sum(i is not None for i in index) - 1
        index = (*index[:at], *[slice(None)] * (x.dim() - given), *index[at + 1 :])
    for i in index:
        if isinstance(i, int):
            x = aten.select(x, axis, i)
            continue
        x = aten.unsqueeze(x, axis) if i is None else aten.slice(x, axis, i.start, i.stop, i.step or 1)
        axis += 1
    return x
