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

import numpy as np
import torch
from torch import Tensor

from facetrm.backbone.batching import pad_right
from facetrm.backbone.transformer import TransformerEncoder
from facetrm.core.errors import BackboneError, FitError
from facetrm.data.records import Conversation, Preference
from facetrm.fit.finetune_data import Read, feature_span


@final
class RankedRows(torch.utils.data.Dataset[tuple[Read, ...]]):
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
        self.tokens = self.truncated = 0
        self._groups = [
            tuple(self._read(encoder, (*p.prompt, answer), f"preference {p.id or n}") for answer in p.responses)
            for n, p in enumerate(preferences)
        ]

    def __len__(self) -> int:
        return len(self._groups)

    def __getitem__(self, index: int) -> tuple[Read, ...]:
        return self._groups[index]

    def _read(self, encoder: TransformerEncoder, messages: Conversation, place: str) -> Read:
        try:
            row = encoder.tokenize(messages)
        except BackboneError as exc:
            raise exc.at(place) from None
        self.truncated += row.truncated
        self.tokens += len(row.ids)
        start, stop = feature_span(row, kind=encoder.kind)
        return Read(np.asarray(row.ids, dtype=np.int32), np.asarray(row.types, dtype=np.int8), start, stop)


@dataclass(frozen=True)
class RankedCollator:
    """Groups to one batch, padded on the right with ``pad``."""

    pad: int

    def __call__(self, groups: Sequence[tuple[Read, ...]]) -> dict[str, Tensor]:
        """Return the arguments of :meth:`~facetrm.fit.finetune_model.TrunkWithHeads.forward` for ``groups``."""
        rows = [row for group in groups for row in group]
        ids_NL, mask_NL = pad_right([row.ids.tolist() for row in rows], pad=self.pad)
        better, worse, weight = ranked_pairs([len(group) for group in groups])
        batch = {
            "input_ids": ids_NL,
            "attention_mask": mask_NL,
            "start_N": torch.tensor([row.start for row in rows]),
            "stop_N": torch.tensor([row.stop for row in rows]),
            "labels_NK": torch.empty(0, 0),
            "better_P": torch.tensor(better),
            "worse_P": torch.tensor(worse),
            "weight_P": torch.tensor(weight),
        }
        if any(len(row.types) for row in rows):
            batch["token_type_ids"] = pad_right([row.types.tolist() for row in rows], pad=0)[0]
        return batch


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
