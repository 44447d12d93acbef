"""Train a Bradley-Terry reward model and a DPO policy with TRL, on the token ids of the one text path.

    reward    loss = -log sigmoid(r(x, chosen) - r(x, rejected))
    policy    h = log-ratio of chosen minus log-ratio of rejected, each against the policy before training
              sigmoid  -log sigmoid(beta h)      hinge  relu(1 - beta h)      ipo  (h' - 1 / (2 beta))^2

with h' as h, but of the mean per token. TRL's own tokenisation is not used: it would drop rows that are too long, and
another text path would find other prompts. The reference log-probabilities are computed before the first step, by the
model itself, so no second model is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from datasets import Dataset

from facetrm.backbone.headed import HeadedModel, free_padding
from facetrm.backbone.text.chat import Tokenized
from facetrm.baselines.trained.training import RivalTraining, prepare_training, run_training, trainer_arguments
from facetrm.core.errors import BackboneError, ConfigError
from facetrm.data.records import Preference
from facetrm.fit.trainer import TrainingCost

PolicyLoss = Literal["sigmoid", "hinge", "ipo"]
TokenizedPair = tuple[Tokenized, Tokenized]


def trl_library() -> Any:
    """Return the library TRL, which is an optional requirement.

    Raises:
        ConfigError: TRL is not installed.
    """
    try:
        import trl  # takes seconds to import
    except ModuleNotFoundError:
        raise ConfigError(
            "this recipe trains with TRL, which is not installed", place="recipe", fix='pip install "facetrm[rl]"'
        ) from None
    return trl


def tokenized_pairs(headed: HeadedModel, preferences: Sequence[Preference]) -> list[TokenizedPair]:
    """Return the tokenised chosen and rejected conversation of each pair.

    Args:
        headed: Model whose text path is used.
        preferences: Pairs.

    Raises:
        BackboneError: A conversation cannot be tokenised or is too long.
    """
    found = []
    for number, pair in enumerate(preferences):
        try:
            found.append((headed.encoder.tokenize(pair.chosen), headed.encoder.tokenize(pair.rejected)))
        except BackboneError as exc:
            raise exc.at(f"pair {pair.id or number}") from None
    return found


def train_reward(
    headed: HeadedModel, pairs: Sequence[TokenizedPair], *, training: RivalTraining, folder: Path
) -> tuple[TrainingCost, int]:
    """Train a reward model in place with TRL's ``RewardTrainer``.

    Args:
        headed: Model with a reward head.
        pairs: Tokenised training pairs.
        training: Settings of the training.
        folder: Folder of the checkpoints.

    Returns:
        The cost of the training, and the id of the padding token, which ends no row.

    Raises:
        ConfigError: TRL is not installed, or does not accept its arguments.
        FitError: A batch does not fit in memory, or the loss is not finite.
    """
    trl, tokenizer = trl_library(), headed.encoder.tokenizer
    prepare_training(headed, training)
    pad = free_padding(tokenizer, [row.ids[-1] for pair in pairs for row in pair])
    tokenizer.pad_token = str(tokenizer.convert_ids_to_tokens(pad))
    rows = Dataset.from_dict(
        {"chosen_ids": [list(a.ids) for a, _ in pairs], "rejected_ids": [list(b.ids) for _, b in pairs]}
    )
    device = headed.encoder.model.device

    def make() -> Any:
        given = trainer_arguments(training, folder, device=device, max_length=None)
        return trl.RewardTrainer(
            model=headed.model, args=trl.RewardConfig(**given), train_dataset=rows, processing_class=tokenizer
        )

    spent = run_training(make, folder, **_counts(pairs))
    headed.model.eval()
    return spent, pad


def train_policy(
    headed: HeadedModel,
    pairs: Sequence[TokenizedPair],
    *,
    loss: PolicyLoss,
    beta: float,
    training: RivalTraining,
    folder: Path,
) -> TrainingCost:
    """Train a policy in place with TRL's ``DPOTrainer``.

    Args:
        headed: Model with a language-model head; as it is now, it is the reference.
        pairs: Tokenised training pairs.
        loss: Loss of the training.
        beta: Strength of the tie to the reference.
        training: Settings of the training.
        folder: Folder of the checkpoints.

    Raises:
        ConfigError: TRL is not installed, or does not accept its arguments.
        FitError: A batch does not fit in memory, or the loss is not finite.
    """
    trl = trl_library()
    prepare_training(headed, training)
    rows = Dataset.from_list([policy_row(chosen, rejected) for chosen, rejected in pairs])
    device = headed.encoder.model.device

    class _TokenizedTrainer(trl.DPOTrainer):  # type: ignore[misc, name-defined]  # TRL is loaded here
        """TRL's trainer on rows that are tokenised already."""

        def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
            return dataset

    def make() -> Any:
        given = trainer_arguments(
            training,
            folder,
            device=device,
            max_length=None,
            loss_type=[loss],
            beta=beta,
            precompute_ref_log_probs=True,
        )
        return _TokenizedTrainer(
            model=headed.model,
            args=trl.DPOConfig(**given),
            train_dataset=rows,
            processing_class=headed.encoder.tokenizer,
        )

    spent = run_training(make, folder, **_counts(pairs))
    headed.model.eval()
    return spent


def policy_row(chosen: Tokenized, rejected: Tokenized) -> dict[str, list[int]]:
    """Return the columns that TRL's policy trainer reads: the shared prompt, and each response.

    The shared prompt ends where the earlier of the two responses begins. If truncation leaves the two answers with
    different prompts, only the tokens that both begin with are the prompt, and the rest of each counts as its response.

    Args:
        chosen: Conversation with the better answer.
        rejected: Conversation with the worse answer.
    """
    start = min(chosen.response_start, rejected.response_start)
    same = zip(chosen.ids[:start], rejected.ids[:start], strict=True)
    shared = next((n for n, (a, b) in enumerate(same) if a != b), start)
    return {
        "prompt_ids": list(chosen.ids[:shared]),
        "chosen_ids": list(chosen.ids[shared:]),
        "rejected_ids": list(rejected.ids[shared:]),
    }


def _counts(pairs: Sequence[TokenizedPair]) -> dict[str, int]:
    rows = [row for pair in pairs for row in pair]
    return {"tokens": sum(len(row.ids) for row in rows), "truncated": sum(row.truncated for row in rows)}
