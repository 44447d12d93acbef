"""A draft: what an answer says, before courtesy, faults and padding are added."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Final, Literal

from facetrm.data.desk.forms import Form, Request

FluencyFault = Literal["garbled", "repeated", "cut off"]
FAULTS: Final[tuple[FluencyFault, ...]] = ("garbled", "repeated", "cut off")
Levels = Mapping[str, float]


@dataclass(frozen=True)
class Draft:
    """The body of an answer.

    Attributes:
        sentences: Sentences that carry the levels of the task's own qualities, in order.
        remarks: At least two sentences that carry none; they may be left out, garbled or cut off.
        head: Text above the sentences, such as a salutation.
        block: Text between the first sentence and the others, such as code.
        unpadded: Sentences that no padding phrase can open.
        tail: Text below the sentences, such as a signature.
        faults: Faults of fluency that the text can have.
        render: Function that joins the sentences; None joins them with spaces.
        fixed: Places of the sentences that faults may change; None unless the form of the text is part of the task.
            Such a text gets no remarks and no courtesy, and padding only between its first and its last sentence.
    """

    sentences: tuple[str, ...]
    remarks: tuple[str, ...] = ()
    head: str = ""
    block: str = ""
    unpadded: tuple[str, ...] = ()
    tail: str = ""
    faults: tuple[FluencyFault, ...] = FAULTS
    render: Callable[[list[str]], str] | None = None
    fixed: tuple[int, ...] | None = None


WriteDraft = Callable[[Random, Request, Levels], Draft]


@dataclass(frozen=True)
class Task:
    """A kind of request.

    Attributes:
        name: Name of the task.
        meaning: What people ask for, in one sentence.
        forms: Prompts.
        weights: Weight of each quality that applies; they sum to 1.
        write: Function (random, request, levels) that drafts an answer with the task's own levels.
        adjust: Function (random, request, levels) that makes drawn levels consistent, in place.
    """

    name: str
    meaning: str
    forms: tuple[Form, ...]
    weights: Mapping[str, float] = field(hash=False)
    write: WriteDraft
    adjust: Callable[[Random, Request, dict[str, float]], None] | None = None
