"""Training examples of fine-tuning: rated rows and preference pairs, tokenised once and mixed in a fixed ratio.

An example holds ``ratings`` rated rows and ``pairs`` pairs (see the settings), so every batch has the same ratio. One
epoch uses every row of the longer list once and repeats the shorter list, with a new random order in every repetition.
The Trainer then shuffles the examples.

Shapes: N rows of a batch (rated rows, then chosen, then rejected answers), L tokens, K objectives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facetrm.backbone.passes.batching import pad_right
from facetrm.backbone.text.chat import Tokenized
from facetrm.backbone.transformer import TransformerEncoder
from facetrm.core.errors import BackboneError, FitError
from facetrm.core.progress import log
from facetrm.data.objectives import Objective, label_matrix
from facetrm.data.records import Conversation, Preference, Rating
from facetrm.fit.finetune.config import FineTuneConfig
from facetrm.fit.rankings import ranking_shares


@dataclass(frozen=True)
class TokenizedRow:
    """One tokenised conversation.

    Attributes:
        ids: token ids.
        types: token types; empty if the tokenizer has none.
        start: first of the tokens whose mean is the feature of the row.
        stop: end of these tokens, exclusive.
    """

    ids: NDArray[np.int32]
    types: NDArray[np.int8]
    start: int
    stop: int


@final
class RowReader:
    """Tokenises conversations as in scoring, and counts tokens and truncated conversations.

    Args:
        encoder: the encoder whose tokenizer and truncation are used.
    """

    def __init__(self, encoder: TransformerEncoder) -> None:
        self._encoder = encoder
        self.tokens = self.truncated = 0

    def __call__(self, messages: Conversation, place: str) -> TokenizedRow:
        """Return the tokenised conversation.

        Args:
            messages: the conversation.
            place: name of the row in error messages.

        Raises:
            BackboneError: the conversation cannot be tokenised or is too long.
        """
        try:
            row = self._encoder.tokenize(messages)
        except BackboneError as exc:
            raise exc.at(place) from None
        self.truncated += row.truncated
        self.tokens += len(row.ids)
        start, stop = feature_span(row, kind=self._encoder.kind)
        return TokenizedRow(np.asarray(row.ids, dtype=np.int32), np.asarray(row.types, dtype=np.int8), start, stop)


@dataclass(frozen=True)
class Example:
    """One training example: a few rated rows and a few pairs.

    Attributes:
        rated: the rated rows.
        labels: labels of each rated row on the [0, 1] scale, [K]; NaN if not rated.
        pairs: chosen and rejected row of each pair.
        weights: weight of each pair; empty if all weights are 1.
    """

    rated: list[TokenizedRow]
    labels: list[NDArray[np.float64]]
    pairs: list[tuple[TokenizedRow, TokenizedRow]]
    weights: list[float] = field(default_factory=list)


@final
class MixedRows(torch.utils.data.Dataset[Example]):
    """The examples of one epoch.

    Args:
        encoder: the encoder whose tokenizer and truncation are used, so that training reads the same tokens as scoring.
        ratings: rated rows; not used if the weight of the regression loss is 0.
        objectives: the K objectives.
        preferences: pairs; not used if the weight of the preference loss is 0. The pairs of one ranking share the
            weight of one pair (:func:`facetrm.fit.rankings.ranking_shares`).
        config: settings of the training.

    Raises:
        FitError: a loss has a weight above 0, but there are no rows for it.
        BackboneError: a conversation cannot be tokenised or is too long.
    """

    def __init__(
        self,
        encoder: TransformerEncoder,
        *,
        ratings: Sequence[Rating],
        objectives: Sequence[Objective],
        preferences: Sequence[Preference],
        config: FineTuneConfig,
    ) -> None:
        wanted = [("regression", "ratings", ratings), ("preference", "preferences", preferences)]
        for loss, name, rows in wanted:
            if getattr(config, loss) > 0 and not rows:
                raise FitError(f"no row among the {name}", place="fine-tuning", fix=f"give some, or set {loss}: 0")
        ratings = ratings if config.regression > 0 else ()
        preferences = preferences if config.preference > 0 else ()
        read = RowReader(encoder)
        self._rated = [read(r.messages, f"rating {r.id or n}") for n, r in enumerate(ratings)]
        self._labels_NK = label_matrix(ratings, objectives)
        self._pairs = [
            (read(p.chosen, f"pair {p.id or n}"), read(p.rejected, f"pair {p.id or n}"))
            for n, p in enumerate(preferences)
        ]
        self._shares_N = ranking_shares(preferences)
        self.tokens, self.truncated = read.tokens, read.truncated
        self._each = (config.ratings, config.pairs)
        self._length = max(-(-len(self._rated) // config.ratings), -(-len(self._pairs) // config.pairs))
        self._rated_order = rounds(len(self._rated), self._length * config.ratings, seed=config.seed)
        self._pair_order = rounds(len(self._pairs), self._length * config.pairs, seed=config.seed + 1)
        log(
            "rows",
            ratings=len(self._rated),
            pairs=len(self._pairs),
            examples=self._length,
            tokens=self.tokens,
            truncated=self.truncated,
        )

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Example:
        ratings, pairs = self._each
        rated = self._rated_order[index * ratings : (index + 1) * ratings]
        paired = self._pair_order[index * pairs : (index + 1) * pairs]
        shares = [] if bool((self._shares_N == 1.0).all()) else [float(self._shares_N[n]) for n in paired]
        return Example(
            [self._rated[n] for n in rated],
            [self._labels_NK[n] for n in rated],
            [self._pairs[n] for n in paired],
            shares,
        )


def feature_span(row: Tokenized, *, kind: str) -> tuple[int, int]:
    """Return the first and the end (exclusive) of the tokens whose mean is the feature of a row.

    Args:
        row: the tokenised conversation.
        kind: ``decoder`` uses the last token; ``encoder`` uses the tokens of the response.
    """
    if kind == "decoder":
        return len(row.ids) - 1, len(row.ids)
    return row.response_start, row.response_start + row.length


def rounds(count: int, slots: int, *, seed: int) -> NDArray[np.int64]:
    """Return the index of the row for each slot, [slots]: all rows in random order, then all in a new order, and so on.

    Args:
        count: number of rows.
        slots: number of slots to fill.
        seed: random seed of the orders.
    """
    if count == 0:
        return np.empty(0, dtype=np.int64)
    draw = np.random.default_rng(seed)
    orders = [draw.permutation(count) for _ in range(-(-slots // count))]
    return np.concatenate([*orders, np.empty(0, dtype=np.int64)])[:slots]


@dataclass(frozen=True)
class Collator:
    """A function that makes one padded batch from examples.

    Attributes:
        pad: token id for padding on the right.
        objectives: number of objectives K.
    """

    pad: int
    objectives: int

    def __call__(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Return the arguments of :meth:`~facetrm.fit.finetune.model.TrunkWithHeads.forward` for ``examples``."""
        rated = [row for example in examples for row in example.rated]
        pairs = [pair for example in examples for pair in example.pairs]
        labels = [row for example in examples for row in example.labels]
        rows = [*rated, *(chosen for chosen, _ in pairs), *(rejected for _, rejected in pairs)]
        labels_NK = np.stack(labels) if labels else np.empty((0, self.objectives))
        batch = {**padded_rows(rows, pad=self.pad), "labels_NK": torch.from_numpy(labels_NK).float()}
        weights = [weight for example in examples for weight in example.weights]
        return {**batch, "weight_P": torch.tensor(weights)} if weights else batch


def padded_rows(rows: Sequence[TokenizedRow], *, pad: int) -> dict[str, Tensor]:
    """Return the trunk's inputs for a batch, and the token span of each row's feature.

    Args:
        rows: N tokenised rows.
        pad: token id for padding on the right.
    """
    ids_NL, mask_NL = pad_right([row.ids.tolist() for row in rows], pad=pad)
    batch = {
        "input_ids": ids_NL,
        "attention_mask": mask_NL,
        "start_N": torch.tensor([row.start for row in rows]),
        "stop_N": torch.tensor([row.stop for row in rows]),
    }
    if any(len(row.types) for row in rows):
        batch["token_type_ids"] = pad_right([row.types.tolist() for row in rows], pad=0)[0]
    return batch
