"""The recipes page: every block is cut out of the page, run as it stands, and judged by what it made."""

import contextlib
import functools
import json
import re
import shlex
from importlib.metadata import version
from pathlib import Path

import peft
import pytest
import torch
import transformers
import trl
from models_zoo import batch, gap, logits, shaken, tiny
from safetensors.torch import load_file
from test_cli import lowrank
from test_processes import launched, torchrun

import lowrank_edu as lo
from lowrank_edu import models
from lowrank_edu.adapting import holders
from lowrank_edu.schedules import schedule_of

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "book/recipes.md").read_text("utf-8")
SECTIONS = {part.split("\n")[0]: part for part in PAGE.split("\n## ")[1:]}
TRAINER, SCHEDULE, TRL, ACCELERATE, VLLM, MERGE = SECTIONS
TRAINING = (TRAINER, SCHEDULE, TRL, ACCELERATE)
LOOP = "for batch in loader:"  # a recipe that brings its own loop is longer by that


def block(section, language="python"):
    """The one block of a section in this language."""
    found = re.findall(rf"```{language}\n(.*?)```", SECTIONS[section], flags=re.S)
    assert len(found) == 1, section
    return found[0]


def run(code, folder):
    """What the code's names mean once it has run in `folder`."""
    names = {}
    with contextlib.chdir(folder):
        exec(compile(code, "recipes.md", "exec"), names)
    return names


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """recipe(section) -> (names, folder) of a block that has run as it stands, once."""

    @functools.cache
    def made(section):
        folder = tmp_path_factory.mktemp("recipe")
        return run(block(section), folder), folder

    return made


# ---- what stands on the page -----------------------------
@pytest.mark.parametrize("section", [*TRAINING, MERGE])
def test_a_recipe_is_short_and_fits_a_phone_held_sideways(section):
    lines = [line for line in block(section).splitlines() if line.strip()]
    work = [line for line in lines if not line.startswith(("import ", "from "))]
    assert len(lines) <= 12 or (LOOP in lines and len(work) <= 14)
    assert max(map(len, lines + block(VLLM, "bash").splitlines())) <= 76


@pytest.mark.parametrize("section", SECTIONS)
def test_the_page_and_the_index_of_questions_lead_to_every_section(section):
    label = re.search(rf"^\((\S+)\)=\n## {re.escape(section)}$", PAGE, flags=re.M)[1]
    assert f"<{label}>`" in PAGE.split("\n## ")[0]
    assert f"{{doc}}`recipes`: *{section}*" in (ROOT / "book/questions.md").read_text("utf-8")


def test_the_version_of_trl_on_the_page_is_the_one_that_runs_here():
    told = re.search(r"the version checked here is ([\d.]+)\.", SECTIONS[TRL])[1]
    assert f"\ntrl=={told}\n" in (ROOT / "requirements.txt").read_text("utf-8")
    assert told == version("trl")
    rate = re.search(r"TRL's own default for the learning rate, (\S+),", SECTIONS[TRL])[1]
    assert float(rate) == trl.SFTConfig.__dataclass_fields__["learning_rate"].default


def test_the_collator_of_the_page_teaches_the_end_and_the_other_one_does_not():
    _, tok = lo.load_model("tiny-gpt2")
    rows = lo.tokenize(tok, ["Mia has a red hat."])
    kept = transformers.DataCollatorForSeq2Seq(tok)(rows)["labels"]
    ids = [{"input_ids": row["input_ids"]} for row in rows]
    hidden = transformers.DataCollatorForLanguageModeling(tok, mlm=False)(ids)["labels"]
    assert kept[0, -1] == tok.eos_token_id and hidden[0, -1] == -100


# ---- training --------------------------------------------
def pirates(tok):
    """Stories that no recipe has trained on."""
    return lo.tokenize(tok, lo.corpus.stories(48, seed=9, style="pirate"))


def assert_learnt(model, tok):
    model.eval()
    with lo.disabled(model):
        before = lo.evaluate(model, pirates(tok))
    assert lo.evaluate(model, pirates(tok)) < 0.5 * before


def assert_only_the_adapter_changed(model):
    fresh = lo.load_model("tiny-gpt2")[0].state_dict()
    state = {key.replace(".base.", "."): value for key, value in model.state_dict().items()}
    frozen = {key: value for key, value in state.items() if ".updates." not in key}
    assert frozen.keys() == fresh.keys()
    assert all(torch.equal(frozen[key], value) for key, value in fresh.items())
    learning = {name.rpartition(".")[2] for name, p in model.named_parameters() if p.requires_grad}
    assert learning == {"A", "B"}


