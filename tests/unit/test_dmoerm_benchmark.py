"""What the benchmarks of DMoERM are made of: a judge as noisy as asked, the controls' labels, tables, a capped pack."""

from __future__ import annotations

import gzip
import json
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from facetrm.data.world import World, WorldConfig
from facetrm.data.world.truth import SLOTS
from facetrm.label.simulated import NoisyJudge
from facetrm.recipes.dmoerm.rows import WorldTasks, load_tasks

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def benchmarks() -> dict[str, ModuleType]:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import dmoerm
        import real_tasks

        return {"dmoerm": dmoerm, "real_tasks": real_tasks}
    finally:
        sys.path.pop(0)


@pytest.mark.parametrize("share", [0.25, 0.4])
def test_the_judge_errs_as_often_as_asked(benchmarks: dict[str, ModuleType], share: float) -> None:
    module = benchmarks["dmoerm"]
    judge = NoisyJudge(noise=module.judge_scale(share), tie_width=0.0, seed=5)
    world = World(WorldConfig(seed=9))
    wrong = []
    for number, pair in enumerate(world.preferences_of(module.TASKS, 400, part="heads")):
        better, worse = (world.levels(c) for c in (pair.chosen, pair.rejected))
        for name in World.weights[str(pair.task)]:
            gap = (better[name] - worse[name]) / SLOTS[name]
            if gap:
                wrong.append((judge.verdict(gap, f"{number}|{name}") == "reply_1") != (gap > 0))
    assert np.mean(wrong) == pytest.approx(share, abs=0.03)


def test_the_control_has_the_same_pairs_under_overall_labels(benchmarks: dict[str, ModuleType]) -> None:
    module = benchmarks["dmoerm"]
    section = WorldTasks(tasks=module.TASKS, preferences=20, labelled=30, test=10)
    rows = load_tasks(section, seed=0)
    control = module.with_overall_labels(rows, 30)
    assert [p.aspect for p in control.capabilities] == [p.aspect for p in rows.capabilities]
    for own, other in zip(rows.capabilities, control.capabilities, strict=True):
        assert {r.content for r in own.responses} == {r.content for r in other.responses}
    by_pair: dict[tuple[str, frozenset[str]], set[str]] = {}
    for p in control.capabilities:
        key = (p.prompt_key, frozenset(r.content for r in p.responses))
        by_pair.setdefault(key, set()).add(p.responses[0].content)
    assert all(len(winners) == 1 for winners in by_pair.values())
    turned = sum(a.responses != b.responses for a, b in zip(rows.capabilities, control.capabilities, strict=True))
    assert 0 < turned < len(rows.capabilities)


def test_the_summary_counts_against_the_truth(benchmarks: dict[str, ModuleType]) -> None:
    module = benchmarks["dmoerm"]

    def cell(seed: int) -> dict[str, object]:
        truth = [1.0, -1.0, 1.0, -1.0, 1.0]
        margins = {name: [1.0] * 5 for name in module.SYSTEMS} | {"dmoerm": truth}
        return {
            "prompts": [f"{seed}|{n}" for n in range(5)],
            "tasks": list(module.TASKS),
            "truth": truth,
            "margins": margins,
            "seconds": dict.fromkeys(module.SYSTEMS, 60.0),
            "kept_label_error": 0.1,
            "labels": {},
        }

    found = module.summary([cell(0), cell(1)])
    assert found["true"]["dmoerm"]["value"] == 1.0
    assert found["true"]["single"]["value"] == pytest.approx(0.6)
    assert found["labels"]["single"]["value"] == 1.0
    assert found["dmoerm_ahead"]["single"]["value"] == pytest.approx(0.4)
    assert found["by_task"][module.TASKS[1]]["single"]["value"] == 0.0
    assert found["by_seed"]["linear"] == [pytest.approx(0.6)] * 2
    assert "dmoerm" in module.table("0.25", found)


def test_a_capped_pack_takes_prompt_by_prompt(benchmarks: dict[str, ModuleType], tmp_path: Path) -> None:
    pack = tmp_path / "pack"
    pack.mkdir()
    (pack / "sources.json").write_text("{}", encoding="utf-8")
    rated = [
        {"id": f"r{n}", "source": "a", "split": "train", "messages": [f"q{n % 5}", "x"], "ratings": {}}
        for n in range(20)
    ]
    pairs = [{"id": f"p{n}", "source": "b", "split": "test", "prompt": f"q{n}"} for n in range(9)]
    for name, rows in (("rated", rated), ("preferences", pairs)):
        with gzip.open(pack / f"{name}.jsonl.gz", "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    most = {"ratings": 8, "preferences": 3, "test": 4}
    counts = benchmarks["real_tasks"].capped(pack, tmp_path / "small", most)
    assert counts == {"rated_train": 8, "preferences_test": 4}
    with gzip.open(tmp_path / "small" / "rated.jsonl.gz", "rt", encoding="utf-8") as file:
        kept = Counter(json.loads(line)["messages"][0] for line in file)
    assert sorted(kept.values()) == [4, 4]
