"""The folder of a fitted rival: a manifest with its numbers, and with the place and the hash of each part.

FOLDER/
  rival.json    kind, numbers, parts, and a hash of all of them but the places

The parts stay where they are. A part that has changed is an error, because the numbers were fitted to its scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Final, Self, TypeAlias

from pydantic import Field, FiniteFloat, model_validator

from facetrm.baselines.directional import DirectionalScorer, DirectionScale
from facetrm.baselines.ensemble import Ensemble, EnsembleKind
from facetrm.baselines.fitted.parts import LoadedPart, LoadPart, SavedPart, same_part
from facetrm.baselines.length_calibration import LengthCalibrated, LengthCurve
from facetrm.baselines.named import scorer_hash
from facetrm.baselines.plain import LengthUnit
from facetrm.baselines.trained.rival_folder import RivalKind, RivalManifest, check_hash, write_manifest
from facetrm.core.config import Section, parse_config
from facetrm.core.errors import ModelError
from facetrm.core.files import read_json
from facetrm.core.fingerprint import fingerprint
from facetrm.core.folders import is_occupied, new_folder
from facetrm.model.door import RIVAL_MANIFEST
from facetrm.model.reward_model import RewardModel

FittedRival: TypeAlias = Ensemble | DirectionalScorer | LengthCalibrated
"""A rival that is fitted to the scores of others."""


class SavedMember(SavedPart):
    """A member of an ensemble.

    Attributes:
        name: Its name.
        mean: Mean of its rewards on the reference conversations.
        deviation: Standard deviation of them.
    """

    name: str
    mean: FiniteFloat
    deviation: FiniteFloat


class SavedEnsemble(Section):
    """What a manifest says about an ensemble.

    Attributes:
        kind: How the members' rewards are combined.
        penalty: Weight of the variance.
        members: The members, in order.
    """

    kind: EnsembleKind
    penalty: FiniteFloat
    members: tuple[SavedMember, ...]


class SavedObjective(Section):
    """An objective of a direction.

    Attributes:
        name: Its name.
        weight: Its weight.
        mean: Mean of its unit rating on the reference conversations; 0 unless the scale is ``standard``.
        deviation: Standard deviation of it; 1 unless the scale is ``standard``.
    """

    name: str
    weight: FiniteFloat
    mean: FiniteFloat
    deviation: FiniteFloat


class SavedDirection(Section):
    """What a manifest says about a direction.

    Attributes:
        model: The reward model.
        scale: Scale of the ratings.
        objectives: The objectives that have a weight, in order.
        note: A remark about the weights.
    """

    model: SavedPart
    scale: DirectionScale
    objectives: tuple[SavedObjective, ...]
    note: str | None = None


class SavedCalibration(Section):
    """What a manifest says about a length calibration.

    Attributes:
        model: The scorer.
        strength: How much of the curve is removed.
        unit: Unit of the lengths.
        lengths: Lengths of the curve's points.
        rewards: Reward at each of them.
    """

    model: SavedPart
    strength: FiniteFloat
    unit: LengthUnit
    lengths: tuple[FiniteFloat, ...] = Field(min_length=1)
    rewards: tuple[FiniteFloat, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _is_a_curve(self) -> Self:
        if len(self.lengths) != len(self.rewards) or any(b <= a for a, b in pairwise(self.lengths)):
            raise ValueError("the lengths do not increase, or there are more or fewer rewards: run the recipe again")
        return self


FITTED: Final[Mapping[RivalKind, type[Section]]] = {
    "ensemble": SavedEnsemble,
    "direction": SavedDirection,
    "length-calibration": SavedCalibration,
}
"""The settings of each kind of fitted rival."""


def saved_ensemble(ensemble: Ensemble, parts: Mapping[str, LoadedPart]) -> SavedEnsemble:
    """Return what a manifest says about an ensemble.

    Args:
        ensemble: The ensemble.
        parts: Its members, by name.
    """
    members = [
        SavedMember(name=name, mean=ensemble.means[name], deviation=ensemble.deviations[name], **vars(part.saved))
        for name, part in parts.items()
    ]
    return SavedEnsemble(kind=ensemble.kind, penalty=ensemble.penalty, members=tuple(members))


def saved_direction(direction: DirectionalScorer, part: LoadedPart) -> SavedDirection:
    """Return what a manifest says about a direction.

    Args:
        direction: The direction.
        part: Its reward model.
    """
    objectives = [
        SavedObjective(name=name, weight=weight, mean=direction.means[name], deviation=direction.deviations[name])
        for name, weight in direction.weights.items()
    ]
    return SavedDirection(model=part.saved, scale=direction.scale, objectives=tuple(objectives), note=direction.note)


def saved_calibration(calibrated: LengthCalibrated, part: LoadedPart) -> SavedCalibration:
    """Return what a manifest says about a length calibration.

    Args:
        calibrated: The calibrated scorer.
        part: The scorer without calibration.
    """
    curve = calibrated.curve
    return SavedCalibration(
        model=part.saved,
        strength=calibrated.strength,
        unit=curve.unit,
        lengths=curve.lengths,
        rewards=curve.rewards,
    )


def save_fitted(folder: Path, kind: RivalKind, saved: Section) -> None:
    """Write the folder of a fitted rival, completely or not at all; one that is already there is replaced.

    Args:
        folder: Folder to write.
        kind: Kind of the rival.
        saved: What its manifest says.

    Raises:
        ModelError: The folder holds something else.
    """
    if is_occupied(folder) and not _is_fitted(folder):
        raise ModelError("holds another model", place=folder, fix="give another run folder")
    with new_folder(folder, ModelError, replace=True, last=RIVAL_MANIFEST) as new:
        hash = fitted_hash(kind, saved)
        write_manifest(new, kind, hash=hash, backbone=None, settings=saved.model_dump(mode="json"))


def fitted_hash(kind: RivalKind, saved: Section) -> str:
    """Return the hash of a fitted rival, which depends neither on the places of its parts nor on their modes.

    Args:
        kind: Kind of the rival.
        saved: What its manifest says.
    """
    value = saved.model_dump(mode="json")
    for part in (value.get("model", {}), *value.get("members", ())):
        part.pop("place", None)
    return fingerprint([kind, value])


def load_fitted(folder: Path, manifest: RivalManifest, load: LoadPart) -> FittedRival:
    """Load a fitted rival and its parts.

    Args:
        folder: Folder with the manifest.
        manifest: The manifest.
        load: Loads a part from its place.

    Returns:
        The rival. If its parts are read in the same mode, its scores are those of the saved rival, bit for bit.

    Raises:
        ConfigError: A setting of the manifest is unknown or wrong.
        ModelError: The manifest or a part was changed.
        FacetrmError: A part cannot be loaded.
    """
    place = folder / RIVAL_MANIFEST
    saved = parse_config(FITTED[manifest.kind], manifest.settings, place=place)
    check_hash(manifest, fitted_hash(manifest.kind, saved), place=folder)
    if isinstance(saved, SavedEnsemble):
        return _ensemble(saved, load, place)
    if isinstance(saved, SavedDirection):
        return _direction(saved, load, place)
    assert isinstance(saved, SavedCalibration)
    scorer = same_part(load, saved.model, called="the model", manifest=place).scorer
    curve = LengthCurve(saved.lengths, saved.rewards, saved.unit, scorer_hash(scorer))
    return LengthCalibrated(scorer, curve, strength=saved.strength)


def reward_model(part: LoadedPart) -> RewardModel:
    """Return the reward model that a part is.

    Args:
        part: A loaded part.

    Raises:
        ModelError: It is another scorer, without ratings by objective.
    """
    if isinstance(part.scorer, RewardModel):
        return part.scorer
    problem = f"a {type(part.scorer).__name__} has no ratings by objective"
    raise ModelError(problem, place=part.saved.place, fix="give a reward model, such as desk or a run folder")


def _ensemble(saved: SavedEnsemble, load: LoadPart, place: Path) -> Ensemble:
    members = {m.name: same_part(load, m, called=f"member '{m.name}'", manifest=place).scorer for m in saved.members}
    return Ensemble(
        members,
        means={m.name: m.mean for m in saved.members},
        deviations={m.name: m.deviation for m in saved.members},
        kind=saved.kind,
        penalty=saved.penalty,
    )


def _direction(saved: SavedDirection, load: LoadPart, place: Path) -> DirectionalScorer:
    model = reward_model(same_part(load, saved.model, called="the model", manifest=place))
    return DirectionalScorer(
        model,
        {o.name: o.weight for o in saved.objectives},
        scale=saved.scale,
        means={o.name: o.mean for o in saved.objectives},
        deviations={o.name: o.deviation for o in saved.objectives},
        note=saved.note,
    )


def _is_fitted(folder: Path) -> bool:
    if not (folder / RIVAL_MANIFEST).is_file():
        return False
    value = read_json(folder / RIVAL_MANIFEST, ModelError, fix="give another run folder")
    return isinstance(value, dict) and value.get("kind") in FITTED
