"""A run that is stopped, however and whenever, ends bit for bit as one that never was; what cannot go on is refused."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from models_zoo import same_state, state, tiny
from safetensors import SafetensorError
from test_training import examples

import lowrank_edu as lo
from lowrank_edu import resuming
from lowrank_edu.data import Stream
from lowrank_edu.schedules import schedule_of

METHODS = {
    "lora": lo.LoRA(3, 7, ["c_attn", "c_fc"], dropout=0.2),
    "lora+": lo.LoRA(3, 7, ["c_attn"], lr_ratio=4),
    "adalora": lo.AdaLoRA(2, 4, 8, ["c_attn", "c_fc"], warmup_steps=2, final_steps=3, every=2),
    "lamda": lo.LaMDA(4, ["c_attn", "c_fc"], freeze_share=0.6),
    "aflora": lo.AFLoRA(3, ["c_attn", "c_fc"], warmup_share=0.1, final_share=0.2, every=2),
    "lisa": lo.LISA(1, 2),
    "full": lo.FullFineTuning(),
    "prefix": lo.PrefixTuning(3),
}
STEPS = 12


def train(name, folder, stop=None, data=None, monkeypatch=None, **settings):
    """(model, history) of a run of STEPS, interrupted after step `stop` as Ctrl-C does it."""
    model = tiny()
    lo.adapt(model, METHODS[name])
    settings = {"steps": STEPS, "batch_size": 4, "lr": 1e-2, "seed": 3, "schedule": "cosine", "warmup_steps": 2,
                "progress": False, "checkpoint_every": 3} | settings  # fmt: skip
    data = examples(10) if data is None else data
    if stop is None:
        return model, lo.train(model, data, checkpoint_dir=folder, **settings)
    original = resuming.Checkpoints.due

    def due(self, step, every, now):
        if step == stop:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, step, every, now)

    monkeypatch.setattr(resuming.Checkpoints, "due", due)
    with pytest.raises(KeyboardInterrupt, match=rf"stopped after step \d+ of {STEPS}.*The same call again continues"):
        lo.train(model, data, checkpoint_dir=folder, **settings)
    monkeypatch.setattr(resuming.Checkpoints, "due", original)
    return model, None


@pytest.mark.parametrize("name", METHODS)
def test_a_stopped_run_ends_as_one_that_never_was(name, tmp_path, monkeypatch):
    straight, whole = train(name, None)
    train(name, tmp_path, stop=4, monkeypatch=monkeypatch)
    assert resuming.found(tmp_path)[-1].name == "step-000005"  # the step that was under way is kept
    resumed, history = train(name, tmp_path)
    assert history == whole and len(history.loss) == STEPS and same_state(resumed, state(straight))
    if METHODS[name].scheduled:
        assert schedule_of(resumed).history == schedule_of(straight).history
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["step-000009", "step-000012"]  # the last two
    again, same = train(name, tmp_path)  # a finished run is only read
    assert same == whole and same_state(again, state(straight))


def test_accumulation_evaluations_and_fp16_go_on_too(tmp_path, monkeypatch):
    data = examples(10)
    more = {"accumulate": 2, "batch_size": 2, "eval_data": data[:3], "eval_every": 4, "precision": "fp16"}
    straight, whole = train("lora", None, **more)
    train("lora", tmp_path, stop=5, monkeypatch=monkeypatch, **more)
    resumed, history = train("lora", tmp_path, **more)
    assert history == whole and history.eval_step == [0, 4, 8, 12] and same_state(resumed, state(straight))


@pytest.mark.parametrize("pack", [False, True])
def test_a_stream_goes_on_with_the_next_example(pack, tmp_path, monkeypatch):
    _, tok = lo.load_model()
    file = tmp_path / "own.jsonl"
    file.write_text("".join(json.dumps({"text": f"a{i} b{i} " * (1 + i % 5)}) + "\n" for i in range(20)))

    class Small:  # the tiny random models have 97 tokens
        eos_token_id = 2

        def __call__(self, text, add_special_tokens=False):
            return {"input_ids": [3 + i % 90 for i in tok(text, add_special_tokens=False)["input_ids"]]}

    stream = lambda: Stream(file, Small(), max_length=24, pack=pack)  # noqa: E731
    straight, whole = train("lora", None, data=stream())
    train("lora", tmp_path / "kept", stop=5, data=stream(), monkeypatch=monkeypatch)
    resumed, history = train("lora", tmp_path / "kept", data=stream())
    assert history == whole and same_state(resumed, state(straight))


SCRIPT = """
import sys, json
sys.path[:0] = {paths!r}
import torch
torch.set_num_threads(1)
import test_resuming, lowrank_edu.resuming as r
if {slow!r}:
    import time
    plain = r.sync
    r.sync = lambda path: (print("writing", flush=True), time.sleep(0.15), plain(path))
