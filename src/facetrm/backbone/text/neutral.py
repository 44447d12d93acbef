"""Prevents the text of a message from becoming a special token.

A tokenizer turns the string ``<|eot_id|>`` into the token that closes a turn wherever it occurs, so a response could
start a turn of its own. Therefore every control string in a message is broken up by a space after its first character
(``< |eot_id|>``) before the template is rendered. All other text is unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from transformers import PreTrainedTokenizerBase

from facetrm.core.errors import BackboneError

_MAX_ROUNDS = 8


class Neutraliser:
    """Breaks up control strings in the text of messages.

    Control tokens are the tokenizer's special tokens (except the unknown token, which ordinary text can produce) and
    all other added tokens that the chat template writes around a turn.

    Args:
        tokenizer: tokenizer that will read the text.
        structural: token ids that the template writes around a turn.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, structural: Iterable[int] = ()) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder
        control = {i for i, token in added.items() if token.special} | set(tokenizer.all_special_ids)
        control |= {i for i in structural if i in added}
        strings = {added[i].content for i in control if i in added} | set(tokenizer.all_special_tokens)
        self._ids = frozenset(control - {tokenizer.unk_token_id})
        ordered = sorted((text for text in strings if text), key=len, reverse=True)
        self._pattern = re.compile("|".join(re.escape(text) for text in ordered)) if ordered else None

    def count(self, ids: Sequence[int]) -> int:
        """Return how many of ``ids`` are control tokens."""
        return sum(i in self._ids for i in ids)

    def soften(self, text: str, *, place: str) -> str:
        """Return ``text`` with every control string broken up.

        Args:
            text: text of a message.
            place: location of the conversation, for error messages.

        Raises:
            BackboneError: The text contains a control string that cannot be broken up, such as a single character.
        """
        if self._pattern is None:
            return text
        for _ in range(_MAX_ROUNDS):
            if not self._pattern.search(text):
                return text
            text = self._pattern.sub(lambda match: _broken(match[0], place), text)
        raise _stubborn(text, place)

    def soften_by_tokens(self, text: str, *, place: str) -> str:
        """Return ``text`` with every span broken up that the tokenizer reads as a control token.

        This is slower than :meth:`soften`. It is needed for tokenizers that normalise text (width, case) before they
        look for special tokens.

        Args:
            text: text of a message.
            place: location of the conversation, for error messages.

        Raises:
            BackboneError: A span still becomes a control token after it was broken up.
        """
        for _ in range(_MAX_ROUNDS):
            encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=self._tokenizer.is_fast)
            if not self.count(encoded["input_ids"]):
                return text
            if not self._tokenizer.is_fast:
                break
            spans = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
            for start, end in sorted({span for i, span in spans if i in self._ids}, reverse=True):
                core = start + len(text[start:end]) - len(text[start:end].lstrip())
                text = text[:core] + _broken(text[core:end], place) + text[end:]
        raise _stubborn(text, place)


def _broken(text: str, place: str) -> str:
    if len(text) < 2:
        raise _stubborn(text, place)
    return f"{text[0]} {text[1:]}"


def _stubborn(text: str, place: str) -> BackboneError:
    return BackboneError(
        f"the text {text[:40]!r} reads as a special token and cannot be broken up", place=place, fix="remove it"
    )
