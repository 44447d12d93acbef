"""Answers of a model behind an OpenAI-compatible API, one conversation at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import final

from facetrm.core.errors import LabelError
from facetrm.data.records import Message
from facetrm.label.client import OpenAIJudge, Reply
from facetrm.label.settings import LabelConfig


@final
class ServedModel:
    """A model behind an OpenAI-compatible API that answers conversations.

    It uses the address, model, key, sampling settings, tries and waits of the label settings, for example
    ``LabelConfig(base_url="http://127.0.0.1:8000/v1", model="my-model", max_tokens=256)``.

    Args:
        config: the settings; ``max_tokens`` limits the length of an answer.

    Raises:
        ConfigError: the address is invalid or contains a secret, or a public server has no key.
    """

    def __init__(self, config: LabelConfig) -> None:
        self._config = config
        self._client = OpenAIJudge(config)

    def answer(self, messages: Sequence[Message]) -> str:
        """Return the model's answer to a conversation; a refusal is an answer like any other.

        Args:
            messages: the conversation; its last message is the user's.

        Raises:
            LabelError: the server gives no usable answer after ``tries`` requests, or refuses the request.
        """
        turns = [{"role": m.role, "content": m.content} for m in messages]
        config, reason = self._config, ""
        for tries in range(1, config.tries + 1):
            said = asyncio.run(self._client.ask(turns, schema=False))
            if isinstance(said, Reply):
                return said.text
            reason = said.reason
            if said.kind != "again":
                raise LabelError(reason, place=config.model, fix=said.fix or "change the request, or the model")
            if tries < config.tries:
                time.sleep(max(config.backoff(tries), said.wait))
        raise LabelError(f"{reason} (after {config.tries} tries)", place=config.model, fix="check the server")
