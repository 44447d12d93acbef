"""The bag-of-words baseline: word counts instead of a backbone, in the same pipeline.

    prompt   = [log(1 + counts of the prompt) | 0]
    response = [log(1 + counts of the prompt) | log(1 + counts of the response)]

so D = 2V for V words. It ignores word order and context, so it shows how much a backbone adds.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Final, final
from zlib import crc32

import torch
from torch import Tensor

from facetrm.backbone.encoder import Features
from facetrm.core.errors import BackboneError, ConfigError
from facetrm.core.fingerprint import fingerprint
from facetrm.data.records import Conversation

_WORD: Final = re.compile(r"\w+|[^\w\s]")


def split_words(text: str) -> list[str]:
    """Return the words and the punctuation marks of ``text``, in lower case."""
    return _WORD.findall(text.casefold())


@final
class BagOfWords:
    """An :class:`~facetrm.backbone.encoder.Encoder` that counts words.

    Args:
        vocabulary: words to count, one column each (others are ignored); or the number of columns, to which words are
            assigned by a hash.

    Raises:
        ConfigError: The vocabulary is empty or repeats a word, or the number of columns is zero.
    """

    def __init__(self, vocabulary: Sequence[str] | int) -> None:
        self._words: tuple[str, ...] | None = None if isinstance(vocabulary, int) else tuple(vocabulary)
        self._size = vocabulary if isinstance(vocabulary, int) else len(vocabulary)
        self._column = {word: i for i, word in enumerate(self._words or ())}
        if self._size < 1:
            raise ConfigError("no words to count", place="bag of words", fix="give a vocabulary or its size")
        if self._words is not None and len(self._column) < len(self._words):
            twice = Counter(self._words).most_common(1)[0][0]
            raise ConfigError(f"the word '{twice}' is given twice", place="bag of words", fix="give each word once")

    @classmethod
    def fit(cls, conversations: Iterable[Conversation], *, size: int = 4096) -> BagOfWords:
        """Return a bag of words over the words that occur in the most conversations, with ties in alphabetical order.

        Args:
            conversations: conversations to take the words from.
            size: number of words.
        """
        seen: Counter[str] = Counter()
        for messages in conversations:
            seen.update({word for message in messages for word in split_words(message.content)})
        return cls([word for word, _ in sorted(seen.items(), key=lambda item: (-item[1], item[0]))[:size]])

    @classmethod
    def from_spec(cls, spec: dict[str, object]) -> BagOfWords:
        """Return the bag of words that a :meth:`spec` describes."""
        vocabulary = spec.get("vocabulary")
        if isinstance(vocabulary, int):
            return cls(vocabulary)
        if isinstance(vocabulary, list | tuple) and all(isinstance(word, str) for word in vocabulary):
            return cls(list(vocabulary))
        raise ConfigError("'vocabulary' is not a list of words", place="bag of words", fix="give what spec() returned")

    @property
    def hidden_size(self) -> int:
        """D = 2V."""
        return 2 * self._size

    @property
    def fingerprint(self) -> str:
        """The sha256 of the vocabulary."""
        return fingerprint(self.spec())

    @property
    def mode(self) -> str:
        """``exact``, because rows are read one by one."""
        return "exact"

    @property
    def template_hash(self) -> str:
        """The hash of the rendering, which is only the split into words."""
        return fingerprint({"template": "words", "pattern": _WORD.pattern})

    def spec(self) -> dict[str, object]:
        """Return the settings that :meth:`from_spec` needs."""
        return {"kind": "bag_of_words", "vocabulary": self._size if self._words is None else list(self._words)}

    def encode(
        self, conversations: Sequence[Conversation], *, on_batch: Callable[[int, int], None] | None = None
    ) -> Features:
        """Return the word counts of N conversations, in order.

        Args:
            conversations: N conversations, each ending with an assistant message.
            on_batch: function called with the number of rows and of words.

        Raises:
            BackboneError: A conversation does not consist of a prompt and then an assistant message.
        """
        zero = torch.zeros(self._size, dtype=torch.float32)
        prompts, responses, lengths, tokens = [], [], [], []
        unknown: list[float] = []
        for n, messages in enumerate(conversations):
            if len(messages) < 2 or messages[-1].role != "assistant":
                raise BackboneError(
                    "no prompt and then an assistant message",
                    place=f"conversation {n}",
                    fix="end with the assistant message that is to be read",
                )
            asked = [word for message in messages[:-1] for word in split_words(message.content)]
            answered = split_words(messages[-1].content)
            asked_V = self._counts(asked)
            prompts.append(torch.cat([asked_V, zero]))
            responses.append(torch.cat([asked_V, self._counts(answered)]))
            lengths.append(len(answered))
            tokens.append(len(asked) + len(answered))
            strange = [] if self._words is None else [w for w in (*asked, *answered) if w not in self._column]
            unknown.append(len(strange) / max(tokens[-1], 1))
        if not prompts:
            return Features.empty(self.hidden_size)
        if on_batch is not None:
            on_batch(len(prompts), sum(tokens))
        return Features(
            prompt_ND=torch.stack(prompts),
            response_NAD=torch.stack(responses).unsqueeze(1),
            length_N=torch.tensor(lengths),
            tokens_N=torch.tensor(tokens),
            truncated_N=torch.zeros(len(tokens), dtype=torch.bool),
            unknown_N=torch.tensor(unknown, dtype=torch.float32),
        )

    def _counts(self, words: Sequence[str]) -> Tensor:
        counts_V = torch.zeros(self._size, dtype=torch.float32)
        for word, count in Counter(words).items():
            column = crc32(word.encode()) % self._size if self._words is None else self._column.get(word)
            if column is not None:
                counts_V[column] += count
        return counts_V.log1p()
