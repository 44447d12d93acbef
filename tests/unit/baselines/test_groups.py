"""Groups of answers: kept in order, compared where a scorer compares, scored one by one where it does not."""

from __future__ import annotations

from collections.abc import Sequence

from facetrm.baselines.groups import bare_score, groups_of, score_groups
from facetrm.data.records import Conversation
from facetrm.model.output import Score
from fakes import chat


class Lengths:
    """Scores the number of letters of the answer."""

    def score(self, conversations: Sequence[Conversation]) -> list[Score]:
        return [bare_score(float(len(c[-1].content)), model="letters") for c in conversations]


class Ranks:
    """Scores the rank of the answer within its group."""

    def score(self, conversations: Sequence[Conversation]) -> list[Score]:
        return [score for group in self.score_groups(groups_of(conversations)) for score in group]

    def score_groups(self, groups: Sequence[Sequence[Conversation]]) -> list[list[Score]]:
        return [[bare_score(float(n), model="ranks") for n, _ in enumerate(group)] for group in groups]


GROUPS = [[chat("a", "x"), chat("a", "xyz")], [chat("b", "xy")], [], [chat("a", "xxxx")]]


def test_any_scorer_scores_groups_in_order() -> None:
    assert [[s.reward for s in group] for group in score_groups(Lengths(), GROUPS)] == [[1.0, 3.0], [2.0], [], [4.0]]
    assert [[s.reward for s in group] for group in score_groups(Ranks(), GROUPS)] == [[0.0, 1.0], [0.0], [], [0.0]]
    assert score_groups(Lengths(), []) == score_groups(Ranks(), []) == []


def test_consecutive_conversations_of_one_prompt_are_a_group() -> None:
    flat = [conversation for group in GROUPS for conversation in group]
    assert groups_of(flat) == [GROUPS[0], GROUPS[1], GROUPS[3]]
    assert [score.reward for score in Ranks().score(flat)] == [0.0, 1.0, 0.0, 0.0]


def test_a_bare_score_is_the_sum_of_its_parts() -> None:
    score = bare_score(-1.5, model="m", tokens=7, length=3, truncated=True)
    assert score.reward == score.base + sum(score.contributions.values()) == -1.5
    assert (score.tokens, score.length, score.truncated, score.model) == (7, 3, True, "m")
