"""Own data: what each format gives, the line that an error names, and streams that continue with the next example."""

import json

import pytest
import torch

from lowrank_edu import load_model
from lowrank_edu.data import START, Stream, packed, read_data
from lowrank_edu.records import read_records

TEXTS = ["Mia found a red kite.", "Tom lost a cup\nand a spoon.", "Ann slept — öfter."]


@pytest.fixture(scope="module")
def tok():
    return load_model("tiny-gpt2")[1]


def written(tmp_path, name, text):
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def as_text(tmp_path):
    return written(tmp_path, "a.txt", "\n\n" + "\r\n\r\n\n".join(TEXTS) + "\n\n")


def as_json(tmp_path):
    return written(tmp_path, "a.jsonl", "\ufeff" + "\n\n".join(json.dumps({"text": t, "id": 3}) for t in TEXTS))


def as_csv(tmp_path):
    return written(tmp_path, "a.csv", "id,text\n" + "".join(f'1,"{t}"\n' for t in TEXTS))


def as_rows(tmp_path):
    return [{"text": t} for t in TEXTS]


EVERY = pytest.mark.parametrize("make", [as_text, as_json, as_csv, as_rows])


@EVERY
def test_every_format_gives_the_same_records_and_can_begin_anywhere(make, tmp_path):
    source = make(tmp_path)
    records = list(read_records(source))
    assert [(r.prompt, r.text) for r in records] == [("", t) for t in TEXTS]
    for number, record in enumerate(records):
        rest = list(read_records(source, record.offset, record.line))
        assert rest == records[number + 1 :]  # text, place, offset and line alike


def test_places_are_the_lines_of_an_editor(tmp_path):
    files = (as_text, as_json, as_csv)
    lines = {make: [r.place.split("line ")[1] for r in read_records(make(tmp_path))] for make in files}
    assert lines == {as_text: ["3", "6", "10"], as_json: ["1", "3", "5"], as_csv: ["2", "3", "5"]}


def test_a_real_dataset_streams(tmp_path, tok):
    import datasets

    path = as_json(tmp_path)
    whole = datasets.Dataset.from_list([{"text": t} for t in TEXTS])
    for dataset in (whole, whole.to_iterable_dataset()):
        assert [r.text for r in read_records(dataset)] == TEXTS
        assert [r.text for r in read_records(dataset, 2)] == TEXTS[2:]
        stream, same = Stream(dataset, tok), Stream(path, tok)
        assert all(torch.equal(next(stream)["input_ids"], next(same)["input_ids"]) for _ in range(7))


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("a.jsonl", '{"text": "x"}\n{"text": \n', ["a.jsonl, line 2", "JSON object", '"prompt" and "completion"']),
        ("a.jsonl", '{"text": "x"}\n\n["x"]', ["line 3", "found list"]),
        ("a.jsonl", '{"prompt": "x", "answer": "y"}', ["line 1", "['answer', 'prompt']"]),
        ("a.jsonl", '{"prompt": "x", "completion": 3}', ["line 1", "'completion'", "found 3"]),
        ("a.jsonl", '{"prompt": "x", "completion": " "}', ["line 1", "'completion' is empty"]),
        ("a.csv", "a,b\n1,2\n", ["a.csv, line 1", "header", "['a', 'b']"]),
        ("a.csv", "", ["line 1", "header", "None"]),
        ("a.csv", 'id,text\n1,"a\nb"\n2\n', ["a.csv, line 4", "expected 2 cells, found 1"]),
        ("a.csv", 'id,text\n1,"a" b\n', ["line 2", "expected 2 cells"]),
        ("a.txt", b"ok\n\n\xff\xfe", ["a.txt, byte 4", "UTF-8"]),
        ("a.pdf", "x", ["a.pdf", ".jsonl", "'.pdf'"]),
        ("a.json", '[{"text": "x"}, {"text": 3}]', ["a.json, row 2", "'text'", "found 3"]),
        ("a.json", '{"text": "x"}', ["a.json", "a list of objects", "dict"]),
        ("a.json", '{"text": "x"}\n{"text": "y"}\n', ["a.json", "expected JSON", ".jsonl"]),
    ],
)
def test_a_bad_line_is_named_with_what_was_expected(tmp_path, name, text, words):
    with pytest.raises(ValueError) as error:
        list(read_records(written(tmp_path, name, text)))
    assert all(word in str(error.value) for word in words), error.value


def test_a_json_list_is_read_like_its_lines_and_from_any_row(tmp_path, tok):
    rows = [{"instruction": f"Say {n}.", "input": "", "output": f" {n}"} for n in range(5)]
    listed = written(tmp_path, "a.json", "\ufeff" + json.dumps(rows, indent=2))
    lines = written(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)))
    found = list(read_records(listed))
    assert [(r.prompt, r.text) for r in found] == [(r.prompt, r.text) for r in read_records(lines)]
    assert [r.text for r in read_records(listed, found[1].offset, found[1].line)] == [r.text for r in found[2:]]
    stream, same = Stream(listed, tok), Stream(lines, tok)
    assert all(torch.equal(next(stream)["input_ids"], next(same)["input_ids"]) for _ in range(7))


