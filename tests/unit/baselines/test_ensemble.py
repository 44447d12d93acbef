"""Ensembles: members that count alike, the three ways to join them, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import pytest
from scipy.stats import pearsonr

from facetrm.baselines.ensemble import Ensemble, EnsembleKind, ensemble_rewards, error_correlation, fit_ensemble
from facetrm.baselines.groups import bare_score
from facetrm.baselines.plain import LengthScorer, OracleScorer, RandomScorer
from facetrm.core.errors import ConfigError, FitError
from facetrm.data.records import conversation_key
from fakes import chat

DRAW = np.random.default_rng(0)
KINDS = get_args(EnsembleKind)
REWARDS, REFERENCE = DRAW.normal(size=(4, 30)), DRAW.normal(size=(4, 200))


def standardised(rewards: np.ndarray, reference: np.ndarray) -> np.ndarray:
    rows = zip(rewards, reference, strict=True)
    return np.array([[(x - sum(r) / len(r)) / np.std(list(r)) for x in m] for m, r in rows])


@pytest.mark.parametrize("kind", KINDS)
def test_members_are_joined_as_stated(kind: str) -> None:
    z = standardised(REWARDS, REFERENCE)
    expected = {
        "mean": z.sum(axis=0) / 4,
        "median": np.array([sum(sorted(column)[1:3]) / 2 for column in z.T]),
        "worst": np.array([min(column) for column in z.T]),
        "uncertainty": z.sum(axis=0) / 4 - 0.7 * ((z - z.sum(axis=0) / 4) ** 2).sum(axis=0) / 4,
    }[kind]
    found = ensemble_rewards(REWARDS, reference_MR=REFERENCE, kind=kind, penalty=0.7)
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_scale_of_a_member_does_not_count(kind: str) -> None:
    scale, shift = np.array([[1.0], [50.0], [0.01], [3.0]]), np.array([[0.0], [7.0], [-2.0], [100.0]])
    plain = ensemble_rewards(REWARDS, reference_MR=REFERENCE, kind=kind)
    moved = ensemble_rewards(scale * REWARDS + shift, reference_MR=scale * REFERENCE + shift, kind=kind)
    assert moved == pytest.approx(plain, abs=1e-9)


def test_where_members_disagree_the_careful_ones_give_less() -> None:
    reference = np.tile(np.array([-1.0, 1.0]), (2, 1))
    agreed, doubted = np.array([[1.0], [1.0]]), np.array([[3.0], [-1.0]])
    both = np.concatenate([agreed, doubted], axis=1)
    assert ensemble_rewards(both, reference_MR=reference) == pytest.approx([1.0, 1.0])
    assert ensemble_rewards(both, reference_MR=reference, kind="worst") == pytest.approx([1.0, -1.0])
    assert ensemble_rewards(both, reference_MR=reference, kind="uncertainty", penalty=0.5) == pytest.approx([1.0, -1.0])


def test_what_is_no_ensemble_is_refused() -> None:
    with pytest.raises(FitError, match="at least two members"):
        ensemble_rewards(REWARDS[:1], reference_MR=REFERENCE[:1])
    with pytest.raises(FitError, match="one row per member"):
        ensemble_rewards(REWARDS, reference_MR=REFERENCE[:3])
    constant = REFERENCE.copy()
    constant[2] = 5.0
    with pytest.raises(FitError, match="member 2 gives all answers the same reward"):
        ensemble_rewards(REWARDS, reference_MR=constant)
    with pytest.raises(ConfigError, match="unknown kind 'best'"):
        ensemble_rewards(REWARDS, reference_MR=REFERENCE, kind="best")  # type: ignore[arg-type]


ANSWERS = [chat(f"question {n}", "word " * (1 + n % 7) + str(n)) for n in range(40)]


def oracles(rewards_MN: np.ndarray) -> dict[str, OracleScorer]:
    keys = [conversation_key(c) for c in ANSWERS]
    return {f"m{m}": OracleScorer(dict(zip(keys, row.tolist(), strict=True))) for m, row in enumerate(rewards_MN)}


@pytest.mark.parametrize("members", [2, 3, 4, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_an_ensemble_of_scorers_is_that_of_their_rewards(kind: Any, members: int) -> None:
    rewards_MN = np.random.default_rng(members).normal(size=(members, 40)) * 3.0 + 1.0
    ensemble = fit_ensemble(oracles(rewards_MN), ANSWERS[:25], kind=kind, penalty=0.3)
    expected = ensemble_rewards(rewards_MN, reference_MR=rewards_MN[:, :25], kind=kind, penalty=0.3)
    scores = ensemble.score(ANSWERS)
    assert [s.reward for s in scores] == pytest.approx(expected, abs=1e-12)
    assert [s.base + sum(s.contributions.values()) for s in scores] == pytest.approx(expected, abs=1e-12)
    assert ensemble.score(ANSWERS[::-1]) == scores[::-1]
    assert ensemble.score([]) == []


def test_contributions_say_who_decided() -> None:
    rewards_MN = np.array([[1.0, -1.0] * 20, [1.0, -1.0] * 20, [1.0, -1.0] * 20])
    rewards_MN[1, 0], z = 9.0, standardised
    expected = z(rewards_MN, rewards_MN)[:, 0]
    members = oracles(rewards_MN)

    def parts(kind: EnsembleKind) -> dict[str, float]:
        return fit_ensemble(members, ANSWERS, kind=kind, penalty=2.0).score(ANSWERS[:1])[0].contributions

    assert parts("mean") == pytest.approx({f"m{m}": expected[m] / 3 for m in range(3)})
    assert parts("worst") == pytest.approx({"m0": expected[0], "m1": 0.0, "m2": 0.0})
    assert parts("median") == pytest.approx({"m0": 0.0, "m1": 0.0, "m2": expected[2]})
    assert parts("uncertainty") == pytest.approx(
        {**{f"m{m}": expected[m] / 3 for m in range(3)}, "disagreement": -2.0 * np.var(expected)}
    )


def test_a_missing_reward_stays_missing() -> None:
    class Silent:
        hash = "silent"

        def score(self, conversations: Sequence[Any]) -> list[Any]:
            return [bare_score(float("nan"), model="silent") for _ in conversations]

    members = {"length": LengthScorer(), "silent": Silent(), "random": RandomScorer()}
    given = {"means": dict.fromkeys(members, 0.0), "deviations": dict.fromkeys(members, 1.0)}
    for kind in KINDS:
        assert np.isnan(Ensemble(members, kind=kind, **given).score(ANSWERS[:1])[0].reward)


def test_the_hash_of_an_ensemble_is_that_of_all_that_counts() -> None:
    members = {"a": LengthScorer(), "b": RandomScorer()}
    hashes = [fit_ensemble(members, ANSWERS, kind=kind).hash for kind in KINDS]
    hashes.append(fit_ensemble(members, ANSWERS, kind="uncertainty", penalty=0.1).hash)
    hashes.append(fit_ensemble(members, ANSWERS[:30]).hash)
    hashes.append(fit_ensemble({**members, "b": RandomScorer(seed=1)}, ANSWERS).hash)
    assert len(set(hashes)) == len(hashes)
    assert fit_ensemble(members, ANSWERS, penalty=0.1).hash == hashes[0]


def test_an_ensemble_of_what_cannot_be_joined_is_refused() -> None:
    class Comparing:
        hash = "c"

        def score(self, conversations: Sequence[Any]) -> list[Any]:
            return []

        score_groups = score

    class Nameless:
        def score(self, conversations: Sequence[Any]) -> list[Any]:
            return []

    one = {"a": LengthScorer()}
    with pytest.raises(ConfigError, match="1 members"):
        fit_ensemble(one, ANSWERS)
    with pytest.raises(ConfigError, match="b: a Comparing compares the answers"):
        fit_ensemble({**one, "b": Comparing()}, ANSWERS)
    with pytest.raises(ConfigError, match="a Nameless has no hash"):
        fit_ensemble({**one, "b": Nameless()}, ANSWERS)
    with pytest.raises(ConfigError, match="a member is called 'disagreement'"):
        fit_ensemble({**one, "disagreement": RandomScorer()}, ANSWERS)
    with pytest.raises(FitError, match=r"member 'a' has mean 1\.0 and deviation 0.0"):
        fit_ensemble({**one, "b": RandomScorer()}, [chat("q", "x"), chat("q", "y")])
    with pytest.raises(FitError, match="1 reference conversations"):
        fit_ensemble({**one, "b": RandomScorer()}, ANSWERS[:1])


def test_correlation_of_errors_is_that_of_wrong_pairs() -> None:
    margins_MP = np.random.default_rng(1).normal(0.5, 1.0, size=(4, 300))
    margins_MP[1] = 0.7 * margins_MP[0] + 0.3 * margins_MP[1]
    margins_MP[2, :20] = 0.0
    found = error_correlation(margins_MP)
    errors = np.where(margins_MP < 0, 1.0, np.where(margins_MP == 0, 0.5, 0.0))
    for a in range(4):
        for b in range(4):
            assert found[a, b] == pytest.approx(pearsonr(errors[a], errors[b]).statistic, abs=1e-12)
    assert found[0, 1] > 0.5 > abs(found[0, 3])


def test_a_member_without_errors_correlates_with_nobody() -> None:
    found = error_correlation([[1.0, 2.0, 3.0], [1.0, -1.0, 1.0]])
    assert np.isnan(found).tolist() == [[True, True], [True, False]]
    with pytest.raises(FitError, match="1 of them not finite"):
        error_correlation([[1.0, float("nan")]])
    with pytest.raises(FitError, match="margins of shape"):
        error_correlation([1.0, 2.0])
