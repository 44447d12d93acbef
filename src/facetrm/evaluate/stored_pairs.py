"""Training pairs whose features are stored on disk and read block by block.

Shapes: N pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import final

import torch
from torch import Tensor

from facetrm.backbone.encoder import Features
from facetrm.data.records import Conversation, Preference
from facetrm.evaluate.compare import Pairs
from facetrm.fit.blocks import FeatureStream, block_rows


@final
@dataclass(frozen=True)
class StoredPairs:
    """N pairs of texts. Their features are read from the stream each time they are needed.

    Attributes:
        preferences: the N pairs.
        stream: yields the features of conversations block by block.
        hidden_size: size D of a feature vector.
        groups: prompt key of each pair, [N].
        sources: source of each pair, [N].
    """

    preferences: Sequence[Preference]
    stream: FeatureStream
    hidden_size: int
    groups: list[str]
    sources: list[str]

    @staticmethod
    def of(preferences: Sequence[Preference], stream: FeatureStream, *, hidden_size: int) -> StoredPairs:
        """Return the pairs of ``preferences``.

        Args:
            preferences: the N pairs.
            stream: yields the features of conversations block by block.
            hidden_size: size D of a feature vector.
        """
        groups, sources = [p.prompt_key for p in preferences], [p.source for p in preferences]
        return StoredPairs(preferences, stream, hidden_size, groups, sources)

    def __len__(self) -> int:
        return len(self.preferences)

    def blocks(self) -> Iterator[tuple[Features, Features]]:
        """Yield the features of the chosen and the rejected answers, one block at a time, in order."""
        # the two answers of a pair follow each other, as a run stores them, so each shard is read once
        sides: Iterator[Conversation] = chain.from_iterable((p.chosen, p.rejected) for p in self.preferences)
        for both in self.stream(sides, rows=2 * block_rows(self.hidden_size)):
            yield (
                both.select(torch.arange(0, len(both), 2)),
                both.select(torch.arange(1, len(both), 2)),
            )

    def select(self, rows: Tensor) -> StoredPairs:
        """Return the pairs with the indices ``rows`` (int64), in that order; no features are read."""
        index = rows.tolist()
        return StoredPairs(
            [self.preferences[n] for n in index],
            self.stream,
            self.hidden_size,
            [self.groups[n] for n in index],
            [self.sources[n] for n in index],
        )

    def prompts(self) -> Tensor:
        """Return the prompt vectors of all pairs, [N, D], in memory."""
        return torch.cat([chosen.prompt_ND for chosen, _ in self.blocks()])

    def whole(self) -> Pairs:
        """Return the pairs with all their features in memory."""
        sides = list(self.blocks()) or [(Features.empty(self.hidden_size), Features.empty(self.hidden_size))]
        chosen, rejected = (Features.concat(side) for side in zip(*sides, strict=True))
        return Pairs(chosen, rejected, self.groups, self.sources)
