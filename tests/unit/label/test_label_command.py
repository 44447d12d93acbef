"""``facetrm label``: what it prints, writes and refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from command_line import assert_refused, command
from facetrm.data.read.files import read_preferences, write_records
from facetrm.label.store import LABELS_FILE, stored_keys
from label_samples import preference
from label_server import KEY, LabelServer, label_server


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[LabelServer]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with label_server() as running:
        yield running


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    write_records(path, [preference(n, 2, 1, task="chat") for n in range(3)])
    return path


def arguments(rows: Path, url: str, *more: str) -> list[str]:
    out = rows.parent / "out"
    start = ["label", "--data", str(rows), "--rubric", "general", "--model", "m", "--base-url", url]
    return [*start, "--out", str(out), *more]


def test_a_dry_run_asks_and_writes_nothing(server: LabelServer, rows: Path) -> None:
    said = command(*arguments(rows, server.url, "--dry-run", "--set", "price_in=1", "--set", "price_out=2"))
    assert said.code == 0, said.err
    assert "3 pairs, 12 judgements (a pair in a capability), 24 questions (both orders)" in said.out
    assert "answered before: 0; to ask: 24, about " in said.out
    assert "cost: about 0.0" in said.out
    assert not server.asked
    assert not (rows.parent / "out").exists()
    assert "cost: unknown; give the prices" in command(*arguments(rows, server.url, "--dry-run")).out


def test_a_run_and_its_rerun(server: LabelServer, rows: Path) -> None:
    said = command(*arguments(rows, server.url))
    assert said.code == 0, said.err
    table = [line.split() for line in said.out.splitlines()]
    assert ["chat/empathy", "3", "3", "100%", "0%", "0", "0"] in table
    assert ["all", "12", "12", "100%", "0%", "0", "0"] in table
    assert "24 requests so far" in said.out
    assert len(read_preferences(rows.parent / "out" / "preferences.jsonl")) == 12
    again = command(*arguments(rows, server.url))
    assert "answered before: 24; to ask: 0" in again.out
    assert server.asked.total() == 24


def test_failures_are_counted_and_their_file_named(server: LabelServer, rows: Path) -> None:
    server.fault = lambda content, n: "400" if int(content[0], 16) < 8 else None
    said = command(*arguments(rows, server.url, "--set", "answer_format=text"))
    failed = len((rows.parent / "out" / "failures.jsonl").read_text(encoding="utf-8").splitlines())
    assert 0 < failed < 24
    assert f"{failed} questions have no answer: {rows.parent / 'out' / 'failures.jsonl'}; run again" in said.out


def test_bad_input_is_refused(server: LabelServer, rows: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("name: x\ntasks:\n  - name: chat\n    capabilities: []\n", encoding="utf-8")
    assert_refused(
        command(*arguments(rows, server.url, "--rubric", str(tmp_path / "mine.yaml"))),
        f"{tmp_path / 'mine.yaml'}:3: setting 'tasks.0.description' is missing",
    )
    assert_refused(command(*arguments(rows, server.url, "--set", "in_flight=0")), "'in_flight' is 0")
    assert_refused(command(*arguments(rows, server.url, "--rubric", "dmoerm", "--set", "tasks.chat=chta")), "'chat'?")
    assert_refused(command(*arguments(tmp_path / "none.jsonl", server.url)), "no such file")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / LABELS_FILE).write_text("no store " * 200, encoding="utf-8")
    assert_refused(command(*arguments(rows, server.url)), "no store of labels")
    assert not server.asked


def wait_until(true: Callable[[], bool]) -> None:
    """Return as soon as ``true`` is; pytest's own time-out is the only clock."""
    while not true():
        time.sleep(0.005)


def test_ctrl_c_ends_cleanly_and_the_rerun_goes_on(server: LabelServer, rows: Path) -> None:
    server.hold_after = 6  # the run cannot end before the signal comes, however busy the machine is
    script = "from facetrm.cli import main; main()"
    line = [sys.executable, "-c", script, *arguments(rows, server.url, "--set", "in_flight=2")]
    process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    wait_until(lambda: server.held == 2 or process.poll() is not None)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err.splitlines()[-1] == "facetrm: interrupted; run the same command again to go on"
    assert "Traceback" not in err
    assert len(stored_keys(rows.parent / "out")) == 6, "every answer that came is kept"
    server.hold_after, before = None, server.asked.total()
    wait_until(lambda: server.in_flight == 0)
    assert before == 8, "two were in flight"
    assert command(*arguments(rows, server.url)).code == 0
    assert server.asked.total() - before == 24 - 6
    assert json.loads((rows.parent / "out" / "report.json").read_text(encoding="utf-8"))["answered"] == 24
