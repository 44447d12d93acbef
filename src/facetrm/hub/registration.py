"""Register facetrm folders with Transformers' Auto classes, whichever package is imported first.

Importing Transformers only to register a class would make every ``import facetrm`` seconds slower. Instead, a hook
waits for the two modules that define the Auto classes. If a module is already loaded, the hook registers immediately;
otherwise it registers right after the module is loaded.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, final

from facetrm.core.lazy import load_name

_DOOR = "facetrm.hub.auto_door"


def _add_config(module: ModuleType) -> None:
    module.AutoConfig.register(load_name(_DOOR, "MODEL_TYPE"), load_name(_DOOR, "FacetrmConfig"), exist_ok=True)


def _add_model(module: ModuleType) -> None:
    door = load_name(_DOOR, "AutoDoor")
    module.AutoModelForSequenceClassification.register(door.config_class, door, exist_ok=True)


@final
class _AfterImport(MetaPathFinder):
    """A finder that leaves the search to the other finders, and calls a hook after an awaited module has run."""

    def __init__(self) -> None:
        self.waiting: dict[str, Callable[[ModuleType], None]] = {
            "transformers.models.auto.configuration_auto": _add_config,
            "transformers.models.auto.modeling_auto": _add_model,
        }

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        hook = self.waiting.pop(fullname, None)
        spec = None if hook is None else importlib.util.find_spec(fullname)
        if hook is None or spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            hook(module)

        loader: Any = spec.loader
        loader.exec_module = exec_module
        return spec


_HOOK = _AfterImport()


def register_when_loaded() -> None:
    """Register facetrm's classes with the Auto classes that are loaded, and with the others once they are loaded.

    Calling it again has no effect.
    """
    for name in list(_HOOK.waiting):
        module = sys.modules.get(name)
        if module is not None:
            _HOOK.waiting.pop(name)(module)
    if _HOOK.waiting and _HOOK not in sys.meta_path:
        sys.meta_path.insert(0, _HOOK)
