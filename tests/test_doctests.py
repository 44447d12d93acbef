"""Every public name shows how it is used: the example in its docstring runs, and gives what it says."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

import facetrm

NAMES = [name for name in facetrm.__all__ if name != "__version__"]


@pytest.mark.parametrize("name", NAMES)
def test_the_example_in_the_docstring_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    text = getattr(facetrm, name).__doc__
    examples = doctest.DocTestParser().get_doctest(text, {}, name, None, None)
    assert examples.examples, f"facetrm.{name} has no example in its docstring"
    said: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(examples, out=said.append)
    assert not said, "".join(said)
