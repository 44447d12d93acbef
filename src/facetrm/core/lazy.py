"""Lazy imports: exported names load their module on first use (PEP 562).

They keep ``import facetrm`` and the command-line help fast: neither loads torch or transformers. This is the only place
that imports our own modules by name.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def load_name(module: str, name: str) -> Any:
    """Return the object ``name`` of ``module``, importing the module if needed.

    Args:
        module: full module name.
        name: name of the object.
    """
    return getattr(import_module(module), name)


def lazy(
    package: str, homes: Mapping[str, Sequence[str]], *, parts: Sequence[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` for a package that exports names lazily.

    A name is resolved once and then stored in the package.

    Args:
        package: full package name.
        homes: maps each module to the names that it defines.
        parts: subpackages that are reachable as attributes.
    """
    home_of = {name: module for module, names in homes.items() for name in names}

    def __getattr__(name: str) -> Any:  # noqa: N807
        if name in parts:
            return import_module(f"{package}.{name}")
        if name not in home_of:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        value = load_name(home_of[name], name)
        setattr(sys.modules[package], name, value)
        return value

    def __dir__() -> list[str]:  # noqa: N807
        return sorted({*vars(sys.modules[package]), *home_of, *parts})

    return __getattr__, __dir__
