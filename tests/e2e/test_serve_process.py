"""The command ``facetrm serve`` as a process: signals to stop, kills under load, and one answer from end to end."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from command_line import assert_refused, command
from facetrm.data.records import Conversation
from facetrm.data.world.world import World
from facetrm.serve import HttpScorer
from serving import exact_toy

TALKS: list[Conversation] = [talk for pair in World().preferences(12) for talk in (pair.chosen, pair.rejected)]
REWARDS = [score.reward for score in exact_toy().score(TALKS)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("served") / "toy"
    exact_toy().save(made, backbone="copy")
    return made


@contextmanager
def process(folder: Path, *options: str, port: int = 0) -> Iterator[tuple[subprocess.Popen[str], int, list[str]]]:
    """Start the command, and yield the process, its port and the lines of its standard error so far."""
    command = [sys.executable, "-m", "facetrm", "serve", str(folder), "--port", str(port), "--mode", "exact"]
    started = subprocess.Popen([*command, "--log-json", *options], stderr=subprocess.PIPE, text=True)
    lines = list[str]()

    def follow() -> None:
        assert started.stderr is not None
        for line in started.stderr:
            lines.append(line)

    threading.Thread(target=follow, daemon=True).start()
    until = time.monotonic() + 90.0
    try:
        while not any('"ready"' in line for line in lines):
            assert started.poll() is None, "".join(lines)
            assert time.monotonic() < until, "".join(lines)
            time.sleep(0.02)
        found = re.search(r'"address": "http://127\.0\.0\.1:(\d+)"', "".join(lines))
        assert found is not None
        yield started, int(found[1]), lines
    finally:
        started.kill()
        started.wait()


def ask(port: int, number: int) -> float | None:
    """Return the reward of one conversation; None if there was no answer, or a refusal."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    turns = [{"role": m.role, "content": m.content} for m in TALKS[number]]
    try:
        connection.request("POST", "/v1/rewards", json.dumps({"messages": turns}), {"Content-Type": "application/json"})
        response = connection.getresponse()
        body = json.loads(response.read())
        if response.status != 200:
            assert response.status in (429, 503), body
            return None
        return float(body["scores"][0]["reward"])
    except (OSError, http.client.HTTPException, ValueError):
        return None  # the server is gone, perhaps in the middle of its answer
    finally:
        connection.close()


def load(port: int, answers: list[tuple[int, float | None]], stop: threading.Event) -> list[threading.Thread]:
    """Ask from eight threads until told to stop."""

    def loop(start: int) -> None:
        number = start
        while not stop.is_set():
            answers.append((number % len(TALKS), ask(port, number % len(TALKS))))
            number += 1

    threads = [threading.Thread(target=loop, args=(n,), daemon=True) for n in range(8)]
    for thread in threads:
        thread.start()
    return threads


def answered(answers: list[tuple[int, float | None]]) -> int:
    """Return the number of answers, after checking that each is right."""
    given = [(number, reward) for number, reward in answers if reward is not None]
    assert [(n, reward) for n, reward in given if reward != REWARDS[n]] == []
    return len(given)


@pytest.mark.slow
def test_killed_under_load_no_answer_is_wrong_and_clients_survive_a_restart(folder: Path) -> None:
    answers, stop = list[tuple[int, float | None]](), threading.Event()
    with process(folder) as (started, port, _):
        scorer, found = HttpScorer(f"http://127.0.0.1:{port}", rows=1, at_once=2, tries=9), list[Any]()
        threads = load(port, answers, stop)
        until = time.monotonic() + 60.0
        while len(answers) < 30:
            assert time.monotonic() < until
            time.sleep(0.01)
        client = threading.Thread(target=lambda: found.extend(scorer.score(TALKS * 2)), daemon=True)
        client.start()
        time.sleep(0.3)
        os.kill(started.pid, signal.SIGKILL)
        started.wait()
    before = answered(answers)
    with process(folder, port=port):
        client.join(90.0)
        stop.set()
        for thread in threads:
            thread.join(30.0)
    assert answered(answers) >= before >= 20
    assert [score.reward for score in found] == REWARDS * 2


@pytest.mark.slow
def test_a_signal_to_stop_loses_no_accepted_request_and_leaves_with_code_0(folder: Path) -> None:
    answers, stop = list[tuple[int, float | None]](), threading.Event()
    with process(folder) as (started, port, lines):
        threads = load(port, answers, stop)
        until = time.monotonic() + 60.0
        while len(answers) < 30:
            assert time.monotonic() < until
            time.sleep(0.01)
        started.send_signal(signal.SIGTERM)
        assert started.wait(60.0) == 0
        stop.set()
        for thread in threads:
            thread.join(30.0)
        time.sleep(0.2)
        served = [json.loads(line) for line in lines if line.startswith("{")]
    good = [line for line in served if line["event"] == "request" and line.get("status") == 200]
    assert len(good) == answered(answers), "every request that the server answered reached its client"
    assert {line["status"] for line in served if line.get("route") == "/v1/rewards"} <= {200, 503}


def test_the_page_is_given_the_pair_the_run_and_the_folder(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(folder, run / "model")
    rows = {"prompt": "a question", "chosen": "one", "rejected": "two"}
    (run / "pair.jsonl").write_text(json.dumps(rows) + "\n", encoding="utf-8")
    (run / "metrics.json").write_text(json.dumps({"pair_accuracy": {}, "verdict": {"statement": "Good."}}))
    with process(run, "--browse", str(run), "--save-folder", str(tmp_path / "saved")) as (_, port, _):
        found = []
        for path in ("/v1/page", "/v1/browse", "/"):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            connection.request("GET", path)
            found.append(connection.getresponse().read().decode())
            connection.close()
    page, browsed = json.loads(found[0]), json.loads(found[1])
    assert page["example"] == {"prompt": "a question", "answers": ["one", "two"]}
    assert (page["saves"], page["browses"]) == (True, True)
    assert [one["statement"] for one in browsed["runs"]] == ["Good."]
    assert found[2].startswith("<!doctype html>")


def test_a_folder_that_is_no_result_is_refused_before_the_server_listens(folder: Path, tmp_path: Path) -> None:
    said = command("serve", folder, "--browse", tmp_path)
    assert_refused(said, "neither results.json nor metrics.json", str(tmp_path))
