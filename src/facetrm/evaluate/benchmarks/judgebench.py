"""JudgeBench: pairs of answers from one model, of which exactly one is objectively right.

    total = right rows / all rows       the two files, by GPT-4o and by Claude 3.5 Sonnet, are also told apart

A reward model gives one score per answer, so the order of the two answers cannot matter. The tool counts equal scores
as "B>A"; here a tie earns one half, whichever answer is right.

Reference: Tan et al., JudgeBench (arXiv 2410.12784), section 4.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from facetrm.core.errors import DataError, short
from facetrm.data.read.columns import Row
from facetrm.evaluate.benchmarks.benchmark import (
    BENCHMARKS,
    TOTAL,
    Answered,
    Benchmark,
    Entrant,
    Origin,
    pairs_credit,
)
from facetrm.evaluate.benchmarks.figures import Figure, mean_over
from facetrm.evaluate.benchmarks.item import Item, read_answer, read_labels, read_prompt, read_text

LABELS: Final = ("A>B", "B>A")
_PARTS: Final = {"gpt-4o-2024-05-13": 350, "claude-3-5-sonnet-20240620": 270}
_CATEGORIES: Final = {
    "mmlu-pro": "knowledge",
    "livebench-reasoning": "reasoning",
    "livebench-math": "math",
    "livecodebench": "coding",
}


def _read(row: Row, origin: Origin) -> list[Item]:
    label = read_labels(row.get("label"), LABELS, "label")
    a, b = read_answer(row.get("response_A"), "response_A"), read_answer(row.get("response_B"), "response_B")
    source, model = read_text(row, "source"), read_text(row, "response_model")
    category = next((name for start, name in _CATEGORIES.items() if source.startswith(start)), None)
    if category is None:
        raise DataError(f"'source' is {short(source)}", fix=f"it starts with one of {', '.join(_CATEGORIES)}")
    return [
        Item(
            id=read_text(row, "pair_id"),
            subset=model,
            prompt=read_prompt(row.get("question"), "question"),
            answers=(a, b) if label == 0 else (b, a),
            right=1,
            place=origin.place,
            stratum=f"{model}/{category}",
            row={**row},
        )
    ]


def _figures(questions: Sequence[Item]) -> dict[str, Figure]:
    strata = dict.fromkeys(sorted(question.stratum for question in questions))
    models = dict.fromkeys(question.subset for question in questions)
    categories = [name for name in _CATEGORIES.values() if any(s.endswith(f"/{name}") for s in strata)]
    figures = {TOTAL: mean_over(strata, level="total")}
    if len(models) > 1:
        figures |= {m: mean_over([s for s in strata if s.startswith(f"{m}/")], level="section") for m in models}
    figures |= {c: mean_over([s for s in strata if s.endswith(f"/{c}")], level="section") for c in categories}
    return figures | {name: mean_over([name]) for name in strata}


def _official(answered: Sequence[Answered], entrant: Entrant) -> dict[str, str]:
    rows = []
    for one in answered:
        right, wrong = one.scores
        first = one.question.row["label"] == LABELS[0]
        scores = [right, wrong] if first else [wrong, right]
        decision = None
        if right is not None and wrong is not None:
            decision = LABELS[0] if (right > wrong) == first and right != wrong else LABELS[1]
        judgment = {"judgment": {"scores": scores}, "decision": decision}
        rows.append({**one.question.row, "judge_name": entrant.name, "judgments": [judgment, judgment]})
    return {"judgments.jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)}


JUDGEBENCH: Final = BENCHMARKS.add(
    "judgebench",
    Benchmark(
        name="judgebench",
        title="JudgeBench",
        citation="Tan et al. 2024, JudgeBench: A Benchmark for Evaluating LLM-based Judges (arXiv 2410.12784)",
        fields=frozenset({"pair_id", "source", "question", "response_model", "response_A", "response_B", "label"}),
        read=_read,
        credit=pairs_credit(),
        figures=_figures,
        tie_rule='A tie earns one half; the tool itself counts it as "B>A".',
        hub=("ScalerLab/JudgeBench", "gpt+claude"),
        counts=_PARTS,
        official=_official,
    ),
)
