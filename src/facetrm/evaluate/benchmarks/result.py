"""The result of systems on one benchmark: figures with intervals, rows with verdicts, and baselines of length and luck.

Shapes: N questions, A answers.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal, TypeAlias, final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from facetrm.core.statistics import Floats, Interval
from facetrm.evaluate.benchmarks.benchmark import Answered, Benchmark, by_subset, credits_of, rights
from facetrm.evaluate.benchmarks.credit import padded, tied_pairs
from facetrm.evaluate.benchmarks.figures import CREDIT, Columns, Figure, mean_over, measure_figures
from facetrm.evaluate.benchmarks.item import Item
from facetrm.evaluate.benchmarks.load import ItemSet

BASELINES: Final = ("longest", "shortest", "chance")
SAME_AS: Final = {"length": "longest", "shortest": "shortest"}
"""Systems that are one of these baselines, by name."""
ItemVerdict: TypeAlias = Literal["right", "wrong", "tie", "partly", "failed", "none"]
_DRAWS: Final = 100
_LARGEST: Final = 3
_SHORTER, _LONGER, _EQUAL = "right answer shorter", "right answer longer", "equal length"


@final
@dataclass(frozen=True)
class AnswerScore:
    """The score of one answer.

    Attributes:
        reward: The reward; None if the answer could not be scored.
        tokens: Number of tokens of the conversation; 0 if unknown.
        truncated: Whether the conversation was truncated.
        contributions: Contribution of each objective; empty if the system has none.
        ratings: Rating of each objective on the [0, 1] scale; empty if the system has none.
        problem: Why there is no reward.
        base: Reward of a reference answer to the prompt.
        weights: Weight of each objective; empty if the system has none.
        length: Number of tokens of the response; 0 if unknown.
        task: Task whose mixture scored the conversation.
    """

    reward: float | None
    tokens: int = 0
    truncated: bool = False
    contributions: Mapping[str, float] = field(default_factory=dict)
    ratings: Mapping[str, float] = field(default_factory=dict)
    problem: str = ""
    base: float = 0.0
    weights: Mapping[str, float] = field(default_factory=dict)
    length: int = 0
    task: str = "all"


@final
@dataclass(frozen=True)
class SystemRows:
    """What one system did on one benchmark.

    Attributes:
        answers: Score of each answer, by question.
        columns: Credits by column, [N] each.
        ties: Number of (right, wrong) pairs of each question with equal scores, [N].
        pairs: Number of such pairs of each question, [N].
    """

    answers: Sequence[Sequence[AnswerScore]]
    columns: Columns
    ties: NDArray[np.int64]
    pairs: NDArray[np.int64]

    @property
    def rewards(self) -> list[list[float | None]]:
        """The reward of each answer, by question."""
        return [[one.reward for one in row] for row in self.answers]

    @property
    def failed(self) -> list[bool]:
        """Whether an answer of the question has no score."""
        return [any(one.reward is None for one in row) for row in self.answers]

    @property
    def truncated(self) -> list[bool]:
        """Whether an answer of the question was truncated."""
        return [any(one.truncated for one in row) for row in self.answers]


@final
@dataclass(frozen=True)
class SetResult:
    """All systems on one benchmark.

    Attributes:
        found: The questions.
        figures: The figures that were measured.
        systems: What each system did, by name.
        values: Interval by figure, then by system, with the baselines.
        slices: Interval by slice, then by system: by length and by task.
        differences: For two or more systems, the first minus each other one: figures and McNemar's test.
    """

    found: ItemSet
    figures: Mapping[str, Figure]
    systems: Mapping[str, SystemRows]
    values: Mapping[str, Mapping[str, Interval]]
    slices: Mapping[str, Mapping[str, Interval]]
    differences: Mapping[str, Mapping[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-ready result."""
        found, benchmark = self.found, self.found.benchmark
        counts = {name: sum(q.subset == name for q in found.questions) for name in _subsets(found.questions)}
        return {
            "benchmark": benchmark.name,
            "title": benchmark.title,
            "citation": benchmark.citation,
            "tie_rule": benchmark.tie_rule,
            "files": [asdict(one) for one in found.files],
            "rows": len(found.questions),
            "prompts": len({q.group for q in found.questions}),
            "left_out": found.left_out,
            "counts": counts,
            "published_counts": dict(benchmark.counts),
            "missing": [
                name for name in (*benchmark.counts, *benchmark.uncounted) if name not in {*counts, *self.figures}
            ],
            "levels": {name: figure.level for name, figure in self.figures.items()},
            "figures": {name: _dicts(row) for name, row in self.values.items()},
            "slices": {name: _dicts(row) for name, row in self.slices.items()},
            "systems": {name: _counts(system) for name, system in self.systems.items()},
            "differences": {name: {**one, "figures": _dicts(one["figures"])} for name, one in self.differences.items()},
        }

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Return one JSON-ready row per question for the system ``name``."""
        system = self.systems[name]
        listed = []
        for n, question in enumerate(self.found.questions):
            answers, credit = system.answers[n], float(system.columns[CREDIT][n])
            differences = margin_contributions(question, answers)
            largest = sorted(differences, key=lambda key: -abs(differences[key]))[:_LARGEST]
            problems = [one.problem for one in answers if one.problem]
            row = {
                "benchmark": self.found.name,
                "model": name,
                "id": question.id,
                "subset": question.subset,
                "task": question.task,
                "scores": [one.reward for one in answers],
                "right": question.right,
                "verdict": verdict(system, n),
                "credit": None if math.isnan(credit) else credit,
                "tokens": [one.tokens for one in answers],
                "truncated": any(one.truncated for one in answers),
                "largest": {key: differences[key] for key in largest},
                "differences": differences,
            }
            listed.append({**row, "problem": problems[0]} if problems else row)
        return listed

    def answered(self, name: str) -> list[Answered]:
        """Return the questions with the scores of the system ``name``, for the official files."""
        system = self.systems[name]
        return [
            Answered(question, tuple(one.reward for one in row), float(credit))
            for question, row, credit in zip(self.found.questions, system.answers, system.columns[CREDIT], strict=True)
        ]


def judge_set(
    found: ItemSet,
    systems: Mapping[str, Sequence[Sequence[AnswerScore]]],
    *,
    samples: int = 1000,
    seed: int = 0,
) -> SetResult:
    """Return the figures of systems on one benchmark.

    Args:
        found: The questions.
        systems: Score of each answer by question, by name of the system.
        samples: Number of bootstrap samples.
        seed: Seed of the bootstrap and of the random baseline.
    """
    questions, benchmark = found.questions, found.benchmark
    right = rights(questions)
    rows: dict[str, SystemRows] = {}
    for name, answers in systems.items():
        rewards = [[one.reward for one in row] for row in answers]
        ties, pairs = tied_pairs(padded([[np.nan if x is None else x for x in row] for row in rewards]), right)
        rows[name] = SystemRows(answers, credits_of(benchmark, questions, rewards), ties, pairs)
    columns: dict[str, Columns] = {name: row.columns for name, row in rows.items()}
    columns |= baseline_columns(benchmark, questions, seed=seed)
    figures = benchmark.figures(questions)
    strata, groups = [q.stratum for q in questions], [q.group for q in questions]
    settings: dict[str, Any] = {"groups": groups, "samples": samples, "seed": seed}
    values = measure_figures(columns, figures, strata=strata, **settings)
    slices: dict[str, dict[str, Interval]] = {}
    for labels in _slices(questions):
        parts = {name: mean_over([name]) for name in dict.fromkeys(labels)}
        slices |= measure_figures(columns, parts, strata=labels, **settings)
    return SetResult(found, figures, rows, values, slices, _differences(rows, figures, strata, settings))


def baseline_columns(benchmark: Benchmark, questions: Sequence[Item], *, seed: int) -> dict[str, Columns]:
    """Return the credits of the longest answer, of the shortest, and of random scores (mean over 100 draws).

    Args:
        benchmark: The benchmark.
        questions: Its N questions.
        seed: Seed of the random scores.
    """
    lengths = padded([[float(len(answer.content)) for answer in q.answers] for q in questions])
    rng = np.random.default_rng(seed)
    draws = [
        benchmark.credit(questions, np.where(np.isnan(lengths), np.nan, rng.random(lengths.shape)))
        for _ in range(_DRAWS)
    ]
    luck = {name: np.mean([one[name] for one in draws], axis=0) for name in (draws[0] if draws else {})}
    return {"longest": benchmark.credit(questions, lengths), "shortest": benchmark.credit(questions, -lengths)} | {
        "chance": luck
    }


def other_baselines(plain: Collection[str]) -> list[str]:
    """Return the baselines to show beside some systems: those that are none of them.

    Args:
        plain: Names of the systems that read no meaning, such as ``length``.
    """
    shown = {SAME_AS.get(name, name) for name in plain}
    return [name for name in BASELINES if name not in shown]


def verdict(system: SystemRows, n: int) -> ItemVerdict:
    """Return what a system did with question ``n``, in one word.

    Args:
        system: The system.
        n: Number of the question, from 0.
    """
    if any(one.reward is None for one in system.answers[n]):
        return "failed"
    credit = float(system.columns[CREDIT][n])
    if math.isnan(credit):
        return "none"
    if system.ties[n] and system.pairs[n] == 1:
        return "tie"
    return "right" if credit == 1.0 else "wrong" if credit == 0.0 else "partly"


def margin_contributions(question: Item, answers: Sequence[AnswerScore]) -> dict[str, float]:
    """Return the contributions to the margin of the best-scored right answer over the best-scored wrong one.

    A system with a single contribution has nothing to divide the margin among, so there are none.

    Args:
        question: The question.
        answers: Score of each of its answers.
    """
    sides = [answers[: question.right], answers[question.right :]]
    if not all(sides) or any(one.reward is None for one in answers):
        return {}
    right, wrong = (max(side, key=lambda one: one.reward or 0.0).contributions for side in sides)
    names = dict.fromkeys([*right, *wrong])
    if len(names) < 2:
        return {}
    return {name: round(right.get(name, 0.0) - wrong.get(name, 0.0), 6) for name in names}


def mcnemar(credit_a: Floats, credit_b: Floats) -> dict[str, float]:
    """Return McNemar's exact test on the questions that exactly one of two systems gets right.

    Args:
        credit_a: Credits of the first system, [N].
        credit_b: Credits of the second system, [N].

    Returns:
        ``only_first``, ``only_second`` and the two-sided ``p``.
    """
    first, second = int(((credit_a == 1) & (credit_b < 1)).sum()), int(((credit_b == 1) & (credit_a < 1)).sum())
    p = float(binomtest(first, first + second).pvalue) if first + second else 1.0
    return {"only_first": first, "only_second": second, "p": p}


def _differences(
    rows: Mapping[str, SystemRows], figures: Mapping[str, Figure], strata: list[str], settings: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Return the first system minus each other one."""
    names = list(rows)
    found: dict[str, dict[str, Any]] = {}
    for other in names[1:]:
        first, second = rows[names[0]].columns, rows[other].columns
        gap = {"gap": {column: first[column] - second[column] for column in first}}
        signed = {name: Figure(f.parts, f.level, (-1.0, 1.0)) for name, f in figures.items()}
        values = measure_figures(gap, signed, strata=strata, **settings)
        found[f"{names[0]} - {other}"] = {
            "figures": {name: row["gap"] for name, row in values.items()},
            "mcnemar": mcnemar(first[CREDIT], second[CREDIT]),
        }
    return found


