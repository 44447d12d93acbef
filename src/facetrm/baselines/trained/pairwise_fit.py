"""Train a causal language model to answer A or B, with Transformers' ``Trainer``.

    loss = -log softmax(logits where the assistant's answer begins)[token of the better answer]

over the whole vocabulary; no other token has a loss. For each pair, a seeded draw decides which answer is called A.

Reference: Dong et al., RLHF Workflow (arXiv 2405.07863).

Shapes: N rows, L tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor
from transformers import Trainer, TrainingArguments

from facetrm.backbone.causal import pad_left
from facetrm.backbone.headed import HeadedModel
from facetrm.baselines.trained.pairwise import PairReader
from facetrm.baselines.trained.training import RivalTraining, prepare_training, run_training, trainer_arguments
from facetrm.core.errors import BackboneError
from facetrm.data.records import Preference
from facetrm.fit.finetune.model import without_dropout
from facetrm.fit.trainer import TrainingCost


@dataclass(frozen=True)
class PairExample:
    """A tokenised question with the token that answers it.

    Attributes:
        ids: Token ids of the question.
        target: Token id of the letter of the better answer.
        truncated: Whether part of the question was cut.
    """

    ids: tuple[int, ...]
    target: int
    truncated: bool


@final
class PairExamples(torch.utils.data.Dataset[PairExample]):
    """The training examples of a pairwise model.

    Args:
        reader: Reader of the model.
        preferences: Pairs, the better answer first.
        seed: Random seed of the draws that decide which answer is called A.

    Raises:
        BackboneError: A pair cannot be tokenised or is too long.
    """

    def __init__(self, reader: PairReader, preferences: Sequence[Preference], *, seed: int) -> None:
        swapped = np.random.default_rng(seed).random(len(preferences)) < 0.5
        self._rows: list[PairExample] = []
        for number, (pair, swap) in enumerate(zip(preferences, swapped.tolist(), strict=True)):
            answers = (pair.responses[0], pair.responses[-1])
            a, b = reversed(answers) if swap else answers
            try:
                question = reader(pair.prompt, a, b)
            except BackboneError as exc:
                raise exc.at(f"pair {pair.id or number}") from None
            self._rows.append(PairExample(question.ids, reader.tokens[int(swap)], question.truncated))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> PairExample:
        return self._rows[index]

    @property
    def tokens(self) -> int:
        """The number of tokens of all examples."""
        return sum(len(row.ids) for row in self._rows)

    @property
    def truncated(self) -> int:
        """The number of truncated examples."""
        return sum(row.truncated for row in self._rows)


@final
class AnswerTrainer(Trainer):
    """A Trainer whose loss is the negative log-probability of one token after each row."""

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Return the mean loss of one batch.

        Args:
            model: as in ``Trainer.compute_loss``.
            inputs: the batch of a :class:`PairCollator`.
            return_outputs: as in ``Trainer.compute_loss``.
            num_items_in_batch: not used: every row has one token with a loss.
        """
        given = {name: value for name, value in inputs.items() if name != "target_N"}
        read = model(**given, use_cache=False, logits_to_keep=1)
        loss = torch.nn.functional.cross_entropy(read.logits[:, -1].float(), inputs["target_N"])
        return (loss, read) if return_outputs else loss


@dataclass(frozen=True)
class PairCollator:
    """A function that makes one padded batch.

    Attributes:
        pad: Token id of the padding.
    """

    pad: int

    def __call__(self, rows: Sequence[PairExample]) -> dict[str, Tensor]:
        """Return the inputs of the model for ``rows``, padded on the left, and ``target_N``, the token after each."""
        ids_NL, mask_NL = pad_left([row.ids for row in rows], pad=self.pad)
        place_NL = (mask_NL.cumsum(dim=1) - 1).clamp(min=0)
        target_N = torch.tensor([row.target for row in rows])
        return {"input_ids": ids_NL, "attention_mask": mask_NL, "position_ids": place_NL, "target_N": target_N}


def train_pairwise(
    headed: HeadedModel, preferences: Sequence[Preference], *, training: RivalTraining, folder: Path
) -> TrainingCost:
    """Train a causal language model in place to say which of two answers is better.

    Args:
        headed: Model with a language-model head.
        preferences: Training pairs.
        training: Settings of the training.
        folder: Folder of the checkpoints.

    Raises:
        BackboneError: A pair cannot be tokenised or is too long.
        ConfigError: The Trainer does not accept its arguments.
        FitError: A batch does not fit in memory, or the loss is not finite.
    """
    examples = PairExamples(PairReader(headed.encoder), preferences, seed=training.seed)
    prepare_training(headed, training)
    given = trainer_arguments(training, folder, device=headed.encoder.model.device, label_names=[])

    def make() -> Any:
        return AnswerTrainer(
            model=headed.model,
            args=TrainingArguments(**given),
            train_dataset=examples,
            data_collator=PairCollator(headed.encoder.pad),
        )

    with without_dropout(headed.encoder.model):
        spent = run_training(make, folder, tokens=examples.tokens, truncated=examples.truncated)
    headed.model.eval()
    return spent
