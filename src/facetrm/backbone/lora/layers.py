"""The transformer layers of a trunk: finding them, and parsing settings that select some of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from torch.nn import Linear, Module, ModuleList
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from facetrm.core.errors import BackboneError

_LAYERS: Final = re.compile(r"all|last\s+(\d+)|(\d+)\s*-\s*(\d+)")


def layer_list(trunk: PreTrainedModel) -> tuple[str, ModuleList] | None:
    """Return the module path and the list of layers of ``trunk``, or None if it has no single list of them."""
    found = list(_lists(trunk, trunk.config.get_text_config().num_hidden_layers))
    return found[0] if len(found) == 1 else None


def is_layers(text: str) -> bool:
    """Return whether ``text`` is a valid selection of layers, such as ``all``, ``last 8`` or ``8-15``."""
    return _LAYERS.fullmatch(text.strip()) is not None


def chosen_layers(text: str, *, count: int) -> range | None:
    """Return the indices of the selected layers, or None if the selection is invalid or does not fit ``count``.

    Args:
        text: ``all``, ``last 8``, or ``8-15`` (inclusive, counted from 0).
        count: number of layers in the trunk.
    """
    match = _LAYERS.fullmatch(text.strip())
    if match is None:
        return None
    last, first, end = (None if part is None else int(part) for part in match.groups())
    if last is not None:
        chosen = range(count - last, count)
    elif first is not None and end is not None:
        chosen = range(first, end + 1)
    else:
        chosen = range(count)
    return chosen if len(chosen) and chosen[0] >= 0 and chosen[-1] < count else None


def peft_layers(trunk: PreTrainedModel, text: str | None) -> dict[str, Any]:
    """Return the arguments that make PEFT adapt only some layers; empty to adapt all of them.

    Args:
        trunk: model to adapt.
        text: ``all``, ``last 8``, or ``8-15`` (inclusive, counted from 0); None means all.

    Raises:
        BackboneError: The trunk does not have these layers.
    """
    if text is None or text.strip() == "all":
        return {}
    found = layer_list(trunk)
    chosen = None if found is None else chosen_layers(text, count=len(found[1]))
    if found is None or chosen is None:
        has = "no list of layers" if found is None else f"layers 0 to {len(found[1]) - 1}"
        raise BackboneError(
            f"'{text}' does not select layers of a {type(trunk).__name__} with {has}",
            place="lora.layers",
            fix="write all" if found is None else f"write all, last N with N up to {len(found[1])}, or FIRST-LAST",
        )
    return {"layers_to_transform": list(chosen), "layers_pattern": [found[0].split(".")[-1]]}


def linear_names(trunk: PreTrainedModel) -> list[str]:
    """Return the last name components, such as ``q_proj``, of all linear modules inside the trunk's layers."""
    found = layer_list(trunk)
    layers = () if found is None else found[1]
    kinds = (Linear, Conv1D)
    paths = [path.replace(".base_layer", "") for x in layers for path, m in x.named_modules() if isinstance(m, kinds)]
    return sorted({path.split(".")[-1] for path in paths if "lora_" not in path})


def _lists(module: Module, count: int) -> Iterator[tuple[str, ModuleList]]:
    """Yield the path and the list of each outermost ModuleList with ``count`` modules."""
    for name, child in module.named_children():
        if isinstance(child, ModuleList) and len(child) == count:
            yield name, child
        else:
            yield from ((f"{name}.{path}", layers) for path, layers in _lists(child, count))
