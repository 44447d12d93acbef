"""Stored scores as a system: our rows, the output of ``facetrm score``, and the files of the benchmarks' own tools.

    [benchmark, model,] id, subset, scores[]                    rows.jsonl of ``facetrm eval`` (the right answers first)
    id, answer, reward                                          ``facetrm score`` on a file of preferences
    prompt, results, scores_chosen, scores_rejected             RewardBench, in the order of its rows
    {text, scores, results, subset, id, num_correct}: columns   RewardBench 2
    id, prompt, score_chosen[3], score_rejected[3]              RM-Bench
    pair_id, label, judgments[].judgment.scores                 JudgeBench (A, then B)
    pair_uid, chosen_reward, reject_reward                      RMB

Rows are joined by id and subset. An id that occurs twice is refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

from facetrm.core.errors import DataError, short
from facetrm.core.files import read_json
from facetrm.data.read.columns import Row
from facetrm.data.read.rows import RawRow, read_rows, rows_in_memory
from facetrm.evaluate.benchmarks.item import Item
from facetrm.evaluate.benchmarks.result import AnswerScore

_Key: TypeAlias = tuple[str | None, str]
_COLUMNAR: Final = frozenset({"scores", "id", "subset"})


def is_score_file(path: Path) -> bool:
    """Return whether a file holds stored scores in one of the known forms.

    Args:
        path: A file.
    """
    try:
        first = next((raw.value for raw in _raw_rows(path) if raw.value is not None), None)
    except DataError:
        return False
    return first is not None and _form(first) is not None


def read_score_file(path: Path) -> StoredScores:
    """Return the scores of a file.

    Args:
        path: JSONL or JSON file.

    Raises:
        DataError: The file has another form, a score is not a number, or an id occurs twice.
    """
    tables: dict[str, dict[_Key, tuple[float | None, ...]]] = {}
    model: object = None
    in_order: list[tuple[float | None, ...]] = []
    form = None
    for raw in _raw_rows(path):
        place = f"{path}:{raw.number}"
        if raw.error is not None or raw.value is None:
            raise DataError(raw.error.problem if raw.error else "an empty row", place=place, fix="write the file again")
        form = form or _form(raw.value)
        if form is None:
            raise DataError(f"no scores in the fields {short(sorted(raw.value))}", place=place, fix=_KNOWN_FORMS)
        try:
            key, values = form(raw.value)
        except DataError as exc:
            raise DataError(exc.problem, place=place, fix=exc.fix) from None
        except (KeyError, TypeError, IndexError, ValueError) as exc:
            raise DataError(f"a score is missing ({exc})", place=place, fix=_KNOWN_FORMS) from None
        if form is _own:
            model = raw.value.get("model") if model is None else model
            _check_model(model, raw.value, place)
        scores = tables.setdefault(str(raw.value.get("benchmark", "")) if form is _own else "", {})
        if form is _answer:
            scores[key] = (*scores.get(key, ()), *values)
            continue
        in_order.append(values)
        if form is _rewardbench:
            continue
        if key in scores:
            raise DataError(f"id {short(key[1])} occurs twice", place=place, fix="remove the duplicate")
        scores[key] = values
    if form is None:
        raise DataError("no row", place=path, fix=_KNOWN_FORMS)
    return StoredScores(path, tables, in_order if form is _rewardbench else [])


def _check_model(model: object, row: Row, place: str) -> None:
    """Refuse the row of another model: scores of two models are two systems."""
    if row.get("model") != model:
        raise DataError(
            f"holds scores of {short(model)} and of {short(row.get('model'))}",
            place=place,
            fix="keep the lines of one model in a file of their own",
        )


class StoredScores:
    """Scores by id and subset, or in the order of the rows.

    Args:
        path: The file, for error messages.
        tables: By benchmark, scores of the answers by (subset, id). The benchmark is empty and the subset None if the
            file does not name them.
        in_order: Scores in the order of the benchmark's rows, for files without ids.
    """

    def __init__(
        self,
        path: Path,
        tables: Mapping[str, Mapping[_Key, tuple[float | None, ...]]],
        in_order: Sequence[tuple[float | None, ...]],
    ) -> None:
        self.path, self._tables, self._in_order = path, tables, in_order

    def answer(self, questions: Sequence[Item], benchmark: str = "") -> list[list[AnswerScore]]:
        """Return the score of each answer, by question. A question without scores has failed.

        Args:
            questions: All questions of a benchmark, in order.
            benchmark: Its name. Only a file with the scores of several benchmarks must name it.

        Raises:
            DataError: No question has scores, or a row has another number of scores than the question has answers.
        """
        if self._in_order and len(self._in_order) != len(questions):
            raise DataError(
                f"{len(self._in_order)} rows of scores for {len(questions)} questions",
                place=self.path,
                fix="a file without ids must have the rows of the benchmark, in its order",
            )
        only = next(iter(self._tables.values())) if len(self._tables) == 1 else {}
        scores_by_key = self._tables.get(benchmark, only)
        found = []
        missing = 0
        for n, question in enumerate(questions):
            values = self._in_order[n] if self._in_order else _of(scores_by_key, question)
            missing += values is None
            if values is not None and len(values) != len(question.answers):
                raise DataError(
                    f"{len(values)} scores for {len(question.answers)} answers to '{question.id}'",
                    place=self.path,
                    fix="give one score per answer, the right answers first",
                )
            scores = values or (None,) * len(question.answers)
            found.append([AnswerScore(x, problem="" if x is not None else "not in the score file") for x in scores])
        if missing == len(questions):
            raise DataError("no row belongs to this benchmark", place=self.path, fix="ids and subsets must agree")
        return found


def _of(scores: Mapping[_Key, tuple[float | None, ...]], question: Item) -> tuple[float | None, ...] | None:
    named = scores.get((question.subset, question.id))
    return scores.get((None, question.id)) if named is None else named


def _raw_rows(path: Path) -> Iterator[RawRow]:
    """Yield the rows of a file; a JSON object of columns gives one row per item."""
    if path.suffix == ".json":
        value = read_json(path, DataError, fix="give a JSON or JSONL file of scores")
        if isinstance(value, dict) and value.keys() >= _COLUMNAR and isinstance(value["scores"], list):
            names = [name for name, column in value.items() if isinstance(column, list)]
            lengths = {len(value[name]) for name in names}
            if len(lengths) > 1:
                raise DataError("its columns have different lengths", place=path, fix="write the file again")
            value = [{name: value[name][n] for name in names} for n in range(lengths.pop())]
        yield from rows_in_memory(value if isinstance(value, (list, dict)) else [value])
        return
    yield from read_rows(path)


def _number(value: object, name: str) -> float | None:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"'{name}' is {short(value)}", fix="write a number, or null for a failed answer")
    return float(value) if math.isfinite(value) else None


def _numbers(value: object, name: str) -> tuple[float | None, ...]:
    if not isinstance(value, list) or not value:
        raise DataError(f"'{name}' is {short(value)}", fix="write a list of numbers")
    return tuple(_number(one, f"{name}.{n}") for n, one in enumerate(value))


def _own(row: Row) -> tuple[_Key, tuple[float | None, ...]]:
    subset = row.get("subset")
    return (None if subset is None else str(subset), str(row["id"])), _numbers(row["scores"], "scores")


def _answer(row: Row) -> tuple[_Key, tuple[float | None, ...]]:
    return (None, str(row["id"])), (_number(row["reward"], "reward"),)


def _rewardbench(row: Row) -> tuple[_Key, tuple[float | None, ...]]:
    return (None, ""), tuple(_number(row[name], name) for name in ("scores_chosen", "scores_rejected"))


def _rm_bench(row: Row) -> tuple[_Key, tuple[float | None, ...]]:
    values = _numbers(row["score_chosen"], "score_chosen") + _numbers(row["score_rejected"], "score_rejected")
    part = row.get("domain")
    return (str(part) if part else None, str(row["id"])), values


def _judgebench(row: Row) -> tuple[_Key, tuple[float | None, ...]]:
    a, b = _numbers(row["judgments"][0]["judgment"]["scores"], "judgments.0.judgment.scores")
    return (str(row["response_model"]), str(row["pair_id"])), (a, b) if row["label"] == "A>B" else (b, a)


def _rmb(row: Row) -> tuple[_Key, tuple[float | None, ...]]:
    wrong = row["reject_reward"]
    right = _number(row["chosen_reward"], "chosen_reward")
    others = _numbers(wrong, "reject_reward") if isinstance(wrong, list) else (_number(wrong, "reject_reward"),)
    return (None, str(row["pair_uid"])), (right, *others)


_FORMS: Final[tuple[tuple[frozenset[str], Callable[[Row], tuple[_Key, tuple[float | None, ...]]]], ...]] = (
    (frozenset({"score_chosen", "score_rejected", "id"}), _rm_bench),
    (frozenset({"scores_chosen", "scores_rejected"}), _rewardbench),
    (frozenset({"judgments", "pair_id", "label"}), _judgebench),
    (frozenset({"chosen_reward", "reject_reward", "pair_uid"}), _rmb),
    (frozenset({"id", "answer", "reward"}), _answer),
    (frozenset({"id", "scores"}), _own),
)
_KNOWN_FORMS: Final = "a row of scores has one of these sets of fields: " + "; ".join(
    ", ".join(sorted(fields)) for fields, _ in _FORMS
)


def _form(row: Row) -> Callable[[Row], tuple[_Key, tuple[float | None, ...]]] | None:
    return next((form for fields, form in _FORMS if fields <= row.keys()), None)


def written_rows(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as JSON lines.

    Args:
        rows: JSON-ready rows.
    """
    return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
