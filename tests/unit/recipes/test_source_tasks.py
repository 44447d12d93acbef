"""``data: kind: sources`` of a recipe with a router: registered preferences, their tasks, and what has none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from facetrm.core.errors import ConfigError, DataError
from facetrm.data.sources import MTMC_TASKS
from facetrm.recipes.dmoerm.rows import SourceTasks, SplitSection, TaskSection, cut_phases, load_tasks
from tiny_runs import write_rows

LABELS = [*MTMC_TASKS, "代码理解与生成"]
RUBRIC = """
name: two
language: en
tasks:
  - name: chat
    description: Talk.
    capabilities: [{name: empathy, description: how kind it is, better: kinder}]
  - name: text
    description: Texts.
    capabilities: [{name: clarity, description: how clear it is, better: clearer}]
"""


def asked(n: int) -> dict[str, Any]:
    said = {"response": ["good", "better", "worse"], "rank": [2, 1, 3]}
    return {"label": LABELS[n % 6], "src": [f"问题 {n}"], "tgt": [], **said}


def labelled(n: int, aspect: str = "chat/empathy_ability") -> dict[str, Any]:
    said = [{"role": "assistant", "content": text} for text in ("good", "worse")]
    return {"prompt": [{"role": "user", "content": f"问题 {n}"}], "responses": said, "aspect": aspect}


@pytest.fixture
def section(tmp_path: Path) -> SourceTasks:
    write_rows(tmp_path / "mtmc-rlhf" / "train.jsonl", [asked(n) for n in range(60)])
    return SourceTasks(preferences=("mtmc-rlhf",), folder=str(tmp_path), rubric="dmoerm-zh", test_share=0.3)


def test_a_recipe_can_name_it(section: SourceTasks) -> None:
    assert TypeAdapter(TaskSection).validate_python(section.model_dump()) == section


def test_rows_come_with_their_tasks_and_prompts_stay_on_one_side(section: SourceTasks) -> None:
    rows = load_tasks(section, seed=0)
    assert rows.tasks == ("roleplay", "chat", "subj_qa", "obj_qa", "text")
    assert len(rows.overall) + len(rows.test) == 60
    assert 5 < len(rows.test) < 35
    assert not {p.prompt_key for p in rows.overall} & {p.prompt_key for p in rows.test}
    found = [p.task for p in (*rows.overall, *rows.test)]
    assert {task: found.count(task) for task in found} == {**dict.fromkeys(rows.tasks, 10), None: 10}
    assert {tuple(m.content for m in p.responses) for p in rows.test} == {("better", "good", "worse")}
    assert rows.counts == {}, "a label outside of the five is no task of the source's"
    assert load_tasks(section, seed=0).hash == rows.hash
    assert load_tasks(section, seed=1).hash != rows.hash


def test_a_task_that_the_rubric_does_not_have_is_left_to_the_router(section: SourceTasks, tmp_path: Path) -> None:
    (tmp_path / "two.yaml").write_text(RUBRIC, encoding="utf-8")
    rows = load_tasks(section.model_copy(update={"rubric": str(tmp_path / "two.yaml")}), seed=0)
    assert rows.tasks == ("chat", "text")
    found = [p.task for p in (*rows.overall, *rows.test)]
    assert {task: found.count(task) for task in found} == {"chat": 10, "text": 10, None: 40}
    assert rows.counts == {"preferences_with_another_task": 30}


def test_capabilities_are_read_beside_it(section: SourceTasks, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "labels" / "preferences.jsonl", [labelled(n) for n in range(60)])
    rows = load_tasks(section.model_copy(update={"capabilities": (str(path),)}), seed=0)
    held = {p.prompt_key for p in rows.test}
    assert len(rows.capabilities) == 60 - len(held)
    assert not {p.prompt_key for p in rows.capabilities} & held
    assert rows.counts == {"training_capabilities_with_a_test_prompt": len(held)}
    write_rows(path, [labelled(0, "chat/empathy")])
    with pytest.raises(DataError, match="unknown capability 'chat/empathy'; did you mean 'chat/empathy_ability'"):
        load_tasks(section.model_copy(update={"capabilities": (str(path),)}), seed=0)


def test_limit_is_of_each_source(section: SourceTasks) -> None:
    rows = load_tasks(section.model_copy(update={"limit": 40}), seed=0)
    assert len(rows.overall) + len(rows.test) == 40


def test_what_the_test_part_took_is_taken_from_every_phase_alike(section: SourceTasks, tmp_path: Path) -> None:
    write_rows(tmp_path / "mtmc-rlhf" / "train.jsonl", [asked(n) for n in range(1200)])
    rows = load_tasks(section, seed=0)
    phases = cut_phases(rows, [p.task or "chat" for p in rows.overall], SplitSection(base=0.5, mix=0.5, seed=0))
    sizes = {name: sum(len(getattr(cut, name)) for cut in phases.values()) for name in ("base", "mix")}
    assert sum(sizes.values()) == len(rows.overall)
    assert 0.44 < sizes["mix"] / len(rows.overall) < 0.56


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mtmc-rlhv", "data.preferences: unknown source 'mtmc-rlhv'; did you mean 'mtmc-rlhf'"),
        ("helpsteer", "data.preferences: source 'helpsteer' holds ratings; did you mean 'helpsteer-preferences'"),
    ],
)
def test_a_wrong_name_is_named(section: SourceTasks, name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_tasks(section.model_copy(update={"preferences": (name,)}), seed=0)
