from __future__ import annotations

import json
from pathlib import Path

import pytest

from facetrm.core.errors import DataError
from facetrm.data.read.files import read_preferences
from facetrm.data.records import Message, Preference, Rating
from facetrm.data.sources import MTMC_TASKS, load_source
from facetrm.data.tasks import task_rows
from facetrm.data.world import TASKS, World

MTMC = Path(__file__).parent / "sources" / "quanshr__mtmc-rlhf.jsonl"


def rating(task: str | None, *, name: str = "") -> Rating:
    messages = (Message(role="user", content=f"do {task}"), Message(role="assistant", content="done"))
    return Rating(id=name, task=task, messages=messages, ratings={})


def preference(task: str | None) -> Preference:
    responses = tuple(Message(role="assistant", content=text) for text in ("best", "middle", "worst"))
    return Preference(task=task, prompt=(Message(role="user", content="choose"),), responses=responses)


def test_rows_keep_their_order_and_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [rating("write"), preference(None), rating("code"), rating("  "), preference("write")]
    found = task_rows(rows)
    assert found.tasks == ["write", None, "code", None, "write"]
    assert (found.counts, found.unlabelled, found.labelled) == ({"code": 1, "write": 2}, 2, [0, 2, 4])
    assert [messages[-1].content for messages in found.conversations] == ["done", "best", "done", "done", "best"]
    assert found.groups == [row.prompt_key for row in rows]
    event = json.loads(capsys.readouterr().err.splitlines()[-1])
    assert (event["tasks"], event["unlabelled"], event["with_an_unknown_task"]) == ({"code": 1, "write": 2}, 2, 0)


def test_an_unknown_task_is_suggested() -> None:
    rows = [rating("write"), rating("wriet", name="x7")]
    with pytest.raises(DataError, match=r"row 'x7': unknown task 'wriet'; did you mean 'write'\?"):
        task_rows(rows, names=["code", "write"])
    with pytest.raises(DataError, match=r"row 0: unknown task 'write'; known: code"):
        task_rows(rows, names=["code"])
    found = task_rows(rows, names=["code", "write"], unknown="unlabelled")
    assert (found.tasks, found.counts) == (["write", None], {"code": 0, "write": 1})
    with pytest.raises(DataError, match="task 'code' is named twice"):
        task_rows(rows, names=["code", "write", "code"])


def test_a_category_is_a_task(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    lines = [{"prompt": "q", "chosen": "a", "rejected": "b", "category": "code"}]
    lines += [{"prompt": "r", "chosen": "a", "rejected": "b", "category": None}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert task_rows(read_preferences(path)).tasks == ["code", None]


def test_every_row_of_the_world_names_its_task() -> None:
    world = World()
    found = task_rows([*world.ratings(60), *world.preferences(60), *world.lessons(60)], names=TASKS)
    assert found.unlabelled == 0
    assert all(count > 0 for count in found.counts.values())
    assert [world.scene(messages[:-1]).task for messages in found.conversations] == found.tasks


def test_rows_of_mtmc_without_one_of_the_five_wait_for_a_router() -> None:
    found = task_rows(load_source("mtmc-rlhf", path=MTMC), names=list(MTMC_TASKS.values()))
    assert found.counts == {"roleplay": 1, "chat": 2, "subj_qa": 0, "obj_qa": 1, "text": 2}
    assert found.unlabelled == 2
