"""A file of scores: written as it comes, continued by the same command, one writer at a time, bad rows counted."""

from __future__ import annotations

import errno
import json
import os
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from facetrm.backbone.encoder import Features
from facetrm.core.errors import BackboneError, DataError, StoreError
from facetrm.core.locks import sole_writer
from facetrm.data.read.conversations import RefusedRow, ScoringRow, stream_all_rows
from facetrm.data.records import Conversation
from facetrm.model.reward_model import RewardModel
from facetrm.recipes import score_file, scoring
from facetrm.recipes.score_file import ScoreCount, write_scores
from fakes import HashEncoder, chat
from killing import deaths
from reward_models import HIDDEN, mixture
from tiny_runs import write_rows

ROWS = [
    {"id": f"r{n}", "messages": [m.model_dump() for m in chat(f"question {n} about sums", f"answer {n}")]}
    for n in range(20)
]
PAIR = {"prompt": "p", "chosen": "unreadable", "rejected": "fine"}


class Picky(HashEncoder):
    """Refuses answers that say so, as a backbone refuses what is too long; counts what it reads."""

    def encode(self, conversations: Sequence[Conversation], **settings: Any) -> Features:
        for n, conversation in enumerate(conversations):
            if "unreadable" in conversation[-1].content:
                error = BackboneError("too long", place=f"conversation {n}", fix="cut it")
                error.row = n
                raise error
        return super().encode(conversations, **settings)


def picky(seed: int = 0) -> RewardModel:
    return RewardModel(Picky(HIDDEN, seed=seed), {"all": mixture()})


def read(model: RewardModel) -> int:
    encoder = model.encoder
    assert isinstance(encoder, HashEncoder)
    return encoder.rows


def bad(n: int) -> dict[str, Any]:
    question, answer = ROWS[n]["messages"]
    return {"id": f"bad{n}", "messages": [question, {**answer, "content": "unreadable"}]}


def score(model: RewardModel, data: Path, out: Path, *, skip: bool = False) -> ScoreCount:
    return write_scores(model, stream_all_rows(data), out, skip=skip, data=data)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "_CHUNK", 4)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    return write_rows(tmp_path / "in" / "rows.jsonl", ROWS)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out" / "s.jsonl"


def test_a_whole_file(data: Path, out: Path) -> None:
    count = score(picky(), data, out)
    assert (count.scores, count.found, count.skipped) == (20, 0, 0)
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    own = picky().score([row.answers[0] for row in stream_all_rows(data) if isinstance(row, ScoringRow)])
    assert lines == [{"id": f"r{n}", "answer": 0, **one.to_dict()} for n, one in enumerate(own)]
    assert names(out.parent) == ["s.jsonl"]


def test_what_was_scored_before_a_bad_row_is_kept_and_not_scored_again(data: Path, out: Path) -> None:
    whole = out.with_name("whole.jsonl")
    score(picky(), data, whole)
    out.write_text("an earlier file\n", encoding="utf-8")
    write_rows(data, [*ROWS[:13], bad(13), *ROWS[14:]])
    with pytest.raises(BackboneError, match=r"rows\.jsonl:14 \(id 'bad13'\): too long"):
        score(picky(), data, out)
    assert out.read_text(encoding="utf-8") == "an earlier file\n"
    assert len((out.parent / "s.jsonl.partial").read_text(encoding="utf-8").splitlines()) == 12
    write_rows(data, ROWS)
    model = picky()
    count = score(model, data, out)
    assert (count.scores, count.found, read(model)) == (20, 12, 8)
    assert out.read_bytes() == whole.read_bytes()
    assert names(out.parent) == ["s.jsonl", "whole.jsonl"]


