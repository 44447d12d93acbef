"""The benchmark of real pairs runs on a small pack: all sides read the same, and what exact mode costs is told."""

from __future__ import annotations

import json
import runpy
import sys
from collections import Counter
from pathlib import Path

import pytest

from facetrm.backbone.encoder import Features
from facetrm.backbone.transformer import TransformerEncoder
from facetrm.data.read.files import write_records
from facetrm.data.records import Conversation
from facetrm.data.world import World

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_exact_mode_is_timed_against_fast_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_records(tmp_path / "preferences.jsonl.gz", World().preferences(20))
    modes: Counter[str] = Counter()
    encode = TransformerEncoder.encode

    def counted(encoder: TransformerEncoder, rows: list[Conversation]) -> Features:
        modes[encoder.mode] += 1
        return encode(encoder, rows)

    monkeypatch.setattr(TransformerEncoder, "encode", counted)
    shape = {"pairs": 4, "rounds": 3, "hidden": 64, "layers": 1, "threads": 1}
    words = [word for name, value in shape.items() for word in (f"--{name}", str(value))]
    out = tmp_path / "sources.json"
    monkeypatch.setattr(sys, "argv", ["sources.py", "--folder", str(tmp_path), *words, "--out", str(out)])
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    runpy.run_path(str(BENCHMARKS / "sources.py"), run_name="__main__")

    (found,) = json.loads(out.read_text())["sources"].values()
    assert found["rows"] == 8
    assert found["largest relative difference"] < 1e-5
    assert modes == {"fast": 5, "exact": 5}, "once for the difference, once to warm up, three rounds"
    assert found["over one, worst"] < found["over one"], "the least that the engine gains"
    assert found["exact over fast, worst"] > found["exact over fast"] > 0, "the most that exact mode costs"
    assert found["seconds exact"] > 0