def assert_plain_peft_agrees(model, folder):
    theirs = peft.PeftModel.from_pretrained(lo.load_model("tiny-gpt2")[0], folder).eval()
    model.eval()
    with lo.disabled(model):
        assert gap(logits(model), logits(theirs)) > 0.1, "the adapter does something"
    assert gap(logits(model), logits(theirs)) < 1e-4


@pytest.mark.parametrize("section", TRAINING)
def test_a_recipe_trains_an_adapter_that_plain_peft_opens(section, recipe):
    names, folder = recipe(section)
    assert_learnt(names["model"], names["tok"])
    assert_only_the_adapter_changed(names["model"])
    assert_plain_peft_agrees(names["model"], folder / "pirate-adapter")
    assert [path.name for path in folder.glob("runs/checkpoint*")] == []
    if "trainer" in names:
        losses = [entry["loss"] for entry in names["trainer"].state.log_history if "loss" in entry]
        assert len(losses) == 4 and losses[-1] < 0.5 * losses[0]


def test_the_checkpoints_of_the_trainer_are_adapter_folders_too(tmp_path):
    settings = re.search(r"With `(save_strategy=.*?)` instead", SECTIONS[TRAINER])[1]
    code = block(TRAINER).replace('save_strategy="no"', settings)
    model = run(code, tmp_path)["model"]
    assert sorted(path.name for path in tmp_path.glob("runs/checkpoint-*")) == ["checkpoint-20", "checkpoint-40"]
    assert_plain_peft_agrees(model, tmp_path / "runs/checkpoint-40")


# ---- schedules and rates ---------------------------------
@pytest.mark.parametrize("section", [SCHEDULE, ACCELERATE])
def test_a_method_with_a_schedule_takes_the_place_of_the_one_on_the_page(section, tmp_path):
    method, rate = re.search(r"`(lo\.AdaLoRA\(.*?\))`.*?`(lr=\S+)`", SECTIONS[SCHEDULE], flags=re.S).groups()
    code = re.sub(r"lo\.LoRA\(.*\)(?=\))", method, re.sub(r"lr=[\de-]+", rate, block(section)))
    names = run(code, tmp_path)
    model, schedule = names["model"], schedule_of(names["model"])
    assert isinstance(model.__dict__["lowrank_methods"]["default"], lo.AdaLoRA)
    assert schedule.step == schedule.total_steps == (40 if section == SCHEDULE else len(names["loader"]))
    assert schedule.history[0]["rank"] == 4 * 4 > schedule.history[-1]["rank"] == 2 * 4  # 4 blocks
    assert_learnt(model, names["tok"])
    assert_plain_peft_agrees(model, tmp_path / "pirate-adapter")


def test_b_learns_faster_than_a(recipe):
    names, _ = recipe(SCHEDULE)
    rates = {id(p): group["initial_lr"] for group in names["optimizer"].param_groups for p in group["params"]}
    for holder in holders(names["model"]).values():
        update = holder.updates["default"]
        assert rates[id(update.B)] == pytest.approx(16 * rates[id(update.A)])


def test_without_attach_the_run_stops(tmp_path):
    code = block(SCHEDULE).replace("lo.attach(model, optimizer, total_steps=40)\n", "")
    assert "attach" not in code
    with pytest.raises(RuntimeError, match=r"lo\.attach\(model, optimizer\)"):
        run(code, tmp_path)


def test_the_own_loop_in_two_processes(tmp_path):
    told = """
told = {f"{i:03}": p.detach().clone() for i, p in enumerate(model.parameters()) if p.requires_grad}
safetensors.torch.save_file(told, f"{accelerator.process_index} of {accelerator.num_processes}.safetensors")
"""
    (tmp_path / "mine.py").write_text("import safetensors.torch\n" + block(ACCELERATE) + told, "utf-8")
    launched([*torchrun(), "mine.py"], tmp_path, ACCELERATE_USE_CPU="true")
    first, second = (load_file(tmp_path / f"{i} of 2.safetensors") for i in range(2))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first), "both hold the same adapter"
    model, tok = lo.load_model("tiny-gpt2")
    lo.load_adapter(model, tmp_path / "pirate-adapter")
    for p, value in zip((p for p in model.parameters() if p.requires_grad), first.values(), strict=True):
        assert torch.equal(p, value)
    assert_learnt(model, tok)


