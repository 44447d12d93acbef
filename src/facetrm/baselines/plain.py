"""Scorers that read no meaning: the length of the answer, a random number, and known values.

    length   reward = sign * length of the last message
    random   reward = u, uniform in [0, 1), a function of the seed and of the conversation alone
    oracle   reward = the value that is given for the conversation

A benchmark on which one of the first two does well measures something other than quality. The oracle shows that a
benchmark can be solved.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, final

from facetrm.baselines.groups import bare_score
from facetrm.core.errors import ConfigError, DataError, short
from facetrm.core.fingerprint import fingerprint
from facetrm.data.records import Conversation, conversation_key
from facetrm.model.output import Score, Scorer

LengthUnit = Literal["characters", "words"]
_UNITS: Final[dict[LengthUnit, Callable[[str], int]]] = {"characters": len, "words": lambda text: len(text.split())}
_DIGITS: Final = 13  # 52 bits: every value is a float


def answer_length(conversation: Conversation, unit: LengthUnit = "characters") -> int:
    """Return the length of the answer, the last message of a conversation.

    Args:
        conversation: The conversation.
        unit: ``characters`` counts Unicode code points; ``words`` counts what white space separates.
    """
    return _UNITS[unit](conversation[-1].content)


@final
class LengthScorer:
    """The longest answer wins, or the shortest.

    Args:
        sign: 1 if the longest answer wins, -1 if the shortest does.
        unit: Unit of the length: ``characters`` (Unicode code points) or ``words`` (separated by white space).

    Raises:
        ConfigError: The sign or the unit is unknown.

    Example:
        >>> from facetrm import conversation
        >>> asked = {"role": "user", "content": "two plus two ?"}
        >>> answers = [conversation([asked, {"role": "assistant", "content": text}]) for text in ("4", "four")]
        >>> [score.reward for score in LengthScorer().score(answers)]
        [1.0, 4.0]
    """

    def __init__(self, *, sign: int = 1, unit: LengthUnit = "characters") -> None:
        if sign not in (1, -1):
            raise ConfigError(f"sign is {short(sign)}", place="LengthScorer", fix="1: longest wins; -1: shortest wins")
        if unit not in _UNITS:
            raise ConfigError(f"unknown unit {short(unit)}", place="LengthScorer", fix=f"use {' or '.join(_UNITS)}")
        self.name = "longest" if sign == 1 else "shortest"
        self.hash = fingerprint(["length", sign, unit])
        self._sign, self._unit = sign, unit

    def score(self, conversations: Sequence[Conversation]) -> list[Score]:
        """Return one score per conversation, in order. The reward is in the chosen unit.

        Args:
            conversations: Conversations, each ending with an answer.
        """
        lengths = [answer_length(c, self._unit) for c in conversations]
        return [bare_score(float(self._sign * n), model=self.hash, length=n) for n in lengths]


@final
class RandomScorer:
    """A random number in [0, 1), which depends on the seed and on the conversation alone.

    Neither their order nor the batch matters, and equal conversations get equal rewards.

    Args:
        seed: Seed.
    """

    def __init__(self, *, seed: int = 0) -> None:
        self.name = "random"
        self.hash = fingerprint(["random", seed])
        self._seed = seed

    def score(self, conversations: Sequence[Conversation]) -> list[Score]:
        """Return one score per conversation, in order.

        Args:
            conversations: Conversations, each ending with an answer.
        """
        return [bare_score(self._uniform(c), model=self.hash) for c in conversations]

    def _uniform(self, conversation: Conversation) -> float:
        drawn = fingerprint([self._seed, conversation_key(conversation)])[:_DIGITS]
        return int(drawn, 16) / 16**_DIGITS


@final
class OracleScorer:
    """Known values, such as those of a generated world.

    Args:
        values: Value by :func:`facetrm.data.records.conversation_key` of the conversation.
        name: Name for tables and files.

    Raises:
        DataError: A value is not a finite number.
    """

    def __init__(self, values: Mapping[str, float], *, name: str = "oracle") -> None:
        self._values = dict(values)
        for key, value in self._values.items():
            if not math.isfinite(value):
                problem = f"the value of conversation {key[:12]} is {value}"
                raise DataError(problem, place=name, fix="leave out conversations whose value is not known")
        self.name = name
        self.hash = fingerprint(["oracle", {key: float(value) for key, value in self._values.items()}])

    def score(self, conversations: Sequence[Conversation]) -> list[Score]:
        """Return one score per conversation, in order.

        Args:
            conversations: Conversations whose values are known.

        Raises:
            DataError: The value of a conversation is not known.
        """
        return [bare_score(self._value(n, c), model=self.hash) for n, c in enumerate(conversations)]

    def _value(self, row: int, conversation: Conversation) -> float:
        found = self._values.get(conversation_key(conversation))
        if found is None:
            asked = short(conversation[-2].content if len(conversation) > 1 else "", 40)
            problem = f"no value for conversation {row} (prompt: {asked})"
            raise DataError(problem, place=self.name, fix="give its value by its conversation_key, text unchanged")
        return float(found)


PLAIN_SCORERS: Final[Mapping[str, Callable[[int], Scorer]]] = {
    "length": lambda seed: LengthScorer(),
    "shortest": lambda seed: LengthScorer(sign=-1),
    "random": lambda seed: RandomScorer(seed=seed),
}
"""Scorers that are named, not loaded: by name, each made from a seed."""
