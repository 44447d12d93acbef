"""Modules that are imported by name: with the garbage collector off, and as it was before."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from facetrm.core.lazy import load_name

LOOKS = "import gc\nON = gc.isenabled()\n"


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module that notes, when it is imported, whether the collector is on."""
    (tmp_path / "looks_at_the_collector.py").write_text(LOOKS, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "looks_at_the_collector"
    sys.modules.pop("looks_at_the_collector", None)
    gc.enable()


@pytest.mark.parametrize("before", [True, False])
def test_a_module_loads_without_the_collector_which_is_then_as_it_was(module: str, before: bool) -> None:
    frozen = gc.get_freeze_count()
    if not before:
        gc.disable()
    assert load_name(module, "ON") is False
    assert gc.isenabled() is before
    assert gc.get_freeze_count() == frozen, "the objects of a program that only calls us are left alone"


def test_the_collector_is_on_again_after_an_import_that_fails(module: str) -> None:
    with pytest.raises(AttributeError):
        load_name(module, "no_such_name")
    with pytest.raises(ModuleNotFoundError):
        load_name("no_such_module_at_all", "x")
    assert gc.isenabled()
