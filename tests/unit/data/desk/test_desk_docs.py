"""docs/methods/desk.md says what the code says; ``--update-golden`` rewrites its tables."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from desk_tables import tables
from facetrm.data.desk import DeskConfig
from facetrm.data.desk.facts import FACT_KINDS
from facetrm.data.desk.manner import MOST_PADDING

PAGE = Path(__file__).parents[4] / "docs" / "methods" / "desk.md"


@pytest.mark.parametrize("name", list(tables()))
def test_the_table_is_that_of_the_code(name: str, update_golden: bool) -> None:
    made, text = tables()[name], PAGE.read_text(encoding="utf-8")
    region = re.compile(rf"(<!-- {name}: begin [^\n]*-->\n)(.*?)(<!-- {name}: end -->)", re.DOTALL)
    if update_golden:
        text = region.sub(lambda m: f"{m[1]}{made}\n{m[3]}", text)
        PAGE.write_text(text, encoding="utf-8")
    found = region.search(text)
    assert found is not None
    assert found[2].strip() == made


def test_settings_and_sizes_are_those_of_the_code() -> None:
    text = PAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| ([\d.]+) \|", text, re.MULTILINE)
    assert {name: float(value) for name, value in rows} == DeskConfig().model_dump()
    facts = re.search(r"table of (\d+) facts", text)
    assert facts is not None
    assert int(facts[1]) == sum(len(kind.table) for kind in FACT_KINDS)
    assert f"at most {MOST_PADDING}" in text
