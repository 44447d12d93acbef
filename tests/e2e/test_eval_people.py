"""``facetrm eval`` on what people rated and ranked: bounds and comparisons of ratings, and rankings of MTMC-RLHF."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from command_line import assert_refused, command
from facetrm.recipes.run import Run
from tiny_runs import write_rows


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def rated(path: Path, *, turned: bool = False) -> Path:
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"ask {n // 2}"},
                {"role": "assistant", "content": "w " * (n + 1)},
            ],
            "ratings": {"long/text": float(-n if turned else n), "odd": float(n % 2)},
        }
        for n in range(24)
    ]
    return write_rows(path, rows)


def test_figures_of_ratings_are_bounded(tmp_path: Path) -> None:
    path, out = rated(tmp_path / "rated.jsonl"), tmp_path / "out"

    def bounded(*names: str) -> Any:
        bounds = [part for name in names for part in ("--fail-under", name)]
        return command("eval", "length", "--on", path, "--out", out, "--samples", 20, *bounds)

    assert bounded("spearman=0.1", "long/text/spearman=0.99", "rated.jsonl/long/text/reward-kendall=0.99").code == 0
    said = bounded("rated.jsonl/odd/kendall=0.9", "kendall=0.99")
    assert said.code == 3
    assert "length: rated.jsonl/odd/kendall is 0.0" in said.err
    assert "length: rated.jsonl/kendall is 0." in said.err
    assert_refused(bounded("odd/spearmen=0.5"), "no figure 'odd/spearmen'", "did you mean 'odd/spearman'?")
    refused = bounded("quality=0.5")
    assert_refused(refused, "no figure 'quality'", "long/text/spearman", "odd/reward-kendall")


def test_figures_of_ratings_are_compared(tmp_path: Path) -> None:
    old, new, third = tmp_path / "old", tmp_path / "new", tmp_path / "third"
    path = rated(tmp_path / "a" / "rated.jsonl")
    assert command("eval", "length", "--on", path, "--out", old, "--samples", 20).code == 0
    same = ("eval", "length", "--on", path, "--out", new, "--samples", 20, "--against", old)
    assert command(*same).code == 0
    turned = rated(tmp_path / "b" / "rated.jsonl", turned=True)
    line = ("eval", "length", "--on", turned, "--out", third, "--samples", 20, "--against", old)
    said = command(*line)
    assert said.code == 3
    assert "rated.jsonl/long/text/spearman fell from 1.0000 to -1.0000" in said.err
    assert "not the same files as then: rated.jsonl" in said.out
    failed = {one["name"] for one in read(third / "results.json")["against"]["failed"]}
    assert {"spearman", "kendall", "long/text/kendall", "long/text/reward-spearman"} <= failed
    assert not any(name.startswith("odd/") for name in failed)
    assert command(*line, "--tolerance", 2).code == 0


def mtmc(path: Path, turn: int = 0) -> Path:
    """Ranked replies in the schema of MTMC-RLHF: the lowest rank is best; eleven pairs of unequal replies."""
    rows = [
        {
            "label": "闲聊",
            "src": ["你好", "再说"],
            "tgt": ["好"],
            "response": ["中中", "好好好", "差"],
            "rank": [2, 1, 3],
        },
        {"label": "角色扮演", "src": ["在吗"], "tgt": [], "response": ["在" * 9, "哦", "嗯嗯"], "rank": [3, 1, 2]},
        {"label": "text", "src": ["写诗"], "tgt": None, "response": ["诗诗诗", "甲", "乙"], "rank": [1, 2, 2]},
        {"label": "代码", "src": [f"写码{turn}"], "tgt": [], "response": ["码码", "不"], "rank": ["1", "2"]},
        {"label": "闲聊", "src": ["早"], "tgt": [], "response": ["早早", "安"], "rank": [1, None]},
        {"label": "闲聊", "src": ["晚", "安"], "tgt": ["安"], "response": ["好梦好", "嗯"], "rank": [1, 2]},
        {"label": "闲聊", "src": ["问", "答"], "tgt": ["a"], "response": ["一样", "一"], "rank": [2, 1]},
    ]
    return write_rows(path, rows)


def test_rankings_of_people_by_path(tiny_run: Run, tmp_path: Path) -> None:
    path, out = mtmc(tmp_path / "mtmc.jsonl"), tmp_path / "out"
    said = command("eval", "length", tiny_run.folder, "--on", f"mtmc-rlhf={path}", "--out", out, "--samples", 20)
    assert said.code == 0, said.err
    one = read(out / "results.json")["benchmarks"]["mtmc-rlhf"]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert one["files"] == [{"path": str(path), "sha256": digest, "rows": 7}]
    assert one["left_out"] == {"equal ranks": 1, "a reply without a rank": 1, "fewer than two ranked replies": 1}
    assert one["counts"] == {"chat": 5, "roleplay": 3, "text": 2, "none": 1}
    assert "DMoERM" in one["citation"]
    figures = {name: row["length"]["value"] for name, row in one["figures"].items()}
    assert figures == pytest.approx({"chat": 0.8, "roleplay": 0.0, "text": 1.0, "none": 1.0, "total": 7 / 11})
    assert one["prompts"] == 6
    rows = [row for row in rows_of(out / "rows.jsonl") if row["model"] == "length"]
    assert len(rows) == 11
    assert len({row["id"] for row in rows}) == 11
    assert {(row["task"], row["verdict"]) for row in rows if row["task"] != "chat"} == {
        ("roleplay", "wrong"),
        ("text", "right"),
        (None, "right"),
    }
    samples = rows_of(out / "every_eval_ever" / "mtmc-rlhf-length_samples.jsonl")
    assert samples[0]["input"]["raw"] == "user: 你好\n\nassistant: 好\n\nuser: 再说", "the whole dialogue"
    assert samples[0]["input"]["choices"] == ["好好好", "中中"]


def test_rankings_of_people_are_recognised(tmp_path: Path) -> None:
    folder, out = tmp_path / "data", tmp_path / "out"
    folder.mkdir()
    test = mtmc(folder / "test.jsonl")
    mtmc(folder / "train.jsonl", turn=1)
    named = command("eval", "length", "--on", f"mtmc-rlhf={test}", "--out", out, "--samples", 20, "--json")
    expected = json.loads(named.out)["benchmarks"]["mtmc-rlhf"]
    for on in (test, folder):
        said = command("eval", "length", "--on", on, "--out", out, "--samples", 20, "--json")
        assert said.code == 0, said.err
        assert json.loads(said.out)["benchmarks"]["mtmc-rlhf"] == expected, "of the folder, its test split"
    torn = write_rows(tmp_path / "torn.jsonl", [{"label": 3, "src": ["q"], "tgt": [], "response": ["a"], "rank": [1]}])
    assert_refused(command("eval", "length", "--on", torn, "--out", out), "torn.jsonl", "'label' is 3", "null")
