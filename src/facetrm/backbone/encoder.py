"""The output of a backbone (:class:`Features` of conversations), and the :class:`Encoder` protocol.

A *reading* of a conversation is an adapter and a layer. An encoder gives the last layer by default, or several layers
of the bare trunk, or the last layer with several adapters. Layers are named like this:

    L        the hidden state after layer L, 1 to (number of layers - 1): raw, before any norm of a later layer
    last     the output of the trunk: the hidden state after the last layer and the final norm

``L`` is ``hidden_states[L]`` of Transformers, and ``last`` is ``last_hidden_state``.

Shapes: N conversations, D hidden size, A readings of the response (1 by default).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Final, Literal, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from facetrm.core.errors import BackboneError, short
from facetrm.core.progress import log
from facetrm.data.records import Conversation

Layer: TypeAlias = int | Literal["last"]

LAST: Final[Literal["last"]] = "last"
"""The name of the last layer, after the final norm."""


def is_layer(value: object) -> bool:
    """Return whether ``value`` names a layer of some trunk: a number of 1 or more, or ``last``."""
    return value == LAST or (isinstance(value, int) and not isinstance(value, bool) and value >= 1)


def in_order(layers: Iterable[Layer]) -> tuple[Layer, ...]:
    """Return the different ``layers`` from the lowest to the highest; ``last`` is the highest."""
    found = set(layers)
    inner: list[Layer] = sorted(layer for layer in found if isinstance(layer, int))
    return (*inner, LAST) if LAST in found else tuple(inner)


def inner_layers(layers: Iterable[Layer]) -> tuple[int, ...]:
    """Return the numbers of those ``layers`` that are not ``last``, in order."""
    return tuple(layer for layer in in_order(layers) if isinstance(layer, int))


def known_layers(layers: Sequence[Layer], *, count: int, place: str | None = None) -> tuple[Layer, ...]:
    """Return the different ``layers`` in order, after checking that a trunk has them; its last number is ``last``.

    Args:
        layers: the names of layers.
        count: number of layers of the trunk.
        place: what the layers belong to, for the error message.

    Raises:
        BackboneError: ``layers`` is empty, or the trunk has no such layer.
    """
    wrong = [layer for layer in layers if not is_layer(layer) or (layer != LAST and int(layer) > count)]
    if wrong or not layers:
        raise BackboneError(
            f"layer {short(wrong[0])}, of a trunk of {count} layers" if wrong else "no layer was given",
            place=place,
            fix=layer_range(count),
        )
    return in_order(LAST if layer == count else layer for layer in layers)


def labels(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """Return ``layers`` as :class:`~facetrm.backbone.encoder.Features` names them: none if only ``last`` is read."""
    return () if tuple(layers) == (LAST,) else tuple(layers)


def layer_range(count: int) -> str:
    """Return the advice which layers a trunk of ``count`` layers has."""
    return f"give numbers from 1 to {count - 1}, or last" if count > 1 else "give last"


def shown_layers(layers: Sequence[Layer]) -> str:
    """Return ``layers`` in words, such as ``layers 10, 20, last``."""
    return f"layer{'s' if len(layers) > 1 else ''} {', '.join(map(str, layers))}"


UNKNOWN_LIMIT: Final = 0.1
"""Share of unknown tokens above which a conversation counts as hardly readable; the log gives the number of these."""


@dataclass(frozen=True)
class Features:
    """Frozen features of N conversations, float32 on the CPU.

    Attributes:
        prompt_ND: Hidden state at the token that closes the last user turn (encoder: mean over the prompt read alone).
        response_NAD: Hidden state at the last token of the rendered conversation, per reading (encoder: mean over the
            response's tokens in the joint text).
        length_N: Number of tokens of the response, int64.
        tokens_N: Number of tokens of the conversation as read, int64.
        truncated_N: Whether the conversation was truncated, bool.
        unknown_N: Share of unknown tokens, 0 to 1; zeros by default.
        layers: The layer of each of the A readings; empty if each is the last layer (with A adapters, or without any).

    Raises:
        BackboneError: ``layers`` is not one layer per reading.

    Example:
        >>> from facetrm import World, toy_model
        >>> pair = next(World().preferences(1))
        >>> features = toy_model().encoder.encode([pair.chosen, pair.rejected])
        >>> tuple(features.response_NAD.shape)  # conversations, readings, hidden size
        (2, 1, 32)
    """

    prompt_ND: Tensor
    response_NAD: Tensor
    length_N: Tensor
    tokens_N: Tensor
    truncated_N: Tensor
    unknown_N: Tensor = None  # type: ignore[assignment]  # made below
    layers: tuple[Layer, ...] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        if self.layers and self.response_NAD.shape[1] != len(self.layers):
            raise BackboneError(
                f"{self.response_NAD.shape[1]} response vectors for {len(self.layers)} layers",
                place="features",
                fix="give one layer per vector",
            )
        if self.unknown_N is None:
            none_N = torch.zeros(len(self.truncated_N), dtype=torch.float32)
            object.__setattr__(self, "unknown_N", none_N)

    def __len__(self) -> int:
        return int(self.prompt_ND.shape[0])

    @property
    def hidden_size(self) -> int:
        """D."""
        return int(self.prompt_ND.shape[-1])

    @property
    def highest(self) -> Layer:
        """The highest layer of the response vectors."""
        return self.layers[-1] if self.layers else LAST

    def response(self, layer: Layer | None = None) -> Tensor:
        """Return the response vectors of one layer, [N, D].

        Args:
            layer: the layer; None for the highest one that there is.

        Raises:
            BackboneError: There is no such layer, or the vectors are those of several adapters.
        """
        known = self.layers or (LAST,)
        if self.response_NAD.ndim != 3 or self.response_NAD.shape[1] != len(known):
            shape = list(self.response_NAD.shape)
            raise BackboneError(
                f"the response features have shape {shape}", place="features", fix="encode without adapters"
            )
        wanted = self.highest if layer is None else layer
        if wanted not in known:
            raise BackboneError(
                f"the features hold {shown_layers(known)}, not {shown_layers([wanted])}",
                place="features",
                fix="encode with this layer",
            )
        return self.response_NAD[:, known.index(wanted)]

    def only(self, layers: Sequence[Layer]) -> Features:
        """Return the same features with the response vectors of ``layers`` only; only ``last`` gives no layers.

        Raises:
            BackboneError: There is no such layer.
        """
        kept = torch.stack([self.response(layer) for layer in layers], dim=1)
        return replace(self, response_NAD=kept, layers=labels(layers))

    def select(self, rows: Tensor) -> Features:
        """Return the rows selected by ``rows`` (int64 indices or a bool mask), in that order."""
        return Features(*(getattr(self, name)[rows] for name in _TENSORS), layers=self.layers)

    @staticmethod
    def concat(parts: Sequence[Features]) -> Features:
        """Return the concatenated rows of all parts, in order.

        Raises:
            BackboneError: The parts hold different layers.
        """
        other = next((part.layers for part in parts if part.layers != parts[0].layers), None)
        if other is not None:
            found = " and ".join(shown_layers(layers or (LAST,)) for layers in (parts[0].layers, other))
            raise BackboneError(f"parts with {found}", place="features", fix="encode all parts with the same layers")
        return Features(*(torch.cat([getattr(p, name) for p in parts]) for name in _TENSORS), layers=parts[0].layers)

    @staticmethod
    def empty(hidden_size: int, adapters: int = 1, *, layers: Sequence[Layer] = ()) -> Features:
        """Return features of zero conversations.

        Args:
            hidden_size: size D of the vectors.
            adapters: number A of adapters.
            layers: layers that are read instead of adapters.
        """
        none = torch.zeros(0, dtype=torch.int64)
        return Features(
            torch.zeros(0, hidden_size, dtype=torch.float32),
            torch.zeros(0, len(layers) or adapters, hidden_size, dtype=torch.float32),
            none,
            none,
            none.to(torch.bool),
            layers=tuple(layers),
        )


_TENSORS: Final = tuple(part.name for part in fields(Features) if part.name != "layers")


def encoder_warnings(encoder: Encoder) -> tuple[str, ...]:
    """Return what an encoder says is doubtful about itself, one sentence each; every manifest repeats it.

    Args:
        encoder: any encoder; one without ``warnings`` has none.
    """
    return tuple(getattr(encoder, "warnings", ()))


def tell_unknown(features: Features) -> Features:
    """Log the number of conversations that consist mostly of unknown tokens, and return the features as they are."""
    many_N = features.unknown_N > UNKNOWN_LIMIT
    if bool(many_N.any()):
        log(
            "the tokenizer does not know many of the words",
            rows=int(many_N.sum()),
            of=len(features),
            limit=UNKNOWN_LIMIT,
            most=round(float(features.unknown_N.max()), 3),
        )
    return features


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


@runtime_checkable
class LayerEncoder(Encoder, Protocol):
    """An encoder whose trunk can be read at any of its layers.

    With ``layers``, ``encode`` returns one response vector per layer, all from one pass, and the prompt vector of the
    last layer. ``known_layers`` returns the different layers in order, or raises a BackboneError if there is no such
    layer.
    """

    def known_layers(self, layers: Sequence[Layer]) -> tuple[Layer, ...]: ...

    def encode(
        self,
        conversations: Sequence[Conversation],
        *,
        layers: Sequence[Layer] | None = None,
        on_batch: Callable[[int, int], None] | None = None,
    ) -> Features: ...