model, history = test_resuming.train({name!r}, {folder!r})
print(json.dumps(history.loss))
torch.save(test_resuming.state(model), {folder!r} + ".pt")
"""


def process(folder, name="adalora", slow=False):
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    code = SCRIPT.format(paths=paths, slow=slow, name=name, folder=str(folder))
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("writes", [1, 3, 6, 9])
def test_killed_at_any_moment_also_inside_a_write(writes, tmp_path):
    """SIGKILL after so many files were begun: a checkpoint syncs two files and two folders."""
    folder = tmp_path / "run"
    victim = process(folder, slow=True)
    for _ in range(writes):
        assert victim.stdout.readline() == "writing\n"
    time.sleep(0.02)
    victim.kill()
    assert victim.wait() == -signal.SIGKILL
    victim.stdout.close()
    survivor = process(folder)
    losses = json.loads(survivor.communicate(timeout=120)[0].splitlines()[-1])
    straight = process(tmp_path / "straight")
    assert json.loads(straight.communicate(timeout=120)[0].splitlines()[-1]) == losses and len(losses) == STEPS
    one, other = (torch.load(f"{path}.pt", weights_only=True) for path in (folder, tmp_path / "straight"))
    assert all(torch.equal(one[key], other[key]) for key in other) and set(one) == set(other)
    assert not list(folder.glob(".*partial"))


@pytest.mark.parametrize("problem", [OSError(28, "No space left on device"), SafetensorError("No space left")])
def test_a_full_disk_is_an_error_and_the_checkpoint_before_is_whole(problem, tmp_path, monkeypatch):
    train("lora", tmp_path, stop=3, monkeypatch=monkeypatch)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    real = resuming.save_file

    def full(tensors, path):
        real(tensors, path)
        raise problem

    monkeypatch.setattr(resuming, "save_file", full)
    with pytest.raises(OSError, match=r"after step 6 could not be written .*No space left.*ones before are whole"):
        train("lora", tmp_path)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    monkeypatch.setattr(resuming, "save_file", real)
    straight, whole = train("lora", None)
    resumed, history = train("lora", tmp_path)
    assert history == whole and same_state(resumed, state(straight))


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="file"):
        train("lora", tmp_path / "file" / "below")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(("change", "words"), [
    ({"lr": 2e-2}, "lr: 0.01 there, 0.02 here"), ({"steps": 13}, "steps: 12 there, 13 here"),
    ({"seed": 4}, "seed: 3 there, 4 here"), ({"data": examples(10, seed=9)}, "data: "),
    ({"eval_every": 2}, "eval_every: None there, 2 here"), ({"eval_data": examples(3)}, "evaluation data: none there"),
    ({"base": True}, "frozen weights: "), ({"name": "lora+"}, "adapters: "),
    ({"threads": 77}, "threads: .* there, 77 here"), ({"torch": "2.9.1"}, "torch: .* there, 2.9.1 here"),
])  # fmt: skip
def test_another_run_is_refused_by_name(change, words, tmp_path, monkeypatch):
    train("lora", tmp_path, stop=3, monkeypatch=monkeypatch)
    if "threads" in change:
        monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    if "torch" in change:
        monkeypatch.setattr(torch, "__version__", "2.9.1")
    model = tiny()
    if "base" in change:
        model.transformer.ln_f.bias.data += 1e-6
    lo.adapt(model, METHODS[change.get("name", "lora")])
    before = state(model)
    settings = {"steps": STEPS, "batch_size": 4, "lr": 1e-2, "seed": 3, "schedule": "cosine", "warmup_steps": 2,
                "progress": False, "data": examples(10)} | change  # fmt: skip
    for key in ("name", "threads", "torch", "base"):
        settings.pop(key, None)
    with pytest.raises(ValueError, match=rf"is of another run.*{words}.*new folder for checkpoints"):
        lo.train(model, checkpoint_dir=tmp_path, **settings)
    assert same_state(model, before) and resuming.found(tmp_path)


def test_a_damaged_checkpoint_is_named_and_the_one_before_serves(tmp_path, monkeypatch):
    train("lora", tmp_path, stop=7, monkeypatch=monkeypatch)
    newest = resuming.found(tmp_path)[-1]
    (newest / "state.safetensors").write_bytes(b"half of it")
    with pytest.raises(ValueError, match=rf"{newest.name} is damaged .*continues from the one before"):
        train("lora", tmp_path)
    shutil.rmtree(newest)
    straight, whole = train("lora", None)
    resumed, history = train("lora", tmp_path)
    assert history == whole and same_state(resumed, state(straight))


def test_only_safetensors_and_json_are_written(tmp_path):
    train("adalora", tmp_path)
    assert {p.name for p in tmp_path.rglob("*") if p.is_file()} == {"state.safetensors", "state.json"}
    for place in resuming.found(tmp_path):
        json.loads((place / "state.json").read_text())


def test_apart_and_together_are_inverse():
    value = {"a": [1, None, {"b": torch.arange(3)}], 7: {"x": torch.ones(2, 2)}, "c": "text"}
    values, tensors = resuming.apart(value)
    back = resuming.together(json.loads(json.dumps(values)), tensors)
    assert set(tensors) == {"/a/2/b", "/7/x"} and list(back) == ["a", 7, "c"]
    assert torch.equal(back["a"][2]["b"], value["a"][2]["b"]) and torch.equal(back[7]["x"], value[7]["x"])


def test_without_a_folder_ctrl_c_says_so_and_the_signal_is_ours_no_more(monkeypatch):
    before = signal.getsignal(signal.SIGINT)
    original = resuming.Checkpoints.due

    def due(self, step, every, now):
        if step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, step, every, now)

    monkeypatch.setattr(resuming.Checkpoints, "due", due)
    with pytest.raises(KeyboardInterrupt, match=r"stopped after step \d.*Nothing was kept: give checkpoint_dir="):
        train("lora", None)
    assert signal.getsignal(signal.SIGINT) is before
