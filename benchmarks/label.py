"""Labelling with a failing server and three kills: is every question labelled or reported, and none asked twice?

    python benchmarks/label.py                 # 10,000 questions, 16 concurrent requests, three kills
    python benchmarks/label.py --questions 400

The server (tests/label_server.py) runs in this process; labelling runs in separate processes, which are killed. For
about a third of the questions, the first one or two requests fail; one question in 500 is never answered.
Prints a table and writes benchmarks/results/label.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

from facetrm.core.files import write_json
from facetrm.data.read.files import read_preferences, write_records
from facetrm.data.records import Message, Preference
from facetrm.data.rubric import read_rubric
from facetrm.label.pairs import read_pairs
from facetrm.label.plan import Plan, make_plan
from facetrm.label.run import label_pairs
from facetrm.label.settings import LabelConfig
from facetrm.label.store import stored_keys
from provenance import provenance

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from label_server import FAULTS, LabelServer, content_of, label_server  # noqa: E402

KILLS: Final = 3
CAPABILITIES: Final = 5
TRIES: Final = 6
TIMEOUT: Final = 3.0


def fault(content: str, number: int) -> str | None:
    """Return the fault of the ``number``-th request for a question; only the question's content decides."""
    draw = int(content[:8], 16)
    if draw % 500 == 0:
        return "500"
    if number >= 2 or draw % 100 >= 33 or (number == 1 and draw % 3):
        return None
    # A time-out costs seconds, so it is rarer than the others.
    kinds = [name for name in FAULTS if name != "timeout"]
    return "timeout" if draw % 1000 < 20 else kinds[draw // 1000 % len(kinds)]


def rows(count: int) -> list[Preference]:
    """Return ``count`` pairs of the task chat: some tied, some whose first answer the server prefers."""
    draw = random.Random(0)
    made = []
    for n in range(count):
        says = "fond of the first" if draw.random() < 0.15 else ""
        worth = [draw.randint(0, 9) for _ in range(2)]
        replies = tuple(Message(role="assistant", content=f"answer {i}, worth {w}") for i, w in enumerate(worth))
        prompt = (Message(role="user", content=f"question {n} {says}"),)
        made.append(Preference(id=f"row{n}", task="chat", prompt=prompt, responses=replies))
    return made


def planned(data: Path, url: str, in_flight: int) -> Plan:
    """Return the questions about the file ``data``, for the server at ``url``, ``in_flight`` at once."""
    config = LabelConfig(
        model="judge", base_url=url, in_flight=in_flight, tries=TRIES, timeout=TIMEOUT, first_wait=0.05, longest_wait=2
    )
    return make_plan(read_pairs(data), read_rubric("dmoerm"), config)


def start(data: Path, out: Path, url: str, in_flight: int) -> subprocess.Popen[bytes]:
    """Start labelling in a process of its own."""
    line = [sys.executable, __file__, "--work", str(data), str(out), url, "--in-flight", str(in_flight)]
    return subprocess.Popen(line, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})


def killed_runs(
    server: LabelServer, plan: Plan, data: Path, out: Path, in_flight: int
) -> tuple[list[dict[str, int]], Counter[str]]:
    """Start three runs and kill them at random moments; return what each left, and how many answers were lost."""
    names = {
        key: content_of(plan.messages(judgement, swapped=bool(swapped)))
        for judgement in plan.judgements
        for swapped, key in enumerate(judgement.keys)
    }
    draw, kills, total = random.Random(1), list[dict[str, int]](), len(plan.keys)
    lost: Counter[str] = Counter()
    given: Counter[str] = Counter()
    for kill in range(KILLS):
        process = start(data, out, server.url, in_flight)
        goal = int(total * (kill + draw.uniform(0.2, 0.9)) / (KILLS + 1))
        while len(server.answered) < goal and process.poll() is None:
            time.sleep(0.002)
        time.sleep(draw.uniform(0.0, 0.02))
        process.kill()
        process.wait()
        time.sleep(0.3)  # the server notices the closed connections
        stored = {names[key] for key in stored_keys(out)}
        killed = (server.answered - given).keys() - stored
        lost.update(killed)
        given = server.answered.copy()
        # From here on the server counts every request for what the store holds.
        server.stored |= stored
        kills.append({"stored": len(stored), "answered_but_not_stored": len(killed)})
    return kills, lost


