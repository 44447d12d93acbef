"""The store: what is put is there after any end, one run at a time, and nothing else is taken for a store."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
from pathlib import Path

import pytest

from facetrm.core.errors import StoreError
from facetrm.label.store import LABELS_FILE, LabelStore, StoredAnswer, TokenCost, stored_keys


def answer(verdict: str = "tie", model: str = "m") -> StoredAnswer:
    return StoredAnswer(verdict, f"reply {verdict}", model, 100, 7)  # type: ignore[arg-type]


def test_answers_and_costs_are_there_when_it_is_opened_again(tmp_path: Path) -> None:
    with LabelStore(tmp_path / "new" / "folder") as store:
        store.put({"a": answer("reply_1"), "b": answer("tie", "n")})
        store.put({"a": answer("reply_2")})
        store.spend(3, tokens_in=5, tokens_out=1)
        assert store.spent() == TokenCost(6, 305, 22)
    with LabelStore(tmp_path / "new" / "folder") as store:
        assert store.verdicts() == {"a": "reply_1", "b": "tie"}, "the first answer stands"
        assert store.models() == {"m": 1, "n": 1}
        assert store.spent() == TokenCost(6, 305, 22)
    assert stored_keys(tmp_path / "new" / "folder") == {"a", "b"}
    assert stored_keys(tmp_path / "none") == set()
    assert not (tmp_path / "none").exists()


def snapshot(folder: Path) -> list[tuple[str, bytes, int]]:
    return [(p.name, p.read_bytes() if p.is_file() else b"", p.stat().st_mtime_ns) for p in [folder, *folder.iterdir()]]


def test_keys_are_read_without_a_trace_in_the_folder(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=put_and_die, args=(str(tmp_path),))
    process.start()
    process.join(60)
    before = snapshot(tmp_path)
    assert len(before) > 2, "the last answers are in the log beside the file"
    assert stored_keys(tmp_path) == {f"key {n}" for n in range(5)}
    assert snapshot(tmp_path) == before
    with LabelStore(tmp_path) as store:
        store.put({"more": answer()})
        assert len(stored_keys(tmp_path)) == 6, "also while another run writes"
    (tmp_path / "odd").mkdir()
    os.mkfifo(tmp_path / "odd" / LABELS_FILE)
    with pytest.raises(StoreError, match="not a file; use another folder"):
        stored_keys(tmp_path / "odd")


def test_a_change_that_fails_is_taken_back(tmp_path: Path) -> None:
    with LabelStore(tmp_path) as store:
        store.put({"a": answer()})
        store._noted = TokenCost(2, 2**63, 2**63)
        with pytest.raises(StoreError, match=r"labels\.sqlite: an answer could not be written \(OverflowError"):
            store.put({"b": answer()})
        assert store.keys() == {"a"}
        store._noted = TokenCost(0, 0, 0)
        assert store.put({"b": answer()}) == {}
        assert store.spent() == TokenCost(2, 200, 14)
    assert stored_keys(tmp_path) == {"a", "b"}


@pytest.mark.parametrize("tokens", [-1, 2**63, 10**12 + 1])
def test_impossible_counts_of_a_reply_without_an_answer_spoil_nothing(tmp_path: Path, tokens: int) -> None:
    with LabelStore(tmp_path) as store:
        store.spend(1, tokens_in=tokens, tokens_out=3)
        store.spend(1, tokens_in=5, tokens_out=tokens)
        assert store.put({"a": answer()}) == {}
        assert store.spent() == TokenCost(3, 105, 10)


def put_and_die(folder: str) -> None:
    store = LabelStore(Path(folder))
    for n in range(5):
        store.put({f"key {n}": answer()})
    os.kill(os.getpid(), signal.SIGKILL)


def test_what_is_put_outlives_a_kill(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=put_and_die, args=(str(tmp_path),))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert stored_keys(tmp_path) == {f"key {n}" for n in range(5)}
    with LabelStore(tmp_path) as store:
        assert store.spent().requests == 5


def test_one_run_at_a_time(tmp_path: Path) -> None:
    with LabelStore(tmp_path), pytest.raises(StoreError, match="another run has these labels open; wait"):
        LabelStore(tmp_path)
    with LabelStore(tmp_path) as store:
        assert store.keys() == set()


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / LABELS_FILE).write_text("no store " * 200, encoding="utf-8")
    with pytest.raises(StoreError, match=r"labels\.sqlite: not a store of labels .*; use another folder"):
        LabelStore(tmp_path)
    (tmp_path / LABELS_FILE).unlink()
    with sqlite3.connect(tmp_path / LABELS_FILE) as base:
        base.execute("PRAGMA user_version = 9")
    base.close()
    with pytest.raises(StoreError, match="the store has format 9; this version reads format 1"):
        LabelStore(tmp_path)
    (tmp_path / LABELS_FILE).unlink()
    with LabelStore(tmp_path) as store:
        store._base.execute("INSERT INTO answers VALUES ('k', '1', '', '', 0, 0, 0)")
        with pytest.raises(StoreError, match="unknown verdict '1'"):
            store.verdicts()


def put_many_on_a_full_disk(folder: Path) -> None:
    with LabelStore(folder) as store:
        store._base.execute("PRAGMA max_page_count = 1")
        store.put({f"key {n}": answer() for n in range(500)})


def test_a_full_disk_is_an_error_of_ours_and_keeps_what_was_there(tmp_path: Path) -> None:
    with LabelStore(tmp_path) as store:
        store.put({"a": answer()})
    with pytest.raises(StoreError, match=r"cannot be used \(database or disk is full\)"):
        put_many_on_a_full_disk(tmp_path)
    assert stored_keys(tmp_path) == {"a"}
