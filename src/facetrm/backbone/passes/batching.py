"""Batches of rows of similar length within a budget of padded tokens, for training, evaluation and serving."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from facetrm.backbone.text.chat import Ids, Tokenized


def token_batches(lengths: Sequence[int], *, token_budget: int) -> list[list[int]]:
    """Group row indices into batches, longest rows first.

        rows in the batch * longest row of the batch <= token_budget

    A row longer than the budget gets its own batch. The batches depend only on ``lengths`` and the budget.

    Args:
        lengths: number of tokens in each row.
        token_budget: maximum tokens per batch, including padding.

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
    """Pad rows on the right to the length L of the longest one.

    Args:
        rows: token ids of N rows.
        pad: padding token id. It may also occur in the rows, because the mask is built from their lengths.

    Returns:
        ``ids_NL`` (int64), and the attention mask ``mask_NL`` (int64; 1 for tokens, 0 for padding).
    """
    width = max(len(row) for row in rows)
    ids_NL = torch.full((len(rows), width), pad, dtype=torch.int64)
    mask_NL = torch.zeros((len(rows), width), dtype=torch.int64)
    for n, row in enumerate(rows):
        ids_NL[n, : len(row)] = torch.tensor(row, dtype=torch.int64)
        mask_NL[n, : len(row)] = 1
    return ids_NL, mask_NL


def first_with_prompt(rows: Sequence[Tokenized]) -> list[int]:
    """Return, for each row, the index of the first row with the same prompt.

    A prompt may be read in several passes with different rounding; the gate must weigh all its answers equally.
    """
    first: dict[Ids, int] = {}
    return [first.setdefault(row.ids[: row.prompt_end + 1], n) for n, row in enumerate(rows)]