def check(server: LabelServer, plan: Plan, lost: Counter[str], out: Path, most_lost: int) -> dict[str, Any]:
    """Return the figures; AssertionError if a question was asked twice, or is neither answered nor reported.

    ``lost`` is the number of answers in flight at the kills, at most ``most_lost`` in total.
    """
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    failures = [json.loads(line) for line in (out / "failures.jsonl").read_text(encoding="utf-8").splitlines()]
    stored, named = stored_keys(out), {row["key"] for row in failures}
    assert stored | named == plan.keys, "every question is answered or named"
    assert not stored & named
    assert all(row["reason"] for row in failures)
    _check_pairs(plan, read_preferences(out / "preferences.jsonl"), report["all"])
    assert not server.asked_though_stored.total(), "an answer that was stored was asked for again"
    twice = Counter({content: n - 1 for content, n in server.answered.items() if n > 1})
    assert twice <= lost, "only what was in flight at a kill is answered twice"
    assert lost.total() <= most_lost
    return {
        "questions": len(plan.keys),
        "answered": len(stored),
        "named_failures": len(named),
        "requests": server.asked.total(),
        "faults": dict(sorted(server.faults.items())),
        "asked_again_though_stored": server.asked_though_stored.total(),
        "answered_again_after_a_kill": twice.total(),
        "in_flight_at_the_kills": lost.total(),
        "in_flight_at_most": most_lost,
        "most_in_flight": server.most_in_flight,
        "kept": report["all"]["kept"],
        "outcomes": report["all"]["outcomes"],
    }


def _check_pairs(plan: Plan, labels: list[Preference], figures: dict[str, Any]) -> None:
    """Check that every label follows the server's rule, and that none is missing."""
    kept = {preference.id: preference for preference in labels}
    assert len(kept) == len(labels) == figures["kept"]
    missing = 0
    for judgement in plan.judgements:
        found = kept.get(f"{judgement.pair.id}#{judgement.aspect}")
        worth = [int(reply.content.split()[-1]) for reply in judgement.pair.replies]
        decided = worth[0] != worth[1] and "fond" not in judgement.pair.prompt[0].content
        missing += decided and found is None
        if found is not None:
            assert decided
            assert [int(r.content.split()[-1]) for r in found.responses] == sorted(worth, reverse=True)
    assert missing <= figures["outcomes"]["unanswered"]


def measure(questions: int, in_flight: int) -> dict[str, Any]:
    """Run everything once and return the figures."""
    with tempfile.TemporaryDirectory() as folder, label_server(LabelServer(fault=fault, keep_bodies=False)) as server:
        data, out = Path(folder) / "rows.jsonl", Path(folder) / "out"
        write_records(data, rows(questions // (2 * CAPABILITIES)))
        plan = planned(data, server.url, in_flight)
        kills, lost = killed_runs(server, plan, data, out, in_flight)
        before, began = server.asked.total(), time.monotonic()
        process = start(data, out, server.url, in_flight)
        assert process.wait() == 0
        seconds = time.monotonic() - began
        requests = server.asked.total() - before
        found = check(server, plan, lost, out, in_flight * KILLS)
    speed = {"requests": requests, "seconds": round(seconds, 1), "requests_per_second": round(requests / seconds)}
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return {**found, "kills": kills, "last_run": speed, "in_flight": in_flight, "peak_memory_mib": round(peak)}


def table(found: dict[str, Any]) -> str:
    """Return the table that is printed."""
    shown = {
        "questions (pairs x capabilities x both orders)": found["questions"],
        "answered and stored": found["answered"],
        "in the named failure list": found["named_failures"],
        "requests that the server saw": found["requests"],
        "of them with a fault": sum(found["faults"].values()),
        "kinds of faults": len(found["faults"]),
        "kills (SIGKILL at random moments)": len(found["kills"]),
        "asked again although the answer was stored": found["asked_again_though_stored"],
        "answered, and lost in flight at a kill": found["in_flight_at_the_kills"],
        "  of these, answered again": found["answered_again_after_a_kill"],
        "  the most that can be in flight at the kills": found["in_flight_at_most"],
        "requests a second, last run": found["last_run"]["requests_per_second"],
        "preferences kept": found["kept"],
    }
    return "\n".join(f"{name:50}{value:>10,}" for name, value in shown.items())


def main() -> None:
    """Measure, print the table, write the file; or, with ``--work``, be the process that is killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=10_000)
    parser.add_argument("--in-flight", type=int, default=16)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "label.json")
    parser.add_argument("--work", nargs=3, metavar=("DATA", "FOLDER", "URL"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        data, out, url = options.work
        label_pairs(planned(Path(data), url, options.in_flight), Path(out), quiet=True)
        return
    found = measure(options.questions, options.in_flight)
    write_json(options.out, {**provenance(), **found})
    print(table(found))


if __name__ == "__main__":
    main()
