"""The whole audit of a reward model on labelled pairs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from facetrm.core.errors import DataError
from facetrm.core.statistics import Interval, pair_accuracy
from facetrm.data.records import Preference
from facetrm.evaluate.audit.calibration import Calibration, calibration_of
from facetrm.evaluate.audit.counterfactual import Effect, effects_of, trials_of
from facetrm.evaluate.audit.findings import AuditFinding, check
from facetrm.evaluate.audit.ledger import Bias, Position, bias_ledger, position_of
from facetrm.evaluate.audit.objectives import ObjectiveUse, objective_use
from facetrm.evaluate.audit.scored import Compared, Mover, compare, reward_spread
from facetrm.evaluate.audit.settings import AuditConfig
from facetrm.model.output import Scorer
from facetrm.model.reward_model import RewardModel


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Attributes:
        pairs: number of pairs.
        prompts: number of different prompts.
        spread: standard deviation of the rewards; 1 if they are all equal.
        accuracy: accuracy on all pairs.
        biases: the ledger of biases, one entry per feature that differs in some pair.
        position: effect of the order of presentation; None if answers are scored one by one.
        effects: effect of each edit that applies to some answer.
        calibration: calibration of P(A > B); None if it cannot be measured on these pairs.
        objectives: use of the objectives, by task; empty if the scorer has fewer than two.
        findings: the thresholds that fail, clear ones first.
        config: the settings.
    """

    pairs: int
    prompts: int
    spread: float
    accuracy: Interval
    biases: tuple[Bias, ...]
    position: Position | None
    effects: tuple[Effect, ...]
    calibration: Calibration | None
    objectives: dict[str, ObjectiveUse]
    findings: tuple[AuditFinding, ...]
    config: AuditConfig

    def failures(self) -> tuple[AuditFinding, ...]:
        """Return the findings whose whole interval fails the threshold."""
        return tuple(finding for finding in self.findings if finding.clear)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-ready figures; a figure that is not defined is None."""
        known = {name: value for name, value in self.__dict__.items() if name != "config"}
        plain = asdict(Audit(**known, config=self.config)) | {"config": self.config.model_dump(mode="json")}
        cleaned: dict[str, Any] = _without_nan(plain)
        return cleaned

    def lines(self) -> list[str]:
        """Return the audit as lines of text for a terminal."""
        head = f"{self.pairs} pairs of {self.prompts} prompts, accuracy {_shown(self.accuracy)}"
        found = [head, "", "Biases (correlation of the reward with the feature within pairs)"]
        for bias in self.biases:
            before = "" if bias.before is None else f"  before debiasing {_shown(bias.before.correlation)}"
            matched = f"accuracy matched {_shown(bias.now.matched)}, better has less {_shown(bias.now.less)}"
            found.append(f"  {bias.feature:<18} {_shown(bias.now.correlation)}{before}  {matched}{_moved(bias.movers)}")
        if self.position is not None:
            found.append(f"  {'position':<18} order of presentation decides {_shown(self.position.flips)} of pairs")
        found += ["", "Edits (change in standard deviations of the rewards; share of reversed orders)"]
        for effect in self.effects:
            what = f"{_shown(effect.in_sd)}  reversed {_shown(effect.flips)}  expected: {_expected(effect.expected)}"
            found.append(f"  {effect.edit:<18} {what}{_moved(effect.movers)}")
        if self.calibration is not None:
            c = self.calibration
            found += [
                "",
                f"Calibration ({c.pairs} pairs, {'own' if c.source == 'model' else 'fitted'} beta {c.beta:.3g})",
            ]
            found.append(f"  ECE {_shown(c.ece)}, up to {c.noise:.3f} if exact; Brier {_shown(c.brier)}")
            found.append("  temperature " + ", ".join(f"{task} {value:.2f}" for task, value in c.temperature.items()))
        for task, use in self.objectives.items():
            found += ["", *_use_lines(task, use)]
        clear = len(self.failures())
        unclear = f", {len(self.findings) - clear} more not clearly" if clear < len(self.findings) else ""
        found += ["", f"Thresholds that fail: {clear or 'none'}{unclear}"]
        return [*found, *(f"  {finding.sentence}" for finding in self.findings)]


def audit(
    scorer: Scorer,
    pairs: Sequence[Preference],
    *,
    config: AuditConfig | None = None,
    before: Scorer | None = None,
    betas: Mapping[str, float] | None = None,
) -> Audit:
    """Audit a reward model on labelled pairs.

    Of a record with more than two responses, the best and the worst are compared.

    Args:
        scorer: the model. Equal conversations are scored once, all in one call.
        pairs: labelled pairs that the model was not trained on.
        config: settings and thresholds; None for the defaults.
        before: the same model without debiasing, for the ledger; None to leave that out.
        betas: the model's own beta by task; None takes those of a reward model, and fits one for any other scorer.

    Raises:
        DataError: there is no pair.
        ModelError: a reward is not finite.
    """
    if not pairs:
        raise DataError("there is no pair", place="audit", fix="give at least one labelled pair")
    config = config or AuditConfig()
    groups, duels = [pair.prompt_key for pair in pairs], [(pair.chosen, pair.rejected) for pair in pairs]
    trials = trials_of(duels, edits=config.edits, seed=config.seed)
    scored = compare(scorer, [*duels, *(trial.duel for trial in trials)])
    compared, after = scored[: len(duels)], scored[len(duels) :]
    earlier = None if before is None else compare(before, duels)
    scale = reward_spread(compared)
    biases = bias_ledger(pairs, compared, before=earlier, config=config)
    position = position_of(compared, groups, config=config)
    effects = effects_of(trials, after, compared, groups=groups, scale=scale, config=config)
    margins = [pair.margin for pair in compared]
    tasks = [pair.task or score.first.task for pair, score in zip(pairs, compared, strict=True)]
    calibration = calibration_of(
        margins, groups, tasks, beta_of=_beta_of(betas or betas_of(scorer), compared), config=config
    )
    return Audit(
        pairs=len(pairs),
        prompts=len(set(groups)),
        spread=scale,
        accuracy=pair_accuracy(margins, groups, samples=config.samples, seed=config.seed),
        biases=tuple(biases),
        position=position,
        effects=tuple(effects),
        calibration=calibration,
        objectives=objective_use(compared, config=config),
        findings=check(config, biases=biases, position=position, effects=effects, calibration=calibration),
        config=config,
    )


def betas_of(scorer: Scorer) -> dict[str, float] | None:
    """Return the model's own beta by task; None for a scorer without one.

    Args:
        scorer: the model.
    """
    if not isinstance(scorer, RewardModel):
        return None
    return {task: mixture.beta for task, mixture in scorer.mixtures.items()}


def _beta_of(by_task: Mapping[str, float] | None, compared: Sequence[Compared]) -> Callable[[int], float] | None:
    """Return the beta of each pair by its row."""
    return None if by_task is None else lambda row: by_task[compared[row].first.task]


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _shown(found: Interval | None) -> str:
    return "-" if found is None else f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


def _expected(expected: str) -> str:
    return {"none": "no change", "null": "no change (control)"}.get(expected, expected)


def _moved(moved: Sequence[Mover]) -> str:
    return "" if not moved else f"  {', '.join(f'{m.objective} {m.change:+.3f} ({m.share:.0%})' for m in moved)}"


def _use_lines(task: str, use: ObjectiveUse) -> list[str]:
    decided = sorted(use.decided.items(), key=lambda item: -item[1])[:5]
    found = [f"Objectives of {task} ({use.pairs} pairs)"]
    found.append("  decide pairs: " + ", ".join(f"{name} {share:.0%}" for name, share in decided))
    if use.never:
        found.append(f"  never decide: {', '.join(use.never)}")
    seen = use.scores or use.contributions
    if seen.effective_rank is not None:
        found.append(f"  effective rank {seen.effective_rank:.1f} of {len(seen.names)}")
    found += [f"  nearly the same: {', '.join(cluster)}" for cluster in seen.clusters]
    return found
