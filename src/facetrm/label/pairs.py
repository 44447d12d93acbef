"""Pairs of replies to be judged, made from preferences or ratings, with the labels that they already have."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from facetrm.core.errors import DataError
from facetrm.core.fingerprint import fingerprint
from facetrm.data.read.files import read_records
from facetrm.data.records import Conversation, Message, Preference, Rating, conversation_key, prompt_key
from facetrm.data.views import as_pairs


@final
@dataclass(frozen=True)
class Pair:
    """Two replies to one prompt. Their order carries no meaning.

    Attributes:
        id: the id of the row, or a fingerprint of the texts if the row has none.
        prompt: the turns before the replies.
        replies: the two replies to compare.
        task: the row's task.
        source: the row's source.
        subset: the row's subset.
        split: the row's split.
        given: the labels that the data already has, by aspect or objective: +1 if the first reply is better (for
            ratings: has the higher number), -1 if the second is. They are compared with the judge's, never shown to it.
    """

    id: str
    prompt: Conversation
    replies: tuple[Message, Message]
    task: str | None = None
    source: str = "local"
    subset: str | None = None
    split: str | None = None
    given: Mapping[str, int] = field(default_factory=dict)

    @property
    def prompt_key(self) -> str:
        """The identity of the prompt."""
        return prompt_key(self.prompt)


def read_pairs(path: Path) -> list[Pair]:
    """Read pairs from a file of preferences, or of ratings (every two answers to the same prompt).

    Args:
        path: a file in any convention of :mod:`facetrm.data.read.formats`.

    Raises:
        DataError: a row is invalid, or the file yields no pair.
    """
    records = read_records(path)
    ratings = [record for record in records if isinstance(record, Rating)]
    pairs = rating_pairs(ratings) or preference_pairs(r for r in records if isinstance(r, Preference))
    if not pairs:
        fix = "give preferences, or several rated answers to each prompt"
        raise DataError("no prompt has two replies", place=path, fix=fix)
    return pairs


def preference_pairs(preferences: Iterable[Preference]) -> list[Pair]:
    """Return every two responses of each preference as a pair. The first is known to be better in its aspect."""
    return [
        Pair(
            id=pair.id or _name(pair.prompt, pair.responses),
            prompt=pair.prompt,
            replies=(pair.responses[0], pair.responses[1]),
            task=pair.task,
            source=pair.source,
            subset=pair.subset,
            split=pair.split,
            given={pair.aspect: 1},
        )
        for preference in preferences
        for pair in as_pairs(preference)
    ]


def rating_pairs(ratings: Iterable[Rating]) -> list[Pair]:
    """Return every two rated answers to the same prompt as a pair, with the objectives whose ratings differ.

    Raises:
        DataError: a prompt does not end with a user message.
    """
    groups: dict[str, list[Rating]] = defaultdict(list)
    for rating in ratings:
        if rating.prompt[-1].role != "user":
            raise DataError(
                f"the prompt of rating '{rating.id}' ends with '{rating.prompt[-1].role}'",
                fix="the prompt of a pair must end with a user message",
            )
        groups[conversation_key(rating.prompt)].append(rating)
    pairs = []
    for group in groups.values():
        for a, b in itertools.combinations(group, 2):
            both = a.ratings.keys() & b.ratings.keys()
            replies = (a.messages[-1], b.messages[-1])
            pairs.append(
                Pair(
                    id=f"{a.id}|{b.id}" if a.id and b.id else _name(a.prompt, replies),
                    prompt=a.prompt,
                    replies=replies,
                    task=a.task if a.task == b.task else None,
                    source=a.source,
                    subset=a.subset if a.subset == b.subset else None,
                    split=a.split if a.split == b.split else None,
                    given={
                        name: 1 if a.ratings[name] > b.ratings[name] else -1
                        for name in sorted(both)
                        if a.ratings[name] != b.ratings[name]
                    },
                )
            )
    return pairs


def _name(prompt: Conversation, replies: Iterable[Message]) -> str:
    return fingerprint([conversation_key(prompt), [reply.content for reply in replies]])[:16]
