"""Keep the tokens of conversations that were counted until they are read, so that a server tokenises each only once."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from typing import Final, final

from facetrm.backbone.text.chat import ChatFormat, Tokenized
from facetrm.data.records import Conversation

_KEPT: Final = 256


@final
class CountedTokens:
    """Tokenise conversations; what was counted is kept until it is read.

    Threads may share it.

    Args:
        chat: tokenises a conversation.
        most: conversations that are kept; the oldest are dropped.
    """

    def __init__(self, chat: ChatFormat, *, most: int = _KEPT) -> None:
        self._chat, self._most = chat, most
        self._kept: OrderedDict[Conversation, Tokenized] = OrderedDict()
        self._lock = Lock()

    def count(self, messages: Conversation, row: int) -> Tokenized:
        """Return the tokens of a conversation, and keep them for :meth:`read`.

        Args:
            messages: prompt, followed by the response.
            row: index of the conversation, for error messages.

        Raises:
            BackboneError: The conversation cannot be tokenised; the error gives its index.
        """
        found = self._chat.tokenize(messages, row=row)
        with self._lock:
            self._kept[tuple(messages)] = found
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return found

    def read(self, messages: Conversation, row: int) -> Tokenized:
        """Return the tokens of a conversation, and keep them no longer.

        Args:
            messages: prompt, followed by the response.
            row: index of the conversation, for error messages.

        Raises:
            BackboneError: The conversation cannot be tokenised; the error gives its index.
        """
        with self._lock:
            found = self._kept.pop(tuple(messages), None)
        return self._chat.tokenize(messages, row=row) if found is None else found
