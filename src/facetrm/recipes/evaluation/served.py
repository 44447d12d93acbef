"""A server of rewards as a scorer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, final

from facetrm.baselines.groups import bare_score
from facetrm.core.errors import ModelError
from facetrm.core.fingerprint import fingerprint
from facetrm.core.web.key import ServerKey
from facetrm.data.records import Conversation, Message, conversation_key
from facetrm.doctor.server import AT_ONCE, RewardServer, connect
from facetrm.model.output import Score
from facetrm.serve.http_scorer import HttpScorer

_SAMPLE: Final = (Message(role="user", content="Hello."), Message(role="assistant", content="Hello. How can I help?"))


def served_scorer(url: str, *, timeout: float = 60.0, key: ServerKey | None = None) -> HttpScorer | ServedScorer:
    """Return a scorer for a server: with whole scores if it is facetrm's, else with rewards alone.

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
    server = connect(url, _SAMPLE, timeout=timeout, key=key)
    if server.dialect == "facetrm":
        try:
            return HttpScorer(str(server.address), timeout=timeout, key=key)
        except ModelError:
            pass  # it speaks the API, but says nothing about its model
    return ServedScorer(server)


@final
class ServedScorer:
    """Scores conversations with a server that gives rewards alone.

    Args:
        server: The connected server.

    Raises:
        ModelError: The server cannot be reached.
    """

    def __init__(self, server: RewardServer) -> None:
        self._server = server
        self.name = str(server.address)
        first = server.ask(_SAMPLE)
        # A server does not say which weights it holds: its answer to a fixed conversation tells two of them apart.
        self.hash = fingerprint(["server", self.name, server.dialect, first.reward])
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
