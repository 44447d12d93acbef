"""What a benchmark is: how its rows are read, how scores earn credit, and how credits become its official figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from facetrm.core.registry import Registry
from facetrm.core.statistics import Floats
from facetrm.data.read.columns import Row
from facetrm.data.records import Conversation
from facetrm.evaluate.benchmarks.credit import HALF, padded, pair_credit
from facetrm.evaluate.benchmarks.figures import CREDIT, Figure, combined, mean_over
from facetrm.evaluate.benchmarks.item import Item

ReadRow: TypeAlias = Callable[[Row, "Origin"], Sequence[Item]]
GiveCredit: TypeAlias = Callable[[Sequence[Item], Floats], dict[str, Floats]]
MakeFigures: TypeAlias = Callable[[Sequence[Item]], dict[str, Figure]]
WriteOfficial: TypeAlias = Callable[[Sequence["Answered"], "Entrant"], dict[str, str]]
TOTAL: Final = "total"


@final
@dataclass(frozen=True)
class Origin:
    """Where a row stands.

    Attributes:
        path: The file.
        folder: Path of the file below the folder that was given, without its name; empty if a file was given.
        number: Number of the row in its file, from 1.
    """

    path: Path
    folder: str
    number: int

    @property
    def place(self) -> str:
        """``file:row``."""
        return f"{self.path}:{self.number}"


@final
@dataclass(frozen=True)
class Answered:
    """A question with the scores of one system.

    Attributes:
        question: The question.
        scores: Score of each answer; None for an answer without a score.
        credit: Credit of the question, 0 to 1; NaN if it has none.
    """

    question: Item
    scores: tuple[float | None, ...]
    credit: float


@final
@dataclass(frozen=True)
class Entrant:
    """What the official files say about the system.

    Attributes:
        name: Name of the model.
        figures: Value of each figure.
        template: Name or hash of the chat template.
        render: Function that returns a conversation as the chat template writes it; None without a template.
    """

    name: str
    figures: Mapping[str, float]
    template: str = ""
    render: Callable[[Conversation], str] | None = None

    def text(self, conversation: Conversation) -> str:
        """Return the text that the system reads; the answer alone for a system without a template.

        Args:
            conversation: A prompt with its answer.
        """
        return conversation[-1].content if self.render is None else self.render(conversation)

    def prompt(self, messages: Conversation) -> str | list[dict[str, Any]]:
        """Return the prompt as the system's template writes it; its messages for a system without a template.

        Args:
            messages: The prompt.
        """
        return [m.model_dump() for m in messages] if self.render is None else self.render(messages)


@final
@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Attributes:
        name: Name on the command line.
        title: Name in prose.
        citation: Paper.
        fields: Fields that every row has. A file is recognised by them.
        accepts: Whether a row with these fields is one of this benchmark, for those that share their fields.
        read: Returns the questions of one row; None if the rows are read by :mod:`facetrm.data`.
        credit: Returns the credits by column, [N] each; the column ``credit`` decides whether a question is right.
        figures: Returns the figures of the benchmark, by name; ``total`` is the official overall.
        tie_rule: What an exact tie earns, in one sentence.
        files: Patterns of its files below a folder; the first that matches a file gives all of them.
        hub: Name of the data set on the Hub, and its split; None if it is only to be had as files.
        counts: Published number of rows by subset; empty if none are published.
        uncounted: Further subsets or figures that its total needs, without a published number of rows.
        official: Returns the official tool's files by name; None if there is no such tool.
    """

    name: str
    title: str
    citation: str
    fields: frozenset[str]
    read: ReadRow | None
    credit: GiveCredit
    figures: MakeFigures
    tie_rule: str
    accepts: Callable[[Row], bool] = lambda row: True
    files: tuple[str, ...] = ("*.json", "*.jsonl", "*.parquet")
    hub: tuple[str, str] | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    uncounted: tuple[str, ...] = ()
    official: WriteOfficial | None = None


_NAMED: Final = 6
"""At most this many missing subsets are named."""

BENCHMARKS: Final[Registry[Benchmark]] = Registry("benchmark")


def rights(questions: Sequence[Item]) -> NDArray[np.int64]:
    """Return the number of right answers of each question, [N]."""
    return np.array([question.right for question in questions], dtype=np.int64)


def pairs_credit(*, tie: float = HALF) -> GiveCredit:
    """Return the rule that a question earns the share of its (right, wrong) pairs that are ordered correctly.

    Args:
        tie: Credit of an exact tie.
    """

    def credit(questions: Sequence[Item], scores_NA: Floats) -> dict[str, Floats]:
        return {CREDIT: pair_credit(scores_NA, rights(questions), tie=tie)}

    return credit


def by_subset(questions: Sequence[Item]) -> dict[str, Figure]:
    """Return a figure for each stratum, in order of first appearance."""
    return {name: mean_over([name]) for name in dict.fromkeys(question.stratum for question in questions)}


def mean_of_rows(questions: Sequence[Item]) -> dict[str, Figure]:
    """Return the mean over all rows as ``total``, and the mean over each stratum."""
    subsets = by_subset(questions)
    return {TOTAL: mean_over(subsets, level="total"), **(subsets if len(subsets) > 1 else {})}


def mean_of_subsets(questions: Sequence[Item]) -> dict[str, Figure]:
    """Return the unweighted mean over strata as ``total``, and the mean over each stratum."""
    subsets = by_subset(questions)
    return {TOTAL: combined([(one, 1.0) for one in subsets.values()], level="total"), **subsets}


def credits_of(
    benchmark: Benchmark, questions: Sequence[Item], scores: Sequence[Sequence[float | None]]
) -> dict[str, Floats]:
    """Return the credits of a system's scores by column, [N] each.

    A question of which an answer has no score earns nothing. It stays in the denominator.

    Args:
        benchmark: The benchmark.
        questions: Its N questions.
        scores: Score of each answer, by question; None for an answer without a score.
    """
    failed = np.array([any(value is None for value in row) for row in scores], dtype=bool)
    known = [[0.0 if value is None else value for value in row] for row in scores]
    columns = benchmark.credit(questions, padded(known))
    return {
        name: np.where(failed & ~np.isnan(values), 0.0, values) if failed.any() else values
        for name, values in columns.items()
    }


def numbered(questions: Sequence[Item]) -> Iterator[tuple[str, Item]]:
    """Yield each question with the name that joins score files to it: ``subset/id``."""
    for question in questions:
        yield f"{question.subset}/{question.id}", question


def missing_text(missing: Sequence[str]) -> str:
    """Return what is said of a benchmark of which whole subsets are missing; nothing if none is.

    Args:
        missing: Their names.
    """
    if not missing:
        return ""
    more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
    named = "; ".join(missing[:_NAMED])
    return f"Not in these files: {named}{more}. The total is over the others, not over all."
