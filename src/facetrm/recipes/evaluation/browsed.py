"""What the page of ``facetrm serve --browse`` shows: evaluations and runs as JSON-ready data."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from itertools import combinations
from pathlib import Path
from typing import Any, Final

from facetrm.data.read.conversations import read_conversations
from facetrm.evaluate.benchmarks.result import other_baselines
from facetrm.recipes.evaluation.gathered import gather_results
from facetrm.recipes.evaluation.run_files import METRICS
from facetrm.report.evaluated.contrast import shares_by_task
from facetrm.report.evaluated.measured import BenchmarkPart, JudgedQuestion, MeasuredFigure, RunPart, Table

_ROLE: Final = re.compile(r"(?:\A|\n\n)(system|user|assistant): ")


def browse_folders(folders: Sequence[Path]) -> dict[str, Any]:
    """Return the content of evaluations and runs, for the page.

    Args:
        folders: Folders that ``facetrm eval`` or ``facetrm run`` wrote.

    Raises:
        DataError: A folder is neither, or a file in it is broken.
    """
    if not folders:
        return {}
    report = gather_results(folders)
    pairs = {folder.name: _pair(folder) for folder in folders if (folder / METRICS).is_file()}
    return {
        "benchmarks": [_benchmark(part) for part in report.benchmarks],
        "runs": [_run(run, pairs.get(run.name)) for run in report.runs],
        "notes": list(report.notes),
    }


def _benchmark(part: BenchmarkPart) -> dict[str, Any]:
    shares = {}
    for model in part.models:
        found = shares_by_task(part, model)
        if found is not None:
            shares[model] = {"objectives": found[0], "tasks": found[1], "values": found[2]}
    models = [model for model in part.models if model in part.answered]
    return {
        "name": part.name,
        "title": part.title,
        "note": part.note,
        "models": models,
        "baselines": [
            name for name in other_baselines(part.plain) if part.total(name) is not None and name not in models
        ],
        "figures": _table(part.figures),
        "slices": _table(part.slices),
        "differences": [_difference(part, a, b) for a, b in combinations(models, 2)],
        "shares": shares,
        "questions": _questions(part),
    }


def _difference(part: BenchmarkPart, first: str, second: str) -> dict[str, Any]:
    found = part.difference(first, second)
    return {
        "first": first,
        "second": second,
        "value": None if found is None else astuple(found[0]),
        "paired": found is not None and found[1],
    }


def _table(table: Table) -> dict[str, dict[str, tuple[float, float, float] | None]]:
    def ends(one: MeasuredFigure | None) -> tuple[float, float, float] | None:
        return None if one is None else (one.value, one.low, one.high)

    return {name: {system: ends(one) for system, one in row.items()} for name, row in table.items()}


def _questions(part: BenchmarkPart) -> list[dict[str, Any]]:
    keys = dict.fromkeys(key for rows in part.answered.values() for key in rows)
    questions = []
    for key in keys:
        sides = {model: rows[key] for model, rows in part.answered.items() if key in rows}
        one, texts = next(iter(sides.values())), part.texts.get(key)
        questions.append(
            {
                "id": one.id,
                "subset": one.subset,
                "task": one.task,
                "answers": one.answers,
                "longer_by": one.longer_by,
                "prompt": None if texts is None else prompt_turns(texts.prompt),
                "right": [] if texts is None else list(texts.right),
                "wrong": [] if texts is None else list(texts.wrong),
                "sides": {model: _side(side) for model, side in sides.items()},
            }
        )
    return questions


def prompt_turns(text: str) -> list[dict[str, str]]:
    """Return the messages of a prompt that an evaluation wrote as ``role: text`` paragraphs.

    Args:
        text: the prompt; without a role at its start it is one message of a user.
    """
    parts = _ROLE.split(text)
    if parts[0]:
        return [{"role": "user", "content": text}]
    return [{"role": role, "content": content} for role, content in zip(parts[1::2], parts[2::2], strict=True)]


def _side(one: JudgedQuestion) -> dict[str, Any]:
    return {"verdict": one.verdict, "margin": one.margin, "contributions": dict(one.contributions)}


def _run(run: RunPart, pair: Mapping[str, Any] | None) -> dict[str, Any]:
    accuracy = {name: dict(row) for name, row in run.accuracy.items()}
    return {"name": run.name, "statement": run.statement, "good": run.good, "accuracy": accuracy, "pair": pair}


def _pair(folder: Path) -> dict[str, Any] | None:
    """Return the pair that a run explains by default; None without one."""
    path = folder / "pair.jsonl"
    if not path.is_file():
        return None
    row = read_conversations(path)[0]
    prompt = [{"role": message.role, "content": message.content} for message in row.answers[0][:-1]]
    return {"prompt": prompt, "answers": [answer[-1].content for answer in row.answers]}