# ---- vLLM -------------------------------------------------
# What vLLM 0.33.0 refuses, read in its vllm/lora/peft_helper.py and vllm/config/lora.py, field by field. `most` is
# --max-lora-rank. A field that is missing has vLLM's default, which all of these accept; three must be there.
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
RULES = {
    "r": lambda value, most: 0 < value <= most,
    "rank_pattern": lambda value, most: all(0 < rank <= most for rank in (value or {}).values()),
    "lora_alpha": lambda value, most: value > 0,
    "alpha_pattern": lambda value, most: all(alpha > 0 for alpha in (value or {}).values()),
    "use_rslora": lambda value, most: value in (True, False),
    "target_modules": lambda value, most: isinstance(value, str | list) and len(value) > 0,
    "init_lora_weights": lambda value, most: value in (True, False, "gaussian", "eva", "orthogonal", "mica", "lora_ga"),
    "bias": lambda value, most: value == "none",
    "modules_to_save": lambda value, most: set(value or ()) <= {"classifier", "score"},
    "use_dora": lambda value, most: not value,
    "lora_bias": lambda value, most: not value,
    "alora_invocation_tokens": lambda value, most: not value,
    "layer_replication": lambda value, most: not value,
    "use_bdlora": lambda value, most: not value,
    "use_qalora": lambda value, most: not value,
}
NEEDED = ("r", "lora_alpha", "target_modules")
TENSOR = re.compile(r"base_model\.model\..+\.lora_[AB]\.weight")
T = ["q_proj", "v_proj", "down_proj"]
SERVED = {
    "LoRA": (lo.LoRA(4, 8, T), 4),
    "gaussian": (lo.LoRA(4, 8, T, init="gaussian"), 4),
    "PiSSA": (lo.LoRA(4, 8, T, init="pissa"), 8),
    "OLoRA": (lo.LoRA(4, 8, T, init="olora"), 8),
    "rsLoRA": (lo.LoRA(4, 8, T, use_rslora=True), 4),
    "LoRA+": (lo.LoRA(4, 8, T, lr_ratio=16), 4),
    "LoRA-FA": (lo.LoRAFA(4, 8, T), 4),
    "a rank per layer": (lo.LoRA(4, 8, T, rank_pattern={"down_proj": 6}), 6),
}
CONVERTED = {
    "LaMDA": lo.LaMDA(4, T),
    "AFLoRA": lo.AFLoRA(4, target_modules=T),
    "LoRA-XS": lo.LoRAXS(4, target_modules=T),
}
REFUSED = {
    "DoRA": (lo.LoRA(4, 8, T, use_dora=True), "use_dora"),
    "bias=": (lo.LoRA(4, 8, T, bias="all"), "bias"),
    "modules_to_save=": (lo.LoRA(4, 8, T, modules_to_save=("lm_head",)), "modules_to_save"),
    "AdaLoRA": (lo.AdaLoRA(2, 4, 8, T, total_steps=10), "r is missing"),
    "VeRA": (lo.VeRA(4, target_modules=["q_proj"]), "lora_alpha is missing"),
}


def complaints(folder, most):
    """What vLLM would refuse about an adapter folder."""
    config = json.loads((folder / "adapter_config.json").read_text("utf-8"))
    found = [f"{key} is missing" for key in NEEDED if key not in config]
    found += [key for key, fine in RULES.items() if key in config and not fine(config[key], most)]
    return found + [key for key in load_file(folder / "adapter_model.safetensors") if not TENSOR.fullmatch(key)]


def trained(method):
    """A Llama with an adapter that does something."""
    model = tiny("llama", bos_token_id=1) if isinstance(method, lo.LoRA) and method.bias != "none" else tiny("llama")
    lo.adapt(model, method)
    return shaken(model)


def test_the_table_on_the_page_names_the_fields_that_are_checked():
    rows = re.findall(r"^\| (`.*?`) \|", SECTIONS[VLLM], flags=re.M)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == RULES.keys()
    told = re.search(r"which is ([\d, or]+) \|", SECTIONS[VLLM])[1]
    assert tuple(map(int, re.findall(r"\d+", told))) == RANKS


@pytest.mark.parametrize("name", SERVED)
def test_vllm_takes_the_folder_as_it_is(name, tmp_path):
    method, rank = SERVED[name]
    folder = lo.save_adapter(trained(method), tmp_path / "it")
    assert complaints(folder, rank) == []
    assert complaints(folder, rank - 1) in (["r"], ["rank_pattern"])


@pytest.fixture
def base(tmp_path):
    """A folder with a model of SmolLM2's architecture, for the commands."""
    tok = lo.load_model("tiny-gpt2")[1]
    tiny("llama", vocab_size=len(tok), max_position_embeddings=64).save_pretrained(tmp_path / "base")
    tok.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def words(command, base):
    """A `lowrank` command of the page, without the name of the program, for the model in folder `base`."""
    command = shlex.split(command)
    assert command.pop(0) == "lowrank" and command[command.index("--model") + 1] == "smollm2-135m"
    command[command.index("--model") + 1] = str(base)
    return command


