"""Prefix and prompt tuning: the same as PEFT, as text put in front, with and without a cache; and what they refuse."""

import copy
import json

import peft
import pytest
import torch
from models_zoo import batch, gap, logits, same_state, shaken, state, tiny
from safetensors.torch import load_file, save_file

import lowrank_edu as lo
from lowrank_edu.front import PLACE

MODELS = ["gpt2", "llama"]
KINDS = {
    "prefix": lo.PrefixTuning(length=3),
    "prefix, random": lo.PrefixTuning(length=3, init="random"),
    "prefix, mlp": lo.PrefixTuning(length=3, width=5),
    "prompt": lo.PromptTuning(length=3),
    "prompt, random": lo.PromptTuning(length=3, init="random"),
}
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft", "ignore::FutureWarning")


def fronted(name="gpt2", kind="prefix", by=0.7, **changes):
    """A tiny model with a trained-looking prefix or prompt."""
    model = tiny(name, **changes)
    lo.adapt(model, KINDS[kind] if isinstance(kind, str) else kind)
    return shaken(model, by=by)


def update(model, name="default"):
    return getattr(model, PLACE).updates[name]


def their_logits(theirs):
    """PEFT returns logits for a prompt's own positions too; the text's are the last ones."""
    return logits(theirs)[:, -batch().shape[1] :]


def assert_parity(ours, theirs):
    """Same logits, and the comparison notices a table that is 1 % off."""
    wanted = their_logits(theirs)
    assert gap(logits(ours), wanted) <= 1e-5 * wanted.norm()
    wrong = copy.deepcopy(ours)
    with torch.no_grad():
        for p in update(wrong).parameters():
            p *= 1.01
    assert gap(logits(wrong), wanted) > 1e-4 * wanted.norm()


# --- the same as PEFT -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MODELS)
def test_both_directions(name, kind, tmp_path):
    ours = fronted(name, kind)
    lo.save_adapter(ours, tmp_path / "ours")
    theirs = peft.PeftModel.from_pretrained(tiny(name), tmp_path / "ours").eval()
    assert_parity(ours, theirs)
    theirs.save_pretrained(tmp_path / "theirs")
    again = tiny(name)
    lo.load_adapter(again, tmp_path / "theirs")
    assert_parity(again, theirs)


THEIRS = {
    "prefix": lambda: peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "prefix, mlp": lambda: peft.PrefixTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=3, prefix_projection=True, encoder_hidden_size=5
    ),
    "prompt": lambda: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
}


def made_there(name, kind):
    torch.manual_seed(0)
    return shaken(peft.get_peft_model(tiny(name), THEIRS[kind]()).eval(), seed=2, by=0.3)


@pytest.mark.parametrize("kind", THEIRS)
@pytest.mark.parametrize("name", MODELS)
def test_folders_made_by_peft(name, kind, tmp_path):
    """Also those of a prefix that PEFT makes with an MLP: it saves what the MLP gives."""
    theirs = made_there(name, kind)
    theirs.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text()).get("prefix_projection", False) == (
        kind == "prefix, mlp"
    )
    ours = tiny(name)
    report = lo.load_adapter(ours, tmp_path)
    assert_parity(ours, theirs)
    assert report.trainable == update(ours).table().numel()


def five_steps(model):
    """(first gradient, parameters after five steps of AdamW at 1e-3), each as one vector.

    The loss is made from the text's logits: with labels=, PEFT lets a prompt also predict the first token.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer, first = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.0), None
    for step in range(5):
        optimizer.zero_grad()
        ids = batch(4, 6 + step)
        out = model(input_ids=ids).logits[:, -ids.shape[1] : -1]
        torch.nn.functional.cross_entropy(out.flatten(0, 1), ids[:, 1:].flatten()).backward()
        first = first if step else torch.cat([p.grad.flatten() for p in parameters])
        optimizer.step()
    return first, torch.cat([p.detach().flatten() for p in parameters])


@pytest.mark.parametrize("kind", ["prefix", "prompt"])
@pytest.mark.parametrize("name", MODELS)
def test_same_gradients_and_same_weights_after_five_steps(name, kind, tmp_path):
    theirs = made_there(name, kind)
    theirs.save_pretrained(tmp_path)
    ours = tiny(name)
    lo.load_adapter(ours, tmp_path)
    wrong = copy.deepcopy(ours)
    with torch.no_grad():
        for p in update(wrong).parameters():
            p *= 1.01
    (g, w), (wanted_g, wanted_w), (wrong_g, wrong_w) = map(five_steps, (ours, theirs, wrong))
    assert (g - wanted_g).norm() <= 1e-4 * wanted_g.norm() < 0.1 * (wrong_g - wanted_g).norm()
    assert gap(w, wanted_w) <= 2e-5 < 0.1 * gap(wrong_w, wanted_w)


def test_the_mlp_trains_as_pefts_does():
    """GPT-2: PEFT's inner embedding is as wide as the model there."""
    theirs, ours = made_there("gpt2", "prefix, mlp"), fronted("gpt2", "prefix, mlp")
    mine, encoder = update(ours), theirs.prompt_encoder["default"]
    with torch.no_grad():
        for p, q in zip(mine.parameters(), encoder.parameters(), strict=True):
            p.copy_(q)
    assert_parity(ours, theirs)
    (g, w), (wanted_g, wanted_w) = five_steps(ours), five_steps(theirs)
    assert (g - wanted_g).norm() <= 1e-4 * wanted_g.norm() and gap(w, wanted_w) <= 2e-5


