"""What a small change of the text does to the score, to the order of pairs and to each objective.

An edit is made on one answer of a pair at a time; the other answer stays. A flip is a strict reversal of the order
that the model itself gave: the answer that lost wins after its edit, or the answer that won loses after its edit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from facetrm.core.statistics import Interval, bootstrap_mean
from facetrm.data.records import Conversation, Message
from facetrm.evaluate.audit.edits import EDITS, Expectation
from facetrm.evaluate.audit.scored import Compared, Duel, Mover, contribution_change, movers
from facetrm.evaluate.audit.settings import AuditConfig


@dataclass(frozen=True)
class Trial:
    """One edit of one answer.

    Attributes:
        edit: name of the edit.
        pair: index of the pair.
        of_first: whether the first answer of the pair is edited, and not the second.
        duel: the two answers after the edit, in the order of the pair.
    """

    edit: str
    pair: int
    of_first: bool
    duel: Duel


@dataclass(frozen=True)
class Effect:
    """The effect of one edit.

    Attributes:
        edit: name of the edit.
        expected: what should happen to a good model's score: ``none``, ``down``, ``depends`` or ``null``.
        answers: number of edited answers.
        change: mean change of the edited answer's lead over the other answer, in units of the reward. Where answers
            are scored one by one, that is the mean change of its score.
        in_sd: the same in standard deviations of the rewards of all unedited answers.
        flips: share of edited answers whose edit reverses the model's order; None if the model ties all pairs.
        lifted: share of edited losers that win; None without any.
        sunk: share of edited winners that lose; None without any.
        movers: the objectives that moved most, largest first.
    """

    edit: str
    expected: Expectation
    answers: int
    change: Interval
    in_sd: Interval
    flips: Interval | None
    lifted: Interval | None
    sunk: Interval | None
    movers: tuple[Mover, ...]


def trials_of(duels: Sequence[Duel], *, edits: Sequence[str], seed: int) -> list[Trial]:
    """Return every edit of every answer that it applies to.

    Args:
        duels: the pairs.
        edits: names of the edits.
        seed: seed of the edits.
    """
    found = []
    for name in edits:
        for row, (first, second) in enumerate(duels):
            for of_first, answer in ((True, first), (False, second)):
                changed = _edited(answer, name, seed)
                if changed is not None:
                    found.append(Trial(name, row, of_first, (changed, second) if of_first else (first, changed)))
    return found


def effects_of(
    trials: Sequence[Trial],
    after: Sequence[Compared],
    compared: Sequence[Compared],
    *,
    groups: Sequence[str],
    scale: float,
    config: AuditConfig,
) -> list[Effect]:
    """Return the effect of each edit that applies to some answer.

    Args:
        trials: the edits.
        after: the scores after each edit.
        compared: the scores of the unedited pairs.
        groups: prompt key of each pair.
        scale: standard deviation of the rewards.
        config: the settings.
    """
    rows = list(zip(trials, after, strict=True))
    found = []
    for name in config.edits:
        mine = [(trial, scores) for trial, scores in rows if trial.edit == name]
        if mine:
            found.append(_effect(name, mine, compared, groups=groups, scale=scale, config=config))
    return found


def _effect(
    name: str,
    rows: Sequence[tuple[Trial, Compared]],
    compared: Sequence[Compared],
    *,
    groups: Sequence[str],
    scale: float,
    config: AuditConfig,
) -> Effect:
    changes, prompts, parts = [], [], []
    flips: dict[str, list[tuple[float, str]]] = {"lifted": [], "sunk": []}
    for trial, scores in rows:
        old, sign, prompt = compared[trial.pair], 1.0 if trial.of_first else -1.0, groups[trial.pair]
        lead, lead_after = sign * old.margin, sign * scores.margin
        changes.append(lead_after - lead)
        prompts.append(prompt)
        sides = (scores.first, old.first) if trial.of_first else (scores.second, old.second)
        parts.append(contribution_change(*sides))
        if lead < 0:
            flips["lifted"].append((float(lead_after > 0), prompt))
        elif lead > 0:
            flips["sunk"].append((float(lead_after < 0), prompt))

    def share(found: Iterable[tuple[float, str]]) -> Interval | None:
        flipped = list(found)
        if not flipped:
            return None
        values, of_prompt = zip(*flipped, strict=True)
        return bootstrap_mean(values, of_prompt, samples=config.samples, seed=config.seed, within=(0.0, 1.0))

    mean = bootstrap_mean(np.array(changes), prompts, samples=config.samples, seed=config.seed)
    in_sd = Interval(mean.value / scale, mean.low / scale, mean.high / scale, mean.level)
    both = share([*flips["lifted"], *flips["sunk"]])
    expected = EDITS[name].expected
    return Effect(
        name, expected, len(rows), mean, in_sd, both, share(flips["lifted"]), share(flips["sunk"]), movers(parts)
    )


def _edited(answer: Conversation, name: str, seed: int) -> Conversation | None:
    text = EDITS[name].change(answer[-1].content, seed)
    return None if text is None else (*answer[:-1], Message(role="assistant", content=text))
