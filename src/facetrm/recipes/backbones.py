"""The backbone of a run that trains its own: a small decoder, trained on the embedded world."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from facetrm.backbone.tiny import TinyShape, tiny_decoder
from facetrm.backbone.transformer import BackboneConfig, TransformerEncoder, load_encoder
from facetrm.core.config import Section
from facetrm.core.errors import BackboneError
from facetrm.core.files import read_json, write_json
from facetrm.core.fingerprint import fingerprint
from facetrm.core.progress import log
from facetrm.data.world import World, vocabulary
from facetrm.fit.backbone import BackboneTraining, train_backbone


class TinyBackbone(Section):
    """A small decoder for the embedded world.

    Attributes:
        shape: Size of the decoder.
        threads: Number of threads of the training. With one thread, the result does not depend on the number of
            processors; more threads help little with matrices of this size, and slow down a busy machine.
        training: Settings of its training.
        token_budget: Maximum number of tokens per forward pass.
    """

    shape: TinyShape = TinyShape()
    threads: int = Field(default=1, ge=1)
    training: BackboneTraining = BackboneTraining()
    token_budget: int = Field(default=8192, ge=1)


def train_tiny(
    section: TinyBackbone, world: World, folder: Path, *, seed: int
) -> tuple[TransformerEncoder, dict[str, Any]]:
    """Train a small decoder on the world's backbone part, save it to ``folder`` and load it from there.

    A backbone that was trained there with the same settings is reused. Every source rates the rows of the backbone's
    own prompts, unlike those of the heads.

    Args:
        section: Size and training of the decoder.
        world: World whose prompts it reads.
        folder: Folder of the backbone.
        seed: Random seed of the weights and the training.

    Returns:
        The encoder, and the cost and the final figures of the training.

    Raises:
        BackboneError: The folder has a backbone that was trained with other settings, or its record is broken.
    """
    key = fingerprint([section.model_dump(mode="json"), world.config.model_dump(mode="json"), seed])
    config = BackboneConfig(path=str(folder), device="cpu", dtype="float32", token_budget=section.token_budget)
    record = folder.with_suffix(".json")
    if record.exists():
        known = read_json(record, BackboneError, fix="delete it to train again")
        if not isinstance(known, dict) or not isinstance(known.get("training"), dict):
            raise BackboneError("not a record of a training", place=record, fix="delete it to train again")
        if known.get("key") != key:
            raise BackboneError(
                "holds a backbone that was trained with other settings", place=folder, fix="give another run folder"
            )
        log("backbone", found=str(folder))
        return load_encoder(config), dict(known["training"])
    model, tokenizer = tiny_decoder(vocabulary(), shape=section.shape, seed=seed)
    encoder = TransformerEncoder(model, tokenizer, config=config)
    with _threads(section.threads):
        spent = train_backbone(
            model,
            encoder,
            lessons=(r for i in count() for r in world.lessons(1, start=i)),
            ratings=(r for i in count() for r in world.ratings(1, part="backbone", start=i, every_rater=True)),
            preferences=(p for i in count() for p in world.preferences(1, part="backbone", start=i)),
            objectives=world.objectives,
            config=section.training,
            seed=seed,
        )
    encoder.save_backbone(folder, replace=True)
    parameters = sum(p.numel() for p in model.parameters())
    training = {k: None if v != v else v for k, v in asdict(spent).items()} | {"parameters": parameters}
    write_json(record, {"key": key, "training": training})
    log("backbone", **training)
    return load_encoder(config), training


@contextmanager
def _threads(wanted: int) -> Iterator[None]:
    """Set the number of PyTorch's threads inside the context."""
    before = torch.get_num_threads()
    torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(before)
