"""Bad input for the data floor: each is a DataError that names the value, the place and the fix."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from facetrm.core.errors import DataError
from facetrm.data.pack import read_objectives, read_pack
from facetrm.data.read.files import read_preferences, read_ratings

U = {"role": "user", "content": "Hi"}
A = {"role": "assistant", "content": "Hello"}
B = {"role": "assistant", "content": "Bye"}
GOOD = {"messages": [U, A], "ratings": {"a": 1}}
PAIR = {"prompt": [U], "responses": [A, B]}


def lines(*rows: Any) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


# (bytes of the file, what the message must hold: value, place, fix)
BAD_RATINGS: dict[str, tuple[bytes, list[str]]] = {
    "not JSON": (lines(GOOD) + b'{"messages": [\n', [":2:", "not JSON", '{"messages": [', "one JSON object per line"]),
    "a list": (lines(GOOD, [1, 2]), [":2:", "[1, 2]", "a list, not an object"]),
    "a bare number": (b"7\n", [":1:", "7 is a int, not an object"]),
    "a JSON array over many lines": (b"[\n" + lines(GOOD) + b"]\n", [":1:", "not JSON", "one JSON object per line"]),
    "not UTF-8": (lines(GOOD) + b'{"messages": "caf\xe9"}\n', [":2:", "0xe9", "position 17", "UTF-8"]),
    "UTF-16": (json.dumps(GOOD).encode("utf-16"), [":1:", "0xff", "save the file as UTF-8"]),
    "nested too deeply": (b'{"meta": ' + b"[" * 100_000 + b"\n", [":1:", "nested too deeply"]),
    "a key twice": (b'{"messages": [], "messages": []}\n', [":1:", "'messages' appears twice", "fix the line"]),
    "a lone surrogate": (
        lines({**GOOD, "messages": [U, {"role": "assistant", "content": "\ud800"}]}),
        [":1:", "half a character ('\\ud800')", "both halves"],
    ),
    "a rating as text": (lines(GOOD, {**GOOD, "ratings": {"a": "4"}}), [":2:", "ratings.a", "'4'", "unquoted"]),
    "an infinite rating": (b'{"messages": [], "ratings": {"a": Infinity}}', [":1:", "ratings.a", "inf", "finite"]),
    "a huge integer": (b'{"messages": [], "ratings": {"a": 1%s}}' % (b"0" * 400), [":1:", "ratings.a", "finite"]),
    "a list of ratings": (lines({**GOOD, "ratings": [1, 2]}), [":1:", "'ratings' is [1, 2]", "{objective: number}"]),
    "no messages": (lines(GOOD, {"ratings": {"a": 1}}), [":2:", "'messages' is missing", "add 'messages'"]),
    "messages are text": (lines({**GOOD, "messages": "Hi"}), [":1:", "'messages' is 'Hi'", "write a list of"]),
    "no message at all": (lines({**GOOD, "messages": []}), [":1:", "'messages' is []", "at least 1 item"]),
    "ends with the user": (
        lines({**GOOD, "messages": [U, A, U]}),
        [":1:", "not with 'user'", "end with the assistant"],
    ),
    "no prompt": (lines({**GOOD, "messages": [A]}), [":1:", "Hello", "give the prompt"]),
    "a blank turn": (
        lines({**GOOD, "messages": [{"role": "user", "content": " \n"}, A]}),
        [":1:", "messages.0.content", "' \\n'", "write the text of the turn"],
    ),
    "an unknown role": (
        lines({**GOOD, "messages": [{"role": "bot", "content": "x"}, A]}),
        [":1:", "messages.0.role", "'bot'", "'assistant'"],
    ),
    "content that is no text": (
        lines({**GOOD, "messages": [U, {"role": "assistant", "content": [{"type": "text"}]}]}),
        [":1:", "messages.1.content", "{'type': 'text'}", "valid string"],
    ),
    "a field too much in a message": (
        lines({**GOOD, "messages": [{**U, "name": "Ann"}, A]}),
        [":1:", "messages.0.name", "'Ann'", "'role' and 'content'"],
    ),
    "a message without a role": (
        lines({**GOOD, "messages": [{"content": "x"}, A]}),
        [":1:", "'messages.0.role' is missing", "add 'role'"],
    ),
    "an unknown column": (lines({**GOOD, "tasks": "qa"}), [":1:", "'tasks' ('qa')", "did you mean 'task'?"]),
    "meta that is no object": (lines({**GOOD, "meta": [1]}), [":1:", "'meta' is [1]", "object"]),
    "an id that is a number": (lines({**GOOD, "id": 5}), [":1:", "'id' is 5", "valid string"]),
    "columns that mean nothing": (lines({"x": "y"}), ["bad.jsonl:", "['x']", "messages, ratings"]),
    "preferences": (lines(PAIR), ["bad.jsonl:", "hold preferences (facetrm)", "read it as preferences"]),
}

BAD_PREFERENCES: dict[str, tuple[bytes, list[str]]] = {
    "one response": (lines({**PAIR, "responses": [A]}), [":1:", "'responses'", "at least 2 items"]),
    "ends with the assistant": (lines({**PAIR, "prompt": [U, A]}), [":1:", "not with 'assistant'", "user message"]),
    "a response by the user": (lines({**PAIR, "responses": [A, U]}), [":1:", "must be an assistant message", "'user'"]),
    "strength above 1": (lines({**PAIR, "strength": 1.5}), [":1:", "'strength' is 1.5", "less than or equal to 1"]),
    "strength below 0": (lines({**PAIR, "strength": -1}), [":1:", "'strength' is -1", "greater than or equal to 0"]),
    "strength NaN": (lines({**PAIR, "strength": float("nan")}), [":1:", "'strength' is nan"]),
    "strength as text": (lines({**PAIR, "strength": "0.5"}), [":1:", "'strength' is '0.5'", "unquoted"]),
    "no rejected": (lines({"prompt": "q", "chosen": "a", "rejected": None}), [":1:", "'rejected' is missing"]),
    "a negative margin": (
        lines({"prompt": "q", "chosen": "a", "rejected": "b", "margin": -1}),
        [":1:", "'margin' is -1", "swap the pair"],
    ),
    "nothing shared": (lines({"chosen": "one two", "rejected": "three"}), [":1:", "'one two'", "add 'prompt'"]),
    "the same text": (lines({"chosen": "one two", "rejected": "one two"}), [":1:", "are the same", "drop the row"]),
    "two answers in a row": (
        lines({"chosen": [U, A, B], "rejected": [U, B]}),
        [":1:", "'chosen' has 2 messages", "share every turn but the last"],
    ),
    "a prompt that is not in the conversations": (
        lines({"prompt": "other", "chosen": [U, A], "rejected": [U, B]}),
        [":1:", "'prompt' is 'other', not in 'chosen'"],
    ),
    "messages that are strings": (
        lines({"prompt": ["x"], "chosen": ["a", "b"], "rejected": ["a", "c"]}),
        [":1:", "'prompt' is ['x']", "write a list of"],
    ),
    "a transcript and something else": (
        lines({"chosen": "\n\nHuman: x\n\nAssistant: y", "rejected": "z"}),
        [":1:", "starts with 'z'", "Human:"],
    ),
}


def check(error: DataError, wanted: list[str]) -> None:
    message = str(error)
    for part in wanted:
        assert part in message, f"{part!r} is not in: {message}"
    assert error.place is not None
    assert "bad.jsonl" in error.place
    assert error.fix


@pytest.mark.parametrize("name", BAD_RATINGS)
def test_bad_ratings(name: str, tmp_path: Path) -> None:
    data, wanted = BAD_RATINGS[name]
    (tmp_path / "bad.jsonl").write_bytes(data)
    with pytest.raises(DataError) as caught:
        read_ratings(tmp_path / "bad.jsonl")
    check(caught.value, wanted)


@pytest.mark.parametrize("name", BAD_PREFERENCES)
def test_bad_preferences(name: str, tmp_path: Path) -> None:
    data, wanted = BAD_PREFERENCES[name]
    (tmp_path / "bad.jsonl").write_bytes(data)
    with pytest.raises(DataError) as caught:
        read_preferences(tmp_path / "bad.jsonl")
    check(caught.value, wanted)


WHOLE_FILES = {"columns that mean nothing", "preferences", "UTF-16", "a JSON array over many lines"}


@pytest.mark.parametrize("name", [name for name in BAD_RATINGS if name not in WHOLE_FILES])
def test_bad_rows_are_skipped_one_by_one(name: str, tmp_path: Path) -> None:
    data, _ = BAD_RATINGS[name]
    bad = [line for line in data.splitlines() if line and line != lines(GOOD).strip()]
    (tmp_path / "bad.jsonl").write_bytes(lines(GOOD) + b"\n".join(bad) + b"\n" + lines(GOOD))
    assert len(read_ratings(tmp_path / "bad.jsonl", on_error="skip")) == 2
    aside = (tmp_path / "bad.skipped.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(row)["line"] for row in aside] == [2]


def test_truncated_gzip(tmp_path: Path) -> None:
    whole = gzip.compress(lines(*[{**GOOD, "id": str(n)} for n in range(2000)]))
    path = tmp_path / "cut.jsonl.gz"
    path.write_bytes(whole[: len(whole) // 2])
    for on_error in ("raise", "skip"):
        with pytest.raises(DataError, match=r"cut\.jsonl\.gz:\d+: the gzip stream ends early; copy the file again"):
            read_ratings(path, on_error=on_error)  # type: ignore[arg-type]


def test_not_gzip(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl.gz").write_bytes(lines(GOOD))
    with pytest.raises(DataError, match=r"x\.jsonl\.gz:1: not gzip .*; copy the file again"):
        read_ratings(tmp_path / "x.jsonl.gz")


def test_damaged_gzip(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(lines(*[{**GOOD, "id": str(n)} for n in range(2000)])))
    data[len(data) // 2] ^= 0xFF
    (tmp_path / "x.jsonl.gz").write_bytes(bytes(data))
    with pytest.raises(DataError, match=r"x\.jsonl\.gz"):
        read_ratings(tmp_path / "x.jsonl.gz")


def test_not_parquet(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(DataError, match=r"x\.parquet: not a Parquet file"):
        read_ratings(tmp_path / "x.parquet")


def test_a_bad_parquet_row_is_named_by_its_number(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([{"messages": [U, A], "a": 1.0}, {"messages": [U], "a": 2.0}])
    pq.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"x\.parquet:2: 'messages' is .*end with the assistant"):
        read_ratings(tmp_path / "x.parquet")


@pytest.mark.parametrize(
    ("name", "message"),
    [("absent.jsonl", "no such file"), ("x.txt", r"a '\.txt' file, not one of \.jsonl"), ("", "a folder, not one of")],
)
def test_no_such_file(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("a,b")
    with pytest.raises(DataError, match=message):
        read_ratings(tmp_path / name)


def test_on_error_is_checked(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(lines(GOOD))
    with pytest.raises(DataError, match="on_error is 'ignore'; write 'raise' or 'skip'"):
        read_ratings(tmp_path / "x.jsonl", on_error="ignore")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("", "None is not a list of objectives; start with '- name"),
        ("name: a", r"\{'name': 'a'\} is not a list"),
        ("- a\n", "entry 1 is 'a'"),
        ("- name: a\n  low: 0\n", r"entry 1 \(a\): 'high' is missing; add 'high'"),
        ("- name: a\n  low: 0\n  high: four\n", r"entry 1 \(a\): 'high' is 'four'"),
        ("- name: a\n  low: 4\n  high: 0\n", r"the range is \{'low': 4, 'high': 0\}; low 4.0 must be below high 0.0"),
        ("- {name: a, low: 1, high: 5, kind: boolean}", "boolean objective has low 0 and high 1"),
        ("- {name: a, low: 0, high: 4, kind: likert}", "'kind' is 'likert'"),
        ("- {name: a, low: 0, high: 4, directoin: lower}", "unknown key 'directoin'; known: name, low, high"),
        ("- {name: a, low: 0, high: 4}\n- {name: a, low: 0, high: 1}", "'a' is declared twice"),
        ("- name: [a\n", r"objectives\.yaml:\d+:\d+: not YAML"),
    ],
)
def test_bad_objectives(yaml: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "objectives.yaml").write_text(yaml)
    with pytest.raises(DataError, match=message):
        read_objectives(tmp_path / "objectives.yaml")


def test_bad_packs(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file 'sources\.json'; give the folder of a pack"):
        read_pack(tmp_path)
    (tmp_path / "sources.json").write_text("{}")
    with pytest.raises(DataError, match="no attribute under 'rated'"):
        read_pack(tmp_path)
    attribute = {"min": 0, "max": 1, "type": "binary", "direction": "up"}
    (tmp_path / "sources.json").write_text(json.dumps({"rated": {"s": {"attributes": {"s-a": attribute}}}}))
    with pytest.raises(DataError, match=r"sources\.json: s: s-a: 'direction' is 'up'; write one of higher_is_better"):
        read_pack(tmp_path)
    attribute["direction"] = "higher_is_better"
    (tmp_path / "sources.json").write_text(json.dumps({"rated": {"s": {"attributes": {"s-a": attribute}}}}))
    with pytest.raises(DataError, match=r"no rated\.jsonl\.gz"):
        read_pack(tmp_path)
