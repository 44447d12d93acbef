"""PRM800K, phase 2: solutions of MATH problems, checked step by step by people."""

from __future__ import annotations

from facetrm.core.errors import DataError
from facetrm.data.read.columns import Row, short
from facetrm.data.sources.raw import items, preferred, text, user, value
from facetrm.data.sources.registry import Dropped, Records, source


def _question(row: Row) -> Row:
    question = value(row, "question")
    if not isinstance(question, dict):
        raise DataError(f"'question' is {short(question)}", fix="it must be an object with 'problem'")
    return question


def _steps(row: Row) -> str:
    steps = items(_question(row), "pre_generated_steps")
    if not all(isinstance(step, str) for step in steps):
        raise DataError(f"'pre_generated_steps' holds {short(steps)}", fix="it must be a list of texts")
    return "\n".join(steps)


@source(
    "prm800k-phase2",
    hub="tasksource/PRM800K",
    kind="preference",
    licence="MIT",
    citation="Lightman et al. 2023, Let's Verify Step by Step (arXiv 2305.20050)",
    task="math",
    files=["phase2_{split}.jsonl"],
    group_by=lambda row: text(_question(row), "problem"),
)
def prm800k(rows: list[Row]) -> Records:
    """A solution whose steps are all correct is preferred to one with an error, for the same problem.

    ``label.finish_reason`` is ``solution`` or ``found_error``. Each wrong solution is paired with one right solution,
    and the right ones are used in turn. Quality-control rows, problems without both kinds, and reports
    (``bad_problem``, ``give_up``) are dropped. ArmoRM's rule is not published; this one is ours.
    """
    right: list[str] = []
    wrong: list[str] = []
    for row in rows:
        label = value(row, "label")
        reason = value(label, "finish_reason")
        if row.get("is_quality_control_question") or row.get("is_initial_screening_question"):
            yield Dropped("quality control")
        elif reason in ("solution", "found_error"):
            (right if reason == "solution" else wrong).append(_steps(row))
        else:
            yield Dropped(f"finish reason {reason}")
    right, wrong = list(dict.fromkeys(right)), list(dict.fromkeys(wrong))
    if not right or not wrong:
        yield from (Dropped("no right solution" if wrong else "no wrong solution") for _ in wrong or right)
        return
    problem = user(text(_question(rows[0]), "problem"))
    for n, solution in enumerate(wrong):
        if solution in right:
            yield Dropped("judged both right and wrong")
        else:
            yield preferred(problem, right[n % len(right)], solution)
