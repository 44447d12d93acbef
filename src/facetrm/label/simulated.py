"""Labels without an API: the world's true levels, seen through a judge that errs, ties and likes the first place.

    x = level(shown first) - level(shown second) + place_bias + noise * e,   e logistic
    verdict = tie where |x| <= tie_width, else reply_1 where x > 0, else reply_2

Levels are shares of their highest value. The same pairs, keys, outcomes, records and report as with an API; only who
answers differs. From ratings the same records come from :func:`facetrm.data.views.ratings_to_preferences` with
``aspect="task/capability"``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Final

from pydantic import Field

from facetrm.core.config import Section, Seed
from facetrm.data.rubric import Capability, Rubric, RubricTask
from facetrm.data.world import TASKS, World
from facetrm.data.world.latents import LATENTS
from facetrm.data.world.truth import SLOTS
from facetrm.data.world.world import Part
from facetrm.label.outcomes import KEPT, judge_all
from facetrm.label.pairs import Pair, preference_pairs
from facetrm.label.plan import make_plan
from facetrm.label.report import summarise
from facetrm.label.run import Labelled
from facetrm.label.settings import LabelConfig
from facetrm.label.verdicts import JudgeVerdict

SIMULATED: Final = "simulated"


class NoisyJudge(Section):
    """A judge of the world.

    Attributes:
        noise: scale of its logistic error, where 1 is the whole way from the worst level to the best.
        place_bias: what the reply shown first gains.
        tie_width: how near to equal is a tie.
        seed: of its errors, which are fixed for each question.
    """

    noise: float = Field(default=0.15, ge=0.0)
    place_bias: float = 0.1
    tie_width: float = Field(default=0.05, ge=0.0)
    seed: Seed = 0

    def verdict(self, difference: float, key: str) -> JudgeVerdict:
        """Return the verdict on question ``key``; ``difference`` is how much better the reply shown first is."""
        u = Random(f"{self.seed}|{key}").uniform(1e-12, 1.0 - 1e-12)
        x = difference + self.place_bias + self.noise * math.log(u / (1.0 - u))
        if abs(x) <= self.tie_width:
            return "tie"
        return "reply_1" if x > 0 else "reply_2"


def world_rubric(*, least: float = 0.03, most: int | None = None, tasks: Sequence[str] = TASKS) -> Rubric:
    """Return tasks of the world with the latents that count in them as capabilities, the weightiest first.

    Args:
        least: the smallest true weight that makes a latent a capability of a task.
        most: of them a task; None for all.
        tasks: which.
    """
    meanings = {latent.name: latent.meaning for latent in LATENTS}
    written = []
    for task in tasks:
        weights = World.weights[task]
        latents = sorted((name for name in weights if weights[name] >= least), key=lambda name: -weights[name])[:most]
        capabilities = tuple(
            Capability(name=name, description=meanings[name], better=f"this holds more often: {meanings[name]}")
            for name in latents
        )
        written.append(RubricTask(name=task, description="a task of the world", capabilities=capabilities))
    return Rubric(name="world", language="en", tasks=tuple(written))


def label_world(
    world: World,
    count: int,
    *,
    judge: NoisyJudge | None = None,
    rubric: Rubric | None = None,
    part: Part = "gate",
    start: int = 0,
) -> Labelled:
    """Return capability preferences on pairs of the world, with the report of any other labels.

    Args:
        world: writes the pairs and knows their levels.
        count: pairs.
        judge: who errs; None is a judge with the default settings.
        rubric: tasks and capabilities, which are latents; None is :func:`world_rubric`. Pairs of other tasks are
            passed over.
        part: which pairs, as in :meth:`facetrm.data.world.world.World.preferences`.
        start: number of the first pair.

    Returns:
        Records with ``aspect`` ``task/latent``. In the report's ``with_given``, ``true latent`` is the true order.
    """
    judge, rubric = judge or NoisyJudge(), rubric or world_rubric()
    pairs, levels = [], {}
    wanted = world.preferences_of([task.name for task in rubric.tasks], count, part=part, start=start)
    for pair in preference_pairs(wanted):
        shares = tuple(_shares(world, pair, n) for n in (0, 1))
        truth = {f"true {name}": _sign(shares[0][name] - shares[1][name]) for name in SLOTS}
        pairs.append(replace(pair, given={**pair.given, **{name: sign for name, sign in truth.items() if sign}}))
        levels[id(pairs[-1])] = shares
    plan = make_plan(pairs, rubric, LabelConfig(model=SIMULATED))
    verdicts: dict[str, JudgeVerdict] = {}
    for judgement in plan.judgements:
        first, second = (shares[judgement.capability.name] for shares in levels[id(judgement.pair)])
        for key, difference in zip(judgement.keys, (first - second, second - first), strict=True):
            verdicts[key] = judge.verdict(difference, key)
    judged = list(judge_all(plan.judgements, verdicts))
    kept = [one.record(model=SIMULATED, rubric=plan.rubric.name) for one in judged if one.outcome in KEPT]
    report = {"rubric": plan.rubric.name, "judge": SIMULATED, "settings": judge.model_dump(), "pairs": plan.pairs}
    return Labelled(kept, [], {**report, "skipped": plan.skipped, **summarise(judged)})


def _shares(world: World, pair: Pair, reply: int) -> Mapping[str, float]:
    levels = world.levels((*pair.prompt, pair.replies[reply]))
    return {name: levels[name] / slots for name, slots in SLOTS.items()}


def _sign(difference: float) -> int:
    return 0 if abs(difference) < 1e-9 else (1 if difference > 0 else -1)