# --- the same as text in front --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [lo.PrefixTuning, lo.PromptTuning])
@pytest.mark.parametrize("name", MODELS)
def test_token_ids_in_front_are_that_text_in_front(name, method):
    """At the start, a prefix or prompt made from token ids is those tokens: the base model is the oracle."""
    ids, front = batch(), torch.tensor([11, 5, 70, 23])
    model = tiny(name).train()
    lo.adapt(model, method(length=4, init=front.tolist()))
    assert all(module.training for module in model.modules())
    whole = logits(tiny(name), torch.cat([front.expand(3, -1), ids], dim=1))
    assert gap(logits(model.eval(), ids), whole[:, 4:]) < 1e-5 < gap(logits(model, ids), logits(tiny(name), ids))
    other = tiny(name)
    lo.adapt(other, method(length=7, init=(11, 5)))  # repeated to length
    whole = logits(tiny(name), torch.cat([torch.tensor([11, 5, 11, 5, 11, 5, 11]).expand(3, -1), ids], dim=1))
    assert gap(logits(other, ids), whole[:, 7:]) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MODELS)
def test_seeds_and_modes(name, kind):
    one, same, other = tiny(name), tiny(name), tiny(name)
    for model, seed in ((one, 1), (same, 1), (other, 2)):
        lo.adapt(model, KINDS[kind], seed=seed)
    assert torch.equal(logits(one), logits(same)) and gap(logits(one), logits(other)) > 1e-3


# --- generation -----------------------------------------------------------------------------------------------------

HOW = {
    "greedy": {"do_sample": False},
    "sampling": {"do_sample": True, "top_k": 0},
    "beams": {"do_sample": False, "num_beams": 3, "length_penalty": 0.9},
    "two per row": {"do_sample": True, "num_return_sequences": 2},
}


def generate(model, ids, mask=None, **how):
    torch.manual_seed(0)
    mask = torch.ones_like(ids) if mask is None else mask
    how = {"max_new_tokens": 8, "pad_token_id": 0, "eos_token_id": None, **how}
    return model.generate(input_ids=ids, attention_mask=mask, **how)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("kind", ["prefix", "prompt"])
@pytest.mark.parametrize("name", MODELS)
def test_generation_with_a_cache_is_generation_without(name, kind, how):
    model, ids = fronted(name, kind), batch(3, 6)
    with_cache = generate(model, ids, **HOW[how])
    assert torch.equal(with_cache, generate(model, ids, use_cache=False, **HOW[how]))
    assert not torch.equal(with_cache, generate(tiny(name), ids, **HOW[how]))


