"""PPE: human preferences between two models, and correctness of 32 answers to prompts of five verifiable benchmarks.

    preference   = mean credit over human pairs; rows that the human called a tie are left out
    correctness  = mean over prompts of the share of (right, wrong) pairs in the right order
    best of N    = share of prompts whose best-scored answer is right, 1/m for m tied ones

A prompt whose answers are all right or all wrong orders nothing; it only counts for best of N.

Reference: Frick et al., How to Evaluate Reward Models for RLHF (arXiv 2410.14872), sections 4 and 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from facetrm.core.errors import DataError, short
from facetrm.core.statistics import Floats
from facetrm.data.read.columns import Row
from facetrm.evaluate.benchmarks.benchmark import (
    BENCHMARKS,
    TOTAL,
    Benchmark,
    Origin,
    by_subset,
    rights,
)
from facetrm.evaluate.benchmarks.credit import best_credit, pair_credit
from facetrm.evaluate.benchmarks.figures import CREDIT, Figure, combined, mean_over
from facetrm.evaluate.benchmarks.item import Item, read_answer, read_labels, read_prompt, read_text

_WINNERS: Final = ("model_a", "model_b", "tie", "tie (bothbad)")
_BEST: Final = "best of N"
HUMAN: Final = "human preference"


def _read(row: Row, origin: Origin) -> list[Item]:
    if "winner" in row:
        return _human(row, origin)
    scores = row.get("scores")
    if not isinstance(scores, list | tuple) or not all(isinstance(x, bool | int | float) for x in scores):
        raise DataError(f"'scores' is {short(scores)}", fix="write one 0 or 1 per response")
    answers = [read_answer(row.get(f"response_{n + 1}"), f"response_{n + 1}") for n in range(len(scores))]
    if len(answers) < 2:
        raise DataError(f"'scores' holds {len(scores)} scores", fix="give at least two responses")
    order = sorted(range(len(scores)), key=lambda n: not scores[n] > 0.5)
    subset = str(row.get("benchmark") or row.get("subset") or origin.path.name.split(".")[0])
    return [
        Item(
            id=read_text(row, "question_id") if "question_id" in row else str(origin.number),
            subset=subset,
            prompt=read_prompt(row.get("prompt"), "prompt"),
            answers=tuple(answers[n] for n in order),
            right=sum(score > 0.5 for score in scores),
            place=origin.place,
            stratum=subset,
        )
    ]


def _human(row: Row, origin: Origin) -> list[Item]:
    winner = read_labels(row.get("winner"), _WINNERS, "winner")
    a, b = read_answer(row.get("response_1"), "response_1"), read_answer(row.get("response_2"), "response_2")
    if winner > 1:
        return []
    return [
        Item(
            id=read_text(row, "question_id") if "question_id" in row else str(origin.number),
            subset=HUMAN,
            prompt=read_prompt(row.get("prompt"), "prompt"),
            answers=(a, b) if winner == 0 else (b, a),
            right=1,
            place=origin.place,
            stratum=HUMAN,
        )
    ]


def _credit(questions: Sequence[Item], scores_NA: Floats) -> dict[str, Floats]:
    right = rights(questions)
    return {CREDIT: pair_credit(scores_NA, right), _BEST: best_credit(scores_NA, right)}


def _figures(questions: Sequence[Item]) -> dict[str, Figure]:
    subsets = by_subset(questions)
    verifiable = {name: figure for name, figure in subsets.items() if name != HUMAN}
    figures: dict[str, Figure] = {}
    if verifiable:
        figures["correctness"] = combined([(figure, 1.0) for figure in verifiable.values()], level="section")
        best = {name: mean_over([name], column=_BEST) for name in verifiable}
        figures[_BEST] = combined([(figure, 1.0) for figure in best.values()], level="section")
        figures |= {f"{name}, {_BEST}": figure for name, figure in best.items()}
    total = [subsets[HUMAN]] if HUMAN in subsets else []
    total += [figures["correctness"]] if verifiable else []
    return {TOTAL: combined([(figure, 1.0) for figure in total], level="total"), **figures, **subsets}


PPE: Final = BENCHMARKS.add(
    "ppe",
    Benchmark(
        name="ppe",
        title="PPE",
        citation="Frick et al. 2024, How to Evaluate Reward Models for RLHF (arXiv 2410.14872)",
        fields=frozenset({"prompt", "response_1", "response_2"}),
        accepts=lambda row: "winner" in row or "scores" in row,
        read=_read,
        credit=_credit,
        figures=_figures,
        uncounted=(HUMAN, "correctness"),
        tie_rule="A tie earns one half; among m equally best answers each earns 1/m.",
    ),
)
