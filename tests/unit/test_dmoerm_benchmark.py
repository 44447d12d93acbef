"""What the benchmarks of DMoERM are made of: a judge as noisy as asked, disturbed labels, tables, a capped pack."""

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


def test_the_disturbed_labels_follow_their_own_order(benchmarks: dict[str, ModuleType]) -> None:
    module = benchmarks["dmoerm"]
    section = WorldTasks(world=WorldConfig(noise=0.0), tasks=module.TASKS, preferences=600, labelled=30, test=60)
    rows = load_tasks(section, seed=0)
    disturbed = module.disturbed(rows, 0.3, 0)
    gaps = np.array([module.true_gap(rows.world, pair, "disturbed") for pair in disturbed.overall])
    assert np.mean(gaps < 0) == pytest.approx(0.3, abs=0.06)
    clean = module.disturbed(rows, 0.0, 0).overall
    assert min(module.true_gap(rows.world, pair, "disturbed") for pair in clean) >= 0
    turned = Counter(
        new.task for old, new in zip(rows.overall, clean, strict=True) if new.responses[0] != old.responses[0]
    )
    assert turned.keys() == module.DISTURBED.keys(), "the third task is left as it is"


def test_the_summary_counts_against_the_truth(benchmarks: dict[str, ModuleType]) -> None:
    module = benchmarks["dmoerm"]

    def cell(seed: int) -> dict[str, object]:
        truth = [1.0, -1.0, 1.0, 0.0, 1.0 - 2.0 * seed]
        return {
            "seed": seed,
            "tasks": [module.TASKS[n] for n in (0, 1, 0, 0, 0)],
            "truth": truth,
            "margins": {name: [1.0] * 5 for name in module.SYSTEMS} | {"model": truth},
            "experts": {"a": {"kept": True, "steps": 200}, "b": {"kept": False, "steps": 190 + seed}},
            "seconds": {"total": 60.0},
            "kept_label_error": 0.1,
        }

    found = module.summary([cell(0), cell(1)])
    assert found["true"]["model"] == {"value": 1.0, "low": 1.0, "high": 1.0, "seeds": [1.0, 1.0]}
    single = found["true"]["single_rm"]
    assert (single["value"], single["seeds"]) == (pytest.approx(0.625), [0.75, 0.5]), "a true tie is left out"
    assert single["high"] - 0.625 == pytest.approx(12.706204736432095 * 0.125)
    assert found["ahead"]["single_rm"]["value"] == pytest.approx(0.375)
    assert found["by_task"][module.TASKS[1]]["single_rm"] == 0.0
    assert (found["experts_kept"], found["experts"], found["fewest_steps"]) == ([1, 1], 2, 190)
    assert "1 of 2, 1 of 2; fewest steps of one: 190" in module.table("800", found)
    assert module.over_seeds([0.5])["low"] is None


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
