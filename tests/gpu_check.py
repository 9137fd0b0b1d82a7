"""`make gpu-check`: what only a GPU can show, in about ten minutes on a T4, as a report to attach to an issue.

    python tests/gpu_check.py                    on the first CUDA device
    python tests/gpu_check.py --device cpu --quick       the same on the CPU, a rehearsal of a few methods

Each check prints a line and goes on after a failure. Written to build/gpu-check.md and build/gpu-check.json. Exit code
0 when nothing failed, 1 when something did, 2 when there is no such device.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]  # a clone is enough: on Colab nothing else is installed
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS then adds in one order; read when CUDA starts

import torch  # noqa: E402
from models_zoo import batch, is_rounding, tiny  # noqa: E402
from test_table import CODES, ROWS, method_of  # noqa: E402

import lowrank_edu as lo  # noqa: E402
from lowrank_edu import corpus  # noqa: E402
from lowrank_edu.methods.prompts import InFrontMethod  # noqa: E402

EXAMPLES = [{"input_ids": row, "labels": row} for row in batch(6, 7)]
QUICK = ["LoRA", "AdaLoRA", "LaMDA"]
PEAK = (0.5, 2.0)  # of the plan: wide, for nobody has measured it yet; one that is off by two is no plan
CLOSE = 1e-3  # of the norm: float32 sums in another order, through a few steps of AdamW


class Skipped(Exception):
    """This machine cannot answer; the message says why."""


def need(holds, why):
    if not holds:
        raise Skipped(why)


def apart(found, wanted):
    """Distance of two tensors, relative to the norm of the second."""
    found, wanted = found.detach().cpu().double(), wanted.detach().cpu().double()
    return float((found - wanted).norm() / wanted.norm().clamp_min(1e-12))


@contextmanager
def one_order(device):
    """On a GPU some kernels add in an order that changes from run to run (index_select's gradient): here none may, or
    "bit for bit" could fail without a fault. What has no such kernel warns and goes on."""
    before = torch.are_deterministic_algorithms_enabled()
    if device == "cuda":
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def within(value, limit):
    if not value <= limit:
        raise AssertionError(f"{value:.2e}, at most {limit:.0e} was expected")
    return f"{value:.1e} (≤ {limit:.0e})"


def trained(name, device, sharded=False, **settings):
    """(model, history) after four steps without dropout; in several processes `train` takes the model to its GPU."""
    model = tiny("gpt2").to(device)
    lo.adapt(model, method_of(name, model), quantize=CODES.get(name))
    model.config.attn_pdrop = model.config.resid_pdrop = model.config.embd_pdrop = 0.0
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # each device draws other masks
    if sharded:
        lo.shard(model)
    settings = {"steps": 4, "batch_size": 3, "lr": 1e-3, "progress": False} | settings
    history = lo.train(model, EXAMPLES, **settings)
    return model, history


# ---- the checks: each gets (device, name of a method) or (device) and says what it measured


def same_training(device, name):
    """Four steps in fp32 end where they end on the CPU."""
    (one, first), (two, second) = trained(name, "cpu", precision="fp32"), trained(name, device, precision="fp32")
    state = two.state_dict()
    gaps = [apart(state[k], v) for k, v in one.state_dict().items() if v.is_floating_point() and not is_rounding(k)]
    return within(max(*gaps, *(abs(a - b) / b for a, b in zip(second.loss, first.loss, strict=True))), CLOSE)


def in_half_precision(device, name, precision):
    """The loss falls on as in fp32, nearly; what trains stays fp32."""
    need(device == "cuda" or precision == "bf16", "fp16 with loss scaling is for GPUs")
    need(device == "cpu" or precision == "fp16" or torch.cuda.is_bf16_supported(False), "this GPU has no bf16")
    model, history = trained(name, device, precision=precision)
    _, exact = trained(name, device, precision="fp32")
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    return within(max(abs(a - b) / b for a, b in zip(history.loss, exact.loss, strict=True)), 0.03)


def checkpointed(device, name):
    """Gradient checkpointing changes no loss."""
    need(not isinstance(ROWS[name].method, InFrontMethod), "what stands in front needs the cache; train refuses")
    (_, plain), (_, kept) = trained(name, device), trained(name, device, gradient_checkpointing=True)
    return within(max(abs(a - b) / b for a, b in zip(kept.loss, plain.loss, strict=True)), CLOSE)


def merged_and_back(device, name):
    """Merged outputs are those apart; unmerging restores every bit."""
    need(ROWS[name].merge is True, "this method cannot merge")
    model, _ = trained(name, device)
    before, ids = {k: v.clone() for k, v in model.state_dict().items()}, batch().to(device)
    with torch.no_grad():
        wanted = model.eval()(input_ids=ids).logits
        lo.merge(model, how="dequantise" if name in CODES else None)
        gap = apart(model(input_ids=ids).logits, wanted)
    lo.unmerge(model)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()), "unmerging moved a bit"
    return within(gap, CLOSE)


def folder_and_back(device, name):
    """A saved adapter gives the same outputs after loading."""
    need(name not in CODES, "it is saved with its base")
    model, _ = trained(name, device)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        lo.save_adapter(model, folder, format="own")
        other = tiny("gpt2").to(device)
        lo.load_adapter(other, folder)
        ids = batch().to(device)
        return within(apart(other.eval()(input_ids=ids).logits, model.eval()(input_ids=ids).logits), 0.0)


def resumed(device, name):
    """Stopped after three steps and resumed: every bit as in one run."""
    models = []
    with tempfile.TemporaryDirectory() as folder:
        for stops in ([6], [3, 6]):
            place = Path(folder) / str(len(stops))
            for stop in stops:
                model = tiny("gpt2").to(device)
                lo.adapt(model, method_of(name, model), quantize=CODES.get(name))
                try:
                    lo.train(
                        model, EXAMPLES, steps=6, batch_size=3, lr=1e-3, progress=False, checkpoint_dir=place,
                        checkpoint_every=1, eval_data=EXAMPLES[:2], eval_every=3, scorer=_failing(stop),
                    )  # fmt: skip
                except InterruptedError:
                    pass
            models.append(model)
    one, two = (m.state_dict() for m in models)
    assert all(torch.equal(two[k], v) for k, v in one.items()), "the resumed run ends elsewhere"
    return "bit for bit"


def _failing(stop):
    asked = iter(range(stop // 3))

    def score(model):
        if stop < 6 and next(asked, None) is None:
            raise InterruptedError
        return 0.0

    return score


def routed(device):
    """A batch whose rows use two adapters is what each row is alone."""
    model, _ = trained("LoRA", device)
    lo.adapt(model, method_of("LoRA", model), name="second", seed=1)
    ids, rows = batch().to(device), []
    with torch.no_grad():
        for i, name in enumerate(["default", None, "second"]):
            with lo.routed(model.eval(), [name]):
                rows.append(model(input_ids=ids[i : i + 1]).logits)
        with lo.routed(model, ["default", None, "second"]):
            return within(apart(model(input_ids=ids).logits, torch.cat(rows)), CLOSE)


def codes(device, kind):
    """Codes made on the device are those of the CPU; with bitsandbytes, also its own on this device."""
    W = torch.randn(300, 190, generator=torch.Generator().manual_seed(0))
    from lowrank_edu import quant

    here = quant.dequantize(quant.quantize(W, kind, block_size=64, double_quant=False))
    there = quant.dequantize(quant.quantize(W.to(device), kind, block_size=64, double_quant=False)).cpu()
    assert torch.equal(here, there), "other codes than on the CPU"
    if device == "cpu" or kind not in ("nf4", "fp4"):
        return "equal to the CPU's"
    import bitsandbytes

    packed, state = bitsandbytes.functional.quantize_4bit(W.to(device), blocksize=64, quant_type=kind)
    return "bitsandbytes: " + within(apart(bitsandbytes.functional.dequantize_4bit(packed, state), here), 1e-6)


def planned(device):
    """The allocator's peak beside the plan of chapter 8, one step of the real width of GPT-2."""
    need(device == "cuda", "the CPU has no such counter")
    import transformers

    held = torch.cuda.memory_allocated()  # what earlier checks have left
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config()).to(device)
    lo.adapt(model, lo.LoRA(r=8, target_modules="all-linear"))
    ids = torch.randint(3, 50_000, (4, 256))
    torch.cuda.reset_peak_memory_stats()
    examples = [{"input_ids": row, "labels": row} for row in ids]
    lo.train(model, examples, steps=2, batch_size=4, precision="fp32", progress=False)
    peak = torch.cuda.max_memory_allocated() - held
    plan = lo.memory.plan("gpt2", lo.LoRA(r=8, target_modules="all-linear"), batch=4, length=256)
    told = f"peak {peak / 1e9:.2f} GB, planned {plan.total / 1e9:.2f} GB: {peak / plan.total:.2f} times"
    assert PEAK[0] <= peak / plan.total <= PEAK[1], f"{told}, {PEAK[0]} to {PEAK[1]} was expected"
    return told


