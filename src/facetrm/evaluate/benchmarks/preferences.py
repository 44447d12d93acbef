"""Any file of preferences: each pair of a better and a worse answer is a question, and a tie earns one half.

total = mean credit over pairs, with intervals over prompts        one figure per source, subset or task
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from facetrm.data.records import Preference
from facetrm.data.views import as_pairs
from facetrm.evaluate.benchmarks.benchmark import (
    BENCHMARKS,
    Benchmark,
    mean_of_rows,
    pairs_credit,
)
from facetrm.evaluate.benchmarks.item import Item

_FEW: Final = 2


def pair_questions(preferences: Iterable[Preference], *, name: str) -> list[Item]:
    """Return one question per pair of a better and a worse answer.

    Args:
        preferences: Preferences; a ranking of more than two answers gives all its pairs.
        name: Name of the file or generator, for error messages and rows without an id.
    """
    listed = list(preferences)
    stratum = _stratum(listed)
    questions = []
    for number, preference in enumerate(listed, start=1):
        for pair in as_pairs(preference):
            subset = str(getattr(preference, stratum) or "none") if stratum else "all"
            questions.append(
                Item(
                    id=pair.id if pair.id and pair.id[0] != "/" else f"{number}{pair.id}",
                    subset=subset,
                    prompt=pair.prompt,
                    answers=(pair.responses[0], pair.responses[-1]),
                    right=1,
                    place=f"{name}:{number}",
                    stratum=subset,
                    task=preference.task,
                )
            )
    return questions


def _stratum(preferences: Sequence[Preference]) -> str:
    """Return the field that tells the pairs apart: the source if there are several, else the task, else the subset."""
    for field in ("source", "task", "subset"):
        if len({getattr(preference, field) for preference in preferences}) >= _FEW:
            return field
    return ""


OWN_PAIRS: Final = BENCHMARKS.add(
    "preferences",
    Benchmark(
        name="preferences",
        title="Preferences",
        citation="",
        fields=frozenset(),
        read=None,
        credit=pairs_credit(),
        figures=mean_of_rows,
        tie_rule="A tie earns one half.",
    ),
)
