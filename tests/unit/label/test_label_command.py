"""``facetrm label``: what it prints, writes and refuses."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
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
    assert "3 pairs, 12 judgements (one per pair and capability), 24 questions (both orders)" in said.out
    assert "already answered: 0; to ask: 24, about " in said.out
    assert "cost: about 0.0" in said.out
    assert "each capability needs about 67 labelled pairs" in said.out
    assert re.search(r"too few: .*chat/empathy \(3\), ", said.out)
    assert not server.asked
    assert not (rows.parent / "out").exists()
    assert "cost: unknown; give the prices" in command(*arguments(rows, server.url, "--dry-run")).out


def test_a_dry_run_on_a_folder_of_labels_changes_nothing_there(server: LabelServer, rows: Path) -> None:
    assert command(*arguments(rows, server.url, "--set", "max_requests=5")).code == 0
    out = rows.parent / "out"
    before = [(path.name, path.stat().st_mtime_ns) for path in [out, *sorted(out.iterdir())]]
    said = command(*arguments(rows, server.url, "--dry-run"))
    assert "already answered: 5; to ask: 19" in said.out
    assert [(path.name, path.stat().st_mtime_ns) for path in [out, *sorted(out.iterdir())]] == before


def test_what_is_skipped_and_capabilities_that_are_one_are_said(server: LabelServer, rows: Path) -> None:
    same = [preference(n, 1, 1, task="chat") for n in range(7, 9)]
    same = [one.model_copy(update={"responses": (one.responses[0],) * 2}) for one in same]
    write_records(rows, [*(preference(n, 2, 1, task="chat") for n in range(3)), *same])
    said = command(*arguments(rows, server.url))
    assert said.code == 0, said
    assert said.out.count("skipped: 2 pairs whose replies are the same text") == 2, "before and after"
    assert "warning: all capabilities of 'chat' got the same labels on all 3 pairs" in said.out


def test_a_run_and_its_rerun(server: LabelServer, rows: Path) -> None:
    said = command(*arguments(rows, server.url))
    assert said.code == 0, said.err
    table = [line.split() for line in said.out.splitlines()]
    assert ["chat/empathy", "3", "3", "100%", "0%", "0", "0"] in table
    assert ["all", "12", "12", "100%", "0%", "0", "0"] in table
    assert "24 requests so far" in said.out
    assert len(read_preferences(rows.parent / "out" / "preferences.jsonl")) == 12
    again = command(*arguments(rows, server.url))
    assert "already answered: 24; to ask: 0" in again.out
    assert server.asked.total() == 24


def test_failures_are_counted_and_their_file_named(server: LabelServer, rows: Path) -> None:
    server.fault = lambda content, n: "400" if int(content[0], 16) < 8 else None
    said = command(*arguments(rows, server.url, "--set", "answer_format=text"))
    failed = len((rows.parent / "out" / "failures.jsonl").read_text(encoding="utf-8").splitlines())
    assert 0 < failed < 24
    file = rows.parent / "out" / "failures.jsonl"
    assert f"{failed} questions are refused by the server (see {file}); asking" in said.out
    assert "the most common reason: HTTP 400" in said.out
    assert "run again" not in said.out
    server.fault = lambda content, n: "429" if int(content[0], 16) < 8 else None
    said = command(*arguments(rows, server.url, "--set", "longest_wait=0.01", "--set", "give_up_after=99"))
    assert said.code == 2, "those that are left were not answered now"
    server.fault = lambda content, n: "503" if int(content[0], 16) < 4 else None
    said = command(*arguments(rows, server.url, "--set", "tries=1"))
    assert said.code == 0
    assert re.search(r"\d+ questions have no answer \(see .*failures\.jsonl\); run again to ask them", said.out)


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
    assert_refused(command(*arguments(rows, server.url)), "not a store of labels")
    assert not server.asked


def test_ctrl_c_ends_cleanly_and_the_rerun_goes_on(server: LabelServer, rows: Path) -> None:
    server.hold_after = 6
    # A shell lets what it starts in the background ignore the signal, and children inherit that.
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    script = f"{heed}; from facetrm.cli import main; main()"
    line = [sys.executable, "-c", script, *arguments(rows, server.url, "--set", "in_flight=2")]
    process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    assert server.holding.wait(120.0)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert err.splitlines()[-1] == "facetrm: interrupted; run the same command again to continue"
    assert "Traceback" not in err
    kept = len(stored_keys(rows.parent / "out"))
    assert 4 <= kept < 24, "two of the six answers may have been on their way"
    server.hold_after, before = None, server.asked.total()
    assert command(*arguments(rows, server.url)).code == 0
    assert server.asked.total() - before == 24 - kept
    assert before - kept <= 2, "what was in flight"
    assert json.loads((rows.parent / "out" / "report.json").read_text(encoding="utf-8"))["answered"] == 24
