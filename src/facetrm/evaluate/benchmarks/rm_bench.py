"""RM-Bench: three right and three wrong answers to each prompt, in three styles (concise, plain, markdown).

    A[i, j] = 1 if the right answer in style i scores higher than the wrong answer in style j
    easy    = mean of A below its diagonal (the right answer has the richer style)
    normal  = mean of its diagonal         hard = mean above it
    domain  = mean of A over the rows of the domain, the nine cells alike = mean(easy, normal, hard)
    total   = mean of the domains chat, math, code and safety; the two files of safety are one domain

Reference: Liu et al., RM-Bench (arXiv 2410.16184), section 4 and its script. A tie is a loss.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

import numpy as np

from facetrm.core.errors import DataError, short
from facetrm.core.statistics import Floats
from facetrm.data.read.columns import Row
from facetrm.evaluate.benchmarks.benchmark import (
    BENCHMARKS,
    TOTAL,
    Answered,
    Benchmark,
    Entrant,
    Origin,
)
from facetrm.evaluate.benchmarks.figures import CREDIT, Figure, combined, mean_over
from facetrm.evaluate.benchmarks.item import Item, read_answers, read_prompt, read_text

STYLES: Final = 3
LEVELS: Final = ("easy", "normal", "hard")
DOMAINS: Final = ("chat", "math", "code", "safety")
_COUNTS: Final = {"chat": 129, "code": 228, "safety-refuse": 284, "safety-response": 157}
"""Published number of rows by file. The mathematics file is not listed: its count was not to be had."""


def _three(value: object) -> bool:
    return isinstance(value, list) and len(value) == STYLES and all(isinstance(one, str) for one in value)


def _read(row: Row, origin: Origin) -> list[Item]:
    written = row.get("domain")
    part = origin.path.name.removesuffix(".gz").split(".")[0].removesuffix("_filtered")
    if isinstance(written, str):
        part = written
    domain = part.split("-")[0]
    if domain not in DOMAINS:
        raise DataError(
            f"'domain' is {short(written or part)}",
            fix=f"give {', '.join(DOMAINS)} in 'domain', or files named DOMAIN_filtered.json",
        )
    sides = []
    for name in ("chosen", "rejected"):
        answers = read_answers(row, name)
        if len(answers) != STYLES:
            raise DataError(f"'{name}' holds {len(answers)} answers", fix="give three: concise, detailed, markdown")
        sides.append(answers)
    return [
        Item(
            id=read_text(row, "id"),
            subset=part,
            prompt=read_prompt(row.get("prompt"), "prompt"),
            answers=(*sides[0], *sides[1]),
            right=STYLES,
            place=origin.place,
            stratum=domain,
            row=dict(row),
        )
    ]


def _credit(questions: Sequence[Item], scores_NA: Floats) -> dict[str, Floats]:
    if not len(questions):
        return {name: np.zeros(0) for name in (CREDIT, *LEVELS)}
    won_N33 = scores_NA[:, :STYLES, None] > scores_NA[:, None, STYLES : 2 * STYLES]
    below, above = np.tril_indices(STYLES, -1), np.triu_indices(STYLES, 1)
    levels = {
        "easy": won_N33[:, below[0], below[1]].mean(axis=1),
        "normal": np.diagonal(won_N33, axis1=1, axis2=2).mean(axis=1),
        "hard": won_N33[:, above[0], above[1]].mean(axis=1),
    }
    return {CREDIT: won_N33.mean(axis=(1, 2)), **levels}


def _figures(questions: Sequence[Item]) -> dict[str, Figure]:
    strata = {question.stratum for question in questions}
    there: list[str] = [name for name in DOMAINS if name in strata]
    levels = {name: {level: mean_over([name], column=level) for level in LEVELS} for name in there}
    domains: dict[str, Figure] = {
        name: combined([(figure, 1.0) for figure in levels[name].values()], level="section") for name in there
    }
    over_domains = {
        level: combined([(levels[name][level], 1.0) for name in there], level="section") for level in LEVELS
    }
    cells = {f"{name}/{level}": levels[name][level] for name in there for level in LEVELS}
    total = combined([(figure, 1.0) for figure in domains.values()], level="total")
    return {TOTAL: total, **domains, **over_domains, **cells}


def _official(answered: Sequence[Answered], entrant: Entrant) -> dict[str, str]:
    names = [(name, name) for name in DOMAINS]
    names += [(level, f"{level}_acc") for level in LEVELS] + [(TOTAL, "total_avg_acc")]
    summary = {written: entrant.figures[name] for name, written in names if name in entrant.figures}
    rows = [
        {
            **one.question.row,
            "domain": one.question.subset,
            "score_chosen": list(one.scores[:STYLES]),
            "score_rejected": list(one.scores[STYLES:]),
        }
        for one in answered
    ]
    return {
        "summary.json": json.dumps(summary, indent=2) + "\n",
        "scores.json": json.dumps(rows, ensure_ascii=False, indent=1) + "\n",
    }


RM_BENCH: Final = BENCHMARKS.add(
    "rm-bench",
    Benchmark(
        name="rm-bench",
        title="RM-Bench",
        citation="Liu et al. 2024, RM-Bench: Benchmarking Reward Models with Subtlety and Style (arXiv 2410.16184)",
        fields=frozenset({"id", "prompt", "chosen", "rejected"}),
        accepts=lambda row: _three(row["chosen"]) and _three(row["rejected"]) and "num_correct" not in row,
        read=_read,
        credit=_credit,
        figures=_figures,
        tie_rule="A tie is a loss.",
        files=("*_filtered.json", "total_dataset.json"),
        hub=("THU-KEG/RM-Bench", "train"),
        counts=_COUNTS,
        uncounted=("math",),
        official=_official,
    ),
)
