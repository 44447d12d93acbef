"""Labels without an API: a simulated judge reads the world's true levels with noise, ties and position bias.

    x = level(shown first) - level(shown second) + place_bias + noise * e,   e logistic
    verdict = tie where |x| <= tie_width, else reply_1 where x > 0, else reply_2

Levels are divided by their highest value. Pairs, keys, outcomes, records and report are the same as with an API; only
the judge differs. To make such records from ratings, use :func:`facetrm.data.views.ratings_to_preferences` with
``aspect="task/capability"``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Any, Final

from pydantic import Field

from facetrm.core.config import Section, Seed
from facetrm.data.rubric import Capability, Rubric, RubricTask
from facetrm.data.synthetic.known import KnownTruth
from facetrm.data.synthetic.parts import Part
from facetrm.data.world import World
from facetrm.label.outcomes import KEPT, judge_all
from facetrm.label.pairs import Pair, preference_pairs
from facetrm.label.plan import make_plan
from facetrm.label.report import summarise
from facetrm.label.run import Labelled
from facetrm.label.settings import LabelConfig
from facetrm.label.verdicts import JudgeVerdict

SIMULATED: Final = "simulated"


class NoisyJudge(Section):
    """A simulated judge of the world, with noise and position bias.

    Attributes:
        noise: the scale of the logistic noise, where 1 is the distance from the lowest level to the highest.
        place_bias: the bonus of the reply that is shown first, on the same scale.
        tie_width: the largest difference that counts as a tie.
        seed: the seed of the noise. The noise of a question depends only on this seed and the question's key.
    """

    noise: float = Field(default=0.15, ge=0.0)
    place_bias: float = 0.1
    tie_width: float = Field(default=0.05, ge=0.0)
    seed: Seed = 0

    def verdict(self, difference: float, key: str) -> JudgeVerdict:
        """Return the verdict on one question.

        Args:
            difference: the level of the reply shown first minus that of the other, between -1 and 1.
            key: the key of the question.
        """
        u = Random(f"{self.seed}|{key}").uniform(1e-12, 1.0 - 1e-12)
        x = difference + self.place_bias + self.noise * math.log(u / (1.0 - u))
        if abs(x) <= self.tie_width:
            return "tie"
        return "reply_1" if x > 0 else "reply_2"


def world_rubric(
    *,
    least: float = 0.03,
    most: int | None = None,
    tasks: Sequence[str] | None = None,
    world: type[KnownTruth[Any]] = World,
) -> Rubric:
    """Return a rubric whose tasks are those of the world and whose capabilities are their latents, by falling weight.

    Args:
        least: the smallest true weight for which a latent becomes a capability of a task.
        most: the most capabilities per task; None for no limit.
        tasks: the tasks to include; None for all.
        world: the generator whose truth is known.
    """
    meanings = world.meanings
    written = []
    for task in world.tasks if tasks is None else tasks:
        weights = world.weights[task]
        latents = sorted((name for name in weights if weights[name] >= least), key=lambda name: -weights[name])[:most]
        capabilities = tuple(
            Capability(name=name, description=meanings[name], better=f"this holds more often: {meanings[name]}")
            for name in latents
        )
        written.append(RubricTask(name=task, description=f"a task of the {world.name}", capabilities=capabilities))
    return Rubric(name=world.name, language="en", tasks=tuple(written))


def label_world(
    world: KnownTruth[Any],
    count: int,
    *,
    judge: NoisyJudge | None = None,
    rubric: Rubric | None = None,
    part: Part = "gate",
    start: int = 0,
) -> Labelled:
    """Label pairs of the world with a simulated judge.

    Args:
        world: the generator that writes the pairs and knows their true levels.
        count: the number of pairs.
        judge: the simulated judge; None uses the default settings.
        rubric: the tasks and capabilities, which must be latents; None uses :func:`world_rubric`. Pairs of other tasks
            are skipped.
        part: the part of the world to draw from, as in :meth:`facetrm.data.world.world.World.preferences`.
        start: the number of the first pair.

    Returns:
        Preferences whose aspect is ``task/latent``, and the same report as for an API. In its ``with_given``, the names
        ``true LATENT`` compare the labels with the true order.
    """
    judge, rubric = judge or NoisyJudge(), rubric or world_rubric(world=type(world))
    pairs, levels = [], {}
    wanted = world.preferences_of([task.name for task in rubric.tasks], count, part=part, start=start)
    for pair in preference_pairs(wanted):
        shares = tuple(_shares(world, pair, n) for n in (0, 1))
        truth = {f"true {name}": _sign(shares[0][name] - shares[1][name]) for name in world.slots}
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


def _shares(world: KnownTruth[Any], pair: Pair, reply: int) -> Mapping[str, float]:
    levels = world.levels((*pair.prompt, pair.replies[reply]))
    return {name: levels[name] / slots for name, slots in world.slots.items()}


def _sign(difference: float) -> int:
    return 0 if abs(difference) < 1e-9 else (1 if difference > 0 else -1)
