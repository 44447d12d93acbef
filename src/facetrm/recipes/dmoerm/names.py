"""What the adapters and the experts of a DMoERM run are called, and what their names must not be."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from facetrm.backbone.lora.names import name_problem
from facetrm.core.errors import ConfigError
from facetrm.data.objectives import Objective
from facetrm.model.concat import MAX_EXPERTS
from facetrm.recipes.dmoerm.config import DmoermConfig

OVERALL = "overall"


def overall_objective(task: str) -> Objective:
    """Return the objective of a task's own adapter."""
    return Objective(
        name=f"{task}/{OVERALL}",
        low=0.0,
        high=1.0,
        kind="continuous",
        meaning="preferred over all",
        rater="the preference pairs",
        source="phase 1",
    )


def names_of_adapters(tasks: Mapping[str, Sequence[Objective]], *more: str) -> dict[str, str]:
    """Return a name for the adapter of each task, of each capability, and of ``more``: all different.

    They are letters, digits, hyphens and underscores, which PEFT and file systems take, and differ in more than case.
    """
    names: dict[str, str] = {}
    taken: set[str] = set()
    for text in (*more, *(name for task, found in tasks.items() for name in (task, *(o.name for o in found)))):
        plain = re.sub(r"[^A-Za-z0-9_-]+", "-", text.replace("/", "--")).strip("-_") or "expert"
        if name_problem(plain) is not None:
            plain = f"expert-{plain}"
        name, number = plain, 2
        while name.casefold() in taken:
            name, number = f"{plain}-{number}", number + 1
        if text not in names:
            names[text] = name
            taken.add(name.casefold())
    return names


def check_experts(config: DmoermConfig, tasks: Mapping[str, Sequence[Objective]]) -> None:
    """Check that the experts of each task can be put together, before anything is trained.

    Args:
        config: settings.
        tasks: the capabilities of each.

    Raises:
        ConfigError: more experts than the aggregator holds, or a capability with the name of the task's own expert.
    """
    settings = config.aggregator.concat
    for task, found in tasks.items():
        own = config.experts.overall or not found
        count = len(found) + own
        beside = " and the task's own expert" if own else ""
        if own and overall_objective(task).name in {o.name for o in found}:
            raise ConfigError(
                f"capability '{task}/{OVERALL}' has the name of the task's own expert",
                place=f"task '{task}'",
                fix="rename it, or set experts.overall: false",
            )
        if config.aggregator.kind != "concat_mlp":
            continue
        if count > MAX_EXPERTS:
            raise ConfigError(
                f"{len(found)} capabilities{beside}: a network's exact shares are computed for at most {MAX_EXPERTS}",
                place=f"task '{task}'",
                fix="leave some out, or set aggregator.kind: gated_sum",
            )
        if settings.start == "ratings" and settings.hidden is not None and settings.hidden < 2 * count:
            raise ConfigError(
                f"{settings.hidden} units cannot hold the sum of {count} ratings of task '{task}'",
                place="aggregator.concat.hidden",
                fix=f"give {2 * count} or more, or start: random",
            )
