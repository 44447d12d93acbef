"""Fit a rival to the scores of other systems, as a straight line: read pairs, load, fit, save, load again, measure.

RUN/
  config.resolved.yaml    every setting, including defaults
  model/                  rival.json: the numbers, and the place and the hash of each system
  metrics.json            figures on the held-out pairs

The distinct conversations of the training pairs are the reference. The figures are those of the saved folder, loaded
again. A run is not resumed: it only scores, and the second run in a folder replaces the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from facetrm.baselines.directional import DirectionalScorer, fit_direction
from facetrm.baselines.ensemble import Ensemble, error_correlation, fit_ensemble
from facetrm.baselines.fitted.parts import LoadedPart, LoadPart, named_part
from facetrm.baselines.fitted.saved import (
    FittedRival,
    reward_model,
    save_fitted,
    saved_calibration,
    saved_direction,
    saved_ensemble,
)
from facetrm.baselines.length_calibration import LengthCalibrated, fit_length_calibration
from facetrm.baselines.plain import answer_length
from facetrm.baselines.trained.rivals import load_part, load_rival
from facetrm.core.errors import ConfigError
from facetrm.core.files import write_json
from facetrm.core.statistics import Floats, spearman
from facetrm.data.records import Conversation, Preference, conversation_key
from facetrm.model.output import Score, Scorer
from facetrm.recipes.armorm.fit import Stopwatch
from facetrm.recipes.armorm.rows import Rows
from facetrm.recipes.baselines.config import (
    DirectionRecipe,
    EnsembleRecipe,
    FittedRecipe,
    LengthCalibrationRecipe,
)
from facetrm.recipes.baselines.figures import RivalRun, rival_run
from facetrm.recipes.baselines.rows import load_pairs
from facetrm.recipes.run_folder import RunFolder, run_folder

R = TypeVar("R", bound=FittedRival)


def run_ensemble(config: EnsembleRecipe, folder: Path) -> RivalRun:
    """Fit, save and measure an ensemble.

    Args:
        config: Settings of the run.
        folder: Folder of the run.

    Returns:
        The run; :func:`facetrm.baselines.trained.rivals.load_rival` loads the ensemble.

    Raises:
        StoreError: Another run uses the folder.
        FacetrmError: A step failed; the error names value, place and fix.
    """
    with run_folder(folder, config) as held:
        watch = Stopwatch()
        rows = _rows(config, watch)
        _fit_ensemble(config, held, rows, watch)
        with watch("statistics"):
            ensemble = _loaded(config, folder, Ensemble)
            measured = _Measured.of(rows.test, ensemble, ensemble.members)
            correlation = error_correlation([measured.margins_of(name) for name in ensemble.members])
        figures = {
            "kind": ensemble.kind,
            "penalty": ensemble.penalty if ensemble.kind == "uncertainty" else None,
            "means": ensemble.means,
            "deviations": ensemble.deviations,
            "error_correlation": correlation.tolist(),
        }
        return _end(config, held, rows, measured, hash=ensemble.hash, watch=watch, more={"ensemble": figures})


def run_direction(config: DirectionRecipe, folder: Path) -> RivalRun:
    """Save and measure a reward model in a direction of preference, or with fixed weights.

    Args:
        config: Settings of the run.
        folder: Folder of the run.

    Returns:
        The run; :func:`facetrm.baselines.trained.rivals.load_rival` loads the scorer.

    Raises:
        StoreError: Another run uses the folder.
        FacetrmError: A step failed; the error names value, place and fix.
    """
    with run_folder(folder, config) as held:
        watch = Stopwatch()
        rows = _rows(config, watch)
        _fit_direction(config, held, rows, watch)
        with watch("statistics"):
            direction = _loaded(config, folder, DirectionalScorer)
            measured = _Measured.of(rows.test, direction, {"model": direction.model})
        standard = direction.scale == "standard"
        figures = {
            "scale": direction.scale,
            "weights": direction.weights,
            "means": direction.means if standard else None,
            "deviations": direction.deviations if standard else None,
            "note": direction.note,
        }
        return _end(config, held, rows, measured, hash=direction.hash, watch=watch, more={"direction": figures})


def run_length_calibration(config: LengthCalibrationRecipe, folder: Path) -> RivalRun:
    """Fit, save and measure a scorer without what length explains of its reward.

    Args:
        config: Settings of the run.
        folder: Folder of the run.

    Returns:
        The run; :func:`facetrm.baselines.trained.rivals.load_rival` loads the scorer.

    Raises:
        StoreError: Another run uses the folder.
        FacetrmError: A step failed; the error names value, place and fix.
    """
    with run_folder(folder, config) as held:
        watch = Stopwatch()
        rows = _rows(config, watch)
        _fit_calibration(config, held, rows, watch)
        with watch("statistics"):
            calibrated = _loaded(config, folder, LengthCalibrated)
            measured = _Measured.of(rows.test, calibrated, {"model": calibrated.scorer})
            lengths = [answer_length(c, config.unit) for p in rows.test for c in (p.chosen, p.rejected)]
            before, after = (spearman(lengths, rewards) for rewards in (measured.parts["model"], measured.rewards))
        figures = {
            "strength": config.strength,
            "fraction": config.fraction,
            "unit": config.unit,
            "points": len(calibrated.curve.lengths),
            "length_rho": {"before": before, "after": after},
        }
        more = {"length_calibration": figures}
        return _end(config, held, rows, measured, hash=calibrated.hash, watch=watch, more=more)


@dataclass(frozen=True)
class _Measured:
    """Rewards of the test answers, chosen and rejected in turn, by the rival and by its parts."""

    rewards: Floats
    truncated: int
    parts: dict[str, Floats]

    @classmethod
    def of(cls, test: Sequence[Preference], rival: Scorer, parts: Mapping[str, Scorer]) -> _Measured:
        """Score the test answers."""
        asked = [c for pair in test for c in (pair.chosen, pair.rejected)]
        scores = rival.score(asked)
        return cls(
            _rewards(scores),
            sum(score.truncated for score in scores),
            {name: _rewards(part.score(asked)) for name, part in parts.items()},
        )

    def margins_of(self, part: str | None = None) -> Floats:
        """Return the margins of a part, or of the rival."""
        rewards = self.rewards if part is None else self.parts[part]
        found: Floats = rewards[0::2] - rewards[1::2]
        return found


def _rewards(scores: Sequence[Score]) -> Floats:
    return np.array([score.reward for score in scores], dtype=np.float64)


def _rows(config: FittedRecipe, watch: Stopwatch) -> Rows:
    with watch("data"):
        return load_pairs(config.data, seed=config.seed)


def _reference(rows: Rows) -> list[Conversation]:
    """Return the distinct conversations of the training pairs, in order."""
    found = {conversation_key(c): c for pair in rows.gate for c in (pair.chosen, pair.rejected)}
    return list(found.values())


def _part(config: FittedRecipe, place: str, called: str) -> LoadedPart:
    load: LoadPart = partial(load_part, device=config.device, mode=config.mode)
    return named_part(load, place, config.reading, called=called)


def _fit_ensemble(config: EnsembleRecipe, held: RunFolder, rows: Rows, watch: Stopwatch) -> None:
    with watch("load"):
        parts = {name: _part(config, place, f"member '{name}'") for name, place in config.members.items()}
        _check_distinct(parts)
    held.begin()
    with watch("fit"):
        members = {name: part.scorer for name, part in parts.items()}
        ensemble = fit_ensemble(members, _reference(rows), kind=config.kind, penalty=config.penalty)
    with watch("save"):
        save_fitted(held.path / "model", "ensemble", saved_ensemble(ensemble, parts))


def _fit_direction(config: DirectionRecipe, held: RunFolder, rows: Rows, watch: Stopwatch) -> None:
    with watch("load"):
        part = _part(config, config.model, "the model")
        model = reward_model(part)
    with watch("fit"):
        reference = _reference(rows) if config.scale == "standard" else None
        direction = fit_direction(
            model, config.weights, conversations=reference, scale=config.scale, normalise=config.normalise
        )
    held.begin()
    with watch("save"):
        save_fitted(held.path / "model", "direction", saved_direction(direction, part))


def _fit_calibration(config: LengthCalibrationRecipe, held: RunFolder, rows: Rows, watch: Stopwatch) -> None:
    with watch("load"):
        part = _part(config, config.model, "the model")
    held.begin()
    with watch("fit"):
        calibrated = fit_length_calibration(
            part.scorer,
            _reference(rows),
            strength=config.strength,
            fraction=config.fraction,
            robust=config.robust,
            unit=config.unit,
            points=config.points,
        )
    with watch("save"):
        save_fitted(held.path / "model", "length-calibration", saved_calibration(calibrated, part))


def _check_distinct(parts: Mapping[str, LoadedPart]) -> None:
    """Raise ConfigError if two members are the same scorer."""
    seen: dict[str, str] = {}
    for name, part in parts.items():
        first = seen.setdefault(part.saved.hash, name)
        if first != name:
            problem = f"'{first}' and '{name}' are the same scorer (hash {part.saved.hash[:12]}...)"
            raise ConfigError(problem, place="members", fix="name each system once")


def _loaded(config: FittedRecipe, folder: Path, kind: type[R]) -> R:
    """Load what was saved."""
    found = load_rival(folder / "model", device=config.device, mode=config.mode)
    assert isinstance(found, kind)
    return found


def _end(
    config: FittedRecipe,
    held: RunFolder,
    rows: Rows,
    measured: _Measured,
    *,
    hash: str,
    watch: Stopwatch,
    more: Mapping[str, Any],
) -> RivalRun:
    """Write the figures."""
    held.keep_settings()
    read = {"reference": len(_reference(rows)), "truncated_test": measured.truncated}
    run = rival_run(
        config,
        rows,
        measured.margins_of(),
        folder=held.path,
        hash=hash,
        seconds=watch.seconds,
        parts={name: measured.margins_of(name) for name in measured.parts},
        more={"answers": {"test": len(measured.rewards), **read}, **more},
    )
    write_json(held.path / "metrics.json", run.metrics)
    return run
