"""Which adapters of a trunk are at work: its own always, a named one only where it is asked for.

    trunk      W x + own(x)                 own: the adapter named ``default``, if there is one
    named      W x + own(x) + named(x)

Outside of :func:`switched` a trunk computes without its named adapters. Switching sets what each layer adds and
nothing else: what is trained stays trained, and what was at work before is at work after.
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
    """Return the names of the adapters in ``trunk``, sorted; none for a bare one."""
    return tuple(sorted(getattr(trunk, "peft_config", {})))


def named_adapters(trunk: PreTrainedModel) -> tuple[str, ...]:
    """Return the names of the adapters in ``trunk`` beside its own, sorted."""
    return tuple(name for name in adapter_names(trunk) if name != TRUNK_ADAPTER)


def tuned_layers(trunk: Module) -> Iterator[tuple[str, BaseTunerLayer]]:
    """Yield the layers of ``trunk`` that adapters stand in, with their paths."""
    if "peft" not in sys.modules:  # whoever put an adapter in has loaded it, and scoring without one need not
        return
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, child in trunk.named_children():
        if isinstance(child, BaseTunerLayer):
            yield name, child
        else:
            yield from ((f"{name}.{path}", layer) for path, layer in tuned_layers(child))


@contextmanager
def switched(trunk: PreTrainedModel, name: str | None) -> Iterator[None]:
    """Let ``trunk`` compute with the adapter ``name``, or with none beside its own; what it was before is back after.

    Other threads wait for the trunk until then.

    Raises:
        BackboneError: no adapter of this name.
    """
    with trunk_lock(trunk):
        if name is not None:
            known_adapters(trunk, [name])
        before = [(layer, layer._active_adapter, layer._disable_adapters) for _, layer in tuned_layers(trunk)]
        try:
            for layer, _, _ in before:
                # PEFT's own switches set what is trained as well.
                layer._active_adapter = [TRUNK_ADAPTER] if name is None else [TRUNK_ADAPTER, name]
                layer._disable_adapters = False
            yield
        finally:
            for layer, active, off in before:
                layer._active_adapter, layer._disable_adapters = active, off


@exclusive
def train_only(trunk: PreTrainedModel, name: str) -> None:
    """Freeze all of ``trunk`` but the adapter ``name``.

    Raises:
        BackboneError: no adapter of this name.
    """
    known_adapters(trunk, [name])
    trunk.requires_grad_(False)
    for _, layer in tuned_layers(trunk):
        for part in cast(Module, layer).children():
            if isinstance(part, ModuleDict | ParameterDict) and name in part:
                part[name].requires_grad_(True)


def known_adapters(trunk: PreTrainedModel, names: Sequence[str]) -> None:
    """Check ``names``.

    Raises:
        BackboneError: none at all, or one that ``trunk`` does not have.
    """
    known = named_adapters(trunk)
    missing = sorted(set(names) - set(known))
    if missing or not names:
        raise BackboneError(
            f"no adapter '{missing[0]}'" if missing else "no adapter is named",
            fix=f"name some of {', '.join(known)}" if known else "load some with backbone.adapters",
        )


def first_layer(trunk: PreTrainedModel, names: Sequence[str]) -> int:
    """Return the number of the first layer of ``trunk`` that one of the adapters ``names`` changes.

    0 where that is not known to be a later one: for an adapter of the embeddings, or a trunk without a list of layers.
    """
    found = layer_list(trunk)
    if found is None:
        return 0
    prefix = f"{found[0]}."
    paths = [path for path, layer in tuned_layers(trunk) if set(names) & layer._get_available_adapters()]
    if not paths or not all(path.startswith(prefix) for path in paths):
        return 0
    return min(int(path.removeprefix(prefix).split(".")[0]) for path in paths)
