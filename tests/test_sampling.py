"""Texts to examples and back: tokenize, sample, and what does not fit the model's context."""

import pytest
import torch
from models_zoo import tiny
from test_training import examples
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import lowrank_edu as lo


def tokenizer():
    words = {"<end>": 0, "the": 1, "red": 2, "fox": 3, "ran": 4} | {f"w{i}": i for i in range(5, 97)}
    inner = Tokenizer(models.WordLevel(words, unk_token="<end>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>", pad_token="<end>")


def test_texts_become_examples_that_start_and_end():
    data = lo.tokenize(tokenizer(), ["the red fox", "ran"])
    assert [example["input_ids"].tolist() for example in data] == [[0, 1, 2, 3, 0], [0, 4, 0]]
    assert all(torch.equal(e["input_ids"], e["labels"]) and e["input_ids"].dtype == torch.long for e in data)
    assert lo.tokenize(tokenizer(), ["the red fox"], max_length=3)[0]["input_ids"].tolist() == [0, 1, 2]
    assert lo.tokenize(tokenizer(), []) == []
    with pytest.raises(ValueError, match="give a list of strings"):
        lo.tokenize(tokenizer(), "the red fox")
    with pytest.raises(ValueError, match="max_length=1: an example needs"):
        lo.tokenize(tokenizer(), ["the"], max_length=1)


def test_samples_follow_their_seed():
    model, tok = tiny(), tokenizer()
    torch.manual_seed(3)
    wanted = torch.rand(2)
    torch.manual_seed(3)
    one = lo.sample(model, tok, n=4, max_new_tokens=8, seed=1)
    assert torch.equal(torch.rand(2), wanted)
    assert one == lo.sample(model, tok, n=4, max_new_tokens=8, seed=1)
    assert one != lo.sample(model, tok, n=4, max_new_tokens=8, seed=2)
    assert len(one) == 4 and len(set(one)) > 1 and all(isinstance(text, str) for text in one)
    greedy = lo.sample(model, tok, "the red", n=2, max_new_tokens=5, temperature=0, seed=1)
    assert greedy[0] == greedy[1] == lo.sample(model, tok, "the red", n=1, max_new_tokens=5, temperature=0, seed=9)[0]
    assert greedy[0].startswith("the red")


def test_prompts_of_different_lengths_are_continued_as_alone():
    model, tok = tiny(), tokenizer()
    together = lo.sample(model, tok, ["the", "the red fox ran"], max_new_tokens=4, temperature=0)
    alone = [lo.sample(model, tok, [p], max_new_tokens=4, temperature=0)[0] for p in ("the", "the red fox ran")]
    assert together == alone


def test_what_does_not_fit_the_context_is_refused():
    with pytest.raises(ValueError, match=r"an example of 40 tokens; this model sees 32: tokenize\(…, max_length=32\)"):
        lo.evaluate(tiny(), examples(2, (40, 41)))
    with pytest.raises(ValueError, match=r"max_new_tokens=80 after 3 tokens .* Take max_new_tokens ≤ 30"):
        lo.sample(tiny(), tokenizer(), "the red")
    assert lo.sample(tiny(), tokenizer(), "the red", n=1, max_new_tokens=30)


def test_sampling_leaves_the_mode():
    model = tiny().train()
    lo.sample(model, tokenizer(), n=1, max_new_tokens=2)
    assert model.training
