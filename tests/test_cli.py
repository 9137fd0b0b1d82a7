"""The `lowrank` command: every command does what it says, a wrong flag costs no model, and failures have codes."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

import lowrank_edu as lo
from lowrank_edu import shipped
from lowrank_edu.cli.app import app

PIRATE, ARCHAIC = (shipped.ASSETS / "adapters" / name for name in ("pirate", "archaic"))
COMMANDS = ("finetune", "merge", "inspect", "plan", "generate", "convert")


def lowrank(*words, code=0, what="output"):
    """Run the command in this process; returns what it prints, with its errors."""
    done = CliRunner().invoke(app, [str(word) for word in words])
    if isinstance(done.exception, Exception) and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == code, done.output
    return getattr(done, what)


def said(*words):
    return json.loads(lowrank(*words, "--json", what="stdout"))


@pytest.fixture
def no_models(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("lowrank_edu.models.load_model", refuse)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example_that_can_be_read_as_a_command(command):
    assert f"Example: lowrank {command}" in " ".join(lowrank(command, "--help").split())


def test_help_loads_no_torch():
    code = "import sys; from lowrank_edu.cli.app import app; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "words, told",
    [
        (["--method", "lorra"], "lorra is none of"),
        (["--model", "gpt5"], "gpt5 is none of"),
        (["--steps", 5, "--epochs", 1], "one of them"),
        (["--steps", 5, "--precision", "fp8"], "--precision fp8"),
        (["--steps", 5, "--schedule", "flat"], "--schedule flat"),
        (["--steps", 5, "--lr", 0], "--lr 0"),
        (["--steps", 5, "--pack"], "--pack"),
        (["--epochs", 1, "--stream"], "give --steps"),
        (["--steps", 0], "--steps"),
        (["--steps", "x"], "--steps"),
    ],
)
def test_a_wrong_flag_of_finetune_is_told_before_a_model_is_loaded(words, told, tmp_path, no_models):
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n')
    words = words if {"--steps", "--epochs"} & set(words) else [*words, "--steps", 5]
    output = lowrank("finetune", "--data", tmp_path / "a.jsonl", "--out", tmp_path / "new", *words, code=2)
    assert told in " ".join(output.replace("│", " ").split()) and not (tmp_path / "new").exists()


def test_a_wrong_setting_or_line_is_an_error_before_a_model_is_loaded(tmp_path, no_models):
    bad = tmp_path / "a.jsonl"
    bad.write_text('{"text": "x"}\n{"text": 3}\n')
    run = ("finetune", "--data", bad, "--out", tmp_path / "new", "--steps", 2)
    with pytest.raises(ValueError, match=r"a\.jsonl, line 2: expected text"):
        lowrank(*run)
    bad.write_text('{"text": "x"}\n')
    with pytest.raises(ValueError, match="alpha"):
        lowrank(*run, "--alpha", -1)
    with pytest.raises(ValueError, match="no file"):
        lowrank("finetune", "--data", tmp_path / "b.txt", "--out", tmp_path / "new", "--steps", 2)


@pytest.mark.parametrize("command", ["inspect", "merge", "convert"])
def test_a_folder_without_an_adapter_is_a_wrong_flag(command, tmp_path, no_models):
    more = [] if command == "inspect" else ["--out", tmp_path / "new"]
    assert "holds no adapter" in " ".join(lowrank(command, tmp_path, *more, code=2).replace("│", " ").split())


def test_a_full_folder_is_never_written_to(tmp_path, no_models):
    (tmp_path / "kept").write_text("mine")
    assert "not empty" in " ".join(lowrank("merge", PIRATE, "--out", tmp_path, code=2).replace("│", " ").split())
    assert (tmp_path / "kept").read_text() == "mine"


def test_errors_of_the_real_command_have_codes_and_no_traceback(tmp_path):
    (tmp_path / "bad.jsonl").write_text("{}\n")
    command = [sys.executable, "-m", "lowrank_edu.cli", "finetune", "--out", tmp_path / "new", "--steps", "1", "--data"]
    done = subprocess.run([*command, tmp_path / "bad.jsonl"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("lowrank: bad.jsonl, line 1")
    assert len(done.stderr.splitlines()) == 1 and not done.stdout


# ---- what the commands do ----------------------------------------


def test_inspect_tells_modules_spectrum_and_warnings(tmp_path):
    text = lowrank("inspect", PIRATE)
    assert "LORA for tiny-gpt2, 49,152 numbers" in text and "lora_alpha=8" in text and "warning" not in text
    found = said("inspect", PIRATE)
    assert len(found["modules"]) == 16 and found["modules"][0]["rank"] == 4
    shutil.copytree(PIRATE, tmp_path / "a")
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    (tmp_path / "a" / "adapter_config.json").write_text(json.dumps(config | {"r": 2}))
    assert "warning: " in lowrank("inspect", tmp_path / "a")


def test_merge_writes_a_model_that_transformers_loads(tmp_path):
    out = tmp_path / "merged"
    assert said("merge", PIRATE, "--out", out)["layers"] == 16
    model, tok = lo.load_model()
    lo.load_adapter(model, PIRATE)
    ids = torch.tensor([tok(" The captain")["input_ids"]])
    with torch.no_grad():
        want = model(input_ids=ids).logits
        lo.merge(model)
        merged = model(input_ids=ids).logits
        got = AutoModelForCausalLM.from_pretrained(out).eval()(input_ids=ids).logits
        base = lo.load_model()[0](input_ids=ids).logits
    assert torch.equal(got, merged) and (got - want).norm() / want.norm() < 1e-5 < (base - want).norm() / want.norm()
    assert AutoTokenizer.from_pretrained(out)(" Mia")["input_ids"] == tok(" Mia")["input_ids"]
    folder, _ = lo.load_model(str(out))  # and so does load_model
    assert torch.equal(folder(input_ids=ids).logits, got)


def test_a_merge_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full_disk(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", full_disk)
    with pytest.raises(OSError, match="no space"):
        lowrank("merge", PIRATE, "--out", tmp_path / "merged")
    assert list(tmp_path.iterdir()) == []


def test_generate_shows_base_and_adapters_side_by_side():
    texts = said("generate", "--adapter", PIRATE, "--adapter", ARCHAIC, "-n", 2, "--max-new-tokens", 40)["texts"]
    assert list(texts) == ["base", str(PIRATE), str(ARCHAIC)]
    model, tok = lo.load_model()
    assert texts["base"] == lo.sample(model, tok, n=2, max_new_tokens=40)
    lo.load_adapter(model, ARCHAIC)
    assert texts[str(ARCHAIC)] == lo.sample(model, tok, n=2, max_new_tokens=40)
    shown = lowrank("generate", "--adapter", PIRATE, "--max-new-tokens", 40, "-n", 2)
    assert f"[{PIRATE}] {texts[str(PIRATE)][0]}" in shown


def test_convert_writes_pissa_as_the_lora_that_it_equals(tmp_path):
    model, _ = lo.load_model()
    lo.adapt(model, lo.LoRA(4, 8, ("c_fc",), init="pissa"))
    with torch.no_grad():
        for layer in lo.adapted_layers(model).values():
            layer.updates["default"].B.mul_(1.1)
    lo.save_adapter(model, tmp_path / "own", format="own")
    assert said("convert", tmp_path / "own", "--out", tmp_path / "peft")["format"] == "peft"
    again, _ = lo.load_model()
    lo.load_adapter(again, tmp_path / "peft")
    ids = torch.arange(12)[None]
    with torch.no_grad():
        want, got, base = (m(input_ids=ids).logits for m in (model, again, lo.load_model()[0]))
    assert (got - want).norm() / want.norm() < 1e-5 < (base - want).norm() / want.norm()
    assert said("inspect", tmp_path / "peft")["modules"][0]["rank"] == 8
    assert "peft or own" in lowrank("convert", PIRATE, "--out", tmp_path / "x", "--to", "loha", code=2)


def test_plan_agrees_with_the_planner_and_says_what_fits():
    found = said("plan", "gpt2-medium", "--methods", "none,lora,houlsby", "--r", 4, "--length", 256, "--batch-size", 8)
    rows = found["methods"]
    want = lo.memory.plan("gpt2-medium", lo.LoRA(4, 8, "all-linear"), batch=8, length=256, precision="bf16")
    assert rows["lora"]["total"] == want.total and rows["lora"]["trainable"] == want.trainable
    assert rows["none"]["optimizer"] > 50 * rows["lora"]["optimizer"] and "T4" in rows["lora"]["fits"]
    small = said("plan", "gpt2-medium", "--methods", "lora", "--length", 256, "--memory", want.total / 0.9 / 1e9 + 1e-9)
    assert small["methods"]["lora"]["fits"] and not said(
        "plan", "gpt2-medium", "--methods", "lora", "--length", 256, "--memory", 0.5
    )["methods"]["lora"]["fits"]
    assert "fits on" in lowrank("plan", "gpt2", "--methods", "lora")
    with pytest.raises(ValueError, match="no shapes are written down"):
        lowrank("plan", "gpt-17", "--methods", "lora,none")


# ---- finetune ----------------------------------------


def run_words(folder, out="mine", steps=6):
    return [
        "finetune", "--data", folder / "own.jsonl", "--out", folder / out, "--method", "lora", "--r", 2,
        "--steps", steps, "--batch-size", 4, "--lr", 5e-3, "--target-modules", "c_attn",
        "--checkpoint-every", 2, "--seed", 3,
    ]  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    stories = lo.corpus.stories(24, seed=1, style="pirate")
    (tmp_path / "own.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in stories))
    return tmp_path


@pytest.mark.parametrize("words, fast", [([], True), (["--plain"], False)])
def test_finetune_is_the_training_of_the_package(words, fast, folder):
    told = said(*run_words(folder), *words, "--eval-data", folder / "own.jsonl")
    model, tok = lo.load_model()
    method = lo.LoRA(2, 4, ("c_attn",))
    lo.adapt(model, method, seed=3)
    data = lo.read_data(folder / "own.jsonl", tok, max_length=128)
    how = {"steps": 6, "batch_size": 4, "lr": 5e-3, "seed": 3, "schedule": "linear", "progress": False, "fast": fast}
    history = lo.train(model, data, eval_data=data, **how)
    assert told["loss"] == history.loss[-1] and told["eval_loss"] == history.eval_loss[-1]
    again, _ = lo.load_model()
    lo.load_adapter(again, folder / "mine")
    ids = data[0]["input_ids"][None]
    assert torch.equal(again(input_ids=ids).logits, model.eval()(input_ids=ids).logits)
    assert (folder / "mine" / "history.csv").read_text().startswith("step,loss,eval_loss")
    assert not (folder / "mine.checkpoints").exists()


@pytest.mark.parametrize("more", [[], ["--stream", "--pack", "--max-length", 100]])
def test_finetune_stopped_by_ctrl_c_goes_on_with_the_same_command(more, folder, monkeypatch):
    from lowrank_edu import resuming

    original = resuming.Checkpoints.due

    def due(self, step, every, now):
        if step == 3:
            signal.raise_signal(signal.SIGINT)
        return original(self, step, every, now)

    whole = said(*run_words(folder, "whole"), *more)
    monkeypatch.setattr(resuming.Checkpoints, "due", due)
    told = lowrank(*run_words(folder), *more, code=130, what="stderr")
    assert f"stopped after step 4 of 6. The same call again continues from {folder / 'mine.checkpoints'}." in told
    monkeypatch.setattr(resuming.Checkpoints, "due", original)
    assert not (folder / "mine").exists() and (folder / "mine.checkpoints").is_dir()
    told = said(*run_words(folder), *more)
    assert told["loss"] == whole["loss"]
    one, other = (load_file(folder / name / "adapter_model.safetensors") for name in ("mine", "whole"))
    assert all(torch.equal(one[key], other[key]) for key in other)


@pytest.mark.parametrize("name", "dora vera adalora lamda lora-xs houlsby prefix bitfit lisa full".split())
def test_every_kind_of_method_trains_from_the_command_line(name, folder):
    words = run_words(folder, steps=12)
    words[words.index("--method") + 1] = name
    words[words.index("--target-modules") + 1] = "all-linear"
    assert said(*words)["steps"] == 12
    model, _ = lo.load_model()
    lo.load_adapter(model, folder / "mine")


# ---- the manners of a first hour ----------------------------------------


def flags_said(*words, code=2):
    return " ".join(lowrank(*words, code=code).replace("│", " ").split())


def named(folder, base):
    """A copy of the pirate's folder that names another base."""
    shutil.copytree(PIRATE, folder)
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text()) | {"base_model_name_or_path": base}
    file.write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("base", "name"),
    [
        ("tiny-gpt2", "tiny-gpt2"),
        ("openai-community/gpt2", "gpt2"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "smollm2-135m"),
        ("smollm2-135m-instruct (dequantised from GGUF Q4_1)", "smollm2-135m"),
        ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B"),
    ],
)
@pytest.mark.parametrize("command", ["merge", "generate", "convert"])
def test_the_base_comes_from_the_adapter(command, base, name, tmp_path, monkeypatch):
    asked = []

    def load(model):
        asked.append(model)
        raise RuntimeError("enough")

    monkeypatch.setattr("lowrank_edu.models.load_model", load)
    folder = named(tmp_path / "a", base)
    words = ["--adapter", folder] if command == "generate" else [folder, "--out", tmp_path / "new"]
    with pytest.raises(RuntimeError, match="enough"):
        lowrank(command, *words)
    assert asked == [name]


