"""What the page is given of evaluations and runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from facetrm.core.errors import DataError
from facetrm.recipes.evaluation.browsed import browse_folders, prompt_turns
from facetrm.recipes.evaluation.named import Loading
from facetrm.recipes.evaluation.run import EvalRequest, evaluate_systems

TURNS = [
    {"role": "system", "content": "Be brief.\n\nAlways."},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi"},
    {"role": "user", "content": "user: is a word"},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("result")
    rows = [
        {
            "prompt": TURNS if n == 0 else f"question {n}",
            "chosen": [{"role": "assistant", "content": "right" + " and long" * (n % 3)}] if n == 0 else "right" * n,
            "rejected": [{"role": "assistant", "content": "a wrong one"}] if n == 0 else "a wrong one",
        }
        for n in range(12)
    ]
    file = out / "mine.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    evaluate_systems(EvalRequest(["length", "random"], [str(file)], out, Loading(folder=out), samples=20))
    return out


def test_an_evaluation_is_browsed_with_its_texts(folder: Path) -> None:
    found = browse_folders([folder])
    assert json.loads(json.dumps(found, allow_nan=False))["runs"] == []
    [part] = found["benchmarks"]
    results = json.loads((folder / "results.json").read_text())
    figures = next(iter(results["benchmarks"].values()))["figures"]
    assert part["models"] == ["length", "random"]
    assert set(part["figures"]) == set(figures)
    total = figures["total"]["length"]
    assert part["figures"]["total"]["length"] == (total["value"], total["low"], total["high"])
    assert (part["differences"][0]["first"], part["differences"][0]["paired"]) == ("length", True)
    questions = part["questions"]
    assert len(questions) == 12
    assert questions[0]["prompt"] == TURNS
    assert questions[3]["prompt"] == [{"role": "user", "content": "question 3"}]
    assert (questions[3]["right"], questions[3]["wrong"]) == (["right" * 3], ["a wrong one"])
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    judged = {(row["id"], row["model"]): row["verdict"] for row in rows}
    assert len(judged) == 24
    assert {(q["id"], name): side["verdict"] for q in questions for name, side in q["sides"].items()} == judged


def test_a_run_is_browsed_with_its_pair(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    metrics = {
        "pair_accuracy": {"by_source": {"all": {"gate": 0.7}}},
        "verdict": {"statement": "Good.", "status": "usable"},
    }
    (run / "metrics.json").write_text(json.dumps(metrics))
    (run / "pair.jsonl").write_text(json.dumps({"prompt": "a ?", "chosen": "b", "rejected": "c"}) + "\n")
    [found] = browse_folders([run])["runs"]
    assert (found["name"], found["statement"], found["good"]) == ("run", "Good.", True)
    assert found["accuracy"] == {"all": {"gate": 0.7}}
    assert found["pair"] == {"prompt": [{"role": "user", "content": "a ?"}], "answers": ["b", "c"]}
    (run / "pair.jsonl").unlink()
    assert browse_folders([run])["runs"][0]["pair"] is None


def test_no_folder_gives_nothing_and_another_folder_is_refused(tmp_path: Path) -> None:
    assert browse_folders([]) == {}
    with pytest.raises(DataError, match=r"neither results\.json nor metrics\.json"):
        browse_folders([tmp_path])


@pytest.mark.parametrize(
    ("text", "turns"),
    [
        ("plain", [("user", "plain")]),
        ("user: one", [("user", "one")]),
        ("about user: one", [("user", "about user: one")]),
        ("system: a\n\nuser: b\n\nc", [("system", "a"), ("user", "b\n\nc")]),
    ],
)
def test_a_written_prompt_becomes_messages(text: str, turns: list[tuple[str, str]]) -> None:
    assert prompt_turns(text) == [{"role": role, "content": content} for role, content in turns]
