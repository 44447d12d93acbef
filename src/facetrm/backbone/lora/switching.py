"""Switching adapters: a trunk's own adapter is always active, a named one only on request.

    trunk      W x + own(x)                 own: the adapter named ``default``, if there is one
    named      W x + own(x) + named(x)

Outside :func:`switched`, named adapters are inactive. Switching only changes which adapters each layer adds. It does
not change which tensors are trainable, and the previously active adapters are restored afterwards.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

from torch.nn import Module, ModuleDict, ParameterDict
from transformers import PreTrainedModel

from facetrm.backbone.exclusive import exclusive, trunk_lock
from facetrm.backbone.lora.layers import layer_list
from facetrm.backbone.lora.names import TRUNK_ADAPTER
from facetrm.core.errors import BackboneError

if TYPE_CHECKING:
    from peft.tuners.tuners_utils import BaseTunerLayer


def adapter_names(trunk: PreTrainedModel) -> tuple[str, ...]:
    """Return the sorted names of all adapters in ``trunk``; empty for a bare trunk."""
    return tuple(sorted(getattr(trunk, "peft_config", {})))


def named_adapters(trunk: PreTrainedModel) -> tuple[str, ...]:
    """Return the sorted names of the adapters in ``trunk``, without its own."""
    return tuple(name for name in adapter_names(trunk) if name != TRUNK_ADAPTER)


def tuned_layers(trunk: Module) -> Iterator[tuple[str, BaseTunerLayer]]:
    """Yield the path and module of each layer of ``trunk`` that has adapters."""
    if "peft" not in sys.modules:  # adding an adapter imports PEFT, so without it there are none
        return
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, child in trunk.named_children():
        if isinstance(child, BaseTunerLayer):
            yield name, child
        else:
            yield from ((f"{name}.{path}", layer) for path, layer in tuned_layers(child))


@contextmanager
def switched(trunk: PreTrainedModel, name: str | None) -> Iterator[None]:
    """Activate a named adapter inside the block, and restore the previous state afterwards.

    Other threads that need the trunk wait until the block ends.

    Args:
        trunk: model that has the adapter.
        name: name of the adapter to activate in addition to the trunk's own; None for no named adapter.

    Raises:
        BackboneError: There is no adapter with this name.
    """
    with trunk_lock(trunk):
        if name is not None:
            known_adapters(trunk, [name])
        before = [(layer, layer._active_adapter, layer._disable_adapters) for _, layer in tuned_layers(trunk)]
        try:
            for layer, _, _ in before:
                # Set PEFT's fields directly, because its own methods also change which tensors are trainable.
                layer._active_adapter = [TRUNK_ADAPTER] if name is None else [TRUNK_ADAPTER, name]
                layer._disable_adapters = False
            yield
        finally:
            for layer, active, off in before:
                layer._active_adapter, layer._disable_adapters = active, off


@exclusive
def train_only(trunk: PreTrainedModel, name: str) -> None:
    """Freeze all parameters of ``trunk`` except those of the adapter ``name``.

    Raises:
        BackboneError: There is no adapter with this name.
    """
    known_adapters(trunk, [name])
    trunk.requires_grad_(False)
    for _, layer in tuned_layers(trunk):
        for part in cast(Module, layer).children():
            if isinstance(part, ModuleDict | ParameterDict) and name in part:
                part[name].requires_grad_(True)


def known_adapters(trunk: PreTrainedModel, names: Sequence[str]) -> None:
    """Check that ``trunk`` has all the named adapters ``names``.

    Raises:
        BackboneError: ``names`` is empty, or ``trunk`` does not have one of the adapters.
    """
    known = named_adapters(trunk)
    missing = sorted(set(names) - set(known))
    if missing or not names:
        raise BackboneError(
            f"no adapter '{missing[0]}'" if missing else "no adapter was given",
            fix=f"name some of {', '.join(known)}" if known else "load some with backbone.adapters",
        )


def first_layer(trunk: PreTrainedModel, names: Sequence[str]) -> int:
    """Return the index of the first layer of ``trunk`` that any of the adapters ``names`` changes.

    Return 0 if it is unknown: if an adapter changes modules outside the layers, or the trunk has no list of layers.

    Args:
        trunk: model that has the adapters.
        names: names of the adapters.
    """
    found = layer_list(trunk)
    if found is None:
        return 0
    prefix = f"{found[0]}."
    paths = [path for path, layer in tuned_layers(trunk) if set(names) & layer._get_available_adapters()]
    if not paths or not all(path.startswith(prefix) for path in paths):
        return 0
    return min(int(path.removeprefix(prefix).split(".")[0]) for path in paths)
