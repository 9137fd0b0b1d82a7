"""From records to training examples: tokens, labels, packing; as a list, or as a stream larger than memory."""

from pathlib import Path

import torch

from .chats import chat_tokens, has_template
from .records import read_records


def read_data(source, tok, *, max_length=None, pack=False):
    """All of `source` as training examples for `train`: [{"input_ids", "labels", …}].

    source      a .txt, .md, .jsonl, .json or .csv file, or a dataset: see `records.read_records`
    max_length  most tokens of an example. A longer text is cut into several, none of it is lost; a longer
                prompt with its completion raises ValueError
    pack        put several examples into a row of up to max_length tokens; `train` keeps them apart with a mask
                and begins their positions anew, so that the loss is that of separate rows

    Rows have one of four layouts, told apart by their keys:

    text                     all of it is learnt
    prompt, completion       the completion is learnt
    messages                 a conversation of {"role", "content"}; what the assistant says is learnt, in every
                             turn. The tokenizer's chat template writes it; ValueError where there is none
    instruction, output      with or without an input: as a conversation where there is a chat template, else the output
                             is learnt after Alpaca's own prompt

    Examples begin and end with the end-of-text token, but a conversation has the tokens of its template, and ends with
    the one that ends the last answer. Raises ValueError with the file, the line and what was expected.
    """
    _check(max_length, pack)
    return [row for row, _ in _rows(source, tok, max_length, pack, START, start_over=False)]


START = {"offset": 0, "line": 1, "pieces": 0}
"""Where a stream begins: byte and line of the next record, and how many of its pieces have been given already."""


class Stream:
    """Examples as from `read_data`, read while they are needed, in the order of the file, again and again.

    `position` says where it is as plain numbers, `seek(position)` goes there: a resumed run continues with the very
    next example, also in the middle of a packed row's records. The file is read through once before the first
    example, so that a bad line stops a run before it begins (`check=False` leaves that out).
    """

    def __init__(self, source, tok, *, max_length=None, pack=False, check=True):
        _check(max_length, pack)
        self.source, self.tok, self.max_length, self.pack = source, tok, max_length, pack
        self.position = dict(START)
        if not isinstance(source, str | Path) and iter(source) is source:
            raise ValueError("this dataset can be read only once; give one that can be iterated again.")
        if check and sum(len(_tokens(tok, record, max_length)) for record in read_records(source)) == 0:
            raise ValueError(f"{source} holds no record.")
        self._rows = None

    def seek(self, position):
        """Go to a `position` of this stream; ValueError if it is none."""
        if set(position) != set(START) or any(not isinstance(v, int) or v < 0 for v in position.values()):
            raise ValueError(f"{position} is no position of a stream; a position is like {START}.")
        self.position, self._rows = dict(position), None

    def look(self):
        """The next example, without going on."""
        return next(_rows(self.source, self.tok, self.max_length, self.pack, self.position, start_over=True))[0]

    def __iter__(self):
        return self

    def __next__(self):
        if self._rows is None:
            self._rows = _rows(self.source, self.tok, self.max_length, self.pack, self.position, start_over=True)
        row, self.position = next(self._rows)
        return row


def _check(max_length, pack):
    if max_length is not None and (not isinstance(max_length, int) or max_length < 2):
        raise ValueError(f"max_length={max_length!r}: a whole number ≥ 2, a token to see and one to predict.")
    if pack and max_length is None:
        raise ValueError("pack=True fills rows up to max_length tokens: give max_length.")


def _rows(source, tok, max_length, pack, start, start_over):
    """(example or packed row, the position after it), from a position on."""
    held, room, after = [], max_length, start
    for example, before, behind in _pieces(source, tok, max_length, start, start_over):
        if not pack:
            yield example, behind
            continue
        if held and len(example["input_ids"]) > room:
            yield packed(held), before
            held, room = [], max_length
        held.append(example)
        room -= len(example["input_ids"])
        after = behind
    if held:
        yield packed(held), after


def _pieces(source, tok, max_length, start, start_over):
    """(example, position before it, position after it); a long text gives several."""
    here, done = {**start, "pieces": 0}, start["pieces"]
    while True:
        found = False
        for record in read_records(source, here["offset"], here["line"]):
            found = True
            there = {"offset": record.offset, "line": record.line, "pieces": 0}
            pieces = _tokens(tok, record, max_length)
            for number, example in enumerate(pieces[done:], done + 1):
                before = {**here, "pieces": number - 1}
                yield example, before, there if number == len(pieces) else {**here, "pieces": number}
            here, done = there, 0
        if not start_over:
            return
        if not found and here == START:
            raise ValueError(f"{source} holds no record.")
        here = dict(START)


def _tokens(tok, record, max_length):
    """The examples of one record."""
    if record.layout == "messages" or (record.messages and has_template(tok)):
        return [_conversation(tok, record, max_length)]
    prompt, text = (tok(part, add_special_tokens=False)["input_ids"] for part in (record.prompt, record.text))
    end = [tok.eos_token_id]
    ids, given = end + prompt + text + end, 1 + len(prompt)
    if max_length is None or len(ids) <= max_length:
        return [_example(ids, given)]
    if prompt:
        raise ValueError(
            f"{record.place}: prompt and completion take {len(ids)} tokens, more than max_length={max_length}. "
            "Shorten them, raise max_length up to what the model can see, or take a model that sees more."
        )
    # neighbours share a token: the last one of a piece is seen in the next, so every token is predicted once
    return [_example(ids[at : at + max_length], 1) for at in range(0, len(ids) - 1, max_length - 1)]


def _conversation(tok, record, max_length):
    """The example of a record that the chat template writes."""
    ids, learnt = chat_tokens(tok, record.messages, record.place)
    if max_length is not None and len(ids) > max_length:
        raise ValueError(
            f"{record.place}: the conversation takes {len(ids)} tokens, more than max_length={max_length}. "
            "Shorten it, raise max_length up to what the model can see, or take a model that sees more."
        )
    ids = torch.tensor(ids, dtype=torch.long)
    return {"input_ids": ids, "labels": ids.where(torch.tensor(learnt), -100)}


def _example(ids, given):
    ids = torch.tensor(ids, dtype=torch.long)
    labels = ids.clone()
    labels[:given] = -100
    return {"input_ids": ids, "labels": labels}


def packed(examples):
    """Several examples as one row: {"input_ids", "labels", "position_ids", "segments"}, LongTensors.

    Positions begin anew with each example, `segments` numbers them from 0, and no example is the target of the one
    before it. `collate` makes the mask of it: a token sees those of its own segment that are not later.
    """
    lengths = [len(example["input_ids"]) for example in examples]
    row = {key: torch.cat([example[key] for example in examples]) for key in ("input_ids", "labels")}
    row["position_ids"] = torch.cat([torch.arange(n) for n in lengths])
    row["segments"] = torch.repeat_interleave(torch.arange(len(examples)), torch.tensor(lengths))
    row["labels"][row["position_ids"] == 0] = -100
    return row
