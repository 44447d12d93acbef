"""``facetrm eval`` of every kind of system that is not a reward model of ours: judges, servers, trained rivals."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmark_samples import one_row, write_lines
from command_line import assert_refused, command
from facetrm.recipes.run import Run, run_recipe
from fakes import tiny_decoder
from label_server import KEY, label_server
from reward_server import native, serving, words
from rival_samples import pair, rival_recipe, write_pairs


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def worths(folder: Path, rows: list[tuple[float, float, str]]) -> Path:
    """Write pairs whose answers are worth two numbers; the first is the right one."""
    made = [
        one_row("llmbar")
        | {"input": f"Say {n}. {word}", "output_1": f"worth {a}", "output_2": f"worth {b}", "label": 1}
        for n, (a, b, word) in enumerate(rows)
    ]
    return write_lines(folder / "Natural" / "dataset.jsonl", made)


def test_a_judge_is_asked_once_and_its_cost_is_shown(tmp_path: Path) -> None:
    rows = [(2.0, 1.0, ""), (1.0, 2.0, ""), (1.0, 2.0, "fond of the first"), (3.0, 1.0, ""), (2.0, 1.0, "refuse")]
    path, out = worths(tmp_path, rows), tmp_path / "out"
    with label_server() as server:
        line = ["eval", f"judge:my-judge@{server.url}", "--on", str(path), "--out", str(out), "--samples", "20"]
        prices = ["--judge-set", "price_in=1000", "--judge-set", "price_out=2000", "--judge-set", "first_wait=0.01"]
        said = command(*line, *prices)
        assert said.code == 0, said.err
        results = read(out / "results.json")
        (name,) = results["models"]
        one = results["benchmarks"]["llmbar"]
        # right, wrong, a tie by two verdicts (one half), right, and a refusal, which earns nothing
        assert one["figures"]["total"][name]["value"] == pytest.approx(2.5 / 5)
        assert one["systems"][name]["failed"] == 1
        assert "cannot say which answer is better" in one["systems"][name]["first_problem"]
        cost = results["models"][name]["cost"]
        asked = server.asked.total()
        assert cost["requests"] == cost["requests_now"] == asked
        assert cost["cost"] == pytest.approx((1000 * cost["tokens_in"] + 2000 * cost["tokens_out"]) / 1e6)
        assert f"{name}: {asked} requests now" in said.out
        assert f"cost {cost['cost']:.4g}" in said.out
        again = command(*line, *prices)
        assert again.code == 0, again.err
        assert server.asked.total() == asked, "all its answers are stored, the refusal too"
        results = read(out / "results.json")
        assert results["models"][name]["cost"] == {**cost, "requests_now": 0, "answered_now": 0}
        assert results["benchmarks"]["llmbar"]["figures"] == one["figures"]
    for file in out.rglob("*"):
        assert not file.is_file() or KEY.encode() not in file.read_bytes()


def test_two_judges_vote_and_their_costs_are_added(tmp_path: Path) -> None:
    path, out = worths(tmp_path, [(2.0, 1.0, ""), (1.0, 2.0, "")]), tmp_path / "out"
    with label_server() as one, label_server() as two:
        judges = f"judge:j@{one.url},j@{two.url}"
        said = command("eval", judges, "--on", path, "--out", out, "--samples", 20)
        assert said.code == 0, said.err
        about = read(out / "results.json")["models"]["vote"]
        assert one.asked.total() == two.asked.total() == 4, "both orders of two pairs, from each"
        assert about["cost"]["requests"] == 8
        assert about["cost"]["cost"] is None
        assert "vote: 8 requests now" in said.out
        assert "no cost without --judge-set" in said.out
        twice = f"judge:j@{one.url},j@{one.url}"
        assert_refused(command("eval", twice, "--on", path, "--out", out), "same judge is asked for twice")


def test_a_judge_killed_in_the_middle_asks_nothing_again(tmp_path: Path) -> None:
    path, out = worths(tmp_path, [(float(n), 0.5, "") for n in range(1, 11)]), tmp_path / "out"
    with label_server() as server:
        server.hold_after = 7
        line = ["eval", f"judge:j@{server.url}", "--on", str(path), "--out", str(out), "--samples", "20"]
        script = [sys.executable, "-m", "facetrm", *line, "--judge-set", "in_flight=1"]
        process = subprocess.Popen(script, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        assert server.holding.wait(60.0)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        server.hold_after = None
        assert not (out / "results.json").exists()
        said = command(*line)
        assert said.code == 0, said.err
        assert len(server.asked) == 20, "both orders of ten pairs"
        assert sum(n - 1 for n in server.asked.values()) <= 1, "only what was in flight is asked again"
    assert read(out / "results.json")["benchmarks"]["llmbar"]["figures"]["total"]["j"]["value"] == 1.0


KILLED = """
import os, signal
from facetrm.recipes.evaluation import systems
plain, done = systems._scored, []
def dies(scorer, conversations):
    if len(done) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    done.append(len(conversations))
    return plain(scorer, conversations)
