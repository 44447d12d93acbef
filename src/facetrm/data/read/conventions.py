"""The table of column conventions: the columns that identify each one, and the function that reads its rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, final

from facetrm.data.read import pairs, rated
from facetrm.data.read.columns import Facts, Row

RecordKind = Literal["rating", "preference"]


@final
@dataclass(frozen=True)
class Convention:
    """One convention for the columns of a file.

    Attributes:
        name: Name of the convention.
        kind: Kind of record that its rows become.
        columns: Description of its columns, for the error about a file whose convention is unknown.
        required: Columns that identify the convention.
        convert: Function that returns the record's fields from a row and removes the columns that it used.
        strict: Whether other columns are an error.
    """

    name: str
    kind: RecordKind
    columns: str
    required: frozenset[str]
    convert: Callable[[Row, Facts], Row]
    strict: bool = False


CONVENTIONS: tuple[Convention, ...] = (
    Convention(
        "facetrm pack",
        "rating",
        "messages, ratings, category",
        frozenset({"messages", "ratings", "category"}),
        rated.messages_and_ratings,
    ),
    Convention(
        "facetrm",
        "rating",
        "messages, ratings {objective: number}",
        frozenset({"messages", "ratings"}),
        rated.messages_and_ratings,
        strict=True,
    ),
    Convention(
        "RLHFlow attributes",
        "rating",
        "messages + one column of numbers per attribute",
        frozenset({"messages"}),
        rated.attributes,
    ),
    Convention(
        "prompt and response",
        "rating",
        "prompt, response + one column of numbers per attribute",
        frozenset({"prompt", "response"}),
        rated.prompt_and_response,
    ),
    Convention(
        "prompt and completion",
        "rating",
        "prompt, completion + one column of numbers per attribute",
        frozenset({"prompt", "completion"}),
        rated.prompt_and_response,
    ),
    Convention(
        "prompt and answer",
        "rating",
        "prompt, answer + one column of numbers per attribute",
        frozenset({"prompt", "answer"}),
        rated.prompt_and_response,
    ),
    Convention(
        "facetrm",
        "preference",
        "prompt, responses (message lists, best first)",
        frozenset({"prompt", "responses"}),
        pairs.responses,
        strict=True,
    ),
    Convention(
        "facetrm pack",
        "preference",
        "id, source, split, prompt, chosen, rejected, category",
        frozenset({"id", "source", "split", "prompt", "chosen", "rejected", "category"}),
        pairs.explicit_prompt,
    ),
    Convention(
        "TRL explicit prompt",
        "preference",
        "prompt, chosen, rejected (strings or message lists)",
        frozenset({"prompt", "chosen", "rejected"}),
        pairs.explicit_prompt,
    ),
    Convention(
        "TRL implicit prompt",
        "preference",
        "chosen, rejected that begin alike (strings or message lists)",
        frozenset({"chosen", "rejected"}),
        pairs.implicit_prompt,
    ),
    Convention(
        "messages and rejected response",
        "preference",
        "messages, rejected_response",
        frozenset({"messages", "rejected_response"}),
        pairs.rejected_response,
    ),
)
