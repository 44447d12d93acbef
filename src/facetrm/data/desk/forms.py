"""Forms of requests: prompts with blanks, filled from finite pools and read back from the text.

A form is one or more messages with ``{blanks}``. Filling it gives a prompt; matching a prompt gives the blanks back, so
the truth about a prompt follows from its text alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from random import Random

from facetrm.data.records import Message, Role

Turn = tuple[Role, str]


@dataclass(frozen=True)
class Form:
    """A prompt with blanks.

    Attributes:
        task: Name of the task.
        turns: Messages with ``{blanks}``, oldest first; the last one is the user's.
        pools: What each blank may hold. No two blanks of a prompt hold the same text.
        kind: What else the task has to know, such as the kind of fact that is asked for.
    """

    task: str
    turns: tuple[Turn, ...]
    pools: Mapping[str, Sequence[str]] = field(default_factory=dict, hash=False)
    kind: str = ""

    def fill(self, random: Random) -> Request:
        """Return a request with random blanks."""
        while True:
            values = {name: random.choice(pool) for name, pool in self.pools.items()}
            if len(set(values.values())) == len(values):
                return Request(self, values)

    def match(self, messages: Sequence[Message]) -> Request | None:
        """Return the request whose turns end ``messages``, or None if the text is not of this form."""
        tail = messages[len(messages) - len(self.turns) :]
        if len(tail) < len(self.turns):
            return None
        if self._literal not in tail[-1].content:
            return None
        values: dict[str, str] = {}
        for message, (role, _), pattern in zip(tail, self.turns, self._patterns, strict=True):
            found = pattern.fullmatch(message.content) if message.role == role else None
            if found is None or any(values.get(name, text) != text for name, text in found.groupdict().items()):
                return None
            values |= found.groupdict()
        return Request(self, values)

    @cached_property
    def _patterns(self) -> tuple[re.Pattern[str], ...]:
        return tuple(re.compile(self._pattern(text)) for _, text in self.turns)

    @cached_property
    def _literal(self) -> str:
        """The longest piece of the last message that is not a blank: a quick test."""
        return max(re.split(r"\{\w+\}", self.turns[-1][1]), key=len)

    def _pattern(self, text: str) -> str:
        seen: set[str] = set()
        parts = []
        for literal, name in re.findall(r"([^{]*)(?:\{(\w+)\})?", text):
            parts.append(re.escape(literal))
            if name in seen:
                parts.append(f"(?P={name})")
            elif name:
                seen.add(name)
                options = sorted(self.pools[name], key=len, reverse=True)
                parts.append(f"(?P<{name}>{'|'.join(map(re.escape, options))})")
        return "".join(parts)


@dataclass(frozen=True)
class Request:
    """A filled form: what a prompt asks for.

    Attributes:
        form: The form.
        values: Text of each blank.
    """

    form: Form
    values: Mapping[str, str] = field(hash=False)

    @property
    def task(self) -> str:
        """Name of the task."""
        return self.form.task

    @property
    def key(self) -> str:
        """What is asked for, however it is worded; requests with the same key belong to the same part."""
        return "|".join((self.task, self.form.kind, *(f"{k}={self.values[k]}" for k in sorted(self.values))))

    def __getitem__(self, blank: str) -> str:
        return self.values[blank]

    def messages(self) -> tuple[Message, ...]:
        """Return the messages of the request."""
        return tuple(Message(role=role, content=text.format_map(self.values)) for role, text in self.form.turns)


def asked(task: str, *texts: str, kind: str = "", pools: Mapping[str, Sequence[str]] | None = None) -> tuple[Form, ...]:
    """Return one form of a single user message for each text.

    Args:
        task: Name of the task.
        *texts: Texts with blanks.
        kind: Kind of all of them.
        pools: What each blank may hold; blanks that a text lacks are left out.
    """
    return tuple(dialogue(task, ("user", text), kind=kind, pools=pools) for text in texts)


def dialogue(task: str, *turns: Turn, kind: str = "", pools: Mapping[str, Sequence[str]] | None = None) -> Form:
    """Return a form of several messages.

    Args:
        task: Name of the task.
        *turns: Role and text of each message.
        kind: Kind of the form.
        pools: What each blank may hold; blanks that no text has are left out.
    """
    used = {name for _, text in turns for name in re.findall(r"\{(\w+)\}", text)}
    return Form(task, turns, {name: tuple((pools or {})[name]) for name in sorted(used)}, kind)
