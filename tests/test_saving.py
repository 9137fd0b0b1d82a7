"""`save_pretrained` of an adapted model, by hand and in transformers' Trainer: an adapter folder, never a full model
whose layers come back random. And after merge and unwrap, the ordinary one again."""

import copy
import gc
import io
import json
import pickle
import weakref

import peft
import pytest
import torch
from models_zoo import gap, logits, same_state, shaken, state, tiny
from test_training import examples
from torch import nn
from transformers import Trainer, TrainingArguments

import lowrank_edu as lo

LORA = lo.LoRA(r=3, alpha=7, target_modules=["c_attn", "c_fc"])


def adapted(method=LORA, *names):
    model = tiny()
    for seed, name in enumerate(names or ["default"]):
        lo.adapt(model, method, name)
        shaken(model, seed)
    return model


def in_peft(folder):
    """The logits of a plain model with the adapter in `folder`, loaded by plain PEFT."""
    return logits(peft.PeftModel.from_pretrained(tiny(), str(folder)).eval())


def files(folder):
    return {path.name for path in folder.iterdir()}


def test_an_adapter_folder_is_written_and_plain_peft_loads_it(tmp_path):
    model = adapted()
    model.save_pretrained(tmp_path / "a")
    assert {"adapter_config.json", "adapter_model.safetensors"} <= files(tmp_path / "a")
    assert not {"config.json", "model.safetensors"} & files(tmp_path / "a")
    assert gap(in_peft(tmp_path / "a"), logits(model)) < 1e-5 < gap(logits(model), logits(tiny()))


def test_several_adapters_get_a_folder_each(tmp_path):
    model = adapted(LORA, "pirate", "poet")
    model.save_pretrained(str(tmp_path))
    assert files(tmp_path) == {"pirate", "poet"}
    for name in ("pirate", "poet"):
        lo.set_adapter(model, name)
        assert gap(in_peft(tmp_path / name), logits(model)) < 1e-5


def test_what_peft_has_no_type_for_is_written_in_our_format(tmp_path):
    model = adapted(lo.FullFineTuning())
    model.save_pretrained(tmp_path)
    assert {"lowrank_config.json", "lowrank_model.safetensors"} <= files(tmp_path)
    again = tiny()
    lo.load_adapter(again, tmp_path)
    assert torch.equal(logits(again), logits(model))


def test_the_models_own_method_comes_back(tmp_path):
    model, plain = adapted(LORA, "a", "b"), tiny()
    lo.delete_adapter(model, "a")
    assert model.save_pretrained != plain.save_pretrained and "save_pretrained" in vars(model)
    lo.delete_adapter(model, "b")
    assert "save_pretrained" not in vars(model) and model.save_pretrained.__func__ is plain.save_pretrained.__func__
    model = adapted()
    lo.merge(model)
    out = logits(model)
    lo.unwrap(model).save_pretrained(tmp_path)
    assert {"config.json", "model.safetensors"} <= files(tmp_path)
    assert torch.equal(logits(type(model).from_pretrained(tmp_path).eval()), out)


def test_a_merged_model_that_is_still_wrapped_is_refused(tmp_path):
    model = adapted()
    lo.merge(model)
    with pytest.raises(ValueError, match=r"lo\.unwrap\(model\) first; for the adapter, lo\.unmerge"):
        model.save_pretrained(tmp_path / "a")
    assert not (tmp_path / "a").exists()
    lo.unmerge(model)
    model.save_pretrained(tmp_path / "a")


def test_what_an_adapter_folder_has_no_use_for_is_refused(tmp_path):
    model = adapted()
    for more in ({"push_to_hub": True}, {"state_dict": {"a": 1}}, {"variant": "fp16"}):
        with pytest.raises(ValueError, match=f"has no {next(iter(more))}="):
            model.save_pretrained(tmp_path / "a", **more)
    model.save_pretrained(tmp_path / "a", is_main_process=False)
    assert not (tmp_path / "a").exists()
    model.save_pretrained(tmp_path / "a", state_dict=None, push_to_hub=False, max_shard_size="5GB")
    assert "adapter_config.json" in files(tmp_path / "a")


