"""A margin that is no number is neither a win nor a loss."""

from __future__ import annotations

import numpy as np
import pytest

from facetrm.core.errors import ModelError
from facetrm.core.statistics import pair_accuracy, paired_difference, win_credit


def test_wins_ties_and_losses() -> None:
    assert win_credit([2.0, 0.0, -1e-9, np.inf, -np.inf]).tolist() == [1.0, 0.5, 0.0, 1.0, 0.0]


def test_a_margin_that_is_nan_is_named() -> None:
    margins = [1.0, -1.0, float("nan"), 1.0, float("nan")]
    with pytest.raises(ModelError, match=r"row 2 of 5 pairs: margin nan \(and 1 more\)"):
        win_credit(margins)
    with pytest.raises(ModelError, match="row 2"):
        pair_accuracy(margins, range(5))
    with pytest.raises(ModelError, match="row 2"):
        paired_difference([0.0] * 5, margins, range(5))
