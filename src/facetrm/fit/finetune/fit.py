"""Stage 1, fine-tuned: Transformers' ``Trainer`` over trunk and heads, resumed where it was killed.

See :mod:`facetrm.fit.trainer` for the folder.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import torch
from transformers import TrainingArguments

from facetrm.backbone.lora.adapters import add_adapter
from facetrm.backbone.transformer import TransformerEncoder
from facetrm.core.fingerprint import fingerprint
from facetrm.core.progress import log
from facetrm.fit.finetune.config import FineTuneConfig, TrainerSection
from facetrm.fit.finetune.model import TrainableHeads, TrunkWithHeads, without_dropout
from facetrm.fit.finetune.rows import Collator, MixedRows
from facetrm.fit.trainer import (
    TRAINED,
    TrainingCost,
    claim,
    question_of,
    read_spent,
    read_trained,
    run_trainer,
    training_arguments,
    write_trained,
)


def fine_tune(
    encoder: TransformerEncoder,
    heads: TrainableHeads,
    rows: MixedRows,
    *,
    config: FineTuneConfig,
    folder: Path,
    data: str,
) -> TrainingCost:
    """Train the encoder's trunk (or a new adapter on it) and ``heads`` in place, and write them to ``folder``.

    A folder that holds the end of the same training is read; one that holds a part of it goes on from the last whole
    checkpoint. The encoder must be as it was loaded, without an adapter.

    Args:
        encoder: its trunk is trained.
        heads: where they start.
        rows: what is learned from.
        config: settings.
        folder: folder of checkpoints and the result.
        data: fingerprint of the rows.

    Returns:
        What was spent. Where training was spread over processes, the tensors to use are those of :func:`load_trained`.

    Raises:
        FitError: the folder holds another training, or the loss is not finite.
        ConfigError: arguments that the Trainer refuses.
    """
    start = {"encoder": encoder.fingerprint, "heads": _digest(heads), "data": data}
    arguments = training_arguments(_seeded(config), folder, device=encoder.model.device)
    model = _prepare(encoder, heads, config)
    if arguments.should_save:
        claim(folder, question_of(config) | start)
    if (folder / TRAINED).exists():
        load_trained(encoder, heads, config=config, folder=folder)
        return read_spent(folder, rows)
    collator = Collator(encoder.pad, len(heads.bias_K))
    with nullcontext() if config.dropout else without_dropout(encoder.model):
        trainer = run_trainer(model, arguments=arguments, rows=rows, collator=collator, folder=folder)
    write_trained(trainer, folder)
    # Fused optimizers change tensors without saying so, and the encoder's name is remembered until one says so.
    torch.autograd.graph.increment_version(list(encoder.model.parameters()))
    encoder.model.eval()
    return read_spent(folder, rows)


def load_trained(encoder: TransformerEncoder, heads: TrainableHeads, *, config: FineTuneConfig, folder: Path) -> None:
    """Read the end of a training into the trunk of ``encoder`` and into ``heads``, bit for bit.

    Args:
        encoder: the encoder that training started from, loaded again (the adapter is made here), or the trained one.
        heads: heads of the same sizes.
        config: settings of the training.
        folder: as :func:`fine_tune` wrote it.

    Raises:
        FitError: no end of a training, or tensors that are missing, unexpected or of another shape.
    """
    read_trained(_prepare(encoder, heads, config), folder)
    encoder.model.eval()


def _prepare(encoder: TransformerEncoder, heads: TrainableHeads, config: FineTuneConfig) -> TrunkWithHeads:
    """Return trunk and heads as one module, with the adapter in place and what is not trained frozen."""
    trunk = encoder.model
    if config.method == "full":
        trunk.requires_grad_(True)
        if trunk.dtype != torch.float32:
            log("fine-tune", warning=f"weights of {trunk.dtype} lose small updates: set backbone.dtype: float32")
        for name, parameter in trunk.named_parameters():
            if name.startswith("pooler."):  # no feature passes through it
                parameter.requires_grad_(False)
    elif not getattr(trunk, "peft_config", None):
        add_adapter(trunk, config.lora, seed=config.seed)
    heads.to(trunk.device)
    return TrunkWithHeads(
        trunk,
        heads,
        regression=config.regression,
        preference=config.preference,
        pooled=encoder.kind == "encoder",
    )


def _seeded(config: FineTuneConfig) -> TrainerSection:
    """Return the Trainer's section with a seed that follows ``config.seed``: at 0 it is Transformers' own default."""
    if config.trainer.model_dump().get("seed") is not None:
        return config.trainer
    return config.trainer.model_copy(update={"seed": (TrainingArguments.seed + config.seed) % 2**32})


def _digest(heads: TrainableHeads) -> str:
    return fingerprint({name: tensor.tolist() for name, tensor in heads.state_dict().items()})
