"""Which capability labels train an expert: checked before training, counted after it, and told before labelling.

A label trains an expert if the split gives its prompt to the experts, and if its capability has at least
``experts.least`` of such labels. About ``least / share`` labelled pairs per capability are therefore needed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from facetrm.core.errors import FitError
from facetrm.data.records import Preference
from facetrm.recipes.dmoerm.config import CapabilitySection, DmoermConfig
from facetrm.recipes.dmoerm.inner import enough
from facetrm.recipes.dmoerm.rows import Phases, SplitSection

_NAMED = 5


@dataclass(frozen=True)
class UnusedLabels:
    """Capability labels that train no expert.

    Attributes:
        labels: Number of all capability labels for training.
        by_split: Number of labels on prompts that the split gives to other phases.
        too_few: Number of labels of each capability that has too few for an expert.
    """

    labels: int
    by_split: int
    too_few: Mapping[str, int]

    def sentences(self, config: DmoermConfig) -> list[str]:
        """Return what a verdict says about the labels; nothing if all of them are used.

        Args:
            config: Settings of the run.
        """
        said = []
        if self.by_split:
            said.append(
                f"{self.by_split:,} of {self.labels:,} capability labels train no expert, because the split gives "
                f"their prompts to other phases (split.experts is {_share(config.split):.0%} of prompts with labels "
                "of both)."
            )
        if self.too_few:
            counts = ", ".join(f"{name} ({count})" for name, count in self.too_few.items())
            said.append(
                f"Capabilities without an expert, because they have too few preferences (experts.least is "
                f"{config.experts.least}): {counts}."
            )
        return said


def unused_labels(about: Sequence[Preference], phases: Mapping[str, Phases], *, least: int) -> UnusedLabels:
    """Return which capability labels train no expert.

    Args:
        about: All preferences about capabilities for training.
        phases: Rows of each task by phase.
        least: Smallest number of preferences for an expert.
    """
    given = {name: rows for found in phases.values() for name, rows in found.capabilities.items()}
    few = {name: len(rows) for name, rows in given.items() if not enough(rows, least)}
    return UnusedLabels(len(about), len(about) - sum(map(len, given.values())), few)


def check_any_expert(about: Sequence[Preference], phases: Mapping[str, Phases], config: DmoermConfig) -> UnusedLabels:
    """Check, before anything is trained, that at least one capability gets an expert if there are labels at all.

    Args:
        about: All preferences about capabilities for training.
        phases: Rows of each task by phase.
        config: Settings of the run.

    Returns:
        The labels that will train no expert.

    Raises:
        FitError: There are labels, but no capability has enough of them.
    """
    least = config.experts.least
    found = unused_labels(about, phases, least=least)
    experts = sum(len(part.capabilities) for part in phases.values())
    if not about or len(found.too_few) < experts or not experts:
        return found
    best = max(found.too_few, key=lambda name: found.too_few[name])
    total = Counter(p.aspect for p in about)[best]
    raise FitError(
        f"no capability would get an expert: '{best}' has the most labels for one, {found.too_few[best]} of its "
        f"{total}, and needs {least} of at least two prompts",
        place="data.capabilities",
        fix=f"label about {_needed(least, config.split)} pairs per capability, give split.experts a larger share of "
        f"the prompts, or lower experts.least; without 'data.capabilities' the run trains no experts",
    )


def needed_text(pairs: Mapping[str, int]) -> str:
    """Return how many labelled pairs each capability needs for an expert, with the default settings.

    Args:
        pairs: Number of pairs to be labelled, by capability.
    """
    least, split = CapabilitySection().least, SplitSection()
    needed = _needed(least, split)
    text = (
        f"for an expert, each capability needs about {needed} labelled pairs ({least} on the {_share(split):.0%} of "
        "the prompts that the split gives to the experts), more if the judge cannot decide some"
    )
    few = {name: count for name, count in pairs.items() if count < needed}
    if not few:
        return f"{text}: all have enough"
    named = ", ".join(f"{name} ({count})" for name, count in list(few.items())[:_NAMED])
    more = f" and {len(few) - _NAMED} more" if len(few) > _NAMED else ""
    return f"{text}\ntoo few: {named}{more}"


def _share(split: SplitSection) -> float:
    return split.experts / (split.base + split.experts + split.mix)


def _needed(least: int, split: SplitSection) -> int:
    return math.ceil(least / _share(split))
