"""Column conventions of others that are rewritten, row by row, into one that :mod:`facetrm.data.read.formats` reads.

    rating       question and answer     question or instruction (with input), and answer or output + one column per
                                         attribute
                 scored completions      instruction, completions [{response, annotations, overall_score}], as in
                                         UltraFeedback
                 scored pair             prompt, chosen, rejected, score_chosen, score_rejected
    preference   compared answers        question, response_a, response_b, winner (a, b, tie, a model's name, 1, 2)
                 scored completions      as above: each pair of answers whose scores differ

A row may become several records or none: ties, equal scores and rows without a label are left out and counted.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, final

from facetrm.core.errors import DataError, short
from facetrm.data.read.columns import Row, is_number, need
from facetrm.data.read.conventions import CONVENTIONS, RecordKind
from facetrm.data.read.winners import WINNERS, find_winners, is_unlabelled, winner_of

PROMPTS: Final[tuple[str, ...]] = ("prompt", "question", "instruction", "query", "context", "user_prompt", "input")
ANSWERS: Final[tuple[str, ...]] = ("response", "output", "answer", "completion", "reply", "generation")
_SCORES: Final = ("score_chosen", "score_rejected")
_OVERALL: Final = ("overall_score", "score", "rating")


@final
@dataclass(frozen=True)
class LeftOut:
    """A row, or a part of one, that yields no record.

    Attributes:
        reason: Why, as a plural: ``ties``.
    """

    reason: str


Rewriter: TypeAlias = Callable[[Row], Iterator[Row | LeftOut]]


@final
@dataclass(frozen=True)
class Foreign:
    """A convention of others, as found in one file.

    Attributes:
        name: Name of the convention.
        kind: Kind of record that its rows become.
        rewrite: Function that yields the rows of a convention of ours that a row stands for.
    """

    name: str
    kind: RecordKind
    rewrite: Rewriter


_COMPLETIONS: Final = "instruction, completions [{response, annotations or overall_score}] (UltraFeedback)"
FOREIGN_COLUMNS: Final[Mapping[RecordKind, Mapping[str, str]]] = {
    "rating": {
        "question and answer": "question or instruction, answer or output + one column of numbers per attribute",
        "scored completions": _COMPLETIONS,
        "scored pair": "prompt, chosen, rejected, score_chosen, score_rejected",
    },
    "preference": {
        "compared answers": "question, response_a, response_b, winner (a, b or tie)",
        "scored completions": _COMPLETIONS,
    },
}
"""Description of the columns of each convention, for the error about a file whose convention is unknown."""


def find_foreign(rows: Sequence[Row], kind: RecordKind) -> Foreign | None:
    """Return the convention of others that a file follows; None if it follows one of ours, or none.

    Args:
        rows: All rows of the file.
        kind: Kind of record to read.

    Raises:
        DataError: The file compares answers, but its winners can be read in two ways.
    """
    names = frozenset(key for row in rows for key in row)
    if any(c.kind == kind and c.required <= names for c in CONVENTIONS):
        return None
    prompt = next((name for name in PROMPTS if name in names), None)
    if prompt is not None and "completions" in names:
        rewrite = _rated_completions if kind == "rating" else _compared_completions
        return Foreign("scored completions", kind, rewrite)
    if kind == "rating":
        if {"chosen", "rejected", *_SCORES} <= names:
            return Foreign("scored pair", kind, _scored_pair)
        answers = [name for name in ANSWERS if name in names and name != prompt]
        if prompt is None or not answers:
            return None
        if len(answers) > 1:
            raise DataError(
                f"{' and '.join(map(repr, answers))} could all hold the rated answer",
                fix="rename the one that is rated to 'response', and 'prompt' its question, or take the others out",
            )
        answer = answers[0]
        return Foreign("question and answer", kind, lambda row: _renamed(row, prompt, answer))
    found = find_winners(rows, names)
    if found is None or (prompt is None and not found.answers[0].startswith("conversation")):
        return None

    def compared(row: Row) -> Iterator[Row | LeftOut]:
        rest = dict(row)
        texts = {"first": need(rest, found.answers[0]), "second": need(rest, found.answers[1])}
        asked = {} if prompt is None else {"prompt": _asked(rest, prompt)}
        side, clear = winner_of(row, found)
        for name in (found.winner, found.signed):
            rest.pop(name or "", None)
        if side is None:
            yield LeftOut("rows without a winner" if is_unlabelled(row, found) else "ties")
            return
        other = "second" if side == "first" else "first"
        margin = {} if clear is None else {"margin": clear}
        yield {**rest, **asked, "chosen": texts[side], "rejected": texts[other], **margin}

    return Foreign("compared answers", kind, compared)


def as_asked(row: Row) -> Row:
    """Return a row of others, without its labels, with the columns that scoring reads; other rows as they are.

    Args:
        row: Columns of the row that have a value.
    """
    prompt = next((name for name in PROMPTS if name in row), None)
    if {"messages", "chosen", "responses"} & row.keys() or {"prompt", "response"} <= row.keys():
        return row
    rest = dict(row)
    if prompt is not None and isinstance(row.get("completions"), list):
        asked = _asked(rest, prompt)
        said = [_answer(one) for one in rest.pop("completions")]
        if len(said) == 1:
            return {**rest, "prompt": asked, "response": said[0]}
        return {**rest, "prompt": _turns(asked), "responses": [{"role": "assistant", "content": one} for one in said]}
    found = find_winners([], frozenset({*row, WINNERS[0]}))
    if found is not None:
        chosen, rejected = (rest.pop(name) for name in found.answers)
        asked = None if prompt is None else _asked(rest, prompt)
        return {**rest, **({} if asked is None else {"prompt": asked}), "chosen": chosen, "rejected": rejected}
    answer = next((name for name in ANSWERS if name in row and name != prompt), None)
    if prompt is None or answer is None or (prompt == "prompt" and answer in ("response", "completion", "answer")):
        return row
    return next(one for one in _renamed(row, prompt, answer) if not isinstance(one, LeftOut))


def _asked(rest: Row, prompt: str) -> Any:
    """Remove the prompt from ``rest`` and return it, with Alpaca's ``input`` below the instruction."""
    asked = need(rest, prompt)
    more = rest.get("input")
    if prompt == "instruction" and isinstance(asked, str) and isinstance(more, str):
        rest.pop("input")
        return f"{asked}\n\n{more}" if more.strip() else asked
    return asked


