"""Ranked responses as examples of a training: groups of two or more, tokenised once, every pair of a group compared.

    L = mean over groups of  mean over pairs i above j of softplus(-(r_i - r_j))

A pair is a group of two. All pairs of a group share its one forward pass, and a group counts once however long it is.

Shapes: N responses of a batch, L tokens, P pairs.

Reference: DMoERM (arXiv 2403.01197), whose released code takes the mean over the pairs of unequal rank of one query.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import final

import torch
from torch import Tensor

from facetrm.backbone.transformer import TransformerEncoder
from facetrm.core.errors import FitError
from facetrm.data.records import Preference
from facetrm.fit.finetune.rows import RowReader, TokenizedRow, padded_rows


@final
class RankedRows(torch.utils.data.Dataset[tuple[TokenizedRow, ...]]):
    """One example per preference: its responses as the trunk reads them, best first.

    Args:
        encoder: tokenises, so that training reads what scoring will read; its truncation holds.
        preferences: of two or more responses each.

    Raises:
        FitError: no preference.
        BackboneError: a conversation that cannot be read or does not fit; it names the row.
    """

    def __init__(self, encoder: TransformerEncoder, preferences: Sequence[Preference]) -> None:
        if not preferences:
            raise FitError("no preference to learn from", place="ranked rows", fix="give at least one")
        read = RowReader(encoder)
        self._groups = [
            tuple(read((*p.prompt, answer), f"preference {p.id or n}") for answer in p.responses)
            for n, p in enumerate(preferences)
        ]
        self.tokens, self.truncated = read.tokens, read.truncated

    def __len__(self) -> int:
        return len(self._groups)

    def __getitem__(self, index: int) -> tuple[TokenizedRow, ...]:
        return self._groups[index]


@dataclass(frozen=True)
class RankedCollator:
    """Groups to one batch, padded on the right with ``pad``."""

    pad: int

    def __call__(self, groups: Sequence[tuple[TokenizedRow, ...]]) -> dict[str, Tensor]:
        """Return the arguments of :meth:`~facetrm.fit.finetune.model.TrunkWithHeads.forward` for ``groups``."""
        rows = [row for group in groups for row in group]
        better, worse, weight = ranked_pairs([len(group) for group in groups])
        return {
            **padded_rows(rows, pad=self.pad),
            "labels_NK": torch.empty(0, 0),
            "better_P": torch.tensor(better),
            "worse_P": torch.tensor(worse),
            "weight_P": torch.tensor(weight),
        }


def ranked_pairs(sizes: Sequence[int]) -> tuple[list[int], list[int], list[float]]:
    """Return the pairs of groups that stand one after the other, best first: better row, worse row, weight.

    The weights of a group sum to 1.

    Args:
        sizes: how many responses each group has.
    """
    better, worse, weight, start = [], [], [], 0
    for size in sizes:
        for i, j in combinations(range(start, start + size), 2):
            better.append(i)
            worse.append(j)
            weight.append(2.0 / (size * (size - 1)))
        start += size
    return better, worse, weight
