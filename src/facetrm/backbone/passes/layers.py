"""The layers of a trunk that an expert may read: how they are named, and which a trunk has.

    L        the hidden state after layer L, 1 to (number of layers - 1): raw, before any norm of a later layer
    last     the output of the trunk: the hidden state after the last layer and the final norm

``L`` is ``hidden_states[L]`` of Transformers, and ``last`` is ``last_hidden_state``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Literal, TypeAlias

from facetrm.core.errors import BackboneError, short

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
