"""Names of the adapters and experts of a DMoERM run, and checks of these names."""

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
    """Return a unique adapter name for each task, for each capability, and for each name in ``more``.

    Adapter names consist of letters, digits, hyphens and underscores, which PEFT and file systems accept, and differ
    in more than case.

    Args:
        tasks: Capabilities by task.
        *more: Further names.
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
    """Check, before anything is trained, that the experts of each task can be combined.

    Args:
        config: Settings of the run.
        tasks: Capabilities by task.

    Raises:
        ConfigError: A task has more experts than the aggregator allows, or a capability has the name of the task's own
            expert.
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
