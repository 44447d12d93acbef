"""A server of rewards as a scorer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, final

from facetrm.baselines.groups import bare_score
from facetrm.core.fingerprint import fingerprint
from facetrm.core.web.key import ServerKey
from facetrm.data.records import Conversation, Message, conversation_key
from facetrm.doctor.server import AT_ONCE, connect
from facetrm.model.output import Score

_SAMPLE: Final = (Message(role="user", content="Hello."), Message(role="assistant", content="Hello. How can I help?"))


@final
class ServedScorer:
    """Scores conversations with a server that speaks facetrm's or vLLM's API.

    Args:
        url: Address of the server.
        timeout: Timeout of a request, in seconds.
        key: API key; None if the server needs none.

    Attributes:
        name: Name for tables and files.
        hash: Fingerprint of the address, the API and the answer to a fixed conversation.
        failures: What the server said, by ``conversation_key`` of each conversation without a reward.

    Raises:
        ModelError: The server cannot be reached or speaks another API.
    """

    def __init__(self, url: str, *, timeout: float = 60.0, key: ServerKey | None = None) -> None:
        self._server = connect(url, _SAMPLE, timeout=timeout, key=key)
        self.name = str(self._server.address)
        first = self._server.ask(_SAMPLE)
        # A server does not say which weights it holds: its answer to a fixed conversation tells two of them apart.
        self.hash = fingerprint(["server", self.name, self._server.dialect, first.reward])
        self.failures: dict[str, str] = {}

    def score(self, conversations: Sequence[Conversation]) -> list[Score]:
        """Return the score of each conversation, in order; NaN where the server gave none.

        Args:
            conversations: The conversations.

        Raises:
            ModelError: The server cannot be reached, or does not answer in time.
        """
        answers = self._server.ask_all(conversations, at_once=AT_ONCE)
        for conversation, one in zip(conversations, answers, strict=True):
            self.failures.pop(conversation_key(conversation), None)
            if one.reward is None:
                self.failures[conversation_key(conversation)] = one.problem
        return [
            bare_score(
                float("nan") if one.reward is None else one.reward,
                model=self.hash,
                truncated=one.truncated,
                mode="fast",
            )
            for one in answers
        ]
