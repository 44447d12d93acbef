"""Load any rival from its folder, and any scorer that a rival is made of from its name."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from facetrm.backbone.config import Mode
from facetrm.baselines.fitted.parts import LoadedPart, PartReading, SavedPart, lasting_place
from facetrm.baselines.fitted.saved import FITTED, load_fitted
from facetrm.baselines.named import scorer_hash
from facetrm.baselines.plain import PLAIN_SCORERS
from facetrm.baselines.trained.implicit import load_implicit
from facetrm.baselines.trained.pairwise import load_pairwise
from facetrm.baselines.trained.rival_folder import read_manifest, rival_folder
from facetrm.core.errors import ModelError
from facetrm.hub.load import load_model
from facetrm.hub.shipped import check_spelling
from facetrm.model.door import holds_rival
from facetrm.model.output import Scorer


def load_rival(
    folder: str | Path, *, device: str = "auto", token_budget: int | None = None, mode: Mode | None = None
) -> Scorer:
    """Load a rival that a recipe made.

    A Bradley-Terry model is an ordinary reward model, which :func:`facetrm.load_model` loads.

    Args:
        folder: Folder of the model, or of the run.
        device: Device of the model.
        token_budget: Maximum number of tokens of one pass; None is 4,096, or for a part what it was saved with.
        mode: ``fast`` reads several rows in one pass; ``exact`` reads one. None is ``fast``, or for a part the mode
            that it was saved with.

    Returns:
        A :class:`~facetrm.baselines.trained.pairwise.PairwiseScorer`, an
        :class:`~facetrm.baselines.trained.implicit.ImplicitRewardScorer`, an
        :class:`~facetrm.baselines.ensemble.Ensemble`, a
        :class:`~facetrm.baselines.directional.DirectionalScorer` or a
        :class:`~facetrm.baselines.length_calibration.LengthCalibrated`.

    Raises:
        ModelError: The folder holds no rival, or its files or its parts were changed.
        BackboneError: A language model cannot be loaded.
        FacetrmError: A part cannot be loaded; the error names it.
    """
    return _load(folder, (), device=device, token_budget=token_budget, mode=mode)


def load_part(
    place: str,
    reading: PartReading,
    *,
    device: str = "auto",
    token_budget: int | None = None,
    mode: Mode | None = None,
    within: tuple[Path, ...] = (),
) -> LoadedPart:
    """Load a scorer that a rival can be made of.

    Args:
        place: Folder of a rival or of a reward model, ``hf://owner/name``, the name of a shipped model, ``length``,
            ``shortest`` or ``random``.
        reading: How it reads conversations, if it is a reward model.
        device: Device of the model.
        token_budget: Maximum number of tokens of one pass; None keeps the saved value.
        mode: Mode of the passes; None keeps the saved one.
        within: Folders of the rivals that it is a part of.

    Raises:
        FacetrmError: It cannot be loaded.
    """
    if place in PLAIN_SCORERS:
        scorer = PLAIN_SCORERS[place](0)
        return LoadedPart(scorer, SavedPart(place=place, hash=scorer_hash(scorer)))
    path, lasting = Path(place).expanduser(), lasting_place(place)
    if holds_rival(path):
        found = _load(path, within, device=device, token_budget=token_budget, mode=mode)
        return LoadedPart(found, SavedPart(place=lasting, hash=read_manifest(rival_folder(path)).hash))
    check_spelling(place, PLAIN_SCORERS)
    model = load_model(place, device=device, mode=mode, token_budget=token_budget, settings=reading.given)
    return LoadedPart(model, SavedPart(place=lasting, hash=model.hash, reading=reading))


def _load(
    folder: str | Path, within: tuple[Path, ...], *, device: str, token_budget: int | None, mode: Mode | None
) -> Scorer:
    place = rival_folder(folder)
    manifest = read_manifest(place)
    if manifest.kind in FITTED:
        home = place.resolve()
        if home in within:
            raise ModelError("the rival is a part of itself", place=place, fix="run the recipe again")
        below = (*within, home)
        load = partial(load_part, device=device, token_budget=token_budget, mode=mode, within=below)
        return load_fitted(place, manifest, load)
    load_trained = load_pairwise if manifest.kind == "pairwise" else load_implicit
    return load_trained(place, device=device, token_budget=token_budget or 4096, mode=mode or "fast")