def _slices(questions: Sequence[Item]) -> list[list[str]]:
    """Return the labels of each way to slice the questions that has two or more slices."""
    lengths = []
    for q in questions:
        sizes = [len(answer.content) for answer in q.answers]
        sides = sizes[: q.right], sizes[q.right :]
        if not all(sides):
            lengths.append(_EQUAL)
            continue
        gap = float(np.mean(sides[0]) - np.mean(sides[1]))
        lengths.append(_EQUAL if gap == 0 else _LONGER if gap > 0 else _SHORTER)
    tasks = [f"task {q.task}" if q.task else "no task" for q in questions]
    known = set(by_subset(questions))
    listed = [lengths]
    if len(set(tasks)) > 1 and {task.removeprefix("task ") for task in tasks} != known:
        listed.append(tasks)
    return listed


def _subsets(questions: Sequence[Item]) -> list[str]:
    return list(dict.fromkeys(q.subset for q in questions))


def _counts(system: SystemRows) -> dict[str, Any]:
    problems = [one.problem for row in system.answers for one in row if one.problem]
    return {
        "failed": sum(system.failed),
        "truncated": sum(system.truncated),
        "ties": int(system.ties.sum()),
        "comparisons": int(system.pairs.sum()),
        "tokens": sum(one.tokens for row in system.answers for one in row),
        "first_problem": problems[0] if problems else None,
    }


def _dicts(row: Mapping[str, Interval]) -> dict[str, dict[str, float | None]]:
    """Return intervals as dicts; NaN, which JSON lacks, becomes null."""
    return {
        name: {key: None if math.isnan(x) else x for key, x in (("value", i.value), ("low", i.low), ("high", i.high))}
        for name, i in row.items()
    }
