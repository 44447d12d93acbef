"""Find which rows share a prompt from their features. Bootstrap intervals resample whole prompts.

Shapes: N rows, D hidden size.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from facetrm.backbone.encoder import Features

_SAME: Final = 1e-3  # relative distance below which two vectors are one prompt; last digits can differ


def prompt_groups(features: Features) -> list[str]:
    """Return a prompt key for each row, [N]. Rows whose prompt vectors agree up to rounding get the same key.

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
