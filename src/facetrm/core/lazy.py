"""Names that load their module when they are first used (PEP 562), and the one place that imports our code by name.

``import facetrm`` and the help of the command line stay quick: neither loads torch nor transformers. A module that is
imported here loads without the garbage collector: PyTorch and Transformers make a million objects, none of them
garbage, and each full collection on the way looks at all of them.
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
    """Return the object ``name`` of ``module``, which is imported where it was not yet.

    Args:
        module: its full name.
        name: of the object.
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
    """Return ``__getattr__`` and ``__dir__`` of a package that exports names without importing their modules.

    A name is looked up once: from then on it stands in the package.

    Args:
        package: its full name.
        homes: the names by the module that defines them.
        parts: packages inside it that can be reached as attributes.
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
