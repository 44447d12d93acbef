"""Reading inner layers: one pass gives the vectors of all asked layers, and no layer above the highest one runs.

    tap      while the trunk runs, the output of each asked layer is read at the positions that are needed
    stop     the layers above the highest one pass their input through; the prompts alone go on through them

The states are those of Transformers' ``output_hidden_states``: a trunk is checked once before its layers are read.

Shapes: N conversations, A layers, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from facetrm.backbone.encoder import LAST, Layer, inner_layers
from facetrm.backbone.exclusive import trunk_lock
from facetrm.backbone.lora.layers import layer_list
from facetrm.backbone.lora.sharing import SharedLayers
from facetrm.backbone.lora.switching import switched
from facetrm.core.errors import BackboneError


@dataclass(frozen=True)
class LayerReading:
    """The layers that are read, and where the pass stops.

    Attributes:
        layers: The A layers, in order.
        stop: Number of layers that the responses run through; 0 for all.
    """

    layers: tuple[Layer, ...]
    stop: int = 0

    def __len__(self) -> int:
        return len(self.layers)

    @property
    def highest(self) -> int:
        """The number of layers below which all readings are; 0 if the last layer is among them."""
        return 0 if LAST in self.layers else max(inner_layers(self.layers))


@contextmanager
def tapped(
    trunk: PreTrainedModel, layers: Sequence[Layer], pick: Callable[[Tensor], Tensor]
) -> Iterator[dict[Layer, Tensor]]:
    """Keep what ``pick`` takes from the output of each inner layer during a forward pass of ``trunk`` in the block.

    Args:
        trunk: model that is read.
        layers: names of layers; ``last`` needs no tap.
        pick: function that takes vectors from the states [B, L, D] of a layer.
    """
    seen: dict[Layer, Tensor] = {}
    found = layer_list(trunk)

    def keep(number: int, _module: Any, _inputs: Any, output: Any) -> None:
        seen[number] = pick(output[0] if isinstance(output, tuple) else output)

    with trunk_lock(trunk):
        inner = inner_layers(layers)
        modules = () if found is None else found[1]
        hooks = [modules[n - 1].register_forward_hook(partial(keep, n)) for n in inner]
        try:
            yield seen
        finally:
            for hook in hooks:
                hook.remove()


def read_at(
    trunk: PreTrainedModel,
    asked: LayerReading,
    read: Callable[[int], Tensor],
    *,
    prompt: Callable[[SharedLayers, Tensor | None], Tensor],
    pick: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """Read tokens once with the bare trunk, and return the prompt vectors and those of each asked layer.

    Args:
        trunk: model that is read.
        asked: layers to read, and where to stop.
        read: function that runs a forward pass and returns the last states; it receives the number of layers that run.
        prompt: function that returns the prompt vectors [N, D] from the layers that have run and from the last states,
            which are None if the pass stopped below.
        pick: function that takes the response vectors [N, D] from states.

    Returns:
        Prompt vectors [N, D], and response vectors [N, A, D].
    """
    with trunk_lock(trunk), switched(trunk, None):
        shared, hidden, response_NAD = run_through(trunk, asked, read, pick=pick)
        return prompt(shared, hidden), response_NAD


def run_through(
    trunk: PreTrainedModel, asked: LayerReading, read: Callable[[int], Tensor], *, pick: Callable[[Tensor], Tensor]
) -> tuple[SharedLayers, Tensor | None, Tensor]:
    """Run a forward pass up to the highest asked layer.

    Args:
        trunk: model that is read.
        asked: layers to read, and where to stop.
        read: function that runs a forward pass and returns the last states; it receives the number of layers that run.
        pick: function that takes vectors [N, D] from states.

    Returns:
        The layers that have run, the last states (None if the pass stopped below), and the vectors [N, A, D].
    """
    shared, hidden = SharedLayers(trunk, asked.stop), None
    with tapped(trunk, asked.layers, pick) as seen:
        if asked.stop:
            shared.below(read)
        else:
            hidden = shared.above(read)
            if LAST in asked.layers:
                seen[LAST] = pick(hidden)
    return shared, hidden, torch.stack([seen[layer] for layer in asked.layers], dim=1)


def check_layers(trunk: PreTrainedModel, layers: Sequence[Layer], read: Callable[[Callable[..., Any]], object]) -> None:
    """Check that the tapped states of ``layers`` are those that Transformers gives as ``hidden_states``.

    Args:
        trunk: model to check.
        layers: names of layers.
        read: function that runs one forward pass over a short text through the model that it receives.

    Raises:
        BackboneError: The trunk has no list of layers, or their outputs are not its hidden states.
    """
    inner = inner_layers(layers)
    if not inner:
        return
    kind, fix = type(trunk).__name__, "read only the last layer of this backbone"
    if layer_list(trunk) is None:
        raise BackboneError(f"a {kind} has no list of layers to read", place="layers", fix=fix)
    given: list[Any] = []

    def forward(**inputs: Any) -> Any:
        given.append(trunk(**inputs, output_hidden_states=True))
        return given[-1]

    count = int(trunk.config.get_text_config().num_hidden_layers)
    with torch.no_grad(), switched(trunk, None), tapped(trunk, inner, torch.clone) as seen:
        read(forward)
    states = given[-1].hidden_states or ()
    for layer in inner:
        if len(states) != count + 1 or layer not in seen or not torch.equal(states[layer], seen[layer]):
            raise BackboneError(f"layer {layer} of a {kind} is not one of its hidden states", place="layers", fix=fix)
