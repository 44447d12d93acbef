"""Rubrics: what is shipped, what a user's own becomes, and what is said about a wrong one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from facetrm.core.errors import ConfigError
from facetrm.data.objectives import check_unique
from facetrm.data.rubric import read_rubric, shipped_rubrics

PUBLISHED = {"roleplay": 6, "chat": 5, "subj_qa": 5, "obj_qa": 6, "text": 5}
OWN = """\
name: mine
tasks:
  - name: letters
    description: Letters to friends.
    capabilities:
      - name: warmth
        description: how warm it is
        better: warmer,
          but not sticky
      - name: 简洁
        description: how short it is
        better: says the same in fewer words
"""


def shape(name: str) -> dict[str, list[str]]:
    return {task.name: [c.name for c in task.capabilities] for task in read_rubric(name).tasks}


def test_the_published_tasks_have_their_27_points() -> None:
    assert {task: len(points) for task, points in shape("dmoerm").items()} == PUBLISHED
    objectives = read_rubric("dmoerm").objectives()
    check_unique(objectives)
    assert len(objectives) == 27
    assert len({objective.name.split("/")[1] for objective in objectives}) == 20
    assert all(objective.gated and objective.to_unit(0.25) == 0.25 for objective in objectives)


def test_chinese_and_english_name_the_same_points_in_other_words() -> None:
    assert shape("dmoerm") == shape("dmoerm-zh")
    english, chinese = read_rubric("dmoerm"), read_rubric("dmoerm-zh")
    assert (english.language, chinese.language) == ("en", "zh")
    for one, other in zip(english.objectives(), chinese.objectives(), strict=True):
        assert one.name == other.name
        assert not re.search("[\u4e00-\u9fff]", one.meaning)
        assert re.search("[\u4e00-\u9fff]", other.meaning)


@pytest.mark.parametrize("name", shipped_rubrics())
def test_shipped_capabilities_say_different_things(name: str) -> None:
    rubric = read_rubric(name)
    assert rubric.name == name
    for task in rubric.tasks:
        assert len({c.description for c in task.capabilities}) == len({c.better for c in task.capabilities})
        assert len({c.better for c in task.capabilities}) == len(task.capabilities) > 3


def test_the_general_rubric_has_its_five_tasks() -> None:
    assert sorted(shape("general")) == ["chat", "code", "reasoning", "safety", "writing"]


def test_a_rubric_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(OWN, encoding="utf-8")
    found = read_rubric(path).objectives("letters")
    assert [objective.name for objective in found] == ["letters/warmth", "letters/简洁"]
    assert found[0].meaning == "how warm it is; better: warmer, but not sticky"
    assert found[0].source == "mine"
    with pytest.raises(ConfigError, match="unknown task 'leters'; did you mean 'letters'"):
        read_rubric(path).objectives("leters")


WRONG = [
    ("name: warmth", "nmae: warmth", 6, "unknown setting 'tasks.0.capabilities.0.nmae'", "did you mean 'name'"),
    ("    description: Letters to friends.\n", "", 3, "'tasks.0.description' is missing", "add"),
    ("name: 简洁", "name: warmth", 3, "'warmth' 2 times", "its own name"),
    ("name: warmth", "name: warm/th", 6, "'warm/th'", "without '/'"),
    ("description: how short it is", 'description: " "', 11, "' '", "plain words"),
    ("name: warmth", "name: yes", 6, "True", "string"),
    ("name: mine", "name: mine\nlanguage: de", 2, "'de'", "'en' or 'zh'"),
    ("better: warmer,", "better: [warmer,", 10, "not YAML", "fix this line"),
]


@pytest.mark.parametrize(("old", "new", "line", "problem", "fix"), WRONG)
def test_a_wrong_rubric_names_line_and_fix(
    old: str, new: str, line: int, problem: str, fix: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine.yaml"
    assert old in OWN
    path.write_text(OWN.replace(old, new), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read_rubric(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:{line}:"), message
    assert problem in message
    assert fix in message


def test_an_unknown_name_and_a_missing_file_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown rubric 'genral'; did you mean 'general'\? Else give the path"):
        read_rubric("genral")
    with pytest.raises(ConfigError, match=r"none\.yaml: no such file"):
        read_rubric(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- a", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"\['a'\] is not a rubric; write 'name:'"):
        read_rubric(tmp_path / "list.yaml")
