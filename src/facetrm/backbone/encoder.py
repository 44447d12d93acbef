"""The output of a backbone (:class:`Features` of conversations), and the :class:`Encoder` protocol.

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
"""Share of unknown tokens above which a conversation counts as hardly readable; the log gives the number of these."""


@dataclass(frozen=True)
class Features:
    """Frozen features of N conversations, float32 on the CPU.

    Attributes:
        prompt_ND: Hidden state at the token that closes the last user turn (encoder: mean over the prompt read alone).
        response_NAD: Hidden state at the last token of the rendered conversation, per adapter (encoder: mean over the
            response's tokens in the joint text).
        length_N: Number of tokens of the response, int64.
        tokens_N: Number of tokens of the conversation as read, int64.
        truncated_N: Whether the conversation was truncated, bool.
        unknown_N: Share of unknown tokens, 0 to 1; zeros by default.

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
        """Return the rows selected by ``rows`` (int64 indices or a bool mask), in that order."""
        return Features(*(getattr(self, field.name)[rows] for field in fields(self)))

    @staticmethod
    def concat(parts: Sequence[Features]) -> Features:
        """Return the concatenated rows of all parts, in order."""
        return Features(*(torch.cat([getattr(p, field.name) for p in parts]) for field in fields(Features)))

    @staticmethod
    def empty(hidden_size: int, adapters: int = 1) -> Features:
        """Return features of zero conversations.

        Args:
            hidden_size: size D of the vectors.
            adapters: number A of adapters.
        """
        none = torch.zeros(0, dtype=torch.int64)
        return Features(
            torch.zeros(0, hidden_size, dtype=torch.float32),
            torch.zeros(0, adapters, hidden_size, dtype=torch.float32),
            none,
            none,
            none.to(torch.bool),
        )


def encoder_warnings(encoder: Encoder) -> tuple[str, ...]:
    """Return what an encoder says is doubtful about itself, one sentence each; every manifest repeats it.

    Args:
        encoder: any encoder; one without ``warnings`` has none.
    """
    return tuple(getattr(encoder, "warnings", ()))


def tell_unknown(features: Features) -> None:
    """Log the number of conversations that consist mostly of unknown tokens."""
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
    """What another program needs in addition to the files of a decoder's tokenizer.

    Attributes:
        pad: Id of the padding token; never ``eos``, and never the last token of a conversation.
        bos: Id of the begin-of-text token.
        eos: Id of the end-of-text token.
        opening: First id of every conversation, or None if they differ.
        header: Ids from the token that closes the prompt to the last one before the response's text.
        pattern: Ids of ``header`` up to its last control token, which no text can produce. The prompt ends at the last
            occurrence of this pattern.
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

    ``fingerprint`` identifies weights, template and settings: equal fingerprints give equal features. ``template_hash``
    identifies only the chat template. ``mode`` is ``exact`` if a row's features cannot depend on the other rows, else
    ``fast``. ``spec()`` returns what ``load_encoder`` needs to create the encoder again.
    ``encode`` keeps the order of the rows and calls ``on_batch(rows, tokens)`` after each batch.

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
    """An encoder with named adapters: one trunk that reads a response once per adapter.

    With ``adapters``, ``encode`` returns one response vector for each of these names, and the prompt vector of the bare
    trunk. Without, the bare trunk reads both. ``prompts`` returns only the prompt vectors [N, D]. ``trunk_fingerprint``
    identifies the bare trunk, ``adapter_fingerprint`` one adapter, and ``fingerprint`` both.
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
