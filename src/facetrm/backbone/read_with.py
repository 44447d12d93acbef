"""What the features of a store were read with: an encoder, and the adapters or the layers that read the responses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from facetrm.backbone.encoder import LAST, AdapterEncoder, Encoder, Features, Layer, LayerEncoder, labels, shown_layers
from facetrm.core.errors import StoreError
from facetrm.core.fingerprint import fingerprint
from facetrm.data.records import Conversation


@dataclass(frozen=True)
class ReadWith:
    """What features are read with.

    Attributes:
        encoder: Fingerprint of the model that encodes the prompts (and the responses, if there are no adapters).
        adapters: Name and fingerprint of each adapter that encodes the responses, in the order of the vectors.
        layers: Layer of each response vector; empty if each is the last layer.
    """

    encoder: str
    adapters: tuple[tuple[str, str], ...] = ()
    layers: tuple[Layer, ...] = ()

    @staticmethod
    def of(encoder: Encoder, adapters: Sequence[str] | None, layers: Sequence[Layer] | None = None) -> ReadWith:
        """Return what ``encoder`` reads with.

        Args:
            encoder: the encoder.
            adapters: names of the adapters that encode the responses; None or empty for the bare trunk.
            layers: layers at which the responses are read; None for the last.

        Raises:
            StoreError: The encoder has no adapters, or only its last layer can be read.
            BackboneError: An adapter or layer is unknown.
        """
        names = list(adapters or ())
        if names and not isinstance(encoder, AdapterEncoder):
            raise StoreError(f"a {type(encoder).__name__} has no adapters", fix="leave adapters out")
        asked = tuple(layers or ())
        if labels(asked) and not isinstance(encoder, LayerEncoder):
            raise StoreError(f"a {type(encoder).__name__} reads only its last layer", fix="leave layers out")
        if asked and names:
            raise StoreError("adapters and layers are given", fix="give one of them")
        if asked and isinstance(encoder, LayerEncoder):
            asked = encoder.known_layers(asked)
        if not isinstance(encoder, AdapterEncoder):
            return ReadWith(encoder.fingerprint, (), labels(asked))
        known = tuple((name, encoder.adapter_fingerprint(name)) for name in names)
        return ReadWith(encoder.trunk_fingerprint, known, labels(asked))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the adapters, in the order of their vectors."""
        return tuple(name for name, _ in self.adapters)

    @property
    def folder(self) -> str:
        """The name of the subfolder for such features in a store of others."""
        known = (self.encoder, self.adapters)
        return f"encoder-{fingerprint((*known, self.layers) if self.layers else known)[:12]}"

    def serves(self, asked: ReadWith) -> bool:
        """Return whether features that were read with this contain those that ``asked`` would give."""
        return (self.encoder, self.adapters) == (asked.encoder, asked.adapters) and self.holds(asked.layers)

    def holds(self, layers: Sequence[Layer]) -> bool:
        """Return whether all ``layers`` are among those that were read; none stands for the last."""
        return {*(layers or [LAST])} <= {*(self.layers or [LAST])}

    def read(
        self, encoder: Encoder, conversations: Sequence[Conversation], on_batch: Callable[[int, int], None]
    ) -> Features:
        """Return the features of ``conversations``.

        Args:
            encoder: encoder with the fingerprint :attr:`encoder`.
            conversations: the conversations.
            on_batch: function called with (rows, tokens) after each batch.
        """
        if self.adapters:
            return cast(AdapterEncoder, encoder).encode(conversations, adapters=self.names, on_batch=on_batch)
        if self.layers:
            return cast(LayerEncoder, encoder).encode(conversations, layers=self.layers, on_batch=on_batch)
        return encoder.encode(conversations, on_batch=on_batch)

    def check(self, asked: ReadWith, folder: Path) -> None:
        """Check that the features in ``folder``, which were read with this, are those that ``asked`` would give.

        Raises:
            StoreError: Something differs; the error says what.
        """
        fix = "give another folder, or the encoder that wrote this one"
        if self.encoder != asked.encoder:
            raise StoreError(
                f"its features come from encoder {self.encoder[:12]}, not {asked.encoder[:12]} "
                "(weights, tokenizer, template or settings differ)",
                place=folder,
                fix=fix,
            )
        if self.names != asked.names:
            stored, wanted = (", ".join(one.names) or "the bare trunk" for one in (self, asked))
            raise StoreError(f"its responses were encoded by {stored}, not by {wanted}", place=folder, fix=fix)
        for (name, stored), (_, found) in zip(self.adapters, asked.adapters, strict=True):
            if stored != found:
                raise StoreError(
                    f"its adapter '{name}' is a different one: {stored[:12]}, not {found[:12]}", place=folder, fix=fix
                )
        if not self.holds(asked.layers):
            stored, wanted = (shown_layers(one.layers or (LAST,)) for one in (self, asked))
            raise StoreError(f"its responses were read at {stored}, not at {wanted}", place=folder, fix=fix)