def _turns(asked: object) -> Any:
    return [{"role": "user", "content": asked}] if isinstance(asked, str) else asked


def _renamed(row: Row, prompt: str, answer: str) -> Iterator[Row | LeftOut]:
    rest = dict(row)
    asked = _asked(rest, prompt)
    yield {"prompt": asked, "response": need(rest, answer), **rest}


def _scored_pair(row: Row) -> Iterator[Row | LeftOut]:
    rest = dict(row)
    scores = [rest.pop(name, None) for name in _SCORES]
    texts = [need(rest, name) for name in ("chosen", "rejected")]
    for text, score in zip(texts, scores, strict=True):
        if "prompt" in row:
            yield {**rest, "response": text, "score": score}
        else:
            yield {**rest, "messages": text, "score": score}


def _answer(completion: object) -> Any:
    if isinstance(completion, str):
        return completion
    if not isinstance(completion, Mapping):
        raise DataError(f"'completions' holds {short(completion)}", fix="write {'response': ..., 'annotations': ...}")
    key = next((name for name in ANSWERS if completion.get(name) is not None), None)
    if key is None:
        raise DataError(f"a completion without a response ({short(completion, 60)})", fix="add 'response'")
    return completion[key]


def _completions(row: Row) -> tuple[Any, Row, list[Any]]:
    """Return the prompt of a row, its other columns, and its completions."""
    rest = dict(row)
    asked = _asked(rest, next(name for name in PROMPTS if name in row))
    found = need(rest, "completions")
    if not isinstance(found, (list, tuple)):
        raise DataError(f"'completions' is {short(found)}", fix="write a list of objects")
    for name in ("models", "correct_answers", "incorrect_answers"):
        rest.pop(name, None)
    return asked, rest, list(found)


def _rated_completions(row: Row) -> Iterator[Row | LeftOut]:
    asked, rest, found = _completions(row)
    for one in found:
        scores = _scores(one)
        if any(value is not None for value in scores.values()):
            yield {**rest, "prompt": asked, "response": _answer(one), **scores}
        else:
            yield LeftOut("answers without a rating")


def _compared_completions(row: Row) -> Iterator[Row | LeftOut]:
    asked, rest, found = _completions(row)
    scored = [(_answer(one), _overall(_scores(one))) for one in found]
    for (text, score), (other, against) in itertools.combinations(scored, 2):
        if score is None or against is None:
            yield LeftOut("pairs with an answer without a score")
        elif score == against:
            yield LeftOut("pairs with equal scores")
        else:
            best, worst = (text, other) if score > against else (other, text)
            yield {**rest, "prompt": asked, "chosen": best, "rejected": worst, "margin": abs(score - against)}


def _overall(scores: Mapping[str, float | None]) -> float | None:
    """Return the mean of the aspects (UltraFeedback's own pairs rank by it), or else the overall score."""
    aspects = [value for name, value in scores.items() if name not in _OVERALL and value is not None]
    if aspects:
        return sum(aspects) / len(aspects)
    return next((scores[name] for name in _OVERALL if scores.get(name) is not None), None)


def _scores(completion: object) -> dict[str, float | None]:
    """Return the ratings of one completion: each annotation's ``Rating``, and the overall score."""
    if not isinstance(completion, Mapping):
        return {}
    annotations = completion.get("annotations")
    if annotations is not None and not isinstance(annotations, Mapping):
        raise DataError(f"'annotations' is {short(annotations)}", fix="write one entry per aspect")
    found: dict[str, float | None] = {}
    for name, given in (annotations or {}).items():
        rating = given.get("Rating", given.get("rating")) if isinstance(given, Mapping) else given
        found[name] = _written(rating, f"annotations.{name}")
    for name in _OVERALL:
        if name in completion:
            found[name] = _written(completion[name], name)
    return found


def _written(value: object, name: str) -> float | None:
    """Return a number, which may be written as text; None for null, ``N/A`` and NaN."""
    if value is None or (isinstance(value, str) and value.strip().upper() in ("", "N/A", "NA", "NONE")):
        return None
    try:
        number = float(value) if is_number(value) or isinstance(value, (str, bool)) else math.inf
    except (ValueError, OverflowError):
        number = math.inf
    if math.isinf(number):
        raise DataError(f"'{name}' is {short(value)}, not a number", fix="write a number, or null where missing")
    return None if math.isnan(number) else number
