"""SmolLM2, once it is loaded, is an ordinary model: it trains in transformers' Trainer, merges, is saved, loads again
with plain transformers, and answers in a pipeline. One journey of one model, looked at station by station."""

import json
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments, pipeline

import lowrank_edu as lo

QUESTION = [{"role": "user", "content": "What is the capital of Norway?"}]
ANSWER = [*QUESTION, {"role": "assistant", "content": "Ahoy! It be Oslo, matey."}]


def said(model, tok):
    """The most likely answer to the question, 12 tokens of it."""
    prompt = tok.apply_chat_template(QUESTION, tokenize=False, add_generation_prompt=True)
    ids = tok(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"]
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
    return tok.decode(out[0, ids.shape[1] :], skip_special_tokens=True)


@pytest.fixture(scope="module")
def journey(tmp_path_factory):
    folder, capture = tmp_path_factory.mktemp("smollm2"), pytest.MonkeyPatch()
    lines = []
    capture.setattr("sys.stderr", SimpleNamespace(write=lines.append, flush=lambda: None, isatty=lambda: False))
    model, tok = lo.load_model("smollm2-135m")
    capture.undo()
    lo.adapt(model, lo.LoRA(r=4, alpha=8, target_modules=["q_proj", "v_proj"]))
    data = lo.read_data([{"messages": ANSWER}], tok)
    settings = {"max_steps": 1, "learning_rate": 0.01, "report_to": "none", "save_strategy": "no", "use_cpu": True}
    settings |= {"per_device_train_batch_size": 1, "disable_tqdm": True, "optim": "sgd"}
    before = [layer.updates["default"].B.clone() for layer in lo.adapted_layers(model).values()]
    run = Trainer(model, TrainingArguments(str(folder / "run"), **settings), train_dataset=data).train()
    after = [layer.updates["default"].B for layer in lo.adapted_layers(model).values()]
    moved = sum(not torch.equal(x, y) for x, y in zip(before, after, strict=True))
    lo.train(model, data, steps=8, batch_size=1, lr=5e-3, progress=False)
    lo.save_adapter(model, folder / "adapter")
    texts = {"adapted": said(model, tok)}
    with lo.disabled(model):
        texts["base"] = said(model, tok)
    lo.merge(model, keep_base=False)
    lo.unwrap(model).save_pretrained(folder / "merged")
    tok.save_pretrained(folder / "merged")
    return SimpleNamespace(
        folder=folder, told="".join(lines), loss=run.training_loss, moved=moved, texts=texts, merged=state(model)
    )


def state(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


@pytest.fixture(scope="module")
def again(journey):
    return AutoModelForCausalLM.from_pretrained(journey.folder / "merged"), AutoTokenizer.from_pretrained(
        journey.folder / "merged"
    )


def test_loading_says_once_that_it_takes_a_while(journey):
    assert journey.told.count("\n") == 1 and "about 20 seconds" in journey.told


def test_the_trainer_takes_a_step(journey):
    assert 0 < journey.loss < 20 and journey.moved == 60  # q and v of 30 blocks


def test_its_adapters_name_the_model_that_everyone_knows(journey):
    config = json.loads((journey.folder / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_a_merged_model_loads_with_plain_transformers_and_says_the_same(journey, again):
    model, tok = again
    assert journey.texts["adapted"] != journey.texts["base"]
    assert said(model, tok) == journey.texts["adapted"]
    assert all(torch.equal(value, journey.merged[key]) for key, value in model.state_dict().items())
    assert model.config.dequantised_from == "GGUF Q4_1"  # the origin of the weights travels with them
    assert not hasattr(model.config, "quantization_config")


def test_a_pipeline_answers(journey, again):
    model, tok = again
    answer = pipeline("text-generation", model=model, tokenizer=tok)(QUESTION, max_new_tokens=12, do_sample=False)
    assert answer[0]["generated_text"][-1] == {"role": "assistant", "content": journey.texts["adapted"]}
