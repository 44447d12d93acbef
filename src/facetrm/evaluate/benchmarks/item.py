"""A question of a benchmark: one prompt, and answers that are known to be right or wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, final

from facetrm.core.errors import DataError, short
from facetrm.data.read.turns import messages
from facetrm.data.records import Conversation, Message, prompt_key

_ROLES: Final = ("system", "user", "assistant")


@final
@dataclass(frozen=True)
class Item:
    """One prompt with answers, the right ones first.

    Attributes:
        id: Id of the row. Together with the subset it names the question.
        subset: Subset of the benchmark.
        prompt: The prompt, ending with a user turn.
        answers: The answers; the first ``right`` of them are the right ones.
        right: Number of right answers, from 0 to all of them.
        place: ``file:row``, for error messages.
        stratum: Rows with one stratum are averaged together; usually the subset.
        task: Task of the prompt, or None.
        row: What the official tool's files need of the row.
    """

    id: str
    subset: str
    prompt: Conversation
    answers: tuple[Message, ...]
    right: int
    place: str
    stratum: str
    task: str | None = None
    row: Mapping[str, Any] = field(default_factory=dict)

    @property
    def conversations(self) -> tuple[Conversation, ...]:
        """The prompt with each answer."""
        return tuple((*self.prompt, answer) for answer in self.answers)

    @property
    def group(self) -> str:
        """The key of the prompt. The bootstrap resamples prompts."""
        return prompt_key(self.prompt)


def read_prompt(value: object, name: str) -> Conversation:
    """Return a prompt: a text is one user turn, and a list of messages is taken as it is.

    Args:
        value: Text or list of messages.
        name: Name of the field, for error messages.

    Raises:
        DataError: The value is neither, or the prompt does not end with a user turn.
    """
    if isinstance(value, str):
        return (_message("user", value, name),)
    if not isinstance(value, list | tuple) or not value:
        raise DataError(f"'{name}' is {short(value)}", fix="write the text of the prompt, or a list of messages")
    turns = []
    for n, turn in enumerate(messages(value, name)):
        role = turn.get("role")
        if role not in _ROLES:
            raise DataError(
                f"'{name}.{n}.role' is {short(role)}", fix="only system, user and assistant turns can be scored"
            )
        turns.append(_message(role, turn.get("content"), f"{name}.{n}.content"))
    if turns[-1].role != "user":
        raise DataError(f"'{name}' ends with a turn of '{turns[-1].role}'", fix="end the prompt with a user turn")
    return tuple(turns)


def read_answer(value: object, name: str) -> Message:
    """Return an answer: a text, or the assistant's message.

    Args:
        value: Text, message, or list with one message.
        name: Name of the field, for error messages.

    Raises:
        DataError: The value is none of these, or it is blank.
    """
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    if isinstance(value, Mapping):
        if value.get("role") != "assistant":
            raise DataError(f"'{name}.role' is {short(value.get('role'))}", fix="an answer is an assistant message")
        value = value.get("content")
    return _message("assistant", value, name)


def read_text(row: Mapping[str, Any], name: str) -> str:
    """Return the text in a field; a number is written as text.

    Args:
        row: The row.
        name: Name of the field.

    Raises:
        DataError: The field is missing or holds something else.
    """
    value = need_field(row, name)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise DataError(f"'{name}' is {short(value)}", fix="write text")
    return str(value)


def read_answers(row: Mapping[str, Any], name: str, *, least: int = 1) -> tuple[Message, ...]:
    """Return the answers in a field: one answer, or a list of them.

    Args:
        row: The row.
        name: Name of the field.
        least: Smallest number of answers.

    Raises:
        DataError: The field is missing, an answer is not text, or there are too few.
    """
    value = need_field(row, name)
    listed = value if isinstance(value, list | tuple) else [value]
    if len(listed) < least:
        raise DataError(f"'{name}' holds {len(listed)} answers", fix=f"give at least {least}")
    return tuple(read_answer(one, f"{name}.{n}" if len(listed) > 1 else name) for n, one in enumerate(listed))


def read_count(row: Mapping[str, Any], name: str, *, least: int, most: int) -> int:
    """Return the whole number in a field.

    Args:
        row: The row.
        name: Name of the field.
        least: Smallest value.
        most: Largest value.

    Raises:
        DataError: The field is missing, not a whole number, or outside these bounds.
    """
    value = need_field(row, name)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise DataError(f"'{name}' is {short(value)}", fix="write a whole number")
    if not least <= value <= most:
        raise DataError(f"'{name}' is {value:g}", fix=f"it must be {least} to {most}")
    return int(value)


def need_field(row: Mapping[str, Any], name: str) -> Any:
    """Return the value of a field.

    Args:
        row: The row.
        name: Name of the field.

    Raises:
        DataError: The field is missing or null.
    """
    value = row.get(name)
    if value is None:
        raise DataError(f"'{name}' is missing", fix=f"the row has {short(sorted(row), 200)}")
    return value


def read_labels(value: object, known: Sequence[object], name: str) -> int:
    """Return the index of a label among the known ones.

    Args:
        value: The label; text and number are equal if they are written alike.
        known: The known labels.
        name: Name of the field, for error messages.

    Raises:
        DataError: The label is not known.
    """
    written = [str(one) for one in known]
    if isinstance(value, bool) or str(value).strip() not in written:
        raise DataError(f"'{name}' is {short(value)}", fix=f"it must be {' or '.join(written)}")
    return written.index(str(value).strip())


def _message(role: Any, content: object, name: str) -> Message:
    if not isinstance(content, str):
        raise DataError(f"'{name}' is {short(content)}", fix="write text")
    try:
        return Message(role=role, content=content)
    except ValueError:
        raise DataError(f"'{name}' is {short(content)}", fix="write text that is not blank, in valid UTF-8") from None
