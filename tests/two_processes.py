"""What two processes do, for test_processes.py: torchrun starts this file twice, each writes what it saw.

    torchrun --standalone --nproc-per-node 2 tests/two_processes.py FOLDER
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from models_zoo import tiny as tiny_with_dropout
from safetensors.torch import save_file

import lowrank_edu as lo
from lowrank_edu import processes, resuming
from lowrank_edu.schedules import schedule_of

TARGETS = ["c_attn", "c_fc"]
METHODS = {
    "lora": lo.LoRA(3, 7, TARGETS),
    "dora": lo.LoRA(3, 7, TARGETS, use_dora=True),
    "pissa": lo.LoRA(3, 7, TARGETS, init="pissa"),
    "adalora": lo.AdaLoRA(2, 4, 8, TARGETS, warmup_steps=1, final_steps=2, every=2),
    "lamda": lo.LaMDA(4, TARGETS, freeze_share=0.6),
    "aflora": lo.AFLoRA(3, TARGETS, warmup_share=0.1, final_share=0.2, every=2),
    "lisa": lo.LISA(1, 2),
    "full": lo.FullFineTuning(),
    "bottleneck": lo.BottleneckAdapter(4),
    "prefix": lo.PrefixTuning(3),
}
SHARDED = ("lora", "dora", "pissa", "adalora", "lamda", "aflora", "bottleneck", "prefix")
STEPS, LR, SEED = 8, 1e-3, 3


def examples(n=22, seed=0):
    """Rows of 3 to 14 tokens that count upwards; half of the first tokens are given, not learnt."""
    generator = torch.Generator().manual_seed(seed)
    data = []
    for _ in range(n):
        start, length = (int(torch.randint(*span, (), generator=generator)) for span in ((3, 80), (3, 15)))
        ids = torch.arange(start, start + length)
        labels = ids.clone()
        labels[: length // 2] = -100
        data.append({"input_ids": ids, "labels": labels})
    return data


def tiny():
    """A random-init GPT-2 without dropout, whose masks would differ between one process and two."""
    model = tiny_with_dropout()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def run(method, model=None, data=None, **settings):
    """(model, history); 22 rows in global batches of 4 leave a last batch of 2, so a process gets no row at times."""
    if model is None:
        model = tiny()
        lo.adapt(model, method, seed=SEED)
    settings = {"steps": STEPS, "batch_size": 2, "lr": LR, "seed": SEED, "max_grad_norm": 1.0, "eval_every": 4,
                "progress": False, "eval_data": examples(7, seed=1)} | settings  # fmt: skip
    return model, lo.train(model, data or examples(), **settings)


def result(model, history):
    """(what JSON can hold, tensors)."""
    schedules = model.__dict__.get("lowrank_schedules", {})
    decided = [schedule_of(model, name).history for name in schedules]
    told = {"loss": history.loss, "eval_loss": history.eval_loss, "decided": decided, "penalty": history.penalty}
    return told, {key: value.clone().contiguous() for key, value in resuming.trained_state(model).items()}


def sharded(method, folder, rank):
    model = tiny()
    lo.adapt(model, method, seed=SEED)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    processes.shard(model)
    frozen = {name: p for name, p in model.named_parameters() if ".updates." not in f".{name}"}
    assert frozen and all(type(p).__name__ == "DTensor" for p in frozen.values()), "not sharded"
    held = sum(p.to_local().numel() for p in frozen.values()) / sum(p.numel() for p in frozen.values())
    model, history = run(method, model, gradient_checkpointing=not isinstance(method, lo.PrefixTuning))
    same = all(torch.equal(p.full_tensor(), before[name]) for name, p in frozen.items())
    if rank == 0:
        lo.save_adapter(model, folder)
    told, tensors = result(model, history)
    return told | {"held": held, "base is whole and unchanged": same}, tensors


def stopped(folder, rank):
    """Ctrl-C reaches one process after step 5; both stop there, and the same call goes on."""
    original = resuming.Checkpoints.due

    def due(self, step, every, now):
        if step == 4 and rank == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, step, every, now)

    method = lo.LoRA(3, 7, TARGETS, dropout=0.3)
    whole = result(*run(method))
    resuming.Checkpoints.due = due
    try:
        run(method, checkpoint_dir=folder, checkpoint_every=3)
        said = "nothing"
    except KeyboardInterrupt as stop:
        said = str(stop)
    resuming.Checkpoints.due = original
    told, tensors = result(*run(method, checkpoint_dir=folder, checkpoint_every=3))
    exact = told == whole[0] and all(torch.equal(v, whole[1][k]) for k, v in tensors.items())
    return {"said": said, "exact": exact, "draws": torch.rand(3).tolist()}


def refused(rank, call):
    try:
        call()
    except (ValueError, OSError) as error:
        return str(error)
    return "nothing was refused"


def on_a_sharded_model(rank):
    """What needs whole weights is refused, and the model is what it was."""
    model = tiny()
    lo.adapt(model, METHODS["lora"], seed=SEED)
    processes.shard(model)
    before = {name: processes.whole(p).clone() for name, p in model.named_parameters()}
    calls = {
        "merge sharded": lambda: lo.merge(model),
        "quantize sharded": lambda: lo.quantize(model),
        "adapt sharded": lambda: lo.adapt(model, METHODS["lora"], name="second"),
    }
    told = {name: refused(rank, call) for name, call in calls.items()}
    same = all(torch.equal(processes.whole(p), before[name]) for name, p in model.named_parameters())
    return told | {"sharded as it was": same and lo.adapter_names(model) == ["default"]}


def main(folder):
    torch.use_deterministic_algorithms(True)
    here = processes.processes()
    rank, out = here.process_index, {}
    tensors = {}
    for name, method in METHODS.items():
        out[name], tensors[name] = result(*run(method))
    for name in SHARDED:
        out[f"sharded {name}"], tensors[f"sharded {name}"] = sharded(METHODS[name], folder / f"adapter-{name}", rank)
    out["stopped"] = stopped(folder / "checkpoints", rank)
    _, history = run(METHODS["lora"], on_step=lambda step, loss, model: rank == 1 and step == 3)
    out["callback"] = [history.step, history.stopped, history.eval_step]
    other = examples(seed=rank)
    out["other data"] = refused(rank, lambda: run(METHODS["lora"], data=other))
    out["other steps"] = refused(rank, lambda: run(METHODS["lora"], steps=3 + rank))
    (folder / "file").write_text("no folder")
    out["no folder"] = refused(rank, lambda: run(METHODS["lora"], checkpoint_dir=folder / "file" / "x"))
    out["full sharded"] = refused(rank, lambda: sharded(METHODS["full"], None, rank))
    out |= on_a_sharded_model(rank)
    (folder / f"{rank}.json").write_text(json.dumps(out))
    flat = {f"{name}/{key}": value for name, part in tensors.items() for key, value in part.items()}
    save_file(flat, folder / f"{rank}.safetensors")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
