"""Draft the recipe for a user's files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from facetrm.model.experts import LENGTH
from facetrm.recipes.own_data.load import OwnData

_FOLDS: Final = 5
_FEW_PROMPTS: Final = 1000
"""Below this number of prompts with pairs, a fifth of them is held out instead of a tenth."""


def draft_settings(
    *, ratings: Sequence[Path], pairs: Sequence[Path], backbone: str, objectives: Path, title: str
) -> dict[str, Any]:
    """Return the settings of a recipe that do not depend on what the files hold.

    Args:
        ratings: Files of ratings.
        pairs: Files of preferences.
        backbone: Path or name of the backbone.
        objectives: YAML file of the objectives.
        title: Title of the run.
    """
    return {
        "recipe": "armorm",
        "title": title,
        "seed": 0,
        "data": {
            "kind": "files",
            "ratings": [str(path) for path in ratings],
            "preferences": [str(path) for path in pairs],
            "objectives": str(objectives),
        },
        "backbone": {"path": backbone, "truncation": "drop_oldest"},
        "experts": {"ridge": {"unfit": "mean"}},
    }


def fitted_settings(settings: dict[str, Any], data: OwnData) -> dict[str, Any]:
    """Return drafted settings with those that follow from the rows.

    Args:
        settings: Settings from :func:`draft_settings`.
        data: Ratings and preferences.
    """
    rated = {record.prompt_key for record in data.rated}
    paired = {record.prompt_key for record in data.preferences}
    folds = min(_FOLDS, len(rated)) if rated & paired else 0
    own = any(objective.name == LENGTH for objective in data.objectives)
    experts = {**settings["experts"], "length": not own, "cross_fit": folds if folds > 1 else 0}
    lengths = {len(answer.content.split()) for record in data.preferences for answer in record.responses}
    share = 0.2 if len(paired) < _FEW_PROMPTS else 0.1
    return {
        **settings,
        "data": {**settings["data"], "test_share": share},
        "experts": experts,
        "debias": {"target": LENGTH if len(lengths) > 1 else None},
    }


def recipe_text(settings: dict[str, Any], *, path: Path) -> str:
    """Return a drafted recipe as YAML.

    Args:
        settings: Its settings.
        path: Path that it will have.
    """
    head = (
        f"# facetrm run {path}\n"
        "#\n"
        "# Drafted by `facetrm init`. Paths are relative to the folder in which the command runs.\n"
        "# data.test_share is the share of the prompts that is held out; data.on_error: skip leaves out bad rows and\n"
        "# counts them. experts.cross_fit is 0 where ratings and preferences share no prompts.\n"
    )
    return head + yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