def test_skipping_goes_on_from_an_error(data: Path, out: Path) -> None:
    write_rows(data, [*ROWS[:13], bad(13), "{no json", {"messages": []}, *ROWS[14:]])
    with pytest.raises(BackboneError):
        score(picky(), data, out)
    count = score(picky(), data, out, skip=True)
    assert (count.scores, count.found, count.skipped) == (19, 12, 3)
    assert count.side == out.parent / "s.skipped.jsonl"
    side = [json.loads(line) for line in count.side.read_text(encoding="utf-8").splitlines()]
    assert [row.get("id") for row in side] == ["bad13", None, None]
    for row, said in zip(
        side, ("rows.jsonl:14 (id 'bad13'): too long", "rows.jsonl:15: not JSON", ":16:"), strict=True
    ):
        assert said in row["reason"]
    assert side[0]["row"] == bad(13)
    assert [json.loads(line)["id"] for line in out.read_text(encoding="utf-8").splitlines()] == [
        row["id"] for n, row in enumerate(ROWS) if n != 13
    ]
    assert score(picky(), write_rows(data, ROWS), out, skip=True).skipped == 0
    assert names(out.parent) == ["s.jsonl"], "an earlier side file says nothing about these scores"


def test_a_pair_is_skipped_whole(data: Path, out: Path) -> None:
    good = {"prompt": "p", "chosen": "a", "rejected": "b"}
    write_rows(data, [good, PAIR, good])
    assert score(picky(), data, out, skip=True).scores == 4
    assert score(picky(), data, out, skip=True).skipped == 1


def test_nothing_to_score_is_an_error(data: Path, out: Path) -> None:
    write_rows(data, [bad(0), bad(1)])
    with pytest.raises(DataError, match=r"none of 2 rows can be scored; the first: .*too long"):
        score(picky(), data, out, skip=True)
    assert names(out.parent) == []


