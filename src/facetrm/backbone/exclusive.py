"""Locks that let one thread at a time change the temporary state of a trunk or of the process.

    trunk_lock    protects one trunk: its active adapters, attention backend, replaced layers and training flags
    making        protects the process: Transformers and PEFT change the default dtype, seeds, initialisers and
                  warning filters

A thread that needs both must acquire the trunk's lock first.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from threading import Lock, RLock
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from transformers import PreTrainedModel

P = ParamSpec("P")
T = TypeVar("T")

making = RLock()
"""Held while models or adapters are created, because that changes the state of the whole process."""

_guard = Lock()
_locks: dict[int, tuple[weakref.ref[Any], AbstractContextManager[Any]]] = {}


def trunk_lock(trunk: PreTrainedModel) -> AbstractContextManager[Any]:
    """Return the re-entrant lock of ``trunk``, the same one for every encoder and engine on it.

    The lock belongs to the trunk's configuration, which selects the attention: trunks that share a configuration share
    the lock.
    """
    config = trunk.config
    with _guard:
        found = _locks.get(id(config))
        if found is None or found[0]() is not config:
            _locks[id(config)] = found = (weakref.ref(config, _forget(id(config))), RLock())
        return found[1]


@contextmanager
def evaluating(trunk: PreTrainedModel) -> Iterator[None]:
    """Lock ``trunk`` and put it into evaluation mode in the block; each module's mode is restored afterwards."""
    with trunk_lock(trunk):
        training = [module for module in trunk.modules() if module.training]
        try:
            for module in training:
                module.training = False
            with torch.no_grad():
                yield
        finally:
            for module in training:
                module.training = True


def exclusive(
    function: Callable[Concatenate[PreTrainedModel, P], T],
) -> Callable[Concatenate[PreTrainedModel, P], T]:
    """Decorate a function whose first argument is a trunk, so that it runs under the trunk's lock."""

    @wraps(function)
    def locked(trunk: PreTrainedModel, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with trunk_lock(trunk):
            return function(trunk, *args, **kwargs)

    return locked


def _forget(key: int) -> Callable[[weakref.ref[Any]], None]:
    def forget(gone: weakref.ref[Any]) -> None:
        # Without the guard, because a garbage collection may run while this thread holds it.
        found = _locks.get(key)
        if found is not None and found[0] is gone:
            _locks.pop(key, None)

    return forget
