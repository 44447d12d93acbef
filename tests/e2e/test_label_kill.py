"""Bar, in small: ``facetrm label`` killed at random moments asks nothing twice that it had stored.

benchmarks/label.py is the same with 10,000 questions.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from facetrm.data.read.files import read_preferences, write_records
from facetrm.label.pairs import read_pairs
from facetrm.label.store import stored_keys
from label_samples import plan, preference
from label_server import FAULTS, KEY, LabelServer, content_of, label_server

RUBRIC = """\
name: small
tasks:
  - name: chat
    description: Talk.
    capabilities:
      - {name: kind, description: how kind it is, better: more kind}
      - {name: clear, description: how clear it is, better: more clear}
"""
KILLS, IN_FLIGHT, ROWS = 3, 4, 60


def fault(content: str, number: int) -> str | None:
    kinds = [name for name in FAULTS if name != "timeout"]
    return kinds[int(content[:4], 16) % len(kinds)] if number == 0 and int(content[4:6], 16) < 64 else None


@pytest.mark.slow
def test_three_kills_lose_only_what_was_in_flight(tmp_path: Path) -> None:
    data, out = tmp_path / "rows.jsonl", tmp_path / "out"
    write_records(data, [preference(n, 1 + n % 2, 2 - n % 2) for n in range(ROWS)])
    (tmp_path / "small.yaml").write_text(RUBRIC, encoding="utf-8")
    with label_server(LabelServer(fault=fault, delay=0.01)) as server:
        made = plan(server.url, rows=read_pairs(data))
        sets = ["model=judge", f"in_flight={IN_FLIGHT}", "first_wait=0.01", "tries=4"]
        line = ["label", "--data", data, "--rubric", tmp_path / "small.yaml", "--model", "judge"]
        line += ["--base-url", server.url, "--out", out, *(part for text in sets for part in ("--set", text))]
        script = [sys.executable, "-c", "from facetrm.cli import main; main()", *map(str, line)]

        def start() -> subprocess.Popen[bytes]:
            return subprocess.Popen(script, stderr=subprocess.DEVNULL, env={**os.environ, "OPENAI_API_KEY": KEY})

        names = {q.key: content_of(q.messages) for q in made.questions(set())}
        draw, stored = random.Random(3), 0
        for kill in range(KILLS):
            # the last answer that it needs is held back, so that it cannot end before it is killed
            server.hold_after = server.asked.total() + len(made.keys) - stored - 1
            process = start()
            goal = len(made.keys) * (kill + 1) // (KILLS + 1)
            while len(server.answered) < goal and process.poll() is None:
                time.sleep(0.001)
            time.sleep(draw.uniform(0.0, 0.02))
            process.kill()
            assert process.wait() == -signal.SIGKILL
            while server.in_flight:  # it has not seen yet that its client is gone
                time.sleep(0.001)
            server.stored |= {names[key] for key in stored_keys(out)}
            assert stored < len(server.stored) < len(made.keys), "each run went on, and was not done"
            stored = len(server.stored)
            assert len(server.answered) - stored <= IN_FLIGHT * (kill + 1)
        server.hold_after = None
        assert start().wait() == 0
        assert server.asked_though_stored.total() == 0
        assert sum(n - 1 for n in server.answered.values()) <= IN_FLIGHT * KILLS
        assert server.most_in_flight <= IN_FLIGHT
    assert stored_keys(out) == made.keys, "the questions of the command line are those of Python"
    assert (out / "failures.jsonl").read_text(encoding="utf-8") == ""
    found = read_preferences(out / "preferences.jsonl")
    assert len(found) == 2 * ROWS
    assert all([r.content[-1] for r in p.responses] == ["2", "1"] for p in found)
