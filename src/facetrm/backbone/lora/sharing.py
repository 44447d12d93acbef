"""Several adapters read the same tokens: what lies below the first layer that any of them touches runs once.

    below    layers 0 .. share - 1 run, bare; the others hand on what they get
    above    layers share .. run on what those below gave: once bare for the prompts, once for each adapter

The list of layers keeps its length and its modules: while a part runs, the forward of every other layer is one that
hands on the output of layer ``share - 1`` as that layer returned it. All else of a model's forward (embeddings,
positions, masks, the final norm) happens every time; it costs little.

Shapes: B conversations, A adapters, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import Module
from transformers import PreTrainedModel

from facetrm.backbone.exclusive import trunk_lock
from facetrm.backbone.lora.layers import layer_list
from facetrm.backbone.lora.switching import switched


@dataclass(frozen=True)
class SharedReading:
    """Which adapters read, and how many layers below them are shared.

    Attributes:
        adapters: their names.
        share: the first layer that is not shared; 0 shares nothing.
    """

    adapters: Sequence[str]
    share: int = 0


@final
class SharedLayers:
    """The layers below ``share``, run once for several readings of the layers above.

    Args:
        trunk: the model.
        share: the first layer that runs in every reading; 0 shares nothing.
    """

    def __init__(self, trunk: PreTrainedModel, share: int) -> None:
        self._lock = trunk_lock(trunk)
        found = layer_list(trunk) if share else None
        self._layers: Sequence[Module] = () if found is None else tuple(found[1])
        self._count = int(trunk.config.get_text_config().num_hidden_layers)
        self._share = share if self._layers else 0
        self._output: Any = None

    def below(self, read: Callable[[int], object]) -> None:
        """Run the layers below ``share`` and keep what they give.

        Args:
            read: a forward pass of the trunk; it gets the number of layers that run in it.
        """
        if not self._share:
            return
        given: list[Any] = []
        with self._lock:
            hook = self._layers[self._share - 1].register_forward_hook(lambda *call: given.append(call[-1]))
            try:
                with _standing_in(self._layers[self._share :], lambda: given[-1]):
                    read(self._share)
            finally:
                hook.remove()
        self._output = given[-1]

    def above(self, read: Callable[[int], Tensor], *, tokens: Sequence[int] | None = None) -> Tensor:
        """Return what ``read`` returns, by the layers from ``share`` on, over what those below gave.

        Args:
            read: a forward pass of the same tokens; it gets the number of layers that run in it.
            tokens: if given, ``read`` reads these tokens of the row only.
        """
        if not self._share:
            return read(self._count)
        with self._lock, _standing_in(self._layers[: self._share], lambda: _copied(self._output, tokens)):
            return read(self._count - self._share)


def read_each(
    trunk: PreTrainedModel,
    asked: SharedReading,
    read: Callable[[int], Tensor],
    *,
    prompt: Callable[[SharedLayers], Tensor],
    response: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """Return what ``prompt`` returns of the bare trunk, and [B, A, D], the vectors of each adapter.

    Args:
        trunk: the model.
        asked: of it.
        read: a forward pass; it gets the number of layers that run in it.
        prompt: reads the layers above, bare.
        response: picks the vectors [B, D] from what ``read`` returned.
    """
    response_ABD = []
    with trunk_lock(trunk):
        shared = SharedLayers(trunk, asked.share)
        with switched(trunk, None):
            shared.below(read)
            prompt_BD = prompt(shared)
        for name in asked.adapters:
            with switched(trunk, name):
                response_ABD.append(response(shared.above(read)))
    return prompt_BD, torch.stack(response_ABD, dim=1)


@contextmanager
def _standing_in(layers: Iterable[Module], give: Callable[[], Any]) -> Iterator[None]:
    """Let ``layers`` return what ``give`` returns; their own forward is back after, whatever happened."""
    before = [(layer, vars(layer).get("forward")) for layer in layers]

    def forward(*args: Any, **kwargs: Any) -> Any:
        return give()

    try:
        for layer, _ in before:
            layer.forward = forward
        yield
    finally:
        for layer, own in before:
            vars(layer).pop("forward", None)
            if own is not None:
                layer.forward = own


def _copied(output: Any, tokens: Sequence[int] | None) -> Any:
    """Return a layer's output, copied: a layer above may write into what it gets."""
    if isinstance(output, tuple):
        return (_copied(output[0], tokens), *output[1:])
    hidden_NLD: Tensor = output
    return hidden_NLD.clone() if tokens is None else hidden_NLD[:, torch.tensor(tokens, device=hidden_NLD.device)]
