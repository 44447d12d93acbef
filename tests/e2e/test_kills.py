"""Bar, in small: runs and scoring killed by SIGKILL end with the bytes of undisturbed ones, and leave nothing over.

benchmarks/kills.py is the same with 20 kills of each family and 10 of scoring.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
from facetrm.recipes.run import Run  # noqa: E402
from kills import Kills, run_kills, score_kills  # noqa: E402


def assert_the_same(found: Kills, kills: int) -> None:
    assert found.kills == kills
    assert found.different == []
    assert found.left == []


@pytest.mark.slow
def test_killed_runs_end_with_the_same_bytes(tmp_path: Path) -> None:
    assert_the_same(run_kills("armorm", tmp_path, kills=2, seed=5, warm=False), 2)


@pytest.mark.slow
def test_killed_scoring_ends_with_the_same_bytes(tiny_run: Run, tmp_path: Path) -> None:
    assert_the_same(score_kills(tiny_run.folder, tmp_path, rows=800, kills=2, seed=5, warm=False), 2)
