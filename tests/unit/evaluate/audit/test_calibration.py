"""Known temperatures are found, exact probabilities pass, and the figures agree with plain formulas."""

from __future__ import annotations

import numpy as np
import pytest

from facetrm.evaluate.audit.calibration import Calibration, beta_of_margins, calibration_of
from facetrm.evaluate.audit.settings import AuditConfig

CONFIG = AuditConfig(samples=200)


def planted(size: int, *, beta: float, seed: int = 0) -> np.ndarray:
    """Return margins, chosen minus rejected, whose true probability is sigmoid(beta * margin)."""
    rng = np.random.default_rng(seed)
    margins = rng.normal(size=size)
    return np.where(rng.random(size) < 1 / (1 + np.exp(-beta * margins)), margins, -margins)


def judge(margins: np.ndarray, *, beta: float | None, tasks: list[str] | None = None) -> Calibration:
    groups = [f"prompt {n // 2}" for n in range(len(margins))]
    own = None if beta is None else (lambda row: beta)
    found = calibration_of(margins.tolist(), groups, tasks or ["a"] * len(margins), beta_of=own, config=CONFIG)
    assert found is not None
    return found


def test_a_known_temperature_is_found() -> None:
    margins = planted(4000, beta=2.0)
    assert beta_of_margins(margins) == pytest.approx(2.0, rel=0.1)
    assert beta_of_margins(margins * 1000) == pytest.approx(0.002, rel=0.1)
    found = judge(margins, beta=6.0)
    assert found.temperature["all"] == pytest.approx(3.0, rel=0.1)
    assert found.ece.low > 0.1 > found.noise


def test_exact_probabilities_are_within_the_noise() -> None:
    for beta in (2.0, None):
        found = judge(planted(4000, beta=2.0, seed=1), beta=beta)
        assert found.ece.value < found.noise < 0.05
        assert found.temperature["all"] == pytest.approx(1.0, abs=0.15)
    assert found.source == "fitted"
    assert found.pairs == 2000


def test_figures_agree_with_plain_formulas() -> None:
    margins = planted(500, beta=1.0, seed=2)
    found = judge(margins, beta=1.5, tasks=["a"] * 460 + ["b"] * 40)
    p = 1 / (1 + np.exp(-1.5 * margins))
    assert found.brier.value == pytest.approx(((1 - p) ** 2).mean())
    assert found.log_loss.value == pytest.approx(-np.log(p).mean())
    assert sorted(found.temperature) == ["a", "all"]
    rows = sorted(zip(np.maximum(p, 1 - p), margins > 0, strict=True))
    blocks = [rows[n : n + 50] for n in range(0, 500, 50)]
    gaps = [abs(sum(right - confidence for confidence, right in block)) for block in blocks]
    assert found.ece.value == pytest.approx(sum(gaps) / 500)
    assert [each.pairs for each in found.equal_mass] == [50] * 10
    assert sum(each.pairs for each in found.equal_width) == 500


def test_no_margin_gives_no_calibration() -> None:
    assert calibration_of([0.0, 0.0], ["p", "q"], ["a", "a"], beta_of=None, config=CONFIG) is None
    assert calibration_of([1.0, 2.0], ["p", "p"], ["a", "a"], beta_of=None, config=CONFIG) is None