@pytest.mark.parametrize("kind", ["prefix", "prompt"])
@pytest.mark.parametrize("name", MODELS)
def test_greedy_generation_token_by_token(name, kind):
    """The oracle calls the model on the whole text each time and takes the largest logit."""
    model, ids = fronted(name, kind), batch(2, 5)
    out = generate(model, ids, do_sample=False)
    for _ in range(8):
        ids = torch.cat([ids, logits(model, ids)[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(out, ids)


@pytest.mark.parametrize("kind", ["prefix", "prompt"])
@pytest.mark.parametrize("name", MODELS)
def test_left_padding_changes_nothing(name, kind):
    model, rows = fronted(name, kind), [batch(1, n)[0] for n in (3, 7, 5)]
    padded = torch.stack([torch.cat([torch.zeros(7 - len(row), dtype=torch.long), row]) for row in rows])
    how = {"do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    out = generate(model, padded, (padded > 0).long(), **how)
    for i, row in enumerate(rows):
        alone = generate(model, row[None], **how)
        assert torch.equal(out.sequences[i, 7:], alone.sequences[0, len(row) :])
        assert all(gap(a[i], b[0]) < 1e-5 for a, b in zip(out.logits, alone.logits, strict=True))


@pytest.mark.parametrize("name", MODELS)
def test_a_prompt_generates_as_in_peft(name, tmp_path):
    """PEFT's own loop for prompts, on embeddings, gives the same tokens."""
    ours = fronted(name, "prompt")
    lo.save_adapter(ours, tmp_path)
    theirs = peft.PeftModel.from_pretrained(tiny(name), tmp_path).eval()
    assert torch.equal(generate(ours, batch(), do_sample=False), generate(theirs, batch(), do_sample=False))


def test_a_conversation_goes_on_from_its_cache():
    model, ids = fronted(), batch(2, 9)
    whole = logits(model, ids)
    with torch.no_grad():
        first = model(input_ids=ids[:, :5], use_cache=True)
        again = copy.deepcopy(first.past_key_values)
        rest = model(ids[:, 5:], first.past_key_values, torch.ones_like(ids))  # positional arguments too
        free = model(input_ids=ids[:, 5:], past_key_values=again)
    assert gap(torch.cat([first.logits, rest.logits], 1), whole) < 1e-5 and gap(rest.logits, free.logits) < 1e-5
    with torch.no_grad():
        cache = model(input_ids=ids[:, :5], use_cache=True).past_key_values
    out = generate(model, ids[:, 5:], torch.ones_like(ids), past_key_values=cache, do_sample=False)
    assert torch.equal(out[:, 4:], generate(model, ids, do_sample=False)[:, 9:])


def test_labels_masks_and_given_positions():
    model, ids = fronted(), batch(3, 7)
    mask = torch.ones_like(ids)
    mask[0, 5:] = 0
    positions = torch.arange(7)[None].expand(3, -1)
    with torch.no_grad():
        plain = model(input_ids=ids)
        full = model(input_ids=ids, attention_mask=mask, position_ids=positions, labels=ids)
    assert gap(full.logits[1:], plain.logits[1:]) < 1e-5 and gap(full.logits[0, :5], plain.logits[0, :5]) < 1e-5
    wanted = torch.nn.functional.cross_entropy(full.logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    assert full.loss.item() == pytest.approx(wanted.item(), abs=1e-6)
    embedded = model(inputs_embeds=model.get_input_embeddings()(ids)).logits
    assert gap(embedded, plain.logits) < 1e-5


def test_lo_sample_leaves_room_for_the_prefix():
    model = fronted(n_positions=16)

    class Tok:
        eos_token_id = pad_token_id = 1

        def batch_decode(self, rows, skip_special_tokens):
            return [len(row) for row in rows]

    assert lo.sample(model, Tok(), n=2, max_new_tokens=13) == [14, 14]
    with pytest.raises(ValueError, match="max_new_tokens ≤ 13"):
        lo.sample(model, Tok(), max_new_tokens=14)
    with pytest.raises(ValueError, match="14 tokens after 3 positions, 3 of them the prefix, are more"):
        model(input_ids=batch(1, 14))
    data = [{"input_ids": batch(1, 14)[0], "labels": batch(1, 14)[0]}]
    with pytest.raises(ValueError, match="this model sees 13"):
        lo.train(model, data, steps=1)


# --- switching ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MODELS)
def test_disabled_deleted_and_unwrapped_are_the_base_bit_for_bit(name, kind):
    model, base = fronted(name, kind), logits(tiny(name))
    assert gap(logits(model), base) > 0.01
    with lo.disabled(model):
        assert torch.equal(logits(model), base)
        assert torch.equal(generate(model, batch(), do_sample=True), generate(tiny(name), batch(), do_sample=True))
    gone = copy.deepcopy(model)
    lo.delete_adapter(gone, "default")
    plain = lo.unwrap(copy.deepcopy(model))
    for other in (gone, plain):
        assert torch.equal(logits(other), base) and same_state(other, state(tiny(name)))
        assert not other._forward_hooks and not other._forward_pre_hooks and not hasattr(other, PLACE)
    lo.set_adapter(model, [])
    assert torch.equal(logits(model), base)


@pytest.mark.parametrize("kind", ["prefix", "prompt"])
def test_a_copy_has_a_front_of_its_own(kind):
    model = fronted("llama", kind)
    out, twin = logits(model), copy.deepcopy(model)
    with torch.no_grad():
        for p in update(twin).parameters():
            p += 1
    assert torch.equal(logits(model), out) and gap(logits(twin), out) > 0.01
    lo.delete_adapter(model, "default")
    assert torch.equal(logits(model), logits(tiny("llama"))) and gap(logits(twin), out) > 0.01


@pytest.mark.parametrize("front", ["prefix", "prompt"])
@pytest.mark.parametrize("name", MODELS)
def test_lora_and_a_prefix_together(name, front):
    """Both act, both train, each can act alone, and merged LoRA with the prefix behind it is the same model."""
    lora = lo.LoRA(r=3, alpha=7, target_modules="all-linear")
    model = fronted(name, front)
    alone = logits(model)
    lo.adapt(model, lora, "lora")
    shaken(model, seed=3)
    only_lora = logits(model)
    lo.set_adapter(model, ["default", "lora"])
    both = logits(model)
    assert {n.split(".updates.")[1].split(".")[0] for n, p in model.named_parameters() if p.requires_grad} == {
        "default",
        "lora",
    }
    merged = tiny(name)
    lo.adapt(merged, lora, "lora")
    shaken(merged, seed=3)
    lo.merge(merged)
    lo.unwrap(merged)
    lo.adapt(merged, KINDS[front])
    shaken(merged, by=0.0)
    with torch.no_grad():
        for p, q in zip(update(merged).parameters(), update(model).parameters(), strict=True):
            p.copy_(q)
    assert gap(both, logits(merged)) < 2e-5 and min(gap(both, alone), gap(both, only_lora)) > 0.01
    ids = batch(2, 6)
    assert torch.equal(generate(model, ids, do_sample=False), generate(model, ids, do_sample=False, use_cache=False))
    model(input_ids=ids, labels=ids).loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters() if p.requires_grad)
    lo.set_adapter(model, "default")
    assert torch.equal(logits(model), alone)
    lo.set_adapter(model, "lora")
    assert torch.equal(logits(model), only_lora)
    lo.set_adapter(model, ["default", "lora"])
    with lo.routed(model, ["lora", None, "lora"]):  # the names alone decide: the prefix steps aside
        out = logits(model)
    assert gap(out[0], only_lora[0]) < 1e-5 and torch.equal(out[1], logits(tiny(name))[1])


def test_the_whole_model_and_a_prefix_together():
    """Full fine-tuning trains the model's own layers; what the Front holds is none of them."""
    model = fronted("gpt2", "prefix, mlp")
    alone = logits(model)
    report = lo.adapt(model, lo.FullFineTuning(), "full")
    assert report.trainable == sum(p.numel() for p in tiny().parameters())
    lo.set_adapter(model, ["default", "full"])
    assert gap(logits(model), alone) < 1e-6
    with pytest.raises(ValueError, match="no module matched"):
        lo.adapt(model, lo.LoRA(target_modules=["default"]), "x")


def test_two_prefixes_do_not_act_at_once():
    model = fronted()
    lo.adapt(model, KINDS["prompt"], "other")
    with pytest.raises(ValueError, match="one of them puts its own positions in front"):
        lo.set_adapter(model, ["default", "other"])
    assert getattr(model, PLACE).active == ("other",)
    lo.delete_adapter(model, "other")
    lo.set_adapter(model, "default")
    assert torch.equal(logits(model), logits(fronted()))


@pytest.mark.parametrize("kind", ["prefix", "prompt"])
@pytest.mark.parametrize(("act", "words"), [
    (lambda model: lo.merge(model), "cannot merge: what stands in front.* train LoRA"),
    (lambda model: lo.routed(model, ["default"]).__enter__(), "cannot route: .* a batch per prefix, or route LoRA"),
    (lambda model: lo.combine(model, {"default": 1.0}, "b"), "cannot combine: .* Train LoRA adapters"),
])  # fmt: skip
def test_what_a_prefix_cannot_do(kind, act, words):
    model = fronted("gpt2", kind)
    before, out = state(model), logits(model)
    with pytest.raises(ValueError, match=words):
        act(model)
    assert same_state(model, before) and torch.equal(logits(model), out) and lo.adapter_names(model) == ["default"]


# --- training -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MODELS)
def test_training_lowers_the_loss_and_leaves_the_base(name, kind):
    model = tiny(name)
    lo.adapt(model, KINDS[kind])
    data = [{"input_ids": row, "labels": row} for row in batch(2, 9)]
    before = {k: v for k, v in state(model).items() if PLACE not in k}
    history = lo.train(model, data, steps=40, batch_size=2, lr=0.1, progress=False)
    assert history.loss[-1] < 0.95 * history.loss[0]
    assert all(torch.equal(value, state(model)[key]) for key, value in before.items())


@pytest.mark.parametrize("kind", ["prefix", "prompt"])
def test_half_precision_bases_and_autocast(kind):
    model = tiny("llama").bfloat16()
    lo.adapt(model, KINDS[kind])
    assert all(p.dtype == torch.float32 for p in update(model).parameters())
    assert logits(model).dtype == torch.bfloat16
    wide = fronted("llama", kind)
    with torch.autocast("cpu", torch.bfloat16):
        ids = batch()
        out = wide(input_ids=ids, labels=ids)
    out.loss.backward()
    assert gap(out.logits.float(), logits(wide)) < 0.1
    assert all(torch.isfinite(p.grad).all() for p in update(wide).parameters())


@pytest.mark.parametrize("kind", ["prefix", "prompt"])
@pytest.mark.parametrize("name", MODELS)
def test_gradient_checkpointing_is_refused_not_ignored(name, kind):
    model = fronted(name, kind)
    model.gradient_checkpointing_enable()
    logits(model)  # in eval mode nothing is checkpointed
    with pytest.raises(ValueError, match="gradient_checkpointing_disable"):
        model.train()(input_ids=batch())
    with lo.disabled(model):
        model(input_ids=batch())


# --- counts, folders, refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [None, 11])
def test_counts_from_shapes_alone(width):
    """2·L·l·d for a prefix, with d of grouped-query heads; l·d for a prompt. GPT-3: 264 × 12288 = 3.244 million."""
    with torch.device("meta"):
        gpt3 = tiny_config_model("gpt2", n_embd=12288, n_head=96, n_layer=2, n_positions=2048, n_inner=64)
        llama = tiny_config_model("llama")
    assert lo.adapt(gpt3, lo.PromptTuning(length=264)).trainable == 3_244_032
    report = lo.adapt(gpt3, lo.PrefixTuning(length=5, width=width), "prefix")
    made = 2 * 2 * 5 * 12288
    if width:  # the MLP gives 2·L·d numbers for each of the l embeddings
        made = 5 * 12288 + (12288 + 1) * width + (width + 1) * 2 * 2 * 12288
    assert report.trainable == made
    assert lo.adapt(llama, lo.PrefixTuning(length=5)).trainable == 2 * 2 * 5 * 8  # one head of width 8


def tiny_config_model(name, **changes):
    import transformers
    from models_zoo import COMMON, CONFIGS

    model_class, config_class, settings = CONFIGS[name]
    config = getattr(transformers, config_class)(**{**COMMON, **settings, **changes})
    return getattr(transformers, model_class)(config)


def test_folders_that_do_not_fit(tmp_path):
    lo.save_adapter(fronted(), tmp_path)
    file, config = tmp_path / "adapter_model.safetensors", tmp_path / "adapter_config.json"
    assert set(load_file(file)) == {"prompt_embeddings"}
    for settings, words in ({"num_virtual_tokens": 4}, r"is \(3, 96\) in the file, \(4, 96\) in the model"), (
        {"num_virtual_tokens": None}, "num_virtual_tokens=None"), ({"num_transformer_submodules": 2}, "one decoder"), (
        {"peft_type": "P_TUNING"}, "peft_type is 'P_TUNING'"):  # fmt: skip
        whole = config.read_text()
        config.write_text(json.dumps(json.loads(whole) | settings))
        model = tiny()
        with pytest.raises(ValueError, match=words):
            lo.load_adapter(model, tmp_path)
        assert same_state(model, state(tiny())) and not hasattr(model, PLACE) and not model._forward_pre_hooks
        config.write_text(whole)
    save_file(load_file(file) | {"stray": torch.ones(2)}, file)
    with pytest.raises(ValueError, match="unexpected: stray"):
        lo.load_adapter(tiny(), tmp_path)
    with pytest.raises(ValueError, match="prompt_embeddings is"):
        lo.load_adapter(tiny("llama"), tmp_path)


@pytest.mark.parametrize("kind", ["prefix", "prefix, mlp", "prompt"])
def test_gradcheck(kind):
    """Through the model, in float64; Llama's norms would compute in float32."""
    model = tiny("gpt2").double()
    lo.adapt(model, KINDS[kind])
    names = [f"{PLACE}.updates.default.{key}" for key, _ in update(model).named_parameters()]

    def first_logits(*values):
        out = torch.func.functional_call(model, dict(zip(names, values, strict=True)), (torch.tensor([[5, 8]]),))
        return out.logits[..., :4]

    values = tuple(model.get_parameter(key).detach().requires_grad_(True) for key in names)
    assert torch.autograd.gradcheck(first_logits, values, fast_mode=True)


def test_our_own_format_keeps_the_mlp(tmp_path):
    model, again = fronted("llama", "prefix, mlp"), tiny("llama")
    lo.save_adapter(model, tmp_path, format="own")
    report = lo.load_adapter(again, tmp_path)
    assert report.trainable == 3 * 20 + 5 * (20 + 1) + 32 * (5 + 1) and torch.equal(logits(again), logits(model))


@pytest.mark.parametrize("kind", ["prefix", "prompt"])
@pytest.mark.parametrize("name", MODELS)
def test_on_a_quantised_base(name, kind):
    model = tiny(name)
    lo.quantize(model, "nf4")
    base = logits(model)
    lo.adapt(model, KINDS[kind])
    out, ids = logits(model), batch()
    model(input_ids=ids, labels=ids).loss.backward()
    assert gap(out, base) > 0.01 and all(p.grad.abs().sum() > 0 for p in update(model).parameters())
    with lo.disabled(model):
        assert torch.equal(logits(model), base)


@pytest.mark.parametrize("name", ["bert", "bart", "deberta"])
def test_models_without_a_cache_of_their_past(name):
    model = tiny(name)
    with pytest.raises(ValueError, match="is not a decoder that reads its past from a cache"):
        lo.adapt(model, KINDS["prefix"])
    assert same_state(model, state(tiny(name)))


def test_a_cache_that_forgets():
    import transformers

    config = transformers.MistralConfig(vocab_size=97, hidden_size=20, head_dim=8, num_attention_heads=2,
                                        num_hidden_layers=1, num_key_value_heads=1, sliding_window=4)  # fmt: skip
    with pytest.raises(ValueError, match="does not keep all positions"):
        lo.adapt(transformers.MistralForCausalLM(config), KINDS["prefix"])


@pytest.mark.parametrize(("make", "words"), [
    (lambda: lo.PrefixTuning(length=0), "length=0"),
    (lambda: lo.PromptTuning(length=2.0), "length=2.0"),
    (lambda: lo.PrefixTuning(length=2, width=0), "width=0"),
    (lambda: lo.PromptTuning(length=2, init="once upon"), r"For a text give tok\(text\)\['input_ids'\]"),
    (lambda: lo.PromptTuning(length=2, init=[]), "token ids"),
    (lambda: lo.PromptTuning(length=2, init=[-1]), "token ids"),
    (lambda: lo.adapt(tiny(), lo.PromptTuning(length=2, init=[97])), "token 97, but the vocabulary has 97"),
    (lambda: lo.adapt(tiny(), lo.PromptTuning(length=32)), "length=32 leaves no room"),
])  # fmt: skip
def test_bad_settings(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_caches_and_masks_that_do_not_fit():
    import transformers

    model, ids = fronted(), batch(2, 5)
    with torch.no_grad():
        ours = model(input_ids=ids, use_cache=True).past_key_values
        bare = tiny()(input_ids=ids, use_cache=True).past_key_values
    with pytest.raises(ValueError, match="filled without the active prefix"):
        model(input_ids=ids, past_key_values=bare)
    with lo.disabled(model), pytest.raises(ValueError, match="behind a prefix that is not active"):
        model(input_ids=ids, past_key_values=ours)
    with pytest.raises(ValueError, match="DynamicCache that keeps all positions; this is StaticCache"):
        model(input_ids=ids, past_key_values=transformers.StaticCache(config=model.config, max_cache_len=20))
    for mask in (torch.ones(2, 8), torch.ones(2, 1, 5, 5)):
        with pytest.raises(ValueError, match=r"attention_mask is .* must be \(rows, 5\)"):
            model(input_ids=ids, attention_mask=mask)
    with pytest.raises(ValueError, match="pass the new tokens only"):
        model.generate(input_ids=torch.cat([ids, ids], 1), past_key_values=ours, max_new_tokens=2)
    assert torch.equal(logits(model, ids), logits(fronted(), ids))
