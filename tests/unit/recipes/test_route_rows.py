"""Which rows teach the router which task, and what it then says of the others."""

from __future__ import annotations

from typing import Any

import pytest

from facetrm.core.errors import ConfigError, FitError
from facetrm.data.objectives import Objective
from facetrm.data.records import Preference
from facetrm.recipes.armorm.config import check_fallback
from facetrm.recipes.dmoerm.config import DmoermConfig
from facetrm.recipes.dmoerm.fit import route_rows
from facetrm.recipes.dmoerm.rows import DmoermRows
from fakes import HashEncoder, chat

TASKS = {"talk": ("talk/warmth", "talk/wit"), "sums": ("sums/rigour",)}
CONFIG = DmoermConfig.model_validate(
    {"tiny": {}, "router": {"settings": {"steps": 60, "hidden": 8, "samples": 10}, "threshold": 0.6}}
)


def row(n: int, about: str, **fields: Any) -> Preference:
    """A pair whose prompt says in its words which task it is."""
    words = {"talk": "tell me a tale", "sums": "add these numbers"}[about]
    asked, better, worse = chat(f"{words} {n}", "yes", "x", "no")[:1], chat("x", "yes")[-1], chat("x", "no")[-1]
    return Preference(id=str(n), prompt=asked, responses=(better, worse), **fields)


def rows_of(overall: list[Preference], capabilities: list[Preference], tasks: Any = TASKS) -> DmoermRows:
    objectives = {task: tuple(Objective(name=n, low=0, high=1) for n in names) for task, names in tasks.items()}
    return DmoermRows(objectives, overall, capabilities, [], None, {})


def taught(rows: DmoermRows) -> int:
    router, _, _ = route_rows(CONFIG, rows, HashEncoder(16))
    assert router is not None
    return router.counts["train"] + router.counts["validation"]


def both(start: int, count: int, **fields: Any) -> list[Preference]:
    return [row(n, ("talk", "sums")[n % 2], **fields) for n in range(start, start + count)]


def test_rows_without_a_task_get_the_one_that_their_prompt_asks_for():
    labelled = [p.model_copy(update={"task": ("talk", "sums")[n % 2]}) for n, p in enumerate(both(0, 40))]
    rows = rows_of([*labelled, *both(40, 20)], [])
    router, tasks, assigned = route_rows(CONFIG, rows, HashEncoder(16))
    assert tasks == ["talk", "sums"] * 30
    assert router is not None
    assert router.names == ("talk", "sums")
    assert assigned is not None
    assert assigned.given == {"talk": 20, "sums": 20}
    assert assigned.routed == {"talk": 10, "sums": 10}
    assert assigned.threshold == 0.6


def test_one_task_needs_no_router():
    rows = rows_of(both(0, 6), [], {"talk": ("talk/wit",)})
    assert route_rows(CONFIG, rows, HashEncoder(16)) == (None, ["talk"] * 6, None)


def about(start: int, count: int, **fields: Any) -> list[Preference]:
    return [
        row(n, ("talk", "sums")[n % 2], aspect=("talk/wit", "sums/rigour")[n % 2], **fields)
        for n in range(start, start + count)
    ]


def test_preferences_about_capabilities_say_their_task():
    rows = rows_of(both(0, 20), about(50, 40))
    assert taught(rows) == 40
    assert route_rows(CONFIG, rows, HashEncoder(16))[1] == ["talk", "sums"] * 10
    # The same prompts: what their capability says is known of rows that name no task.
    assert taught(rows_of(both(0, 40), about(0, 40))) == 40
    # Each prompt once, however many capabilities it was compared in.
    twice = [p.model_copy(update={"aspect": "talk/warmth"}) for p in about(50, 40) if p.aspect == "talk/wit"]
    assert taught(rows_of(both(0, 20), [*about(50, 40), *twice])) == 40
    named = [p.model_copy(update={"task": ("talk", "sums")[n % 2]}) for n, p in enumerate(both(0, 40))]
    assert taught(rows_of(named, about(0, 60))) == 60, "a row that names its task, and its prompt's labels, count once"


def test_a_prompt_whose_task_is_in_doubt_teaches_nothing():
    doubtful = [p.model_copy(update={"aspect": "sums/rigour"}) for p in about(50, 20)]
    assert taught(rows_of(both(0, 20), [*about(50, 40), *doubtful])) == 30
    elsewhere = about(90, 10, task="poems")
    assert taught(rows_of(both(0, 20), [*about(50, 40), *elsewhere])) == 40


def test_rows_that_no_label_helps_are_refused():
    with pytest.raises(FitError, match="router"):
        route_rows(CONFIG, rows_of(both(0, 20), []), HashEncoder(16))


def test_a_fall_back_is_all_or_a_task():
    for name in ("all", "talk"):
        check_fallback(CONFIG.router.model_copy(update={"fallback": name}), tuple(TASKS))
    wrong = CONFIG.router.model_copy(update={"fallback": "tlak"})
    with pytest.raises(ConfigError, match=r"router\.fallback: unknown task 'tlak'; did you mean 'talk'"):
        check_fallback(wrong, tuple(TASKS))
    check_fallback(wrong.model_copy(update={"threshold": 0.0}), tuple(TASKS))
    with pytest.raises(ConfigError, match="task 'all' has the name of the fall-back"):
        check_fallback(CONFIG.router, ("all", "talk"))
    check_fallback(CONFIG.router.model_copy(update={"threshold": 0.0}), ("all", "talk"))
