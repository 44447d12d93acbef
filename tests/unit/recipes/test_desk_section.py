"""``kind: desk`` as the data of a recipe: rows, truth, capabilities, and what is refused."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from facetrm.data.desk import Desk
from facetrm.data.world import World
from facetrm.evaluate.truth import true_signs
from facetrm.label.simulated import world_rubric
from facetrm.recipes.armorm.config import ArmormConfig
from facetrm.recipes.armorm.rows import DataSection, DeskData, WorldData, load_rows
from facetrm.recipes.dmoerm.generated import DeskTasks
from facetrm.recipes.dmoerm.rows import load_tasks
from facetrm.recipes.generated import generator_seeds


def test_armorm_rows_of_the_desk() -> None:
    section = TypeAdapter(DataSection).validate_python(
        {"kind": "desk", "ratings": 40, "preferences": 30, "test": 20, "desk": {"seed": 3, "noise": 0.3}}
    )
    assert isinstance(section, DeskData)
    assert generator_seeds(section) == {"desk": 3}
    assert generator_seeds(WorldData()) == {"world": 0}
    rows = load_rows(section, seed=0)
    assert isinstance(rows.world, Desk)
    assert [len(part) for part in (rows.heads, rows.heads_test, rows.gate, rows.test)] == [40, 20, 30, 20]
    assert {o.name for o in rows.objectives} == {o.name for o in Desk.objectives}
    keys = [{row.prompt_key for row in part} for part in (rows.heads, rows.gate, (*rows.test, *rows.heads_test))]
    assert not keys[0] & keys[1]
    assert not (keys[0] | keys[1]) & keys[2]
    signs = true_signs(rows.world, rows.test)
    assert [sign > 0 for sign in signs] == [pair.meta["agrees"] for pair in rows.test]
    assert rows.hash == load_rows(section, seed=1).hash


def test_dmoerm_rows_of_the_desk() -> None:
    section = DeskTasks(tasks=("harm", "facts"), preferences=30, labelled=40, test=20, most=2)
    rows = load_tasks(section, seed=0)
    assert isinstance(rows.world, Desk)
    assert rows.tasks == ("harm", "facts")
    capabilities = {task: [o.name for o in found] for task, found in rows.objectives.items()}
    assert capabilities == {"harm": ["harm/declined", "harm/useful"], "facts": ["facts/correct", "facts/fluent"]}
    assert {p.task for p in (*rows.overall, *rows.test)} == {"harm", "facts"}
    right = [
        rows.world.levels(p.chosen)[name] >= rows.world.levels(p.rejected)[name]
        for p in rows.capabilities
        for name in [p.aspect.split("/")[1]]
    ]
    assert len(right) > 20
    assert sum(right) / len(right) > 0.85, "the judge errs, but not often"


def test_a_rubric_of_each_generator_has_its_own_qualities() -> None:
    for world in (World, Desk):
        rubric = world_rubric(world=world)
        assert tuple(task.name for task in rubric.tasks) == world.tasks
        assert rubric.name == world.name
        assert {c.name for task in rubric.tasks for c in task.capabilities} <= set(world.slots)


def test_what_the_desk_does_not_have_is_refused() -> None:
    with pytest.raises(ValidationError, match="give one or more of sums, facts"):
        DeskTasks(tasks=("chat",))
    with pytest.raises(ValidationError, match="give one or more of sums, facts"):
        DeskTasks(tasks=("sums", "sums"))
    with pytest.raises(ValidationError, match="learns the world's words"):
        ArmormConfig.model_validate({"recipe": "armorm", "tiny": {}, "data": {"kind": "desk"}})
