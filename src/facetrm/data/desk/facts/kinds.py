"""What a kind of fact is: questions, a statement, and a table of subjects and answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class FactKind:
    """Facts that answer the same question about different subjects.

    Attributes:
        name: Name of the kind.
        questions: Questions about a ``{subject}``.
        statement: Statement with ``{subject}`` and ``{answer}``; wrong answers are those of other subjects.
        remark: A true sentence that fits every answer and does not contain one.
        table: Answer by subject.
        aliases: Other names of an answer.
    """

    name: str
    questions: tuple[str, ...]
    statement: str
    remark: str
    table: Mapping[str, str] = field(hash=False)
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)

    @property
    def answers(self) -> tuple[str, ...]:
        """Every answer of the table, once."""
        return tuple(dict.fromkeys(self.table.values()))


def table(text: str) -> dict[str, str]:
    """Read ``subject = answer`` entries, separated by semicolons."""
    entries = (entry.split("=") for entry in text.split(";") if entry.strip())
    return {" ".join(subject.split()): " ".join(answer.split()) for subject, answer in entries}