def pirate(device):
    """The tiny model learns a style in its own precision; chapter 3 does the same."""
    model, tok = lo.load_model("tiny-gpt2", device=device)
    lo.adapt(model, lo.LoRA(r=8, target_modules=["c_attn"]))
    data = lo.tokenize(tok, corpus.stories(600, seed=0, style="pirate"))
    begun = time.perf_counter()
    history = lo.train(model, data, steps=80, batch_size=16, lr=1e-2, progress=False)
    assert history.loss[-1] < 0.4 * history.loss[0], f"the loss only fell from {history.loss[0]} to {history.loss[-1]}"
    milliseconds = (time.perf_counter() - begun) / 80 * 1e3
    return f"loss {history.loss[0]:.2f} → {history.loss[-1]:.2f}, {milliseconds:.0f} ms a step"


def several(device):
    """Two processes, plain and sharded, end where one does at the same global batch."""
    need(device == "cpu" or torch.cuda.device_count() > 1, "one GPU")
    env = os.environ | {"PYTHONPATH": str(ROOT)} | ({"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {})
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__]
        done = subprocess.run([*command, "--share", folder], env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-1500:]
        losses = json.loads((Path(folder) / "losses.json").read_text("utf-8"))
    _, alone = trained("LoRA", device, precision="fp32", batch_size=4)
    return within(max(abs(a - b) / b for told in losses for a, b in zip(told, alone.loss, strict=True)), 1e-4)


def share(folder):
    """What each of the two processes of `several` does; the first writes both losses."""
    told = [trained("LoRA", "cpu", precision="fp32", batch_size=2, sharded=s)[1].loss for s in (False, True)]
    if torch.distributed.get_rank() == 0:
        (folder / "losses.json").write_text(json.dumps(told), "utf-8")
    torch.distributed.destroy_process_group()


def checks(device, quick):
    """(label, check, arguments), in order."""
    rows = QUICK if quick else list(ROWS)
    for name in rows:
        for check in (same_training, checkpointed, merged_and_back, folder_and_back, resumed):
            yield f"{name}: {check.__doc__}", check, (device, name)
        for precision in ("bf16", "fp16"):
            yield f"{name}, {precision}: {in_half_precision.__doc__}", in_half_precision, (device, name, precision)
    for kind in ("nf4", "fp4", "int4", "int8"):
        yield f"{kind}: {codes.__doc__}", codes, (device, kind)
    for check in (routed, planned, *(() if quick else (pirate,)), several):
        yield check.__doc__, check, (device,)


def machine(device):
    """What the report is about."""
    found = {"device": device, "python": platform.python_version(), "system": platform.platform()}
    if device == "cuda":
        found |= {"gpu": torch.cuda.get_device_name(), "capability": str(torch.cuda.get_device_capability())}
        found |= {"cuda": str(torch.version.cuda), "memory GB": f"{torch.cuda.mem_get_info()[1] / 1e9:.1f}"}
        found |= {"GPUs": torch.cuda.device_count(), "driver": driver()}
    for package in ("torch", "transformers", "accelerate", "bitsandbytes", "lowrank-edu"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def driver():
    """The driver's version, as nvidia-smi tells it."""
    try:
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(asked, capture_output=True, text=True, check=True, timeout=30).stdout.splitlines()[0]
    except (OSError, subprocess.SubprocessError, IndexError) as problem:
        return f"unknown ({type(problem).__name__})"


def run(device, quick):
    """The rows of the report: (outcome, label, what was measured, seconds)."""
    for label, check, arguments in checks(device, quick):
        begun = time.perf_counter()
        try:
            outcome, told = "passed", check(*arguments)
        except (Skipped, ImportError) as why:
            outcome, told = "skipped", str(why)
        except Exception as problem:
            outcome, told = "FAILED", f"{type(problem).__name__}: {problem}"
            traceback.print_exc()
        seconds = time.perf_counter() - begun
        print(f"{outcome:<8}{seconds:6.1f} s  {label} {told}", flush=True)
        yield outcome, label, told, seconds


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--quick", action="store_true", help="three methods instead of all")
    parser.add_argument("--out", type=Path, default=ROOT / "build")
    parser.add_argument("--share", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.share:
        share(options.share)
        return 0
    if options.device == "cuda" and not torch.cuda.is_available():
        print(
            "There is no CUDA device here (torch.cuda.is_available() is False), and this check needs one. "
            "Run it on a GPU machine, on Colab for example, or rehearse it with --device cpu.",
            file=sys.stderr,
        )
        return 2
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    facts = machine(options.device)
    with one_order(options.device):
        rows = list(run(options.device, options.quick))
    counts = {kind: sum(row[0] == kind for row in rows) for kind in ("passed", "skipped", "FAILED")}
    table = ["| outcome | seconds | check | measured |", "|---|---|---|---|"]
    table += [f"| {o} | {s:.1f} | {label} | {str(told).splitlines()[0]} |" for o, label, told, s in rows]
    head = ["# GPU check of lowrank_edu", "", *(f"- {key}: {value}" for key, value in facts.items()), ""]
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "gpu-check.md").write_text("\n".join([*head, str(counts), "", *table, ""]), "utf-8")
    (options.out / "gpu-check.json").write_text(json.dumps({"machine": facts, "rows": rows}, indent=1), "utf-8")
    print(f"{counts}. Attach {options.out / 'gpu-check.md'} to an issue of the project.")
    return 1 if counts["FAILED"] else 0


if __name__ == "__main__":
    sys.exit(main())
