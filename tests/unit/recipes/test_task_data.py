"""The data of a run with tasks: each prompt in one part, every row accounted for, bad rows refused with their place."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from facetrm.core.errors import ConfigError, DataError
from facetrm.data.records import Message, Preference
from facetrm.data.world import TASKS
from facetrm.recipes.dmoerm.rows import (
    DmoermRows,
    FileTasks,
    PackTasks,
    SplitSection,
    WorldTasks,
    cut_phases,
    load_tasks,
)
from tiny_runs import write_rows

RUBRIC = {
    "name": "own",
    "tasks": [
        {
            "name": task,
            "description": "what it is",
            "capabilities": [{"name": name, "description": "what it is", "better": "more of it"} for name in names],
        }
        for task, names in (("chat", ["warmth", "wit"]), ("maths", ["rigour"]))
    ],
}


def row(n: int, *, replies: int = 2, **fields: Any) -> dict[str, Any]:
    return {
        "id": str(n),
        "prompt": [{"role": "user", "content": f"question {n}"}],
        "responses": [{"role": "assistant", "content": f"answer {n}.{i}"} for i in range(replies)],
        **fields,
    }


def pair(n: int, **fields: Any) -> dict[str, Any]:
    """The same in the columns of a pack, which call a task ``category``."""
    value = row(n)
    first, second = value.pop("responses")
    return {**value, "chosen": [first], "rejected": [second], **fields}


def files(folder: Path, preferences: list[Any], capabilities: list[Any], **settings: Any) -> FileTasks:
    (folder / "rubric.yaml").write_text(yaml.safe_dump(RUBRIC))
    return FileTasks(
        preferences=(str(write_rows(folder / "preferences.jsonl", preferences)),),
        capabilities=(str(write_rows(folder / "capabilities.jsonl", capabilities)),),
        rubric=str(folder / "rubric.yaml"),
        **settings,
    )


def keys(rows: list[Preference]) -> set[str]:
    return {p.prompt_key for p in rows}


@pytest.fixture(scope="module")
def world() -> DmoermRows:
    section = WorldTasks(tasks=("chat", "code"), preferences=200, labelled=100, test=60, most=2)
    return load_tasks(section, seed=0)


def test_the_world_gives_rows_of_the_tasks_that_are_asked(world):
    assert world.tasks == ("chat", "code")
    assert len(world.overall) == 200
    assert len(world.test) == 60
    assert {p.task for p in (*world.overall, *world.test)} == {"chat", "code"}
    names = {o.name for found in world.objectives.values() for o in found}
    assert len(names) == 4
    assert all(o.name.startswith(f"{task}/") for task, found in world.objectives.items() for o in found)
    assert {p.aspect for p in world.capabilities} == names
    assert {p.aspect.split("/")[0] for p in world.capabilities} == {p.task for p in world.capabilities}
    assert 0 < world.counts["judgements_kept"] == len(world.capabilities) < world.counts["judgements"]
    for one, other in ((world.overall, world.test), (world.capabilities, world.test)):
        assert not keys(one) & keys(other)
    assert world.world is not None


def test_a_world_of_other_settings_has_another_hash(world):
    section = WorldTasks(tasks=("chat", "code"), preferences=200, labelled=100, test=60, most=2)
    assert load_tasks(section, seed=5).hash == world.hash
    assert load_tasks(section.model_copy(update={"least": 0.2}), seed=0).hash != world.hash
    with pytest.raises(ValueError, match="give one or more of"):
        WorldTasks(tasks=("chat", "coed"))
    with pytest.raises(ValueError, match="give one or more of"):
        WorldTasks(tasks=("chat", "chat"))


def test_each_prompt_stands_in_one_phase_and_one_part_of_its_task(tmp_path):
    """The released code labels capabilities on prompts of the other phases too."""
    preferences = [row(n, task=("chat", "maths")[n % 2]) for n in range(400)]
    preferences += [row(n, replies=3, id=f"again {n}", task=("chat", "maths")[n % 2]) for n in range(0, 400, 3)]
    about = [row(n, aspect="chat/warmth") for n in range(0, 400, 2)] + [
        row(n, aspect="chat/wit") for n in range(0, 400, 2)
    ]
    rows = load_tasks(files(tmp_path, preferences, about), seed=0)
    section = SplitSection(base=0.5, experts=0.3, mix=0.2)
    phases = cut_phases(rows, [str(p.task) for p in rows.overall], section)
    assert list(phases) == ["chat", "maths"]
    parts: dict[str, set[str]] = {"base": set(), "experts": set(), "mix": set(), "test": keys(rows.test)}
    for task, found in phases.items():
        for name, part in (("base", found.base), ("mix", found.mix)):
            assert {p.task for p in part} == {task}
            parts[name] |= keys(part)
        for name, part in found.capabilities.items():
            assert {p.aspect for p in part} <= {name}
            parts["experts"] |= keys(part)
    for one in parts:
        for other in parts:
            assert one == other or not parts[one] & parts[other], (one, other)
    assert phases["maths"].capabilities == {"maths/rigour": []}
    assert phases["maths"].counts() == {
        "base": len(phases["maths"].base),
        "maths/rigour": 0,
        "mix": len(phases["maths"].mix),
    }
    # Prompts with labels of both kinds are shared out as the section says, and none of the others goes to the experts.
    both = keys(rows.overall) & keys(rows.capabilities)
    assert len(parts["experts"]) == len(both & parts["experts"])
    for name, share in (("base", 0.5), ("experts", 0.3), ("mix", 0.2)):
        assert len(both & parts[name]) / len(both) == pytest.approx(share, abs=0.1)
    alone = keys(rows.overall) - both
    assert alone <= parts["base"] | parts["mix"]
    assert len(alone & parts["base"]) / len(alone) == pytest.approx(0.5 / 0.7, abs=0.1)
    # All rows of the prompts that stay are used.
    used = sum(len(f.base) + len(f.mix) for f in phases.values())
    assert used == sum(p.prompt_key not in parts["experts"] for p in rows.overall)
    again = cut_phases(rows, [str(p.task) for p in rows.overall], section)
    assert again == phases
    other = cut_phases(rows, [str(p.task) for p in rows.overall], section.model_copy(update={"seed": 1}))
    assert keys(other["chat"].base) != keys(phases["chat"].base)


def test_prompts_with_labels_about_capabilities_alone_go_to_the_experts(world):
    tasks = [str(p.task) for p in world.overall]
    phases = cut_phases(world, tasks, SplitSection())
    assert sum(len(part) for f in phases.values() for part in f.capabilities.values()) == len(world.capabilities)
    assert sum(len(f.base) + len(f.mix) for f in phases.values()) == len(world.overall)
    assert Counter(tasks) == {task: len(f.base) + len(f.mix) for task, f in phases.items()}


def test_the_rows_own_splits_hold_where_one_says_test(tmp_path):
    preferences = [row(n, task="chat", split="test" if n % 10 == 0 else "train") for n in range(60)]
    preferences.append(row(20, id="again", task="chat", split="train"))
    preferences.append(row(7, id="kind", task="chat", aspect="kindness"))
    about = [row(n, aspect="chat/wit") for n in range(30)]
    rows = load_tasks(files(tmp_path, preferences, about, test_share=0.9), seed=0)
    assert [p.id for p in rows.test] == ["0", "10", "20", "30", "40", "50"]
    assert rows.counts == {
        "preferences_about_another_aspect": 1,
        "training_preferences_with_a_test_prompt": 1,
        "training_capabilities_with_a_test_prompt": 3,
    }
    assert len(rows.overall) == 54
    assert len(rows.capabilities) == 27
    assert not keys(rows.test) & (keys(rows.overall) | keys(rows.capabilities))


def test_labels_of_the_test_split_are_not_learned_from(tmp_path):
    preferences = [row(n, task="chat", split="test" if n % 10 == 0 else "train") for n in range(60)]
    about = [row(n, aspect="chat/wit", split="test" if n >= 90 else "train") for n in range(80, 100)]
    rows = load_tasks(files(tmp_path, preferences, about), seed=0)
    assert {p.id for p in rows.capabilities} == {str(n) for n in range(80, 90)}
    assert rows.counts == {"capabilities_of_the_test_split": 10}


@pytest.mark.parametrize("test", ["test", "train"])
def test_rows_of_validation_are_not_learned_from(test, tmp_path):
    splits = {0: test, 1: "validation"}
    preferences = [row(n, task="chat", split=splits.get(n % 10, "train")) for n in range(60)]
    about = [row(n, aspect="chat/wit", split="dev" if n >= 90 else "train") for n in [11, *range(80, 100)]]
    rows = load_tasks(files(tmp_path, preferences, about), seed=0)
    held = {str(n) for n in (*range(1, 60, 10), *range(90, 100))}
    assert not held & {p.id for p in (*rows.overall, *rows.capabilities, *rows.test)}
    assert rows.counts["validation_preferences"] == 6
    assert rows.counts["validation_capabilities"] == 10
    assert rows.counts["training_capabilities_with_a_validation_prompt"] == 1


def test_files_without_a_test_split_are_divided_by_prompt(tmp_path):
    preferences = [row(n, id=f"{n}.{k}") for n in range(200) for k in range(2)]
    section = files(tmp_path, preferences, [row(n, aspect="chat/wit") for n in range(50)], test_share=0.25)
    rows = load_tasks(section, seed=0)
    assert len(keys(rows.test)) == pytest.approx(50, abs=18)
    assert not keys(rows.test) & (keys(rows.overall) | keys(rows.capabilities))
    assert len(rows.overall) + len(rows.test) == 400
    assert rows.counts == {"training_capabilities_with_a_test_prompt": 50 - len(rows.capabilities)}
    assert keys(load_tasks(section, seed=1).test) != keys(rows.test)
    assert {p.task for p in rows.overall} == {None}


def test_tasks_and_capabilities_that_nobody_knows_are_refused_with_their_row(tmp_path):
    about = [row(1, aspect="chat/wit")]
    with pytest.raises(DataError, match=r"preferences, row '2': unknown task 'match'.*did you mean 'maths'.*router"):
        load_tasks(files(tmp_path, [pair(1, category="chat"), pair(2, category="match")], about), seed=0)
    with pytest.raises(DataError, match=r"capabilities, row '3': unknown capability 'chat/wits'.*'chat/wit'"):
        load_tasks(files(tmp_path, [row(1), row(2)], [*about, row(3, aspect="chat/wits")]), seed=0)
    with pytest.raises(DataError, match=r"capabilities, row '4': unknown capability 'overall'"):
        load_tasks(files(tmp_path, [row(1), row(2)], [row(4)]), seed=0)


def test_a_blank_task_is_none(tmp_path):
    rows = load_tasks(files(tmp_path, [row(n, task="" if n % 2 else "chat") for n in range(60)], []), seed=0)
    assert Counter(p.task or None for p in (*rows.overall, *rows.test)) == {None: 30, "chat": 30}


def test_missing_files_and_empty_parts_are_refused(tmp_path):
    section = files(tmp_path, [row(n) for n in range(40)], [])
    with pytest.raises(DataError, match=r"none\.jsonl.*no such file"):
        load_tasks(section.model_copy(update={"capabilities": (str(tmp_path / "none.jsonl"),)}), seed=0)
    with pytest.raises(ConfigError, match=r"own2|unknown rubric|no such"):
        load_tasks(section.model_copy(update={"rubric": "own2"}), seed=0)
    test_only = [row(n, split="test") for n in range(5)]
    with pytest.raises(DataError, match=r"data \(files\): no rows for part 'overall'; give more data"):
        load_tasks(files(tmp_path, test_only, []), seed=0)


def pack(folder: Path) -> str:
    attribute = {"type": "integer", "min": 0, "max": 4, "direction": "higher_is_better"}
    sources = {"rated": {"s": {"attributes": {"s-x": {**attribute, "meaning": "how x"}, "s-y": attribute}}}}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sources.json").write_text(json.dumps(sources))
    split, category = ["train", "train", "train", "test"], ["chat", "maths", "poems"]
    rated = [
        {
            "id": f"s/{n}",
            "source": "s",
            "category": category[n // 2 % 3],
            "split": split[n // 2 % 4],
            "messages": [
                {"role": "user", "content": f"rated {n // 2}"},
                {"role": "assistant", "content": f"answer {n}"},
            ],
            "ratings": {"s-x": n % 5, "s-y": n % 3},
        }
        for n in range(240)
    ]
    pairs = [pair(n, category=category[n % 3], split=split[n % 4]) for n in range(120)]
    write_rows(folder / "rated.jsonl", rated)
    write_rows(folder / "preferences.jsonl", pairs)
    return str(folder)


def test_a_packs_categories_are_tasks_and_its_attributes_capabilities(tmp_path):
    folder = pack(tmp_path / "pack")
    rows = load_tasks(PackTasks(folder=folder, tasks={"chat": ("s-x", "s-y"), "maths": ()}), seed=0)
    assert {task: [o.name for o in found] for task, found in rows.objectives.items()} == {
        "chat": ["chat/s-x", "chat/s-y"],
        "maths": [],
    }
    first = rows.objectives["chat"][0]
    assert (first.low, first.high, first.source, first.direction) == (0.0, 1.0, "s", "higher")
    assert Counter(p.task for p in rows.overall) == {"chat": 30, "maths": 30, None: 30}
    assert {p.split for p in rows.overall} == {"train"}
    assert {p.split for p in rows.test} == {"test"}
    assert len(rows.test) == 30
    assert {p.aspect for p in rows.capabilities} == {"chat/s-x", "chat/s-y"}
    assert all(p.split == "train" for p in rows.capabilities)
    few = load_tasks(PackTasks(folder=folder, tasks={"chat": ("s-x",)}, limit=7), seed=0)
    assert len(few.capabilities) == 7
    with pytest.raises(ConfigError, match=r"data\.tasks: unknown attribute 's-z'; did you mean 's-[xy]'"):
        load_tasks(PackTasks(folder=folder, tasks={"chat": ("s-z",)}), seed=0)


def test_a_rating_of_another_task_says_nothing_about_this_one(tmp_path):
    """An attribute that two tasks share is learned, in each, from its own rows and those of no named task."""
    section = PackTasks(folder=pack(tmp_path / "pack"), tasks={"chat": ("s-x",), "maths": ("s-x",)})
    rows = load_tasks(section, seed=0)
    prompts = {
        aspect: {int(p.prompt[0].content.split()[1]) % 3 for p in rows.capabilities if p.aspect == aspect}
        for aspect in ("chat/s-x", "maths/s-x")
    }
    assert prompts == {"chat/s-x": {0, 2}, "maths/s-x": {1, 2}}


def test_every_task_of_the_world_can_be_asked_for():
    rows = load_tasks(WorldTasks(preferences=60, labelled=60, test=30), seed=0)
    assert rows.tasks == TASKS
    assert all(1 <= len(found) <= 4 for found in rows.objectives.values())


def test_rows_hash_what_they_hold(tmp_path):
    section = files(tmp_path, [row(n, task="chat") for n in range(40)], [row(n, aspect="chat/wit") for n in range(9)])
    one = load_tasks(section, seed=0)
    longer = one.overall[0].model_copy(
        update={"responses": (*one.overall[0].responses, Message(role="assistant", content="x"))}
    )
    assert load_tasks(section, seed=0).hash == one.hash
    for change in ({"overall": [longer, *one.overall[1:]]}, {"test": one.test[1:]}, {"capabilities": []}):
        assert DmoermRows(**{**vars(one), **change}).hash != one.hash


def test_copies_and_prompts_of_benchmarks_are_taken_out_of_training_and_counted(tmp_path):
    splits = ["test" if n % 4 == 0 else "train" for n in range(40)]
    overall = [row(n, task="chat", split=split) for n, split in enumerate(splits)]
    about = [row(n, aspect="chat/wit") for n in (1, 2, 3, 2)]
    benchmark = write_rows(tmp_path / "bench.jsonl", [pair(1), pair(4)])
    plain = load_tasks(files(tmp_path, [*overall, overall[2]], about), seed=0)
    rows = load_tasks(
        files(tmp_path, [*overall, overall[2]], about, deduplicate=True, decontaminate=(str(benchmark),)), seed=0
    )
    assert [len(part) for part in (plain.overall, plain.capabilities)] == [31, 4]
    assert [len(part) for part in (rows.overall, rows.capabilities)] == [29, 2]
    assert rows.test == plain.test
    assert not keys([*rows.overall, *rows.capabilities]) & {p.prompt_key for p in plain.capabilities[:1]}
    assert rows.counts == {
        "training_preferences_that_are_copies": 1,
        "training_preferences_with_a_benchmark_prompt": 1,
        "training_capabilities_that_are_copies": 1,
        "training_capabilities_with_a_benchmark_prompt": 1,
    }
