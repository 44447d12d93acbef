"""Text that a user or a model wrote never becomes a special token.

A tokenizer turns the string ``<|eot_id|>`` into the token that closes a turn wherever it stands, so an answer could
open a turn of its own. Here every control string inside a message is broken by one blank after its first character
(``< |eot_id|>``), before the template is rendered. All other text is left as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from transformers import PreTrainedTokenizerBase

from facetrm.core.errors import BackboneError

_MAX_ROUNDS = 8


class Neutraliser:
    """Breaks control strings in the text of messages.

    Control tokens are the tokenizer's special tokens (but not the unknown token, which ordinary text may make) and
    every other added token that the chat template puts around a turn.

    Args:
        tokenizer: the tokenizer that will read the text.
        structural: ids that the template puts around a turn.
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
        """Return ``text`` with every control string broken.

        Raises:
            BackboneError: a control token of a single character, which cannot be broken, stands in the text.
        """
        if self._pattern is None:
            return text
        for _ in range(_MAX_ROUNDS):
            if not self._pattern.search(text):
                return text
            text = self._pattern.sub(lambda match: _broken(match[0], place), text)
        raise _stubborn(text, place)

    def soften_by_tokens(self, text: str, *, place: str) -> str:
        """Return ``text`` with every span broken that the tokenizer itself reads as a control token.

        The slow way, for tokenizers that normalise text (width, case) before they look for special tokens.

        Raises:
            BackboneError: a span that still reads as a control token after it was broken.
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
        f"the text {text[:40]!r} reads as a special token and cannot be broken", place=place, fix="take it out"
    )