def by_pickle(model):
    return pickle.loads(pickle.dumps(model))


def by_torch(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, by_pickle, by_torch])
def test_a_copy_saves_itself(copied, tmp_path):
    model = adapted()
    other = copied(model)
    shaken(other, 7)
    del model
    other.save_pretrained(tmp_path)
    assert gap(in_peft(tmp_path), logits(other)) < 1e-5
    assert "save_pretrained" not in vars(lo.unwrap(other))


def test_a_model_that_is_let_go_leaves_at_once():
    model = adapted()
    watch = weakref.ref(model)
    gc.disable()
    try:
        del model
        assert watch() is None
    finally:
        gc.enable()


def test_a_module_that_cannot_be_saved_gets_no_method():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    lo.adapt(model, lo.LoRA(r=2, alpha=4, target_modules=["0"]))
    assert not hasattr(model, "save_pretrained")


# ---------------------------------------------------------------- transformers' Trainer
def trainer(model, folder, **settings):
    settings = {
        "max_steps": 4, "save_steps": 2, "per_device_train_batch_size": 2, "learning_rate": 1e-2, "report_to": "none",
        "use_cpu": True, "disable_tqdm": True, **settings,
    }  # fmt: skip
    data = [{**e, "input_ids": e["input_ids"][:5], "labels": e["labels"][:5]} for e in examples(8)]
    return Trainer(model, TrainingArguments(str(folder), **settings), train_dataset=data, eval_dataset=data)


def test_the_trainer_saves_adapters_that_plain_peft_loads(tmp_path):
    model = adapted()
    trainer(model, tmp_path).train()
    assert files(tmp_path) == {"checkpoint-2", "checkpoint-4"}
    model.eval()
    assert gap(in_peft(tmp_path / "checkpoint-4"), logits(model)) < 1e-5
    assert gap(in_peft(tmp_path / "checkpoint-2"), logits(model)) > 1e-4
    config = json.loads((tmp_path / "checkpoint-4" / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA" and "config.json" not in files(tmp_path / "checkpoint-4")


@pytest.mark.parametrize("method", [LORA, lo.LoRA(r=3, alpha=7, target_modules=["c_attn"], init="pissa"),
                                    lo.FullFineTuning()], ids=["lora", "pissa", "full"])  # fmt: skip
def test_the_trainer_resumes_bit_for_bit(method, tmp_path):
    whole = adapted(method)
    trainer(whole, tmp_path).train()
    again = adapted(method)
    trainer(again, tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert same_state(again, state(whole)) and not same_state(adapted(method), state(whole))


def test_the_trainer_brings_its_best_model_back(tmp_path):
    model, settings = adapted(), {"eval_strategy": "steps", "eval_steps": 2, "metric_for_best_model": "eval_loss"}
    run = trainer(model, tmp_path, learning_rate=0.5, load_best_model_at_end=True, greater_is_better=True, **settings)
    run.train()
    best = run.state.best_model_checkpoint
    assert best.endswith("checkpoint-2")  # so that it is not simply the last
    model.eval()
    assert gap(in_peft(best), logits(model)) < 1e-5
    others = files(tmp_path) - {best.rsplit("/")[-1]}
    assert others and all(gap(in_peft(tmp_path / name), logits(model)) > 1e-4 for name in others)


# ---------------------------------------------------------------- a model that PEFT has adapted
@pytest.mark.parametrize("wrap", ["peft", "transformers"])
def test_a_model_with_pefts_adapters_is_refused_in_a_sentence(wrap, tmp_path):
    config = peft.LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM")
    model = tiny()
    if wrap == "peft":
        model = peft.get_peft_model(model, config)
    else:
        model.add_adapter(config)
    before = state(model)
    with pytest.raises(ValueError, match=r"this model already carries PEFT's adapters \('default'\)\. .*unload\(\)"):
        lo.adapt(model, LORA)
    assert same_state(model, before)
    if wrap == "peft":
        lo.adapt(model.unload(), LORA)
