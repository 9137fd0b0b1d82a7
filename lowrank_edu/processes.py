"""Several processes, one run: which rows are whose, what is added up, and how the frozen weights are spread.

`torchrun --nproc-per-node 4 …` and `accelerate launch …` start the same program several times, and accelerate's
PartialState connects the copies, on GPUs (NCCL) or on processors (gloo). All of them read the same data in the same
order; each computes its share of a step's rows. The gradients are added up once a step, in one message, so every
process takes the same step, and what a schedule decides (AdaLoRA, LaMDA, LISA) is the same everywhere, to the bit.
With one process nothing here does anything.

That is data parallelism without a wrapper around the model. DistributedDataParallel would send each gradient while
the next one is still being computed; an adapter's gradients are so few that there is nothing to hide, and a wrapper
cannot follow schedules that freeze parameters on the way.
"""

import os
from dataclasses import dataclass

import torch

from .fast import switch_fast
from .targets import block_paths
from .updates import Whole


@dataclass(frozen=True)
class Alone:
    """What PartialState says where there is one process."""

    process_index: int = 0
    num_processes: int = 1
    is_main_process: bool = True


def processes():
    """This process among its fellows: `.process_index`, `.num_processes`, `.is_main_process`, `.device`.

    Connects them at the first call, where the environment says that there are several.
    """
    connected = torch.distributed.is_available() and torch.distributed.is_initialized()
    if not connected and int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return Alone()
    from accelerate import PartialState

    return PartialState(cpu=not torch.cuda.is_available())  # without cpu=True accelerate stays alone, silently


def shares(rows, batch_size, here=None):
    """This process's micro-batches of `rows`. All processes get as many: one that is short gets a row without targets,
    because a sharded model needs all of them in every forward pass."""
    here = here or processes()
    parts = [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    rounds = -(-len(parts) // here.num_processes)
    mine = parts[here.process_index :: here.num_processes]
    blank = {**rows[0], "labels": torch.full_like(rows[0]["labels"], -100)}
    return mine + [[blank]] * (rounds - len(mine))


def total(values, device):
    """The sum over all processes of each number or scalar tensor: a list of floats."""
    if processes().num_processes == 1:
        return [float(value) for value in values]
    summed = torch.tensor([float(value) for value in values], dtype=torch.float64, device=device)
    torch.distributed.all_reduce(summed)
    return summed.tolist()


def add_up_gradients(parameters):
    """Make every gradient the sum over all processes, with one message for each dtype."""
    if processes().num_processes == 1:
        return
    found = [p.grad for p in parameters if p.grad is not None]
    for dtype in dict.fromkeys(grad.dtype for grad in found):
        grads = [grad for grad in found if grad.dtype == dtype]
        flat = torch.cat([grad.reshape(-1) for grad in grads])
        torch.distributed.all_reduce(flat)
        for grad, summed in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
            grad.copy_(summed.view_as(grad))


def everyones(value):
    """[the value of each process], in every process."""
    if processes().num_processes == 1:
        return [value]
    from accelerate.utils import gather_object

    return gather_object([value])


def start_together(model, tensors, run):
    """Take the model to this process's GPU, check that all have the same `run`, copy `tensors` from the first.

    run   {setting: value}. ValueError in every process where two of them differ.
    """
    here, told = processes(), everyones(run)
    odd = next((i for i, other in enumerate(told) if other != told[0]), None)
    if odd is not None:
        keys = [key for key in run if told[odd][key] != told[0][key]]
        raise ValueError(
            f"process {odd} was given another run than process 0: "
            f"{', '.join(f'{key} {told[odd][key]} there and {told[0][key]} here' for key in keys)}. Every process "
            "reads all of the data, with the same settings; train hands out the rows itself."
        )
    if here.device.type == "cuda" and not is_sharded(model):
        model.to(here.device)
    for tensor in tensors:
        torch.distributed.broadcast(tensor.detach(), 0)


def is_sharded(model):
    """Whether `shard` has spread this model's weights."""
    return any(map(_spread, model.parameters()))


def _spread(parameter):
    return hasattr(parameter, "full_tensor")


def is_offloaded(module):
    """Whether accelerate keeps this module's own weights elsewhere (`cpu_offload`, `device_map`) between calls."""
    hook = getattr(module, "_hf_hook", None)
    return any(getattr(one, "offload", False) for one in getattr(hook, "hooks", [hook]))


def refuse_scattered(modules, what):
    """ValueError before `what`, which needs all of the weights of {path: module}: some are sharded or offloaded."""
    if any(map(_spread, (p for module in modules.values() for p in module._parameters.values()))):
        raise ValueError(
            f"{what} needs whole weights, and this model's are spread over {processes().num_processes} processes by "
            "shard. Call save_adapter here, then load the model and the adapter in one process, and do it there."
        )
    away = [path for path, module in modules.items() if is_offloaded(module)]
    if away:
        raise ValueError(
            f"{what} needs the weights, and accelerate keeps those of {away[0]} and {len(away) - 1} more layers "
            "elsewhere until they are called. Load the model without device_map or cpu_offload; if it is too large "
            "for that, in 4 bits: adapt(model, method, quantize='nf4')."
        )


def whole(tensor):
    """A sharded tensor put together (all processes have to ask), any other as it is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def shard(model):
    """Spread the frozen weights over the processes (FSDP2): each keeps 1/n, and borrows a block while it computes it.

    Call it after `adapt` and before `train`, in every process. Adapters stay whole in each of them, for every method:
    they are small, and schedules look at whole factors. So `save_adapter` works as ever; what needs W0 itself (merge,
    a second `adapt`) does not. The codes of a quantised layer are not parameters and stay whole as well.

    Raises ValueError, with nothing changed, with one process, without an adapter, and for methods that train the
    model's own weights (full fine-tuning, LISA), whose copies would not be spread.
    """
    here = processes()
    if here.num_processes == 1:
        raise ValueError("shard spreads weights over several processes; this is one: start with torchrun.")
    if is_sharded(model):
        raise ValueError("the model is sharded already.")
    mine = {p for name, p in model.named_parameters() if ".updates." in f".{name}"}
    if not mine:
        raise ValueError("shard comes after adapt: this model has no adapter, so nothing in it is frozen.")
    if any(isinstance(module, Whole) for module in model.modules()):
        raise ValueError(
            "this method trains whole weights, which shard would leave whole in every process. Shard a low-rank "
            "method, or train this one with accelerate's own FSDP."
        )
    switch_fast(model, False)  # it keeps weights and norms for the backward pass that FSDP takes away in between
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(here.device.type, (here.num_processes,))
    for p in mine:
        p.data = p.data.to(here.device)
    for path in block_paths(model):
        fully_shard(model.get_submodule(path), mesh=mesh, ignored_params=mine)
    fully_shard(model, mesh=mesh, ignored_params=mine)