def test_a_model_that_contradicts_the_adapter_is_refused(tmp_path, no_models):
    text = flags_said("merge", PIRATE, "--out", tmp_path / "new", "--model", "gpt2")
    assert "was trained on tiny-gpt2, and --model is gpt2" in text and not (tmp_path / "new").exists()
    folder = named(tmp_path / "a", "a model of ours")
    assert "its base is a model of ours" in flags_said("merge", folder, "--out", tmp_path / "new")
    nameless = named(tmp_path / "b", None)
    assert "does not say which model it was trained on" in flags_said("convert", nameless, "--out", tmp_path / "new")
    other = named(tmp_path / "c", "gpt2")
    text = flags_said("generate", "--adapter", PIRATE, "--adapter", other)
    assert "different models" in text and "on tiny-gpt2" in text and "on gpt2" in text


def test_a_hub_id_and_a_folder_are_models_and_other_words_are_not(tmp_path, no_models):
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n')
    run = ("finetune", "--data", tmp_path / "a.jsonl", "--out", tmp_path / "new", "--steps", 1, "--model")
    for name in ("Qwen/Qwen3-0.6B", shipped.ASSETS / "tiny-gpt2"):
        with pytest.raises(AssertionError, match="a model was loaded"):
            lowrank(*run, name)
    for name in ("../x", "a/b/c", "qwen3"):
        assert "no owner/name on the hub" in flags_said(*run, name)


