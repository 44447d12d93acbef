"""Model folders: load one, whatever its backbone."""

from __future__ import annotations

from pathlib import Path

from facetrm.backbone.encoder import Encoder
from facetrm.backbone.engine import Mode
from facetrm.backbone.transformer import BackboneConfig, load_encoder
from facetrm.core.config import parse_config
from facetrm.core.errors import ModelError
from facetrm.model.reward_model import RewardModel


def load_model(
    folder: str | Path, *, device: str = "auto", mode: Mode | None = None, token_budget: int | None = None
) -> RewardModel:
    """Read a model folder that ``RewardModel.save`` or a run wrote.

    Args:
        folder: the model's, or a run's (its ``model`` folder is taken).
        device: where the backbone computes: ``auto``, ``cpu``, ``cuda``.
        mode: ``exact`` (one conversation a pass) or ``fast``; None keeps what the model was fitted with.
        token_budget: tokens of one pass; None keeps what the model was fitted with.

    Returns:
        The model; its scores are those of the model that was saved.

    Raises:
        ModelError: no model, or a broken or changed one.
        BackboneError: its backbone is not to be had.
    """
    folder = Path(folder)
    if not folder.exists():
        raise ModelError("no such model folder", place=folder, fix="give the folder that 'facetrm run' wrote")
    if not (folder / "manifest.json").exists() and (folder / "model" / "manifest.json").exists():
        folder = folder / "model"

    def make(spec: dict[str, object]) -> Encoder:
        config = parse_config(BackboneConfig, dict(spec), place=folder / "manifest.json")
        changes: dict[str, object] = {"device": device, **({} if mode is None else {"mode": mode})}
        if token_budget is not None:
            changes["token_budget"] = token_budget
        return load_encoder(config.model_copy(update=changes))

    return RewardModel.load(folder, load_encoder=make)
