"""What a LoRA's configuration says of single layers: scales and ranks by pattern, and kinds that are not read."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel

from facetrm.core.errors import BackboneError

if TYPE_CHECKING:
    from peft import PeftConfig


def refuse_variants(config: PeftConfig, folder: Path) -> None:
    """Raise BackboneError where the adapter of ``config`` (in ``folder``) is of a kind that is not read."""
    for key, what in (("use_dora", "DoRA"), ("lora_bias", "a LoRA with biases")):
        if getattr(config, key, False):
            raise BackboneError(f"{what} is not read", place=folder, fix="merge the adapter into its trunk with PEFT")


def for_trunk(trunk: PreTrainedModel, config: PeftConfig, key: str) -> dict[str, Any]:
    """Return a pattern of a configuration by the names of a bare trunk, and put it there.

    Args:
        trunk: the bare one; the adapter may have been made with a head around it.
        config: is changed.
        key: ``alpha_pattern`` or ``rank_pattern``.
    """
    prefix = re.escape(trunk.base_model_prefix)
    inside = any(child == trunk.base_model_prefix for child, _ in trunk.named_children())
    pattern = dict(getattr(config, key, None) or {})
    if not inside:
        outer = re.compile(rf"^(\^?)(?:base_model\\?\.model\\?\.)?{prefix}\\?\.")
        pattern = {outer.sub(r"\1", name): value for name, value in pattern.items()}
    setattr(config, key, pattern)
    return pattern


def check_patterns(trunk: PreTrainedModel, name: str, keys: Iterable[str], place: object) -> None:
    """Refuse a pattern that no layer follows: its scale or rank would be lost without a word.

    Args:
        trunk: that holds the adapter.
        name: of the adapter.
        keys: of its patterns.
        place: of the adapter.

    Raises:
        BackboneError: names the pattern.
    """
    from peft.tuners.lora import LoraLayer

    paths = [path for path, m in trunk.named_modules() if isinstance(m, LoraLayer) and name in m.scaling]
    for key in keys:
        if not any(re.match(rf"(.*\.)?({key})$", path) for path in paths):
            raise BackboneError(
                f"the pattern '{key}' fits no layer that has the adapter",
                place=place,
                fix="give a LoRA of this trunk, as it was saved",
            )
