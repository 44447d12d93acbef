"""Records in and out of files: exact round trips, announced conventions, skipped rows that are kept aside."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from facetrm.core.errors import DataError
from facetrm.data.objectives import Objective
from facetrm.data.read.files import read_preferences, read_ratings, write_records
from facetrm.data.records import Message, Preference, Rating

SUFFIXES = [".jsonl", ".jsonl.gz", ".parquet"]
TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


def write_lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def rating(**fields: Any) -> dict[str, Any]:
    return {"messages": TURNS, "ratings": {"a": 1}, **fields}


texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20).filter(lambda t: bool(t.strip()))
numbers = st.floats(allow_nan=False, allow_infinity=False)
jsons = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | numbers | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)
sides = st.fixed_dictionaries(
    {
        "id": st.text(st.characters(codec="utf-8"), max_size=5),
        "source": texts,
        "subset": st.none() | texts,
        "task": st.none() | texts,
        "split": st.none() | texts,
        "meta": st.dictionaries(texts, jsons, max_size=2),
    }
)
names = st.text("abcdefghij-_", min_size=1, max_size=6)
users = st.builds(lambda content: Message(role="user", content=content), texts)
answers = st.builds(lambda content: Message(role="assistant", content=content), texts)
ratings = st.builds(
    lambda side, prompt, answer, values: Rating(**side, messages=(*prompt, answer), ratings=values),
    sides,
    st.lists(users, min_size=1, max_size=3),
    answers,
    st.dictionaries(names, numbers.filter(lambda v: v != -100), max_size=4),
)
preferences = st.builds(
    lambda side, prompt, replies, strength: Preference(
        **side, prompt=tuple(prompt), responses=tuple(replies), strength=strength
    ),
    sides,
    st.lists(users, min_size=1, max_size=3),
    st.lists(answers, min_size=2, max_size=3),
    st.none() | st.floats(0.001, 1.0),
)


@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(records=st.lists(ratings, min_size=1, max_size=4))
def test_ratings_round_trip(records: list[Rating], suffix: str, tmp_path: Path) -> None:
    write_records(tmp_path / f"r{suffix}", records)
    assert read_ratings(tmp_path / f"r{suffix}") == records


@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(records=st.lists(preferences, min_size=1, max_size=4))
def test_preferences_round_trip(records: list[Preference], suffix: str, tmp_path: Path) -> None:
    write_records(tmp_path / f"p{suffix}", records)
    assert read_preferences(tmp_path / f"p{suffix}") == records


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_records_round_trip(suffix: str, tmp_path: Path) -> None:
    write_records(tmp_path / f"none{suffix}", [])
    assert read_ratings(tmp_path / f"none{suffix}") == []


def test_writing_is_deterministic_and_whole(tmp_path: Path) -> None:
    record = Rating(
        messages=(Message(role="user", content="q"), Message(role="assistant", content="a")), ratings={"a": 1}
    )
    write_records(tmp_path / "a.jsonl.gz", [record])
    first = (tmp_path / "a.jsonl.gz").read_bytes()
    write_records(tmp_path / "a.jsonl.gz", [record])
    assert (tmp_path / "a.jsonl.gz").read_bytes() == first
    assert first[4:8] == bytes(4), "no time of writing in the gzip header"
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl.gz"]


def test_the_old_file_stays_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    good = Rating(messages=tuple(Message(**turn) for turn in TURNS), ratings={"a": 1.0})
    write_records(path, [good])
    with pytest.raises(DataError, match=r"record 2: 'meta' is .*Path"):
        write_records(path, [good, good.model_copy(update={"meta": {"x": object(), "where": Path("a")}})])
    with pytest.raises(DataError, match="nan"):
        write_records(path, [good.model_copy(update={"meta": {"x": math.nan}})])
    assert read_ratings(path) == [good]


def test_one_file_holds_one_kind(tmp_path: Path) -> None:
    turns = tuple(Message(**turn) for turn in TURNS)
    pair = Preference(prompt=turns[:1], responses=(turns[1], turns[1]))
    with pytest.raises(DataError, match="Preference and Rating"):
        write_records(tmp_path / "x.jsonl", [Rating(messages=turns, ratings={}), pair])
    with pytest.raises(DataError, match=r"'.csv' file"):
        write_records(tmp_path / "x.csv", [pair])


@pytest.mark.parametrize(
    ("value", "kept"),
    [(None, {}), (math.nan, {}), (-100, {}), (-100.0, {}), (True, {"a": 1.0}), (False, {"a": 0.0}), (0, {"a": 0.0})],
)
def test_missing_marks_and_booleans(value: object, kept: dict[str, float], tmp_path: Path) -> None:
    path = write_lines(tmp_path / "r.jsonl", rating(ratings={"a": value}))
    assert read_ratings(path)[0].ratings == kept


def test_minus_100_is_a_rating_where_the_declared_range_holds_it(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "r.jsonl", rating(ratings={"a": -100}))
    wide = Objective(name="a", low=-100, high=100, kind="continuous")
    assert read_ratings(path, objectives=[wide])[0].ratings == {"a": -100.0}
    assert read_ratings(path, objectives=[Objective(name="a", low=0, high=4)])[0].ratings == {}


def test_byte_order_mark_blank_lines_and_crlf_are_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    line = json.dumps(rating())
    path.write_bytes(b"\xef\xbb\xbf" + f"{line}\r\n\r\n   \n{line}".encode())
    assert len(read_ratings(path)) == 2


def test_objectives_are_checked_when_declared(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "r.jsonl", rating(ratings={"helpfulness": 3}))
    assert read_ratings(path, objectives=[Objective(name="helpfulness", low=0, high=4)])[0].ratings == {
        "helpfulness": 3
    }
    with pytest.raises(DataError, match=r"r\.jsonl:1: 'ratings\.helpfulness' is 3, not 0\.\.2"):
        read_ratings(path, objectives=[Objective(name="helpfulness", low=0, high=2)])
    with pytest.raises(DataError, match=r"(?s)did you mean 'helpfulnes'\?.*- name: helpfulness\n  low: LOWEST"):
        read_ratings(path, objectives=[Objective(name="helpfulnes", low=0, high=4)])


def test_skipped_rows_go_to_a_side_file_and_are_announced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_lines(
        tmp_path / "mine.jsonl", rating(id="good"), rating(ratings={"a": "high"}), [1], rating(id="last")
    )
    kept = read_ratings(path, on_error="skip")
    assert [record.id for record in kept] == ["good", "last"]
    side = [json.loads(line) for line in (tmp_path / "mine.skipped.jsonl").read_text().splitlines()]
    assert sorted(row["line"] for row in side) == [2, 3]
    by_line = {row["line"]: row for row in side}
    assert "'high'" in by_line[2]["reason"]
    assert by_line[2]["row"]["ratings"] == {"a": "high"}
    assert by_line[3]["row"] == "[1]"
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert {"event": "skipped rows", "skipped": 2, "kept": 2}.items() <= events[-1].items()


def test_skipped_rows_of_a_gzip_file_go_where_they_are_told(tmp_path: Path) -> None:
    path = tmp_path / "in" / "mine.jsonl.gz"
    path.parent.mkdir()
    path.write_bytes(gzip.compress((json.dumps(rating()) + "\n\xff\n").encode("latin-1")))
    assert len(read_ratings(path, on_error="skip", skipped_to=tmp_path / "out")) == 1
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine.skipped.jsonl"]
    assert [p.name for p in path.parent.iterdir()] == ["mine.jsonl.gz"]


def test_a_file_of_bad_rows_only_is_an_error_even_when_skipping(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "r.jsonl", rating(ratings=3), rating(ratings=4))
    with pytest.raises(DataError, match=r"r\.jsonl:1: all 2 rows are bad; the first: 'ratings' is 3"):
        read_ratings(path, on_error="skip")


def test_nothing_is_written_aside_when_all_rows_are_good(tmp_path: Path) -> None:
    read_ratings(write_lines(tmp_path / "r.jsonl", rating()), on_error="skip")
    assert [path.name for path in tmp_path.iterdir()] == ["r.jsonl"]
