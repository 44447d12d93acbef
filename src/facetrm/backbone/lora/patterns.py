"""Checks of a LoRA configuration: per-layer scale and rank patterns, and variants that are not supported."""

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
    """Raise BackboneError if the adapter in ``folder`` uses an unsupported LoRA variant.

    Args:
        config: PEFT configuration of the adapter.
        folder: folder of the adapter, for the error message.
    """
    for key, what in (("use_dora", "DoRA"), ("lora_bias", "a LoRA with biases")):
        if getattr(config, key, False):
            fix = "merge the adapter into its trunk with PEFT"
            raise BackboneError(f"{what} is not supported", place=folder, fix=fix)


def for_trunk(trunk: PreTrainedModel, config: PeftConfig, key: str) -> dict[str, Any]:
    """Rewrite a pattern of a PEFT configuration to use the module names of a bare trunk, and return it.

    Args:
        trunk: bare trunk; the adapter may have been trained with a head around it.
        config: PEFT configuration, changed in place.
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
    """Refuse a pattern that matches no adapted layer, because its scale or rank would be silently ignored.

    Args:
        trunk: model that has the adapter.
        name: name of the adapter.
        keys: patterns to check.
        place: location of the adapter, for the error message.

    Raises:
        BackboneError: A pattern matches no layer that has the adapter.
    """
    from peft.tuners.lora import LoraLayer

    paths = [path for path, m in trunk.named_modules() if isinstance(m, LoraLayer) and name in m.scaling]
    for key in keys:
        if not any(re.match(rf"(.*\.)?({key})$", path) for path in paths):
            raise BackboneError(
                f"the pattern '{key}' matches no layer that has the adapter",
                place=place,
                fix="give a LoRA of this trunk, as it was saved",
            )
