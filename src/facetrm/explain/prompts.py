"""Which rows share a prompt, told from their features: the unit of every interval.

Shapes: N rows, D hidden size.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from facetrm.backbone.encoder import Features

_SAME: Final = 1e-3  # relative distance under which two vectors are of one prompt: passes differ in the last digits


def prompt_groups(features: Features) -> list[str]:
    """Return a name for the prompt of each row: rows with the same prompt vector, but for rounding, have one name.

    Args:
        features: features of N rows.
    """
    x_ND = features.prompt_ND.double().numpy()
    order = np.argsort(x_ND @ np.random.default_rng(0).standard_normal(x_ND.shape[1]), kind="stable")
    sorted_ND = x_ND[order]
    gap_N = np.linalg.norm(np.diff(sorted_ND, axis=0), axis=1)
    new_N = gap_N > _SAME * np.linalg.norm(sorted_ND[1:], axis=1)
    numbers = np.empty(len(order), dtype=np.int64)
    numbers[order] = np.concatenate([[0], np.cumsum(new_N)])[: len(order)]
    return [f"prompt {number}" for number in numbers.tolist()]
