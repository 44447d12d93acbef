"""The benchmark of K adapters runs at a tiny shape: all sides read the same, and nothing but the clock is left open."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_all_sides_read_the_same_vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = {"experts": 2, "hidden": 64, "layers": 4, "prompts": 2, "responses": 4, "rounds": 1}
    words = [word for name, value in shape.items() for word in (f"--{name}", str(value))]
    monkeypatch.setattr(sys, "argv", ["experts.py", *words, "--out", str(tmp_path / "experts.json")])
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    runpy.run_path(str(BENCHMARKS / "experts.py"), run_name="__main__")
    found = json.loads((tmp_path / "experts.json").read_text())["2 experts"]
    sides = ("switching", "padded", "packed", "stacked")
    assert all(found[f"{side}: largest difference"] < 1e-4 for side in sides)
    assert found["two adapters differ by"] > 0.1, "or the sides would agree whatever they read"
    assert all(found[f"{side}: times ours"] > 0 for side in sides)