def test_a_hub_id_without_a_network_says_how_to_get_it(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(RuntimeError, match=r"hf download nobody/nothing"):
        lo.load_model("nobody/nothing")


def test_no_code_of_a_models_folder_is_run(tmp_path):
    """A folder whose config points to code of its own: refused by transformers, and the code has not run."""
    source = shipped.ASSETS / "tiny-gpt2"
    for file in source.iterdir():
        shutil.copy(file, tmp_path)
    config = json.loads((source / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text("import pathlib\npathlib.Path(__file__).with_name('ran').touch()\n")
    with pytest.raises(ValueError):
        lo.load_model(str(tmp_path))
    with pytest.raises(RuntimeError):
        lo.memory.plan(str(tmp_path), None)
    assert not (tmp_path / "ran").exists()


def test_plan_takes_every_way_of_naming_a_model(tmp_path):
    shutil.copy(shipped.ASSETS / "tiny-gpt2" / "config.json", tmp_path)
    ways = (["tiny-gpt2"], ["--model", "tiny-gpt2"], [tmp_path], ["tiny-gpt2", "--model", "tiny-gpt2"])
    plans = [said("plan", *words, "--methods", "lora")["methods"] for words in ways]
    assert all(plan == plans[0] for plan in plans) and plans[0]["lora"]["trainable"] > 0
    assert "name one" in flags_said("plan", "gpt2", "--model", "llama-7b")
    assert "name a model" in flags_said("plan")
    with pytest.raises(ValueError, match=r"no shapes are written down for a model 'gpt5'; there are tiny-gpt2, gpt2"):
        lowrank("plan", "gpt5")


def test_text_that_the_tiny_model_never_read_is_said(tmp_path, capsys):
    from lowrank_edu.cli.unseen import unseen_share, warn_of_unseen

    _, tok = lo.load_model("tiny-gpt2")
    known = lo.tokenize(tok, lo.corpus.mixture(200, seed=77, share=0.5))
    foreign = lo.tokenize(tok, ["The capital of Norway is Oslo.", "Photosynthesis turns light into sugar."])
    assert unseen_share(known) == 0 and unseen_share(foreign) > 0.5
    warn_of_unseen(known)
    assert capsys.readouterr().err == ""
    warn_of_unseen(foreign)
    said_of_it = capsys.readouterr().err
    assert f"{unseen_share(foreign):.0%} of the tokens" in said_of_it and "--model smollm2-135m" in said_of_it


def test_the_list_of_tokens_that_were_read_is_that_of_the_corpus():
    from lowrank_edu.cli.unseen import SEEN

    _, tok = lo.load_model("tiny-gpt2")
    used = {tok.eos_token_id}
    for text in lo.corpus.mixture(8000, 0, share=0.6):  # what the tokenizer was made from
        used |= set(tok(text, add_special_tokens=False)["input_ids"])
    assert sorted(used) == json.loads(SEEN.read_text())


@pytest.mark.parametrize("command", [*COMMANDS, None])
def test_help_fits_eighty_columns_and_cuts_no_name(command):
    words = [command] if command else []
    clean = {**os.environ, "COLUMNS": "80", "TERM": "dumb"}
    call = [sys.executable, "-m", "lowrank_edu.cli", *words, "--help"]
    done = subprocess.run(call, capture_output=True, text=True, env=clean, check=True)
    assert max(map(len, done.stdout.splitlines())) <= 80 and "…" not in done.stdout
    assert "Example: lowrank" in " ".join(done.stdout.split())
    assert "--no-" not in done.stdout, "a flag for what is off already"


def test_tables_break_no_word_at_eighty_columns():
    clean = {**os.environ, "COLUMNS": "80", "TERM": "dumb"}
    for words in (["inspect", PIRATE], ["plan", "tiny-gpt2"]):
        done = subprocess.run(
            [sys.executable, "-m", "lowrank_edu.cli", *words], capture_output=True, text=True, env=clean, check=True
        )
        rows = [line.split() for line in done.stdout.splitlines()[3:]]
        names = {"0.attn.c_attn", "3.mlp.c_proj"} if words[0] == "inspect" else {"lora-fa", "adalora"}
        assert names <= {row[0] for row in rows if row}, "one row, one line"


def test_the_version_is_the_packages():
    assert lowrank("--version") == f"lowrank {lo.__version__}\n"


def test_qlora_is_told_as_what_it_is(tmp_path, no_models):
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n')
    run = ("finetune", "--data", tmp_path / "a.jsonl", "--out", tmp_path / "new", "--steps", 1)
    assert "--method lora --quantize nf4" in flags_said(*run, "--method", "qlora")


def test_without_typer_one_sentence_says_what_to_install():
    code = "import sys; sys.modules['typer'] = None; from lowrank_edu.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == "lowrank needs typer, which is not installed: pip install typer rich\n"


def test_an_error_that_nobody_foresaw_is_a_sentence_and_its_place_can_be_had(tmp_path):
    code = (
        "import lowrank_edu.inspecting as i\ndef broken(*_): raise KeyError('odd')\ni.inspect_adapter = broken\n"
        "import sys; sys.argv = ['lowrank', 'inspect', sys.argv[1]]\nfrom lowrank_edu.cli import main; main()"
    )
    command = [sys.executable, "-c", code, str(PIRATE)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("lowrank: something unforeseen, KeyError: 'odd'.")
    shown = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "LOWRANK_TRACEBACK": "1"})
    assert "Traceback" in shown.stderr and "in broken" in shown.stderr
