"""Load any trained rival from its folder."""

from __future__ import annotations

from pathlib import Path

from facetrm.backbone.config import Mode
from facetrm.baselines.trained.implicit import load_implicit
from facetrm.baselines.trained.pairwise import load_pairwise
from facetrm.baselines.trained.rival_folder import read_manifest, rival_folder
from facetrm.model.output import Scorer


def load_rival(folder: str | Path, *, device: str = "auto", token_budget: int = 4096, mode: Mode = "fast") -> Scorer:
    """Load a rival that a recipe trained: a pairwise model, or the implicit reward of a policy.

    A Bradley-Terry model is an ordinary reward model, which :func:`facetrm.load_model` loads.

    Args:
        folder: Folder of the model, or of the run.
        device: Device of the model.
        token_budget: Maximum number of tokens of one pass.
        mode: ``fast`` reads several rows in one pass; ``exact`` reads one.

    Returns:
        A :class:`~facetrm.baselines.trained.pairwise.PairwiseScorer` or an
        :class:`~facetrm.baselines.trained.implicit.ImplicitRewardScorer`.

    Raises:
        ModelError: The folder holds no rival, or its files were changed.
        BackboneError: A language model cannot be loaded.
    """
    place = rival_folder(folder)
    load = load_pairwise if read_manifest(place).kind == "pairwise" else load_implicit
    return load(place, device=device, token_budget=token_budget, mode=mode)
