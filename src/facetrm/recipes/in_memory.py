"""Train from lists in memory, without a recipe file, with one function per family of models.

    model = fit_armorm(ratings, preferences, objectives, backbone)
    model = fit_dmoerm(preferences, capabilities, rubric, backbone)

They fit as ``facetrm run`` does, but leave out what a run adds: baselines, a report, and figures in a folder.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from facetrm.backbone.encoder import Encoder
from facetrm.backbone.transformer import BackboneConfig, TransformerEncoder, load_encoder
from facetrm.core.config import parse_config
from facetrm.core.errors import DataError
from facetrm.data.objectives import Objective, check_unique
from facetrm.data.records import Preference, Rating
from facetrm.data.rubric import Rubric
from facetrm.data.views import as_pairs
from facetrm.model.reward_model import RewardModel
from facetrm.recipes.armorm.config import ArmormConfig
from facetrm.recipes.armorm.fit import Stopwatch, fit_parts, readable_rows, stream_of
from facetrm.recipes.armorm.rows import Rows
from facetrm.recipes.dmoerm.config import DmoermConfig
from facetrm.recipes.dmoerm.fit import fit_tasks, read_tasks
from facetrm.recipes.dmoerm.rows import DmoermRows


def fit_armorm(
    ratings: Sequence[Rating],
    preferences: Sequence[Preference],
    *,
    objectives: Sequence[Objective],
    backbone: Encoder | str | Path,
    seed: int = 0,
    **settings: Any,
) -> RewardModel:
    """Fit an ArmoRM: one head per objective on ratings, then a gate over the heads on preferences.

    Args:
        ratings: Rated conversations.
        preferences: Overall preferences, responses sorted best first. A ranking weighs as much as a pair.
        objectives: Objectives that the ratings name, with their scales.
        backbone: An encoder, or the path or Hub name of a backbone. It is not trained.
        seed: Random seed.
        **settings: Sections of an ``armorm`` recipe, such as ``experts={"length": True}``.

    Returns:
        A model that scores, explains its scores and can be saved.

    Raises:
        DataError: There are no ratings or no preferences, or a rating names an undeclared objective.
        ConfigError: A section or setting is unknown.
        FitError: There are too few prompts, or the backbone reads both answers of every pair as the same.

    Example:
        >>> from facetrm import Objective, Preference, Rating, fit_armorm
        >>> from facetrm.backbone.words import BagOfWords
        >>> words, rows, pairs = ("dry", "warm", "kind"), [], []
        >>> for n in range(60):
        ...     ask, good, bad = f"question {n}", words[n % 3], words[(n + 1) % 3]
        ...     asked = {"role": "user", "content": ask}
        ...     said = {"role": "assistant", "content": f"a {good} answer"}
        ...     rows.append(Rating(messages=(asked, said), ratings={"own-kind": n % 3}))
        ...     low, high = sorted((good, bad), key=words.index)
        ...     answers = [{"role": "assistant", "content": f"a {word} answer"} for word in (high, low)]
        ...     pairs.append(Preference(prompt=(asked,), responses=answers))
        >>> kind = Objective(name="own-kind", low=0, high=2)
        >>> encoder = BagOfWords.fit((r.messages for r in rows), size=8)
        >>> quick = {"settings": {"steps": 20, "hidden": 4}}
        >>> model = fit_armorm(rows, pairs, objectives=[kind], backbone=encoder, gate=quick)
        >>> better, worse = model.score([pairs[0].chosen, pairs[0].rejected])
        >>> better.reward > worse.reward
        True

    Reference: ArmoRM (arXiv 2406.12845).
    """
    check_unique(objectives)
    _check_given(ratings=ratings, preferences=preferences)
    encoder = _opened(backbone)
    sections = {"backbone": {"path": _path_of(encoder)}, "seed": seed, **settings}
    config = parse_config(ArmormConfig, sections, place="fit_armorm")
    pairs = [pair for preference in preferences for pair in as_pairs(preference)]
    rows = Rows(tuple(objectives), list(ratings), [], pairs, [], None, {})
    return fit_parts(
        config, readable_rows(rows, encoder), encoder, stream_of(encoder, config.experts.layers), Stopwatch()
    ).model


def fit_dmoerm(
    preferences: Sequence[Preference],
    capabilities: Sequence[Preference],
    *,
    rubric: Rubric,
    backbone: TransformerEncoder | str | Path,
    folder: Path | str | None = None,
    seed: int = 0,
    **settings: Any,
) -> RewardModel:
    """Fit a DMoERM: a router over tasks, and for each task one adapter per capability, combined by a network.

    Args:
        preferences: Overall preferences, responses sorted best first. The router names the task of those without one.
        capabilities: Preferences about one capability, whose aspect is ``task/capability``, as ``facetrm label`` writes
            them. May be empty.
        rubric: The tasks and their capabilities.
        backbone: An encoder without adapters, or the path or Hub name of a backbone. It receives the trained adapters.
        folder: Folder for the state of the trainings, from which they resume after a crash; None for a temporary
            folder.
        seed: Random seed.
        **settings: Sections of a ``dmoerm`` recipe, such as ``lora={"rank": 8}``.

    Returns:
        A model that scores, explains its scores and can be saved.

    Raises:
        DataError: There are no preferences, or a task or capability is not in the rubric.
        ConfigError: A section or setting is unknown.
        FitError: A phase has fewer than two prompts, or the backbone reads both answers of every pair as the same.

    Example:
        >>> from facetrm import World, fit_dmoerm, toy_model
        >>> from facetrm.label.simulated import world_rubric
        >>> pairs = list(World().preferences_of(["chat"], 12, part="gate"))
        >>> model = fit_dmoerm(
        ...     pairs,
        ...     [],
        ...     rubric=world_rubric(least=0.2, most=1, tasks=["chat"]),
        ...     backbone=toy_model().encoder,
        ...     base={"training": {"trainer": {"max_steps": 1}}},
        ...     aggregator={"concat": {"steps": 2}},
        ... )
        >>> list(model.score([pairs[0].chosen])[0].contributions)
        ['chat/overall']

    Reference: DMoERM (arXiv 2403.01197).
    """
    _check_given(preferences=preferences)
    tasks = {task.name: tuple(rubric.objectives(task.name)) for task in rubric.tasks}
    known = {objective.name for found in tasks.values() for objective in found}
    for number, preference in enumerate(preferences):
        if preference.task is not None and preference.task not in tasks:
            _refuse(f"unknown task '{preference.task}'", f"preferences, row {number}", list(tasks))
    for number, preference in enumerate(capabilities):
        if preference.aspect not in known:
            _refuse(f"unknown capability '{preference.aspect}'", f"capabilities, row {number}", sorted(known))
    encoder = _opened(backbone)
    if not isinstance(encoder, TransformerEncoder):
        raise DataError(
            f"a {type(encoder).__name__} has no adapters", place="backbone", fix="give a Transformers model"
        )
    sections = {"backbone": {"path": _path_of(encoder)}, "seed": seed, **settings}
    config = parse_config(DmoermConfig, sections, place="fit_dmoerm")
    rows = read_tasks(DmoermRows(tasks, list(preferences), list(capabilities), [], None, {}), encoder)
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary) if folder is None else Path(folder)
        model = fit_tasks(config, rows, encoder, place, Stopwatch()).model
    for name in set(encoder.adapters) - set(model.adapters):  # a task's own adapter that is not an expert
        encoder.remove_adapter(name)
    return model


def _opened(backbone: Encoder | str | Path) -> Encoder:
    return load_encoder(BackboneConfig(path=str(backbone))) if isinstance(backbone, (str, Path)) else backbone


def _path_of(encoder: Encoder) -> str:
    return encoder.config.path if isinstance(encoder, TransformerEncoder) else type(encoder).__name__


def _check_given(**lists: Sequence[object]) -> None:
    for name, rows in lists.items():
        if not rows:
            raise DataError(f"the list of {name} is empty", place=name, fix="give at least one")


def _refuse(problem: str, place: str, known: list[str]) -> None:
    raise DataError(problem, place=place, fix=f"use one of {', '.join(known[:10])}")