@pytest.mark.parametrize("change", ["model", "first row", "mode"])
def test_other_questions_are_not_answered_by_what_is_there(
    change: str, data: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(data, [*ROWS[:13], bad(13)])
    with pytest.raises(BackboneError):
        score(picky(), data, out)
    write_rows(data, ROWS[:13])
    model = picky(seed=int(change == "model"))
    if change == "first row":
        write_rows(data, [ROWS[1], *ROWS[1:13]])
    if change == "mode":
        monkeypatch.setattr(Picky, "mode", "fast")
    assert score(model, data, out).found == 0
    assert read(model) == 13


@pytest.mark.parametrize("damage", ["torn line", "no index", "index of nothing", "short file"])
def test_what_is_there_is_used_only_where_the_index_vouches_for_it(damage: str, data: Path, out: Path) -> None:
    score(picky(), data, out)
    whole = out.read_bytes()
    out.unlink()
    write_rows(data, [*ROWS[:13], bad(13), *ROWS[14:]])
    with pytest.raises(BackboneError):
        score(picky(), data, out)
    write_rows(data, ROWS)
    partial, index = out.parent / "s.jsonl.partial", out.parent / ".s.jsonl.partial.index"
    found = 12
    if damage == "torn line":
        partial.write_bytes(partial.read_bytes() + b'{"id": "r12", "ans')
        index.write_bytes(index.read_bytes() + b'{"key": "x", "sc')
    elif damage == "no index":
        index.unlink()
        found = 0
    elif damage == "index of nothing":
        partial.unlink()
        found = 0
    else:
        partial.write_bytes(partial.read_bytes()[:-1])
        found = 8
    assert score(picky(), data, out).found == found
    assert out.read_bytes() == whole
    assert names(out.parent) == ["s.jsonl"]


def test_a_writer_may_die_anywhere(data: Path, out: Path) -> None:
    write_rows(data, [*ROWS[:9], bad(9), *ROWS[10:]])
    score(picky(), data, out, skip=True)
    whole = {path.name: path.read_bytes() for path in out.parent.iterdir()}

    def start() -> None:
        for path in out.parent.iterdir():
            path.unlink()

    found = []
    for _ in deaths(lambda: score(picky(), data, out, skip=True), start=start):
        found.append(score(picky(), data, out, skip=True).found)
        assert {path.name: path.read_bytes() for path in out.parent.iterdir()} == whole
    assert max(found) >= 16


def test_a_second_writer_is_told_who_writes(data: Path, out: Path) -> None:
    def rows() -> Iterator[ScoringRow | RefusedRow]:
        yield from stream_all_rows(data)
        with pytest.raises(StoreError, match=rf"s\.jsonl: another process is writing to it \(process {os.getpid()}"):
            score(picky(1), data, out)

    write_scores(picky(), rows(), out, data=data)
    assert json.loads(out.read_text(encoding="utf-8").splitlines()[0])["model"] == picky().hash
    assert names(out.parent) == ["s.jsonl"]


def test_rows_are_scored_as_they_come(data: Path, out: Path) -> None:
    """No list of all rows or scores is made: the first chunk is on the disk before the third is read."""

    def rows() -> Iterator[ScoringRow | RefusedRow]:
        for n, row in enumerate(stream_all_rows(data)):
            assert n < 8 or len((out.parent / "s.jsonl.partial").read_bytes().splitlines()) >= 4
            yield row

    assert write_scores(picky(), rows(), out, data=data).scores == 20


def test_a_full_disk_keeps_whole_chunks_and_names_the_file(
    data: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 6:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(score_file.os, "fsync", full)
        with pytest.raises(OSError, match=r"s\.jsonl") as caught:
            score(picky(), data, out)
    assert caught.value.errno == errno.ENOSPC
    assert len((out.parent / "s.jsonl.partial").read_text(encoding="utf-8").splitlines()) % 4 == 0
    assert score(picky(), data, out).found > 0


def test_a_disk_that_is_full_at_once_is_left_as_it_was(data: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(score_file.os, "fsync", full)
    with pytest.raises(OSError, match=r"s\.jsonl"):
        score(picky(), data, out)
    assert names(out.parent) == []


def test_an_output_that_is_a_link(data: Path, out: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    out.symlink_to(tmp_path / "disk" / "far.jsonl")
    assert score(picky(), data, out).scores == 20
    assert out.is_symlink()
    assert names(tmp_path / "disk") == ["far.jsonl"]


def test_an_output_that_is_a_device_or_a_pipe(data: Path, out: Path) -> None:
    assert score(picky(), data, Path(os.devnull)).scores == 20
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)
    os.mkfifo(out)
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(out.read_bytes()))
    reader.start()
    score(picky(), data, out)
    reader.join()
    assert len(found[0].splitlines()) == 20
    assert names(out.parent) == ["s.jsonl"]
    if Path("/dev/full").exists():
        with pytest.raises(OSError, match="/dev/full"):
            score(picky(), data, Path("/dev/full"))


PLANTED: dict[str, Callable[[Path, Path], object]] = {
    "a link": lambda path, victim: path.symlink_to(victim),
    "a second name": lambda path, victim: path.hardlink_to(victim),
    "a pipe": lambda path, victim: os.mkfifo(path),
}


@pytest.mark.parametrize("name", PLANTED)
@pytest.mark.parametrize("place", ["s.jsonl.partial", ".s.jsonl.partial.index", ".s.jsonl.lock"])
def test_what_is_planted_is_not_written_through(place: str, name: str, data: Path, out: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious", encoding="utf-8")
    PLANTED[name](out.parent / place, victim)
    if place.endswith("lock") and name == "a second name":
        return  # a lock file holds nothing, and is written by its name's owner
    with pytest.raises((StoreError, OSError), match=r"s\.jsonl"):
        score(picky(), data, out)
    assert victim.read_text(encoding="utf-8") == "precious"


def test_a_missing_file_of_rows_does_not_cost_the_scores_so_far(data: Path, out: Path) -> None:
    write_rows(data, [*ROWS[:13], bad(13), *ROWS[14:]])
    with pytest.raises(BackboneError):
        score(picky(), data, out)

    def nothing() -> Iterator[ScoringRow]:
        raise DataError("no such file")
        yield

    for model in (picky(), picky(1)):
        with pytest.raises(DataError):
            write_scores(model, nothing(), out, data=data)
    assert score(picky(), write_rows(data, ROWS), out).found == 12


def test_the_lock_of_a_killed_writer_is_no_obstacle(data: Path, out: Path) -> None:
    with sole_writer(out.parent, name=".other.lock"):
        (out.parent / ".s.jsonl.lock").write_text('{"pid": 1, "host": "x", "since": "y"}', encoding="utf-8")
        assert score(picky(), data, out).scores == 20
    assert names(out.parent) == ["s.jsonl"]
