"""The GPU benchmark runs on a processor, so that it is known to run before a GPU is paid for."""

from __future__ import annotations

import json
import math
import runpy
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(sys, "argv", ["gpu.py", *words])
    runpy.run_path(str(BENCHMARKS / "gpu.py"), run_name="__main__")


def test_the_gpu_benchmark_runs_on_a_processor(tmp_path, monkeypatch, capsys):
    before = {path: path.read_bytes() for path in (BENCHMARKS / "results").iterdir()}
    run(monkeypatch, "--shape", "tiny", "--device", "cpu", "--rounds", "1", "--out", str(tmp_path / "gpu.json"))
    results = json.loads((tmp_path / "gpu.json").read_text())
    printed = capsys.readouterr().out
    for part in ("throughput", "best of 16", "drift"):
        for key, value in results[part].items():
            assert math.isfinite(value), key
            assert f"{key:48} {value:12.5g}" in printed
    speed = results["throughput"]
    assert speed["tokens per second"] / speed["padded Transformers, tokens per second"] == pytest.approx(
        speed["times padded Transformers"]
    )
    assert 0 < speed["share of the peak"] < 1
    assert results["device"] == "processor"
    assert 1e-4 < results["drift"]["half precision from float32, worst"] < 0.1
    assert results["drift"]["half precision, packs from rows alone, worst"] < 0.1
    assert {path: path.read_bytes() for path in (BENCHMARKS / "results").iterdir()} == before


def test_without_a_gpu_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, "--rounds", "1")
    assert caught.value.code == 2
    assert "--shape tiny --device cpu" in capsys.readouterr().err
