"""Measure how much of a text becomes the tokenizer's unknown token, or no token at all."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from transformers import PreTrainedTokenizerBase

from facetrm.core.errors import short
from facetrm.data.records import Conversation
from facetrm.doctor.findings import Finding

MANY: Final = 0.1
"""The share of unknown tokens above which the doctor reports a finding."""
_MOST: Final = 0.5
_ENGLISH: Final = (
    "How do I boil an egg so that the yolk stays soft?",
    "Bring a small pot of water to the boil, lower the egg in with a spoon, and wait for 6 minutes.",
    "I'm not sure, but the train to London usually leaves at 10:45; please check the timetable before you go.",
)
_SHOWN: Final = 5


@dataclass(frozen=True)
class UnknownWords:
    """The part of a text that a tokenizer does not know.

    Attributes:
        tokens: the number of tokens of the text. A word that gives no token counts as one.
        unknown: the number of tokens that are unknown or missing.
        examples: the first few unknown words.
    """

    tokens: int
    unknown: int
    examples: tuple[str, ...]

    @property
    def share(self) -> float:
        """The share of unknown tokens, 0 to 1; 0 for an empty text."""
        return self.unknown / self.tokens if self.tokens else 0.0


def unknown_words(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> UnknownWords:
    """Count the tokens of ``texts`` that the tokenizer does not know, word by word.

    Args:
        tokenizer: the model's tokenizer.
        texts: the texts to tokenise.
    """
    unk = tokenizer.unk_token_id
    tokens, unknown, examples = 0, 0, dict[str, None]()

    @lru_cache(maxsize=100_000)
    def of(word: str) -> tuple[int, int]:
        ids = tokenizer(word, add_special_tokens=False, verbose=False)["input_ids"]
        return (len(ids), ids.count(unk)) if ids else (1, 1)

    for text in texts:
        for word in text.split():
            count, missing = of(word)
            tokens, unknown = tokens + count, unknown + missing
            if missing and len(examples) < _SHOWN:
                examples[word] = None
    return UnknownWords(tokens, unknown, tuple(examples))


def knower(tokenizer: PreTrainedTokenizerBase | None) -> Callable[[str], bool] | None:
    """Return a function that tells whether the tokenizer knows a word, or None without a tokenizer.

    Args:
        tokenizer: the model's tokenizer.
    """
    return None if tokenizer is None else lambda word: not unknown_words(tokenizer, [word]).unknown


def check_words(tokenizer: PreTrainedTokenizerBase, conversations: Iterable[Conversation]) -> list[Finding]:
    """Return a finding if more than a tenth of the tokens are unknown.

    Args:
        tokenizer: the model's tokenizer.
        conversations: the conversations to score; if empty, plain English sentences are tested instead.
    """
    texts = [message.content for messages in conversations for message in messages]
    found = unknown_words(tokenizer, texts or _ENGLISH)
    if found.share <= MANY:
        return []
    what = "the data" if texts else "plain English"
    return [
        Finding(
            "unknown-words",
            "error" if texts and found.share > _MOST else "warning",
            f"the tokenizer does not know {found.share:.0%} of the tokens of {what}",
            f"{found.unknown} of {found.tokens} tokens are unknown: {', '.join(map(short, found.examples))}",
            "the vocabulary was made for other text, and all unknown words look the same to the model",
            "score only text like that of training, or use a model whose tokenizer knows the text"
            + ("" if texts else "; give --data FILE to measure it on your data"),
        )
    ]
