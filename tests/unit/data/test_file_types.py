"""Every type of file gives the same rows: Parquet types, CSV, JSON, standard input; unused columns never matter."""

from __future__ import annotations

import datetime
import io
import json
import sys
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from facetrm.core.errors import DataError
from facetrm.data.read.conversations import read_conversations
from facetrm.data.read.files import read_preferences, read_ratings

U = {"role": "user", "content": 'how "do" i\nboil an egg ?'}
A = {"role": "assistant", "content": "put it in\nhot water ."}
B = {"role": "assistant", "content": "ask a chicken ."}
TEXT = {"prompt": "how ?", "chosen": "in water", "rejected": "in milk"}


def contents(path: Path) -> list[list[str]]:
    return [[m.content for m in answer] for row in read_conversations(path) for answer in row.answers]


def as_json(rows: list[Any]) -> pa.Array:
    return pa.ExtensionArray.from_storage(pa.json_(pa.string()), pa.array([json.dumps(row) for row in rows]))


def test_parquet_columns_of_json_type_are_parsed(tmp_path: Path) -> None:
    parts = {"role": "user", "content": [{"type": "text", "text": "and then ?"}]}
    content = as_json([U["content"], parts["content"]])
    mixed = pa.StructArray.from_arrays([pa.array(["user", "user"]), content], names=["role", "content"])
    prompt = pa.ListArray.from_arrays([0, 1, 2], mixed)
    table = pa.table({"prompt": prompt, "chosen": as_json([[A], [A]]), "rejected": as_json([[B], [B]])})
    pq.write_table(table, tmp_path / "x.parquet")
    asked = [U["content"], "and then ?"]
    assert contents(tmp_path / "x.parquet") == [[q, a["content"]] for q in asked for a in (A, B)]
    assert [p.prompt[0].content for p in read_preferences(tmp_path / "x.parquet")] == asked


def test_parquet_maps_and_dictionaries(tmp_path: Path) -> None:
    ratings = pa.array([[("a", 1.0), ("b", 2.0)]], type=pa.map_(pa.string(), pa.float64()))
    messages = pa.array([[list(U.items()), list(A.items())]], type=pa.list_(pa.map_(pa.string(), pa.string())))
    pq.write_table(pa.table({"messages": messages, "ratings": ratings}), tmp_path / "x.parquet")
    (rating,) = read_ratings(tmp_path / "x.parquet")
    assert (rating.ratings, [m.model_dump() for m in rating.messages]) == ({"a": 1.0, "b": 2.0}, [U, A])
    coded = {key: pa.array([value]).dictionary_encode() for key, value in TEXT.items()}
    pq.write_table(pa.table(coded), tmp_path / "y.parquet")
    assert contents(tmp_path / "y.parquet") == [["how ?", "in water"], ["how ?", "in milk"]]


UNUSED = {
    "date": pa.array([datetime.datetime(2024, 1, 2)]),
    "bytes": pa.array([b"\x89PNG"]),
    "nan": pa.array([[0.5, float("nan")]]),
    "decimal": pa.array([Decimal("1.5")]),
    "duration": pa.array([datetime.timedelta(days=3)]),
    "latin1": pa.array([b"caf\xe9"], type=pa.binary()).view(pa.string()),
    "year 300000": pa.array([2**62], type=pa.timestamp("us")),
    "no such zone": pa.array([0], type=pa.timestamp("us", tz="Nowhere/Here")),
    "nested date": pa.array([{"x": [datetime.date(2024, 1, 2)]}]),
}


@pytest.mark.parametrize("name", UNUSED)
def test_unused_columns_never_matter(name: str, tmp_path: Path) -> None:
    columns = {key: pa.array([value]) for key, value in TEXT.items()}
    pq.write_table(pa.table({**columns, "extra": UNUSED[name]}), tmp_path / "x.parquet")
    assert contents(tmp_path / "x.parquet") == [["how ?", "in water"], ["how ?", "in milk"]]
    (pair,) = read_preferences(tmp_path / "x.parquet")
    assert pair.meta.keys() == {"extra"}
    assert json.dumps(pair.meta, allow_nan=False)


def test_unused_json_never_matters(tmp_path: Path) -> None:
    line = json.dumps(TEXT)[:-1] + ', "a": NaN, "b": [Infinity], "c": "\\ud800", "d": 1%s}' % ("0" * 5000)
    (tmp_path / "x.jsonl").write_text(line)
    (pair,) = read_preferences(tmp_path / "x.jsonl")
    assert pair.meta == {"b": [None], "c": "\\ud800", "d": None}


def test_a_cell_that_is_read_must_be_text(tmp_path: Path) -> None:
    columns = {key: pa.array([value, value]) for key, value in TEXT.items()}
    columns["chosen"] = pa.array([b"in water", b"caf\xe9"], type=pa.binary()).view(pa.string())
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    for read in (read_conversations, read_preferences):
        with pytest.raises(DataError, match=r"x\.parquet:2: 'chosen' cannot be read \(UnicodeDecodeError: .*UTF-8"):
            read(tmp_path / "x.parquet")


@pytest.mark.parametrize(("suffix", "mark"), [(".csv", ","), (".tsv", "\t")])
def test_tables_of_text(suffix: str, mark: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    lines = [mark.join(("prompt", "response", "a", "id")), mark.join(('"how, ""do""\n i ?"', "in water", "3", "007"))]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join([*lines, "", mark.join(("so ?", "no", "", ""))]).encode())
    first, second = read_ratings(path)
    assert (first.messages[0].content, first.ratings, first.id) == ('how, "do"\n i ?', {"a": 3.0}, "007")
    assert second.ratings == {}
    assert [row.line for row in read_conversations(path)] == [2, 5]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"prompt,response\nq,a\nq\n", r"x\.csv:3: 1 cells for 2 columns"),
        (b"prompt,response\nq,caf\xe9\n", r"x\.csv:2: 'response' is not UTF-8: byte 0xe9"),
        (b'prompt,response\nq,"a" b\n', r"x\.csv:2: not a row of the table"),
        (b"prompt,prompt\nq,a\n", r"x\.csv:1: column 'prompt' appears twice"),
        (b"", r"x\.csv: no row"),
    ],
)
def test_bad_tables(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(data)
    with pytest.raises(DataError, match=message):
        read_conversations(tmp_path / "x.csv")


@pytest.mark.parametrize("value", [[U, A], {"messages": [U, A]}, [{"messages": [U, A]}], [[U, A]]])
def test_a_json_file(value: Any, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps(value, indent=2))
    assert contents(tmp_path / "x.json") == [[U["content"], A["content"]]]


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (json.dumps({"messages": [U, A]}) + "\n" + "{\n").encode()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(lines)))
    with pytest.raises(DataError, match=r"standard input:2: not JSON"):
        read_conversations("-")
