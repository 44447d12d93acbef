"""The thresholds of an audit, and what fails them.

A finding is clear if its whole interval lies beyond the limit, and unclear if only the value does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from facetrm.baselines.groups import REWARD
from facetrm.core.statistics import Interval
from facetrm.evaluate.audit.calibration import Calibration
from facetrm.evaluate.audit.counterfactual import Effect
from facetrm.evaluate.audit.ledger import Bias, Position
from facetrm.evaluate.audit.scored import Mover
from facetrm.evaluate.audit.settings import AuditConfig


@dataclass(frozen=True)
class AuditFinding:
    """A threshold that a model fails.

    Attributes:
        setting: the threshold, as in the settings, such as ``max_flip_rate.pad``.
        value: the measured value.
        limit: the threshold.
        low: lower end of the interval of the value.
        high: upper end of the interval of the value.
        clear: whether the whole interval fails the threshold.
        objective: the objective that moved most; None if the scorer has no objectives or it cannot be told.
    """

    setting: str
    value: float
    limit: float
    low: float
    high: float
    clear: bool
    objective: str | None

    @property
    def sentence(self) -> str:
        """The finding in one line."""
        cause = "" if self.objective is None else f"; moved most: {self.objective}"
        sure = "" if self.clear else "; not clear on so few pairs"
        return (
            f"{self.setting}: {self.value:.3f} ({self.low:.3f} to {self.high:.3f}), limit {self.limit:g}{cause}{sure}"
        )


def above(setting: str, found: Interval, limit: float, moved: Sequence[Mover] = ()) -> list[AuditFinding]:
    """Return a finding if a value is above its limit.

    Args:
        setting: name of the threshold.
        found: the value with its interval.
        limit: the threshold.
        moved: the objectives that moved, largest first.
    """
    if not found.value > limit:
        return []
    return [AuditFinding(setting, found.value, limit, found.low, found.high, found.low > limit, _first(moved))]


def below(setting: str, found: Interval, limit: float, moved: Sequence[Mover] = ()) -> list[AuditFinding]:
    """Return a finding if a value is below its limit.

    Args:
        setting: name of the threshold.
        found: the value with its interval.
        limit: the threshold.
        moved: the objectives that moved, largest first.
    """
    if not found.value < limit:
        return []
    return [AuditFinding(setting, found.value, limit, found.low, found.high, found.high < limit, _first(moved))]


def check(
    config: AuditConfig,
    *,
    biases: Sequence[Bias],
    position: Position | None,
    effects: Sequence[Effect],
    calibration: Calibration | None,
) -> tuple[AuditFinding, ...]:
    """Return what fails the thresholds, clear findings first.

    Args:
        config: the thresholds.
        biases: the ledger.
        position: the effect of the order of presentation; None if there is none.
        effects: the effects of the edits.
        calibration: the calibration; None if it could not be measured.
    """
    found = [*_of_biases(config, biases), *_of_effects(config, effects)]
    if position is not None and config.max_position_flips is not None:
        found += above("max_position_flips", position.flips, config.max_position_flips)
    if calibration is not None and config.max_ece is not None and calibration.ece.value > config.max_ece:
        # The error of exact probabilities is above 0 too, so the interval alone does not tell.
        ece, limit = calibration.ece, config.max_ece
        sure = ece.low > limit and ece.value > calibration.noise
        found.append(AuditFinding("max_ece", ece.value, limit, ece.low, ece.high, sure, None))
    return tuple(sorted(found, key=lambda finding: not finding.clear))


def _of_biases(config: AuditConfig, biases: Sequence[Bias]) -> list[AuditFinding]:
    limits = {name: (f"max_correlation.{name}", limit) for name, limit in config.max_correlation.items()}
    if config.max_length_correlation is not None:
        limits["characters"] = ("max_length_correlation", config.max_length_correlation)
    found: list[AuditFinding] = []
    for bias in biases:
        if bias.feature in limits and bias.now.correlation is not None:
            found += _beyond(*limits[bias.feature], bias.now.correlation, bias.movers)
        if bias.feature == "characters" and bias.now.matched is not None and config.min_matched_accuracy is not None:
            found += below("min_matched_accuracy", bias.now.matched, config.min_matched_accuracy)
    return found


def _of_effects(config: AuditConfig, effects: Sequence[Effect]) -> list[AuditFinding]:
    found: list[AuditFinding] = []
    for effect in effects:
        shares = [share for share in (effect.lifted, effect.sunk) if share is not None]
        if effect.edit in config.max_flip_rate and shares:
            worse, limit = max(shares, key=lambda share: share.value), config.max_flip_rate[effect.edit]
            found += above(f"max_flip_rate.{effect.edit}", worse, limit, effect.movers)
        if effect.edit in config.min_fall:
            found += above(f"min_fall.{effect.edit}", effect.in_sd, -config.min_fall[effect.edit], effect.movers)
        if effect.expected == "null" and config.max_null_change is not None:
            found += _beyond("max_null_change", config.max_null_change, effect.in_sd, effect.movers)
    return found


def _beyond(setting: str, limit: float, found: Interval, moved: Sequence[Mover]) -> list[AuditFinding]:
    """Return a finding if a value is further from 0 than its limit, on either side."""
    test: Callable[..., list[AuditFinding]] = above if found.value > 0 else below
    return test(setting, found, limit if found.value > 0 else -limit, moved)


def _first(moved: Sequence[Mover]) -> str | None:
    return next((mover.objective for mover in moved[:1] if mover.objective != REWARD), None)
