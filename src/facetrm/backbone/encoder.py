"""What a backbone gives: the :class:`Features` of conversations, and the :class:`Encoder` protocol.

Shapes: N conversations, D hidden size, A adapters (1 without adapters).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Final, Protocol, runtime_checkable

import torch
from torch import Tensor

from facetrm.core.progress import log
from facetrm.data.records import Conversation

UNKNOWN_LIMIT: Final = 0.1
"""The share of unknown tokens above which a conversation is hardly read: the log says how many there are."""


@dataclass(frozen=True)
class Features:
    """Frozen features of N conversations, float32 on the CPU.

    Attributes:
        prompt_ND: the vector at the token that closes the last user turn (an encoder: the prompt encoded alone).
        response_NAD: the vector at the last token of the rendered conversation, per adapter (an encoder: the mean
            over the response's tokens in the joint text).
        length_N: tokens of the response, int64.
        tokens_N: tokens of the conversation as it was read, int64.
        truncated_N: whether something was cut away, bool.
        unknown_N: the share of the tokens that are the unknown token, 0 to 1; zeros where none is given.

    Example:
        >>> from facetrm import World, toy_model
        >>> pair = next(World().preferences(1))
        >>> features = toy_model().encoder.encode([pair.chosen, pair.rejected])
        >>> tuple(features.response_NAD.shape)  # conversations, adapters, hidden size
        (2, 1, 32)
    """

    prompt_ND: Tensor
    response_NAD: Tensor
    length_N: Tensor
    tokens_N: Tensor
    truncated_N: Tensor
    unknown_N: Tensor = None  # type: ignore[assignment]  # made below

    def __post_init__(self) -> None:
        if self.unknown_N is None:
            none_N = torch.zeros(len(self.truncated_N), dtype=torch.float32)
            object.__setattr__(self, "unknown_N", none_N)

    def __len__(self) -> int:
        return int(self.prompt_ND.shape[0])

    @property
    def hidden_size(self) -> int:
        """D."""
        return int(self.prompt_ND.shape[-1])

    def select(self, rows: Tensor) -> Features:
        """Return the rows named by ``rows`` (int64 or bool), in that order."""
        return Features(*(getattr(self, field.name)[rows] for field in fields(self)))

    @staticmethod
    def concat(parts: Sequence[Features]) -> Features:
        """Return the rows of all parts, in order."""
        return Features(*(torch.cat([getattr(p, field.name) for p in parts]) for field in fields(Features)))

    @staticmethod
    def empty(hidden_size: int, adapters: int = 1) -> Features:
        """Return features of no conversation, with vectors of ``hidden_size`` for each of ``adapters``."""
        none = torch.zeros(0, dtype=torch.int64)
        return Features(
            torch.zeros(0, hidden_size, dtype=torch.float32),
            torch.zeros(0, adapters, hidden_size, dtype=torch.float32),
            none,
            none,
            none.to(torch.bool),
        )


def tell_unknown(features: Features) -> None:
    """Log how many conversations the tokenizer hardly knows a word of."""
    many_N = features.unknown_N > UNKNOWN_LIMIT
    if bool(many_N.any()):
        log(
            "the tokenizer does not know many of the words",
            rows=int(many_N.sum()),
            of=len(features),
            limit=UNKNOWN_LIMIT,
            most=round(float(features.unknown_N.max()), 3),
        )


@dataclass(frozen=True)
class Portable:
    """What another program needs beside the files of a decoder's tokenizer.

    Attributes:
        pad: id of the padding token; never ``eos``, and never the end of a conversation.
        bos: id of the begin-of-text token.
        eos: id of the end token.
        opening: the id that opens every conversation, None where they differ.
        header: the ids from the token that closes the prompt to the last one before the response's text.
        pattern: the first of them, up to the last control token, which no text can make: where they stand for the last
            time, the prompt ends.
    """

    pad: int
    bos: int | None
    eos: int | None
    opening: int | None
    header: tuple[int, ...]
    pattern: tuple[int, ...]


@runtime_checkable
class Encoder(Protocol):
    """Anything that turns conversations into :class:`Features`.

    ``fingerprint`` names weights, template and settings together: equal fingerprints give equal features.
    ``template_hash`` names the chat template alone. ``mode`` is ``exact`` where a row's features cannot depend on the
    rows beside it, else ``fast``. ``spec()`` is what ``load_encoder`` needs to make it again.
    ``encode`` keeps the order of the rows and calls ``on_batch(rows, tokens)`` as it gets along.

    Example:
        >>> from facetrm import Encoder, toy_model
        >>> isinstance(toy_model().encoder, Encoder)
        True
    """

    @property
    def hidden_size(self) -> int: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def template_hash(self) -> str: ...

    @property
    def mode(self) -> str: ...

    def spec(self) -> dict[str, object]: ...

    def encode(
        self, conversations: Sequence[Conversation], *, on_batch: Callable[[int, int], None] | None = None
    ) -> Features: ...


@runtime_checkable
class AdapterEncoder(Encoder, Protocol):
    """An encoder with named adapters: one trunk, K readings of a response.

    ``encode`` with ``adapters`` gives one response vector for each of these names, and the prompt vector of the bare
    trunk; without, both by the bare trunk. ``prompts`` gives the prompt vectors [N, D] alone. ``trunk_fingerprint``
    names what the bare trunk reads, ``adapter_fingerprint`` one adapter; ``fingerprint`` covers both.
    """

    @property
    def adapters(self) -> tuple[str, ...]: ...

    @property
    def trunk_fingerprint(self) -> str: ...

    def adapter_fingerprint(self, name: str) -> str: ...

    def prompts(self, conversations: Sequence[Conversation]) -> Tensor: ...

    def encode(
        self,
        conversations: Sequence[Conversation],
        *,
        adapters: Sequence[str] | None = None,
        on_batch: Callable[[int, int], None] | None = None,
    ) -> Features: ...
