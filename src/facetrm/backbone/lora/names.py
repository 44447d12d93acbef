"""Names of adapters and of their tensors."""

from __future__ import annotations

import re
from typing import Final

TRUNK_ADAPTER: Final = "default"
"""The name of the trunk's own adapter."""


def name_problem(name: str) -> str | None:
    """Return why ``name`` is not a valid name for a named adapter, or None if it is valid."""
    from torch.nn import ModuleDict  # imported here because settings without named adapters do not need torch

    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        return "write letters, digits, - and _"
    if name == TRUNK_ADAPTER:
        return "it is the name of the trunk's own adapter (backbone.adapter)"
    # PEFT finds an adapter's tensors by searching for its name, and stores it as an attribute of a ModuleDict.
    return "PEFT uses it" if name in "lora_" or name.startswith("lora_") or hasattr(ModuleDict, name) else None


def belongs_to(key: str, name: str) -> bool:
    """Return whether the key ``key`` of a trunk's state dict belongs to the adapter ``name``."""
    return re.search(rf"\.lora_\w+\.{re.escape(name)}(\.|$)", key) is not None


def without_adapter(key: str, name: str) -> str:
    """Return the state-dict key ``key`` without the adapter's ``name``, as PEFT writes it to files."""
    return re.sub(rf"(\.lora_\w+)\.{re.escape(name)}(\.|$)", r"\1\2", key)


def bare_name(key: str) -> str:
    """Return the name that the trunk's own tensor ``key`` has in a trunk without adapters."""
    return key.replace(".base_layer.", ".")
