"""docs/methods/world.md says what the code says; ``--update-golden`` rewrites its tables."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from facetrm.data.world import WorldConfig, vocabulary
from facetrm.data.world.latents import HARD_LATENTS
from facetrm.data.world.words import AUDIENCES, PERSONAS, SITES, THINGS
from world_tables import tables

PAGE = Path(__file__).parents[3] / "docs" / "methods" / "world.md"


def region(name: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- {name}: begin [^\n]*-->\n)(.*?)(<!-- {name}: end -->)", re.DOTALL)


@pytest.mark.parametrize("name", list(tables()))
def test_the_table_is_that_of_the_code(name: str, update_golden: bool) -> None:
    made, text = tables()[name], PAGE.read_text(encoding="utf-8")
    if update_golden:
        text = region(name).sub(lambda m: f"{m[1]}{made}\n{m[3]}", text)
        PAGE.write_text(text, encoding="utf-8")
    found = region(name).search(text)
    assert found is not None
    assert found[2].strip() == made


def test_settings_and_defaults_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([\d.]+) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert {name: float(value) for name, value in rows} == WorldConfig().model_dump()


def test_the_size_of_the_vocabulary_is_about_right() -> None:
    said = re.search(r"vocabulary of about (\d+) words", PAGE.read_text(encoding="utf-8"))
    assert said is not None
    assert abs(int(said[1]) - len(vocabulary())) <= 15


def test_topics_personas_and_hard_latents_are_those_of_the_code() -> None:
    text = PAGE.read_text(encoding="utf-8")
    said = re.search(
        r"one of (\d+) sites and one of (\d+) things .* one of (\d+) audiences, and one of (\d+) personas", text
    )
    assert said is not None
    assert tuple(map(int, said.groups())) == tuple(map(len, (SITES, THINGS, AUDIENCES, PERSONAS)))
    hard = re.search(r"or with the prompt \(([\w,\s]+)\) come twice as often", text)
    assert hard is not None
    assert tuple(re.split(r",\s+", hard[1])) == HARD_LATENTS
