"""The layers of a trunk: where they are, and which of them a setting names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from torch.nn import Module, ModuleList
from transformers import PreTrainedModel

_LAYERS: Final = re.compile(r"all|last\s+(\d+)|(\d+)\s*-\s*(\d+)")


def layer_list(trunk: PreTrainedModel) -> tuple[str, ModuleList] | None:
    """Return the layers of ``trunk`` and the path at which they stand, None where it has no single list of them."""
    found = list(_lists(trunk, trunk.config.get_text_config().num_hidden_layers))
    return found[0] if len(found) == 1 else None


def is_layers(text: str) -> bool:
    """Return whether ``text`` names layers: ``all``, ``last 8`` or ``8-15``."""
    return _LAYERS.fullmatch(text.strip()) is not None


def chosen_layers(text: str, *, count: int) -> range | None:
    """Return the numbers of the layers that ``text`` names, of ``count``; None where it names none of them.

    Args:
        text: ``all``, ``last 8``, or ``8-15``, both included and counted from 0.
        count: of the layers of the trunk.
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


def _lists(module: Module, count: int) -> Iterator[tuple[str, ModuleList]]:
    """Yield the outermost lists of ``count`` modules, with their paths."""
    for name, child in module.named_children():
        if isinstance(child, ModuleList) and len(child) == count:
            yield name, child
        else:
            yield from ((f"{name}.{path}", layers) for path, layers in _lists(child, count))