@pytest.mark.parametrize("name", CONVERTED)
def test_the_command_on_the_page_makes_it_a_plain_lora(name, base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = words(re.search(r"`(lowrank convert .*?)`", SECTIONS[VLLM])[1], base)
    model, _ = lo.load_model(str(base))
    lo.adapt(model, CONVERTED[name])
    lo.save_adapter(shaken(model), command[1])
    assert not (tmp_path / command[1] / "adapter_config.json").exists()
    lowrank(*command)
    out = tmp_path / command[command.index("--out") + 1]
    assert complaints(out, 8) == []
    theirs = peft.PeftModel.from_pretrained(lo.load_model(str(base))[0], out).eval()
    assert gap(logits(theirs), logits(model)) < 1e-4


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_a_spectral_start_that_peft_trained_is_converted_with_its_base(init, base, tmp_path):
    start = peft.LoraConfig(r=4, lora_alpha=8, target_modules=T, init_lora_weights=init)
    theirs = shaken(peft.get_peft_model(lo.load_model(str(base))[0], start).eval(), by=0.02)
    theirs.save_pretrained(tmp_path / "peft")
    assert "init_lora_weights" in complaints(tmp_path / "peft", 8)
    lowrank("convert", tmp_path / "peft", "--model", base, "--to", "peft", "--out", tmp_path / "plain")
    assert complaints(tmp_path / "plain", 8) == []
    plain = peft.PeftModel.from_pretrained(lo.load_model(str(base))[0], tmp_path / "plain").eval()
    assert gap(logits(plain), logits(theirs)) < 1e-4


@pytest.mark.parametrize("name", REFUSED)
def test_what_vllm_refuses_is_named_on_the_page_and_merges(name, tmp_path):
    assert name in re.search(r"^- \*\*(.*)\*\* not as an adapter", SECTIONS[VLLM], flags=re.M)[1]
    method, reason = REFUSED[name]
    model = trained(method).eval()
    assert reason in complaints(lo.save_adapter(model, tmp_path / "it"), 8)
    adapted = logits(model)
    lo.merge(model, keep_base=False)
    lo.unwrap(model)
    model.save_pretrained(tmp_path / "merged")
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    assert type(plain).__name__ == "LlamaForCausalLM" and gap(logits(plain), adapted) < 1e-4


def test_the_three_commands_fit_together(base, tmp_path, monkeypatch):
    train, serve, ask = (shlex.split(line) for line in block(VLLM, "bash").replace("\\\n", " ").splitlines())
    monkeypatch.chdir(tmp_path)
    Path("my.jsonl").write_text('{"text": "Mia has a red hat."}\n' * 4, "utf-8")
    lowrank(*words(shlex.join(train), base), "--steps", 2)
    assert serve[:3] == ["vllm", "serve", models.SMOLLM2_BASE] and "--enable-lora" in serve
    name, folder = serve[serve.index("--lora-modules") + 1].split("=")
    most = int(serve[serve.index("--max-lora-rank") + 1])
    assert most in RANKS and complaints(tmp_path / folder, most) == []
    assert json.loads(ask[ask.index("-d") + 1])["model"] == name


# ---- merging ---------------------------------------------
def test_the_merged_folder_is_a_plain_model_with_the_same_outputs(tmp_path, capsys):
    source = lo.load_model("tiny-gpt2")[0]
    lo.adapt(source, lo.LoRA(r=4, alpha=8, target_modules=["c_attn", "c_fc"]))
    lo.save_adapter(shaken(source), tmp_path / "pirate-adapter")
    names = run(block(MERGE), tmp_path)
    assert capsys.readouterr().out.startswith(" Mia")
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "pirate-model").eval()
    assert not any("updates" in name for name, _ in [*plain.named_parameters(), *names["model"].named_parameters()])
    assert gap(logits(plain), logits(source)) < 1e-4
    with lo.disabled(source):
        assert gap(logits(plain), logits(source)) > 0.1


def test_the_command_that_merges_writes_the_same_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = lo.load_model("tiny-gpt2")[0]
    lo.adapt(source, lo.LoRA(r=4, alpha=8, target_modules=["c_attn"]))
    lo.save_adapter(shaken(source), "pirate-adapter")
    command = re.search(r"`lowrank (merge .*?)`", SECTIONS[MERGE])[1].split()
    lowrank(*command)
    plain = transformers.AutoModelForCausalLM.from_pretrained(command[-1]).eval()
    assert gap(logits(plain, batch()), logits(source, batch())) < 1e-4
