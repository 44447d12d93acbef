"""Lazy imports: exported names load their module on first use (PEP 562).

They keep ``import facetrm`` and the command-line help fast: neither loads torch or transformers. This is the only place
that imports our own modules by name. It imports without the garbage collector: PyTorch and Transformers make a million
objects, none of them garbage, and each full collection on the way would look at all of them.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

_frozen = False


def load_name(module: str, name: str) -> Any:
    """Return the object ``name`` of ``module``, importing the module if needed.

    Args:
        module: full module name.
        name: name of the object.
    """
    if module in sys.modules:
        return getattr(import_module(module), name)
    with _uncollected():
        return getattr(import_module(module), name)


@contextmanager
def frozen_imports() -> Iterator[None]:
    """Take what is imported here out of all later collections, for a process that is the program's alone.

    It freezes every object of the process, so a library must not: garbage that stands then is never collected.
    """
    global _frozen
    before, _frozen = _frozen, True
    try:
        yield
    finally:
        _frozen = before


@contextmanager
def _uncollected() -> Iterator[None]:
    """Import without the garbage collector, which is on afterwards if it was before."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if _frozen:
            gc.freeze()
        if collects:
            gc.enable()


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
