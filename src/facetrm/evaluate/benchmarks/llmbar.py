"""LLMBar: one answer follows the instruction, the other only looks better.

    total = right rows / all rows       adversarial = mean of its four subsets

A reward model gives one score per answer, so both orders agree. The tool's kappa against the labels is not computed:
its code turns a verdict of 2 into 0.

Reference: Zeng et al., Evaluating Large Language Models at Evaluating Instruction Following (arXiv 2310.07641).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from facetrm.core.errors import DataError
from facetrm.data.read.columns import Row
from facetrm.evaluate.benchmarks.benchmark import (
    BENCHMARKS,
    TOTAL,
    Benchmark,
    Origin,
    by_subset,
    pairs_credit,
)
from facetrm.evaluate.benchmarks.figures import Figure, combined, mean_over
from facetrm.evaluate.benchmarks.item import Item, read_answer, read_labels, read_prompt

_COUNTS: Final = {"Natural": 100, "Neighbor": 134, "GPTInst": 92, "GPTOut": 47, "Manual": 46}


def _read(row: Row, origin: Origin) -> list[Item]:
    label = read_labels(row.get("label"), (1, 2), "label")
    first, second = (read_answer(row.get(name), name) for name in ("output_1", "output_2"))
    subset = row.get("subset")
    if not isinstance(subset, str):
        subset = origin.path.parent.name
    if not subset:
        raise DataError("'subset' is missing", fix="keep the file in the folder that names its subset, such as Natural")
    return [
        Item(
            id=str(row.get("id", origin.number)),
            subset=subset,
            prompt=read_prompt(row.get("input"), "input"),
            answers=(first, second) if label == 0 else (second, first),
            right=1,
            place=origin.place,
            stratum=subset,
        )
    ]


def _figures(questions: Sequence[Item]) -> dict[str, Figure]:
    subsets = by_subset(questions)
    figures = {TOTAL: mean_over(subsets, level="total")}
    adversarial = [(figure, 1.0) for name, figure in subsets.items() if name != "Natural"]
    if len(adversarial) > 1:
        figures["adversarial"] = combined(adversarial, level="section")
    return {**figures, **{name: subsets[name] for name in _COUNTS if name in subsets}, **subsets}


LLMBAR: Final = BENCHMARKS.add(
    "llmbar",
    Benchmark(
        name="llmbar",
        title="LLMBar",
        citation="Zeng et al. 2023, Evaluating LLMs at Evaluating Instruction Following (arXiv 2310.07641)",
        fields=frozenset({"input", "output_1", "output_2", "label"}),
        read=_read,
        credit=pairs_credit(),
        figures=_figures,
        tie_rule="A tie earns one half.",
        files=("**/dataset.json", "*.json", "*.jsonl"),
        counts=_COUNTS,
    ),
)
