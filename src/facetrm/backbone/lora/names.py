"""What an adapter may be called."""

from __future__ import annotations

import re
from typing import Final

TRUNK_ADAPTER: Final = "default"
"""The name of the trunk's own adapter."""


def name_problem(name: str) -> str | None:
    """Return why ``name`` cannot be that of an adapter beside the trunk's own, None if it can."""
    from torch.nn import ModuleDict  # heavy, and a settings file without named adapters needs no torch

    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        return "write letters, digits, - and _"
    if name == TRUNK_ADAPTER:
        return "it is the name of the trunk's own adapter (backbone.adapter)"
    # PEFT finds the tensors of an adapter by its name, and keeps it among the attributes of a container.
    return "PEFT uses it" if name in "lora_" or name.startswith("lora_") or hasattr(ModuleDict, name) else None


def belongs_to(key: str, name: str) -> bool:
    """Return whether the tensor ``key`` of a trunk is of the adapter ``name``."""
    return re.search(rf"\.lora_\w+\.{re.escape(name)}(\.|$)", key) is not None


def without_adapter(key: str, name: str) -> str:
    """Return the tensor's name ``key`` without the adapter's, ``name``: as PEFT writes it to files."""
    return re.sub(rf"(\.lora_\w+)\.{re.escape(name)}(\.|$)", r"\1\2", key)


def bare_name(key: str) -> str:
    """Return the name of a trunk's own tensor ``key`` in the trunk without adapters."""
    return key.replace(".base_layer.", ".")
