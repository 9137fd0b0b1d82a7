"""adapt: what it finds, counts, reports, refuses; and the counts of published configurations, without weights."""

import accelerate
import pytest
import torch
import transformers
from models_zoo import CONFIGS, HEADS, logits, tiny
from torch import nn

import lowrank_edu as lo
from lowrank_edu.targets import resolve


def gpt2_on_meta(layers=12, width=768):
    with torch.device("meta"):
        return transformers.GPT2LMHeadModel(
            transformers.GPT2Config(n_layer=layers, n_embd=width, n_head=width // 64)
        )


def test_no_match_says_what_there_is_and_what_to_write():
    model = gpt2_on_meta()
    before = [(name, type(m), id(m)) for name, m in model.named_modules()]
    with pytest.raises(ValueError) as error:
        lo.adapt(model, lo.LoRA(target_modules=["q_proj", "v_proj"]))
    assert str(error.value) == (
        "no module matched target_modules=['q_proj', 'v_proj'].\n"
        "This model's linear layers are: attn.c_attn (12), attn.c_proj (12), mlp.c_fc (12), mlp.c_proj (12).\n"
        "GPT-2 keeps q, k and v in one layer: did you mean target_modules=['c_attn']?"
    )
    assert [(name, type(m), id(m)) for name, m in model.named_modules()] == before
    assert all(p.requires_grad for p in model.parameters()) and lo.adapter_names(model) == []


def test_weights_that_accelerate_keeps_elsewhere_are_refused():
    model, adapted = tiny().eval(), tiny().eval()
    lo.adapt(adapted, lo.LoRA(target_modules=["c_fc"]))
    before = logits(model)
    for offloaded in (model, adapted):
        accelerate.cpu_offload(offloaded)
    words = r"needs the weights, and accelerate keeps those of transformer\.\S+ and \d+ more layers elsewhere .* Load"
    refused = {
        "adapt": lambda: lo.adapt(model, lo.LoRA(target_modules=["c_fc"])),
        "quantize": lambda: lo.quantize(model),
        "merge": lambda: lo.merge(adapted),
    }
    for what, call in refused.items():
        with pytest.raises(ValueError, match=f"^{what} {words}"):
            call()
    assert logits(model).equal(before) and lo.adapter_names(model) == []
    placed = accelerate.dispatch_model(tiny().eval(), {"": "cpu"}, force_hooks=True)  # hooks, but nothing elsewhere
    lo.adapt(placed, lo.LoRA(target_modules=["c_fc"]))
    assert logits(placed).equal(before)


@pytest.mark.parametrize(("target", "words"), [
    (["c_atn"], r"Did you mean target_modules=\['c_attn'\]"),
    (["attn"], "no module matched"),
    ("c_attn", r"Did you mean target_modules=\['c_attn'\]"),
    ("h.*zzz", "A string is a regular expression for the whole path"),
    ("h.*(", "it is read as a regular expression, and missing"),
    (["ln_1"], r"h\.0\.ln_1 is a LayerNorm; updates sit on Linear, Conv1D and Embedding layers"),
])  # fmt: skip
def test_other_misses(target, words):
    with pytest.raises(ValueError, match=words):
        lo.adapt(tiny(), lo.LoRA(target_modules=target))


def test_only_layers_that_can_be_adapted_are_proposed():
    with pytest.raises(ValueError) as error:
        lo.adapt(tiny(), lo.LoRA(target_modules=["attn_dropout_"]))
    assert "Did you mean" not in str(error.value)


def test_a_model_that_is_itself_one_layer():
    layer = nn.Linear(5, 8)
    with pytest.raises(ValueError, match=r"goes into nn\.Sequential\(layer\)"):
        lo.adapt(layer, lo.LoRA(target_modules="all-linear"))
    assert layer.weight.requires_grad
    assert lo.adapt(nn.Sequential(layer), lo.LoRA(r=2, target_modules="all-linear")).modules == ["0"]


def test_positions_that_look_up_other_rows_cannot_be_adapted():
    with pytest.raises(ValueError, match="is a BartLearnedPositionalEmbedding"):
        lo.adapt(tiny("bart"), lo.LoRA(target_modules=["embed_positions"]))


@pytest.mark.parametrize("name", CONFIGS)
def test_all_linear_is_all_but_the_output_head(name):
    model = tiny(name)
    kinds = ("Linear", "Conv1D")
    linear = {path for path, m in model.named_modules() if type(m).__name__ in kinds}
    head = HEADS.get(name, "cls.predictions.decoder")
    assert set(resolve(model, "all-linear")) == linear - {head} and head in linear


def test_suffixes_start_at_a_dot_and_expressions_match_whole_paths():
    model = tiny()
    both = [f"transformer.h.{i}.attn.c_proj" for i in (0, 1)]
    assert list(resolve(model, ["attn.c_proj"])) == both
    assert list(resolve(model, r".*attn\.c_proj")) == both
    assert list(resolve(model, [both[1]])) == both[1:]
    with pytest.raises(ValueError):
        resolve(model, ["ttn.c_proj"])
    with pytest.raises(ValueError):
        resolve(model, r"h\.0\..*")


def test_the_report_counts_what_is_there():
    model = tiny()
    total = sum(p.numel() for p in model.parameters())
    report = lo.adapt(model, lo.LoRA(r=3, target_modules=["c_attn", "c_fc"], modules_to_save=["ln_f"]), "mine")
    trainable = 2 * 3 * (24 + 72) + 2 * 3 * (24 + 40) + 48
    assert report.trainable == trainable == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert report.total == total + trainable - 48  # a layer that is trained whole counts once
    assert report.modules == list(lo.adapted_layers(model))
    assert str(report).splitlines()[1].split() == ["transformer.h.*.attn.c_attn", "2", "72", "×", "24", "576"]
    assert f"'mine' trains {trainable:,} of {report.total:,} parameters" in str(report)


def test_a_module_under_two_names_is_wrapped_under_both():
    shared = nn.Linear(5, 5)
    model = nn.Sequential(shared, nn.Linear(5, 5), shared)
    lo.adapt(model, lo.LoRA(r=2, target_modules=["0"]))
    assert model[0] is model[2] is lo.adapted_layers(model)["0"] and model[0].base is shared
    lo.unwrap(model)
    assert model[0] is model[2] is shared


def test_freezing_comes_first_and_reaches_everything():
    model = tiny()
    lo.adapt(model, lo.LoRA(r=3, target_modules=["c_attn"]))
    trainable = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(trainable) == 4 and all(name.endswith((".A", ".B")) for name in trainable)


@pytest.mark.parametrize("name", ["", "a.b", "a/b", "two words", None, 3, "keys", "pop", "train", "forward"])
def test_names_are_plain_words(name):
    model = tiny()
    with pytest.raises(ValueError, match="use letters, digits"):
        lo.adapt(model, lo.LoRA(target_modules=["c_attn"]), name)
    assert all(p.requires_grad for p in model.parameters()) and not lo.adapted_layers(model)


def test_a_name_is_taken_once():
    model = tiny()
    lo.adapt(model, lo.LoRA(target_modules=["c_attn"]), "pirate-2")
    with pytest.raises(ValueError, match=r"'pirate-2' exists already.*delete_adapter\(model, 'pirate-2'\)"):
        lo.adapt(model, lo.LoRA(target_modules=["c_fc"]), "pirate-2")


def test_a_merged_model_is_not_adapted_again():
    model = tiny()
    lo.adapt(model, lo.LoRA(target_modules=["c_attn"]))
    lo.merge(model)
    with pytest.raises(ValueError, match=r"unmerge\(model\) first"):
        lo.adapt(model, lo.LoRA(target_modules=["c_fc"]), "other")


def test_unknown_adapters_are_answered_with_those_there_are():
    model = tiny()
    with pytest.raises(ValueError, match="no adapter 'x'; it has none"):
        lo.set_adapter(model, "x")
    lo.adapt(model, lo.LoRA(target_modules=["c_attn"]), "mine")
    with pytest.raises(ValueError, match="no adapter 'x'; it has 'mine'"):
        lo.set_adapter(model, "x")


def test_train_and_eval_mode_are_those_of_the_model():
    for training in (True, False):
        model = tiny().train(training)
        lo.adapt(model, lo.LoRA(target_modules=["c_attn"], dropout=0.5, modules_to_save=["ln_f"]))
        assert {m.training for m in model.modules()} == {training}


SIX = r".*encoder\.layer.*(query_proj|key_proj|value_proj|dense)"
PUBLISHED = {
    "GPT-2 medium, q and v, r 4 (Hu et al.)": (lambda: gpt2_on_meta(24, 1024),
        lo.LoRA(r=4, blocks={"c_attn": ("q", "v")}), 393_216),
    "GPT-2 large, q and v, r 4": (lambda: gpt2_on_meta(36, 1280), lo.LoRA(r=4, blocks={"c_attn": ("q", "v")}), 737_280),
    "GPT-2, fused c_attn, r 8 (PEFT)": (gpt2_on_meta, lo.LoRA(r=8, target_modules=["c_attn"]), 294_912),
    "GPT-2, fused, from its spectrum": (gpt2_on_meta, lo.LoRA(r=8, target_modules=["c_attn"], init="pissa"), 294_912),
    "DeBERTa-v3-base, six matrices, r 8": ("deberta", lo.LoRA(r=8, target_modules=SIX), 1_327_104),
    "DeBERTa-v3-base, six matrices, r 2": ("deberta", lo.LoRA(r=2, target_modules=SIX), 331_776),
    "DeBERTa-v3-base, DoRA": ("deberta", lo.LoRA(r=8, target_modules=SIX, use_dora=True), 1_410_048),
}  # fmt: skip


@pytest.mark.parametrize("what", PUBLISHED)
def test_published_counts_without_a_weight(what):
    model, method, count = PUBLISHED[what]
    if model == "deberta":
        config = transformers.DebertaV2Config(hidden_size=768, num_hidden_layers=12, num_attention_heads=12,
                                              intermediate_size=3072, vocab_size=128100)  # fmt: skip
        with torch.device("meta"):
            model = transformers.DebertaV2ForSequenceClassification(config)
    else:
        model = model()
    report = lo.adapt(model, method)
    assert report.trainable == count
    assert all(p.is_meta for p in model.parameters())
    if "fused" in what:
        assert report.total == 124_439_808 + count


def test_adapting_a_cpu_model_changes_no_output():
    model = tiny()
    lo.adapt(model, lo.LoRA(target_modules="all-linear"))
    assert torch.equal(logits(model), logits(tiny()))