def test_a_missing_file_and_a_wrong_length_are_errors(tmp_path, tok):
    with pytest.raises(ValueError, match=r"no file .*b\.txt"):
        read_data(tmp_path / "b.txt", tok)
    with pytest.raises(ValueError, match="max_length=1"):
        read_data([], tok, max_length=1)
    with pytest.raises(ValueError, match="give max_length"):
        read_data([], tok, pack=True)
    with pytest.raises(ValueError, match="only once"):
        Stream(iter([{"text": "x"}]), tok)
    with pytest.raises(ValueError, match="no record"):
        Stream(written(tmp_path, "a.txt", "\n\n"), tok)


def test_a_bad_last_line_stops_a_stream_before_it_begins(tmp_path, tok):
    path = written(tmp_path, "a.jsonl", '{"text": "x"}\n' * 5 + "{}\n")
    with pytest.raises(ValueError, match="line 6"):
        Stream(path, tok)


def test_only_the_completion_is_learnt(tok):
    (example,) = read_data([{"prompt": "Mia found", "completion": " a red kite."}], tok)
    end, asked, said = tok.eos_token_id, *tok(["Mia found", " a red kite."], add_special_tokens=False)["input_ids"]
    learnt = example["labels"][example["labels"] != -100]
    assert learnt.tolist() == [*said, end]
    assert example["input_ids"].tolist() == [end, *asked, *said, end]
    assert (example["labels"][: 1 + len(asked)] == -100).all()
    with pytest.raises(ValueError, match=rf"row 1 .* take {len(example['input_ids'])} tokens, more than max_length=6"):
        read_data([{"prompt": "Mia found", "completion": " a red kite."}], tok, max_length=6)


def test_a_long_text_is_cut_into_pieces_that_predict_every_token_once(tok):
    whole = read_data([{"text": " ".join(TEXTS)}], tok)[0]["input_ids"]
    pieces = read_data([{"text": " ".join(TEXTS)}], tok, max_length=5)
    assert len(pieces) > 3 and all(2 <= len(p["input_ids"]) <= 5 for p in pieces)
    learnt = [t for p in pieces for t in p["labels"][p["labels"] != -100].tolist()]
    assert learnt == whole[1:].tolist() and whole[0] == whole[-1] == tok.eos_token_id


def test_packed_rows_hold_all_examples_and_no_target_across_them(tok):
    rows = [{"text": t} for t in TEXTS * 3]
    single, rows_of = read_data(rows, tok, max_length=24), read_data(rows, tok, max_length=24, pack=True)
    assert len(rows_of) < len(single) and max(len(r["input_ids"]) for r in rows_of) <= 24
    assert torch.equal(torch.cat([r["input_ids"] for r in rows_of]), torch.cat([e["input_ids"] for e in single]))
    targets = lambda found: [t for e in found for t in e["labels"][1:].tolist() if t != -100]  # noqa: E731
    assert targets(rows_of) == targets(single)
    for row in rows_of:
        starts = (row["position_ids"] == 0).nonzero().flatten()
        assert row["segments"].unique().tolist() == list(range(len(starts))) and (row["labels"][starts] == -100).all()


@EVERY
@pytest.mark.parametrize("pack, most", [(False, None), (False, 5), (True, 24), (True, 5)])
def test_a_stream_goes_on_from_any_position_with_the_next_example(make, pack, most, tmp_path, tok):
    source = make(tmp_path)
    stream, seen = Stream(source, tok, max_length=most, pack=pack), []
    for _ in range(25):  # more than one pass
        position = json.loads(json.dumps(stream.position))
        seen.append((position, next(stream)))
    once = read_data(source, tok, max_length=most, pack=pack)
    if not pack:  # a packed row may hold the end and the beginning of the file
        assert all(torch.equal(row["input_ids"], once[i % len(once)]["input_ids"]) for i, (_, row) in enumerate(seen))
    assert seen[0][0] == START
    for number, (position, _) in enumerate(seen):
        again = Stream(source, tok, max_length=most, pack=pack, check=False)
        again.seek(position)
        for _, row in seen[number:]:
            assert all(torch.equal(row[key], value) for key, value in next(again).items())


def test_a_position_that_is_none_is_refused(tok):
    stream = Stream([{"text": "x y z"}], tok)
    for wrong in ({}, {"offset": -1, "line": 1, "pieces": 0}, {"offset": 0, "line": 1, "pieces": 0, "row": 2}):
        with pytest.raises(ValueError, match="no position of a stream"):
            stream.seek(wrong)
    assert stream.position == START


def test_a_packed_row_of_one_example_is_that_example(tok):
    (example,) = read_data([{"text": TEXTS[0]}], tok)
    row = packed([example])
    assert torch.equal(row["input_ids"], example["input_ids"]) and torch.equal(row["labels"], example["labels"])
