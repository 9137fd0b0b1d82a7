"""Your own data, record by record: a text file, JSONL, CSV, or the rows of a dataset, each with its place.

A reader knows where it is: after every record it can say the byte where the next one begins, so that a file larger
than memory is read once, from anywhere. A record that cannot be used raises ValueError with the file, the line and
what was expected.
"""

import csv
import json
from dataclasses import dataclass
from pathlib import Path

from .layouts import EXPECTED, LAYOUTS, layout_of, parts_of


@dataclass(frozen=True)
class Record:
    """One record. `prompt` is read but not learnt (empty for plain text); `text` is learnt; `place` names its line.

    offset, line  where the next record begins: a byte of the file and its line, or the number of a dataset's row
    layout        which of `layouts.LAYOUTS` the row has
    messages      the record as a conversation, ((role, content), …), where it is one
    """

    prompt: str
    text: str
    place: str
    offset: int
    line: int
    layout: str = "text"
    messages: tuple = ()


def read_records(source, offset=0, line=1):
    """Yield the records of a file or dataset, beginning at a byte `offset` (a row, for a dataset) and its line.

    source  a path that ends in .txt or .md (a record is a paragraph: blank lines separate), .jsonl, .json (one list)
            or .csv, or a `datasets` dataset or any other iterable of dicts. Keys and columns: see `layouts`; all rows
            of a source have the same
    """
    first = None
    for record in _read(source, offset, line):
        first = first or record
        if record.layout != first.layout:
            here, there = (" and ".join(map(repr, LAYOUTS[one.layout])) for one in (record, first))
            raise ValueError(
                f"{record.place}: this one has {here}, but {first.place} has {there}. Put them into separate files."
            )
        yield record


def _read(source, offset, line):
    if not isinstance(source, str | Path):
        yield from _rows(source, offset)
        return
    path = Path(source)
    kinds = {".txt": _paragraphs, ".md": _paragraphs, ".jsonl": _json_lines, ".json": _json_list, ".csv": _table}
    if path.suffix.lower() not in kinds:
        raise ValueError(f"{path.name}: data is a file that ends in {', '.join(kinds)}, not {path.suffix!r}.")
    if not path.is_file():
        raise ValueError(f"there is no file {path}.")
    yield from kinds[path.suffix.lower()](path, offset, line)


def _lines(path, file):
    """(text, line break included) of each line from here on; a file may begin with a byte order mark."""
    while raw := file.readline():
        try:
            yield raw.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            where = f"{path.name}, byte {file.tell() - len(raw) + error.start}"
            raise ValueError(f"{where}: expected text in UTF-8. Save the file as UTF-8.") from None


def _paragraphs(path, offset, line):
    with open(path, "rb") as file:
        file.seek(offset)
        held, began = [], line
        for text in _lines(path, file):
            line += 1
            if text.strip():
                began = began if held else line - 1
                held.append(text.rstrip("\r\n"))
            elif held:
                yield Record("", "\n".join(held), f"{path.name}, line {began}", file.tell(), line)
                held = []
        if held:
            yield Record("", "\n".join(held), f"{path.name}, line {began}", file.tell(), line)


def _json_lines(path, offset, line):
    with open(path, "rb") as file:
        file.seek(offset)
        for text in _lines(path, file):
            place, line = f"{path.name}, line {line}", line + 1
            if not text.strip():
                continue
            try:
                row = json.loads(text)
            except json.JSONDecodeError as error:
                at = f"{error.msg} at character {error.colno}"
                raise ValueError(f"{place}: expected a JSON object with {EXPECTED}; {at}.") from None
            yield _record(row, place, file.tell(), line)


def _json_list(path, offset, line):
    """The rows of a JSON file that is one list, as Alpaca's is; it is read whole, and `offset` counts rows."""
    try:
        rows = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path.name}: expected JSON in UTF-8; {error}. One object a line is .jsonl.") from None
    if not isinstance(rows, list):
        raise ValueError(f"{path.name}: expected a list of objects with {EXPECTED}; it is a {type(rows).__name__}.")
    for number, row in enumerate(rows[offset:], offset + 1):
        yield _record(row, f"{path.name}, row {number}", number, number + 1)


def _table(path, offset, line):
    with open(path, "rb") as file:
        count = [1]

        def counted():
            for text in _lines(path, file):
                count[0] += text.count("\n") or 1
                yield text

        header = next(csv.reader(counted()), None)
        if header is None or not any(set(keys) <= set(header) for keys in LAYOUTS.values()):
            raise ValueError(f"{path.name}, line 1: expected a header with {EXPECTED}; it is {header}.")
        if layout_of(dict.fromkeys(header), f"{path.name}, line 1") == "messages":
            raise ValueError(f"{path.name}, line 1: a conversation is a list, and a cell holds none. Use .jsonl.")
        if offset:
            file.seek(offset)
            count[0] = line
        rows = csv.reader(counted(), strict=True)
        while True:
            place = f"{path.name}, line {count[0]}"
            try:
                cells = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                raise ValueError(f"{place}: expected {len(header)} cells; {error}.") from None
            if not cells:
                continue
            if len(cells) != len(header):
                raise ValueError(f"{place}: expected {len(header)} cells, found {len(cells)}.")
            yield _record(dict(zip(header, cells, strict=True)), place, file.tell(), count[0])


def _rows(dataset, start):
    skipped = dataset.skip(start) if start and hasattr(dataset, "skip") else dataset
    for number, row in enumerate(skipped, start if skipped is not dataset else 0):
        if number >= start:
            yield _record(row, f"row {number + 1} of the dataset", number + 1, number + 2)


def _record(row, place, offset, line):
    """A dict to a Record; a field that is missing, empty or no text is an error that says which."""
    layout = layout_of(row, place)
    prompt, text, messages = parts_of(row, layout, place)
    return Record(prompt, text, place, offset, line, layout, messages)
