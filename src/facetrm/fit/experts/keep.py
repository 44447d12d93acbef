"""Which state of a training is kept: the best on held-out prompts, if it beats the start by more than chance.

    v_sp       loss of prompt p at look s; s = 0 is the state before the first step
    s*         the look with the lowest mean over all prompts
    s_f        the look with the lowest mean over the prompts outside fold f
    d_p        v_0p - v_{s_f, p} for p in fold f: no prompt helps to choose the look that it is judged at
    keep s*    if  mean(d) > errors * sd(d) / sqrt(P)  and  mean(d) >= least

The differences are paired: both states are judged on the same prompts, so what makes a prompt hard for both cancels.
The folds allow for the number of looks: the lowest of many noisy means is too low, but not on prompts that had no
part in choosing it.

Shapes: S looks, P held-out prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from facetrm.core.errors import FitError
from facetrm.core.statistics import Floats

FOLDS = 5


@dataclass(frozen=True)
class KeepDecision:
    """Which look was kept, and how much better than the start it is on prompts that did not choose it.

    Attributes:
        look: Index of the look that was kept; 0 if the start was kept.
        best: Index of the look with the lowest mean.
        gain: Mean difference per prompt, start minus trained.
        error: Standard error of ``gain``; infinite for fewer than two prompts.
        looks: Number of looks after the start.
        prompts: Number of held-out prompts.
    """

    look: int
    best: int
    gain: float
    error: float
    looks: int
    prompts: int

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-ready figures; an infinite error is None."""
        error = self.error if np.isfinite(self.error) else None
        return {"gain": self.gain, "gain_error": error, "looks": self.looks, "held_out_prompts": self.prompts}


def decide_kept(
    values_SP: Floats,
    *,
    errors: float,
    least: float = 0.0,
    folds_P: Sequence[int] | None = None,
    weights_P: Floats | None = None,
) -> KeepDecision:
    """Return the look to keep.

    Args:
        values_SP: What to minimise, per look and prompt, [S, P]; row 0 is the start.
        errors: Standard errors by which a look must beat the start; 0 keeps the best look however small its gain.
        least: Smallest gain that is worth a change, in the unit of the values; not used if ``errors`` is 0.
        folds_P: Fold of each prompt, [P]; by default every fifth prompt. In a cross-validation these are its folds.
        weights_P: Weight of each prompt, [P]; all means are weighted by it. None weighs all alike.

    Raises:
        FitError: No look, no prompt, or a value that is not finite.

    Example:
        >>> import numpy as np
        >>> better = np.array([[0.7, 0.6, 0.7, 0.8], [0.4, 0.3, 0.5, 0.4]])
        >>> decide_kept(better, errors=1.0).look
        1
        >>> decide_kept(better[::-1], errors=1.0).look
        0
    """
    looks, prompts = values_SP.shape
    if not looks or not prompts or not np.isfinite(values_SP).all():
        raise FitError(
            f"{looks} looks at {prompts} prompts, or a value that is not finite",
            place="held-out prompts",
            fix="hold out at least one prompt, and lower the learning rate",
        )
    w_P = np.ones(prompts) if weights_P is None else np.asarray(weights_P, dtype=np.float64)
    best = _lowest(values_SP, w_P)
    fold_P = np.arange(prompts) % FOLDS if folds_P is None else np.asarray(folds_P)
    saved_P = np.zeros(prompts)
    for fold in np.unique(fold_P):
        inside = fold_P == fold
        chosen = _lowest(values_SP[:, ~inside], w_P[~inside]) if w_P[~inside].any() else best
        saved_P[inside] = values_SP[0, inside] - values_SP[chosen, inside]
    share_P = w_P / w_P.sum()
    gain = float(share_P @ saved_P)
    several = prompts / (prompts - 1) if prompts > 1 else float("inf")
    error = float(np.sqrt(several * (share_P**2 @ (saved_P - gain) ** 2))) if prompts > 1 else float("inf")
    clear = errors == 0 or (gain > errors * error and gain >= least)
    return KeepDecision(best if clear else 0, best, gain, error, looks - 1, prompts)


def _lowest(values_SP: Floats, weights_P: Floats) -> int:
    """Return the look with the lowest mean, the first of equal ones."""
    return int((values_SP @ weights_P / weights_P.sum()).round(12).argmin())
