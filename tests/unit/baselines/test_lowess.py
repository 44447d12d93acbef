"""The curve through a scatter against a plain implementation of its definition, with ties, outliers and many points."""

from __future__ import annotations

import time

import numpy as np
import pytest

from facetrm.baselines.lowess import lowess
from facetrm.core.errors import FitError


def by_definition(x: np.ndarray, y: np.ndarray, fraction: float, robust: int) -> dict[float, float]:
    """Return the curve at each distinct position, one weighted fit after the other, with numpy's own least squares."""
    nearest = max(2, int(fraction * len(x) + 1e-10))
    trust = np.ones(len(x))
    for _ in range(robust + 1):
        curve = {}
        for t in sorted(set(x.tolist())):
            width = sorted(abs(v - t) for v in x.tolist())[nearest - 1]
            weight = np.zeros(len(x))
            for n, v in enumerate(x.tolist()):
                if width == 0.0:
                    weight[n] = float(v == t)
                elif abs(v - t) < width:
                    weight[n] = (1 - (abs(v - t) / width) ** 3) ** 3
            weight *= trust if (weight * trust).any() else 1.0
            used = weight > 0
            if len(set(x[used].tolist())) == 1:
                curve[t] = float(np.average(y[used], weights=weight[used]))
            else:
                _, at = np.polyfit(x[used] - t, y[used], 1, w=np.sqrt(weight[used]))
                curve[t] = float(at)
        residual = np.array([abs(v - curve[t]) for t, v in zip(x.tolist(), y.tolist(), strict=True)])
        share = residual / (6 * np.median(residual))
        trust = np.where(share < 1, (1 - np.minimum(share, 1) ** 2) ** 2, 0.0)
    return curve


@pytest.mark.parametrize("robust", [0, 1, 3])
@pytest.mark.parametrize("fraction", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("ties", [False, True])
def test_the_curve_is_that_of_its_definition(ties: bool, fraction: float, robust: int) -> None:
    draw = np.random.default_rng(7)
    x = draw.integers(0, 12, 60).astype(float) * 40 if ties else draw.gamma(2.0, 300.0, 60)
    y = np.sin(x / 200.0) + draw.normal(0, 0.2, 60)
    y[5] += 30.0
    grid, curve = lowess(x, y, fraction=fraction, robust=robust)
    expected = by_definition(x, y, fraction, robust)
    assert grid.tolist() == list(expected)
    assert curve == pytest.approx(list(expected.values()), abs=1e-8)


def test_the_order_of_the_points_does_not_count() -> None:
    draw = np.random.default_rng(0)
    x, y = draw.integers(0, 9, 80).astype(float), draw.normal(size=80)
    shuffled = draw.permutation(80)
    for one, other in zip(lowess(x, y), lowess(x[shuffled], y[shuffled]), strict=True):
        assert one == pytest.approx(other, abs=1e-12)


def test_a_line_is_kept_and_an_outlier_is_not() -> None:
    x = np.arange(50.0)
    y = 2.0 * x - 3.0 + 0.01 * np.cos(7 * x)
    y[20] = 1000.0
    plain, careful = (lowess(x, y, robust=robust)[1] for robust in (0, 3))
    assert np.abs(careful - (2.0 * x - 3.0)).max() < 0.02
    assert np.abs(plain - (2.0 * x - 3.0)).max() > 10.0
    exact = lowess(x, 2.0 * x - 3.0)[1]
    assert exact == pytest.approx(2.0 * x - 3.0, abs=1e-9)


def test_most_points_at_one_place_are_their_mean() -> None:
    x = np.r_[np.full(40, 5.0), 1.0, 9.0]
    y = np.r_[np.arange(40.0), 0.0, 100.0]
    grid, curve = lowess(x, y, robust=0)
    assert grid.tolist() == [1.0, 5.0, 9.0]
    assert curve[1] == pytest.approx(19.5)
    assert lowess([3.0] * 4, [1.0, 2.0, 3.0, 4.0], robust=0)[1].tolist() == [2.5]


def test_many_points_take_little_time_and_a_coarse_grid_little_error() -> None:
    draw = np.random.default_rng(1)
    x = draw.lognormal(6.5, 0.8, 10_000).round()
    y = np.log(x) + draw.normal(0, 1.0, 10_000)
    start = time.perf_counter()
    grid, curve = lowess(x, y)
    assert time.perf_counter() - start < 5.0
    assert len(grid) <= 400
    assert (grid[0], grid[-1]) == (x.min(), x.max())
    fine_grid, fine = lowess(x[:1500], y[:1500], points=10_000)
    coarse = np.interp(fine_grid, *lowess(x[:1500], y[:1500], points=200))
    assert len(fine_grid) > 800
    assert np.abs(coarse - fine).max() < 0.01
    assert np.abs(np.interp(np.exp(6.5), grid, curve) - 6.5) < 0.1


@pytest.mark.parametrize(
    ("x", "y", "more"),
    [
        ([1.0, 2.0], [1.0, 2.0], {}),
        ([1.0, 2.0, 3.0], [1.0, 2.0], {}),
        ([1.0, 2.0, float("nan")], [1.0, 2.0, 3.0], {}),
        ([1.0, 2.0, 3.0], [1.0, 2.0, float("inf")], {}),
        ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], {"fraction": 0.0}),
        ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], {"robust": -1}),
        ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], {"points": 3}),
    ],
)
def test_what_has_no_curve_is_refused(x: list[float], y: list[float], more: dict) -> None:
    with pytest.raises(FitError, match="lowess"):
        lowess(x, y, **more)
