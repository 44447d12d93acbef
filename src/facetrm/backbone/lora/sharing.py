"""Layer sharing: when several adapters read the same tokens, the layers below the first adapted one run only once.

    below    layers 0 .. share - 1 run without adapters; the other layers pass their input through
    above    layers share .. run on the output of the lower ones: once without adapters for the prompts, and once for
             each adapter

The list of layers keeps its length and its modules. While one part runs, the forward method of every layer in the other
part is replaced by one that returns the output of layer ``share - 1`` unchanged. The rest of the model's forward pass
(embeddings, positions, masks, the final norm) runs every time, at little cost.

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
    """The adapters that read the tokens, and the number of lower layers that they share.

    Attributes:
        adapters: Names of the adapters.
        share: Index of the first layer that is not shared; 0 shares no layers.
    """

    adapters: Sequence[str]
    share: int = 0

    def __len__(self) -> int:
        return len(self.adapters)


@final
class SharedLayers:
    """Runs the layers below ``share`` once, and the layers above several times on the saved output.

    Args:
        trunk: model whose layers are shared.
        share: index of the first layer that is not shared; 0 shares no layers.
    """

    def __init__(self, trunk: PreTrainedModel, share: int) -> None:
        self._lock = trunk_lock(trunk)
        found = layer_list(trunk) if share else None
        self._layers: Sequence[Module] = () if found is None else tuple(found[1])
        self._count = int(trunk.config.get_text_config().num_hidden_layers)
        self._share = share if self._layers else 0
        self._output: Any = None

    def below(self, read: Callable[[int], object]) -> None:
        """Run the layers below ``share`` and save their output.

        Args:
            read: function that runs a forward pass of the trunk; it receives the number of layers that run.
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
        """Run the layers from ``share`` on over the saved output, and return what ``read`` returns.

        Args:
            read: function that runs a forward pass over the same tokens; it receives the number of layers that run.
            tokens: indices of the tokens that ``read`` processes; None means all.
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
    """Read the same tokens with the bare trunk and with each adapter, sharing the lower layers.

    Args:
        trunk: model that has the adapters.
        asked: adapters to use and the number of layers to share.
        read: function that runs a forward pass; it receives the number of layers that run.
        prompt: function that computes the prompt vectors [B, D] from the shared layers, without adapters.
        response: function that selects the response vectors [B, D] from the output of ``read``.

    Returns:
        Prompt vectors [B, D] from the bare trunk, and response vectors [B, A, D] from the adapters.
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
    """Make ``layers`` return the result of ``give`` inside the block; always restore their forward methods after."""
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
    """Return a copy of a layer's output, because a later layer may modify its input in place."""
    if isinstance(output, tuple):
        return (_copied(output[0], tokens), *output[1:])
    hidden_NLD: Tensor = output
    return hidden_NLD.clone() if tokens is None else hidden_NLD[:, torch.tensor(tokens, device=hidden_NLD.device)]
