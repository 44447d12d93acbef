"""Fine-tune a trunk and its heads with Transformers' ``Trainer``. A killed training can be resumed.

:mod:`facetrm.fit.trainer` describes the files in the folder.
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
    """Train the encoder's trunk (or a new adapter on it) and the heads in place, and write them to a folder.

    If the folder holds the result of the same training, it is loaded. If it holds a part of the training, the training
    resumes from the last complete checkpoint. The encoder must be as it was loaded, without an adapter.

    Args:
        encoder: the encoder whose trunk is trained.
        heads: the heads to train.
        rows: the training examples.
        config: settings of the training.
        folder: folder for checkpoints and the result.
        data: fingerprint of the examples.

    Returns:
        The cost of the training. After training with several processes, use the tensors from :func:`load_trained`.

    Raises:
        FitError: the folder holds another training, a batch does not fit in memory, or the loss is not finite.
        ConfigError: the Trainer does not accept its arguments.
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
    # Fused optimizers change tensors without raising their version, on which the cached fingerprint depends.
    torch.autograd.graph.increment_version(list(encoder.model.parameters()))
    encoder.model.eval()
    return read_spent(folder, rows)


def load_trained(encoder: TransformerEncoder, heads: TrainableHeads, *, config: FineTuneConfig, folder: Path) -> None:
    """Load the result of a training into the trunk of an encoder and into heads, bit for bit.

    Args:
        encoder: the encoder that training started from, loaded again (an adapter is added here), or the trained one.
        heads: heads with the same shapes as in training.
        config: settings of the training.
        folder: folder that :func:`fine_tune` wrote to.

    Raises:
        FitError: the folder has no result, or a tensor is missing, unexpected or has another shape.
    """
    read_trained(_prepare(encoder, heads, config), folder)
    encoder.model.eval()


def _prepare(encoder: TransformerEncoder, heads: TrainableHeads, config: FineTuneConfig) -> TrunkWithHeads:
    """Return trunk and heads as one module, with an adapter if configured and all other parameters frozen."""
    trunk = encoder.model
    if config.method == "full":
        trunk.requires_grad_(True)
        if trunk.dtype != torch.float32:
            log("fine-tune", warning=f"weights in {trunk.dtype} lose small updates; set backbone.dtype: float32")
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