systems._BATCH, systems._scored = 3, dies
from facetrm.cli import main
main()
"""


def test_an_evaluation_that_is_killed_by_the_system_scores_nothing_again(tiny_run: Run, tmp_path: Path) -> None:
    path, out = worths(tmp_path, [(float(n), 0.5, "") for n in range(1, 7)]), tmp_path / "out"
    line = ["eval", str(tiny_run.folder), "--on", str(path), "--samples", "20", "--out"]
    killed = subprocess.run([sys.executable, "-c", KILLED, *line, str(out)], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    kept = (out / "scores.jsonl").read_bytes()
    assert kept.count(b"\n") == 6
    assert sorted(file.name for file in out.iterdir() if not file.name.startswith(".")) == ["scores.jsonl"]
    said = command(*line, out)
    assert said.code == 0, said.err
    again = read(out / "results.json")
    assert [about["scored"] for about in again["models"].values()] == [6]
    assert (out / "scores.jsonl").read_bytes().startswith(kept)
    assert command(*line, tmp_path / "fresh").code == 0
    assert again["benchmarks"] == read(tmp_path / "fresh" / "results.json")["benchmarks"]


def test_a_server_is_asked_for_each_answer_once(tmp_path: Path) -> None:
    rows = [
        one_row("llmbar") | {"input": f"Say {n}.", "output_1": "a " * n, "output_2": "b b b", "label": 1}
        for n in range(1, 6)
    ]
    path, out = write_lines(tmp_path / "Natural" / "dataset.jsonl", rows), tmp_path / "out"
    asked: list[int] = []

    def handle(route: str, body: Any) -> tuple[int, Any]:
        if route == "/v1/rewards" and "conversations" in body:
            asked.append(len(body["conversations"]))
            if any(words(turns) == 3 for turns in body["conversations"]):
                return 422, {"detail": "one word is not enough"}
        return native(route, body)

    with serving(handle) as url:
        said = command("eval", url, "--on", path, "--out", out, "--samples", 20)
        assert said.code == 0, said.err
        results = read(out / "results.json")
        (name,) = results["models"]
        one = results["benchmarks"]["llmbar"]
        # 1 word fails, 2 are fewer than 3, 3 tie (one half), 4 and 5 are more
        assert one["figures"]["total"][name]["value"] == pytest.approx(2.5 / 5)
        assert one["systems"][name]["failed"] == 1
        assert "one word is not enough" in one["systems"][name]["first_problem"]
        assert "1 question failed" in said.out
        connecting = len(asked) - 10
        asked.clear()
        assert command("eval", url, "--on", path, "--out", out, "--samples", 20).code == 0
        assert len(asked) == connecting + 1, "only the answer that failed is asked for again"
    refused = command("eval", url, "--on", path, "--out", tmp_path / "none", "--samples", 20)
    assert_refused(refused, url.removeprefix("http://"))


@pytest.fixture(scope="module")
def rivals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    tiny_decoder(folder / "backbone")
    pairs = write_pairs(folder / "pairs.jsonl", train=160, test=20)
    for kind in ("bradley-terry", "pairwise", "dpo"):
        recipe = rival_recipe(folder / f"{kind}.yaml", kind, folder / "backbone", pairs, trainer={"max_steps": 40})
        run_recipe(recipe, out=folder / kind)
    return folder


def test_trained_rivals_are_judged_by_their_folders(rivals: Path, tmp_path: Path) -> None:
    made = [pair(n) for n in range(500, 530)]
    rows = [
        {"prompt": p.prompt[0].content, "chosen": p.chosen[-1].content, "rejected": p.rejected[-1].content}
        for p in made
    ]
    path, out = write_lines(tmp_path / "mine.jsonl", rows), tmp_path / "out"
    names = ("bradley-terry", "pairwise", "dpo")
    line = ["eval", *(str(rivals / name) for name in names), "--on", str(path), "--out", str(out), "--samples", "20"]
    said = command(*line, "--device", "cpu")
    assert said.code == 0, said.err
    results = read(out / "results.json")
    assert list(results["models"]) == list(names)
    total = results["benchmarks"]["mine.jsonl"]["figures"]["total"]
    assert all(total[name]["value"] > 0.8 for name in names), "each learned the planted word"
    assert all(about["scored"] == 60 for about in results["models"].values())
    again = command(*line, "--device", "cpu", "--json")
    assert all(about["scored"] == 0 for about in json.loads(again.out)["models"].values())
    assert json.loads(again.out)["benchmarks"] == results["benchmarks"]


def test_the_shipped_model_is_found_by_its_name_and_a_name_like_it_is_not(tmp_path: Path) -> None:
    line = ["--on", "desk", "--pairs", "2", "--samples", "20", "--out", str(tmp_path / "out")]
    said = command("eval", "desk", *line)
    assert said.code == 0, said.err
    assert_refused(command("eval", "desc", *line), "no such model", "did you mean 'desk'")
