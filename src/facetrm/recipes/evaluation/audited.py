"""``facetrm eval MODEL --on audit --data FILE``: biases, counterfactual edits, calibration, objectives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from facetrm.core.config import parse_config, read_yaml
from facetrm.core.errors import ConfigError, DataError, ModelError
from facetrm.core.files import write_json
from facetrm.core.progress import log
from facetrm.data.read.files import read_preferences
from facetrm.data.records import Preference
from facetrm.data.views import as_pairs
from facetrm.evaluate.audit.settings import AuditConfig
from facetrm.evaluate.audit.undebiased import without_debiasing
from facetrm.evaluate.audit.whole import Audit, audit, betas_of
from facetrm.evaluate.benchmarks.load import GENERATED
from facetrm.model.reward_model import RewardModel
from facetrm.recipes.evaluation.cache import ScoreCache
from facetrm.recipes.evaluation.systems import Answering, System, cached_scorer

AUDIT: Final = "audit"
AUDIT_FILE: Final = "audit.json"


def pairs_to_audit(data: str | None, *, pairs: int) -> list[Preference]:
    """Return the labelled pairs of an audit.

    Args:
        data: File of preferences, or ``desk`` or ``world``.
        pairs: Number of pairs of a generator.

    Raises:
        ConfigError: No file is given.
        DataError: The file is malformed, or holds no pair.
    """
    if data is None:
        raise ConfigError("no pairs to audit on", place="--on audit", fix="give --data FILE, desk or world")
    if data in GENERATED and not Path(data).exists():
        made = GENERATED[data]().preferences(pairs, part="test")
        return [p if p.meta["agrees"] else p.model_copy(update={"responses": p.responses[::-1]}) for p in made]
    found = [pair for preference in read_preferences(data) for pair in as_pairs(preference)]
    if not found:
        raise DataError("no pair to audit on", place=data, fix="give a file with at least one labelled pair")
    return found


def read_thresholds(path: Path | None) -> AuditConfig:
    """Return the settings and thresholds of an audit.

    Args:
        path: YAML file; None for the defaults.

    Raises:
        ConfigError: A setting is unknown or has a wrong value.
    """
    return AuditConfig() if path is None else parse_config(AuditConfig, read_yaml(path), place=path)


def audit_systems(
    systems: Sequence[System],
    pairs: Sequence[Preference],
    config: AuditConfig,
    folder: Path,
    *,
    cache: ScoreCache,
    spent: dict[str, Answering],
) -> dict[str, Audit]:
    """Audit each system, and write ``audit.json``. Answers and edits that the cache knows are not scored again.

    Args:
        systems: The systems.
        pairs: Labelled pairs that no system was trained on.
        config: Settings and thresholds.
        folder: Folder of the evaluation.
        cache: Scores of earlier runs; new ones are added to it.
        spent: Cost by name of the system, to which that of the audit is added.

    Raises:
        ConfigError: A system is a file of scores, which cannot score edited answers.
        ModelError: An answer has no reward.
    """
    for system in systems:
        if system.scorer is None:
            raise ConfigError(
                f"'{system.name}' is a file of scores", place="--on audit", fix="give a model, which can score edits"
            )
    found: dict[str, Audit] = {}
    for system in systems:
        assert system.scorer is not None
        scorer, before = cached_scorer(system, cache), _before(system)
        earlier = None if before is None else cached_scorer(before, cache)
        found[system.name] = audit(scorer, pairs, config=config, before=earlier, betas=betas_of(system.scorer))
        for one in (scorer, earlier):
            spent[system.name] = spent[system.name] if one is None else spent[system.name].cost_with(one.spent)
        log("audited", model=system.name, findings=len(found[system.name].findings))
    values: dict[str, Any] = {name: one.to_dict() for name, one in found.items()}
    write_json(folder / AUDIT_FILE, values)
    return found


def _before(system: System) -> System | None:
    """Return the same system without its debiasing; None if it has none."""
    if not isinstance(system.scorer, RewardModel):
        return None
    try:
        model = without_debiasing(system.scorer)
    except ModelError as exc:
        log("audit", model=system.name, note=f"no ledger before debiasing: {exc.problem}")
        return None
    return replace(system, hash=f"{model.hash}/{model.encoder.mode}", scorer=model)
