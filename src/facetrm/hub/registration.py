"""Transformers' Auto classes learn our folders, in whatever order the two packages are imported.

Loading Transformers only to register a class would cost every ``import facetrm`` seconds. So a hook waits for the two
modules that hold the Auto classes: it registers at once where they are loaded, and right after they are loaded else.
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
    """Finds nothing itself: a module that it waits for is found by the others, and its hook called when it has run."""

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
    """Register our classes with the Auto classes that are loaded, and with the others when they are.

    A second call changes nothing.
    """
    for name in list(_HOOK.waiting):
        module = sys.modules.get(name)
        if module is not None:
            _HOOK.waiting.pop(name)(module)
    if _HOOK.waiting and _HOOK not in sys.meta_path:
        sys.meta_path.insert(0, _HOOK)
