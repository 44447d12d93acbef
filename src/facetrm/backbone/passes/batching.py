"""Batches of similar length under a budget of padded tokens: one path for training, evaluation and serving."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def token_batches(lengths: Sequence[int], *, token_budget: int) -> list[list[int]]:
    """Return row numbers in batches, longest rows first.

        rows in the batch * longest row of the batch <= token_budget

    A row longer than the budget stands alone. The batches depend on ``lengths`` and the budget only.

    Args:
        lengths: tokens of each row.
        token_budget: the most tokens, padding included, of one batch.

    Returns:
        Lists of indices into ``lengths``; every index occurs once.
    """
    batches: list[list[int]] = []
    longest = 0
    for row in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batches and longest * (len(batches[-1]) + 1) <= token_budget:
            batches[-1].append(row)
        else:
            batches.append([row])
            longest = lengths[row]
    return batches


def pad_right(rows: Sequence[Sequence[int]], *, pad: int) -> tuple[Tensor, Tensor]:
    """Return ``ids_NL`` (int64) padded on the right with ``pad``, and ``mask_NL`` (int64, 1 where a row has a token).

    The mask comes from the lengths, never from the id, so ``pad`` may be a token that the rows use.
    """
    width = max(len(row) for row in rows)
    ids_NL = torch.full((len(rows), width), pad, dtype=torch.int64)
    mask_NL = torch.zeros((len(rows), width), dtype=torch.int64)
    for n, row in enumerate(rows):
        ids_NL[n, : len(row)] = torch.tensor(row, dtype=torch.int64)
        mask_NL[n, : len(row)] = 1
    return ids_NL, mask_NL
