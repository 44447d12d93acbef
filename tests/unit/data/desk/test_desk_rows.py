"""The desk's rows and truth: streams, parts, raters, weights and wrong labels."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from facetrm.core.errors import DataError
from facetrm.data.desk import Desk, DeskConfig
from facetrm.data.desk.qualities import QUALITY_SLOTS
from facetrm.data.desk.raters import DESK_RATERS
from facetrm.data.desk.tasks import DESK_TASKS
from facetrm.data.objectives import check_unique, label_matrix
from facetrm.data.records import Preference
from facetrm.data.synthetic.raters import VERBOSITY

DESK = Desk()
PARTS = ("backbone", "heads", "gate", "test")


@pytest.fixture(scope="module")
def pairs() -> list[Preference]:
    return list(DESK.preferences(1200))


def test_weights_are_shares_and_padding_has_none() -> None:
    for task, weights in DESK.weights.items():
        assert sum(weights.values()) == pytest.approx(1.0)
        assert all(weight >= 0 for weight in weights.values())
        assert VERBOSITY not in weights
        assert {name for name, weight in weights.items() if weight} == set(DESK_TASKS[task].weights)


@pytest.mark.parametrize(
    ("task", "core"),
    [("sums", "correct"), ("facts", "correct"), ("unknown", "honest"), ("harm", "declined"), ("code", "code")],
)
def test_what_a_task_is_about_outweighs_the_rest(task: str, core: str) -> None:
    """No charm makes up for a wrong fact, and no good tip for help with something harmful."""
    weights = DESK.weights[task]
    assert weights[core] > sum(weight for name, weight in weights.items() if name != core)


def test_one_weighting_cannot_be_right() -> None:
    """The best unconditional weights, fitted on the true levels and order, stay below the truth."""

    def differences(count: int, seed: int) -> np.ndarray:
        random, rows = Random(seed), []
        for i in range(count):
            better, worse = DESK._pair(random, DESK._any(random, DESK.tasks[i % len(DESK.tasks)]))
            rows.append([(better.get(n, 0) - worse.get(n, 0)) / slots for n, slots in QUALITY_SLOTS.items()])
        return np.array(rows)

    rows = differences(3600, 1)
    fit = LogisticRegression(fit_intercept=False, C=100.0).fit(np.vstack([rows, -rows]), [1] * 3600 + [0] * 3600)
    assert 0.75 < float(np.mean(differences(3600, 2) @ fit.coef_[0] > 0)) < 0.94


def test_the_gold_reward_is_measured_from_the_text(pairs: list[Preference]) -> None:
    agrees = [(DESK.utility(p.chosen) > DESK.utility(p.rejected)) == p.meta["agrees"] for p in pairs[:300]]
    assert np.mean(agrees) >= 0.99
    shares = {
        name: level / QUALITY_SLOTS[name] for name, level in DESK.levels(pairs[0].chosen).items() if name != VERBOSITY
    }
    weights = DESK.weights[pairs[0].task]
    assert DESK.utility(pairs[0].chosen) == pytest.approx(sum(weights[n] * shares[n] for n in shares))


def test_a_share_of_the_labels_is_wrong(pairs: list[Preference]) -> None:
    assert np.mean([not p.meta["agrees"] for p in pairs]) == pytest.approx(0.25, abs=0.03)
    assert all(p.meta["agrees"] for p in Desk(DeskConfig(noise=0.0)).preferences(50))
    assert {p.task for p in pairs} == set(DESK.tasks)


def test_a_stream_can_be_read_from_anywhere() -> None:
    for stream in (DESK.preferences, DESK.ratings):
        whole = list(stream(24, part="test"))
        assert list(stream(9, part="test", start=15)) == whole[15:]
        assert list(stream(24, part="test")) == whole
    assert list(Desk(DeskConfig(seed=1)).ratings(5)) != list(DESK.ratings(5))


def test_parts_share_no_prompt() -> None:
    asked = {}
    for part in PARTS:
        rows = [*DESK.preferences(150, part=part), *DESK.ratings(150, part=part)]
        asked[part] = {DESK.request(row.prompt).key for row in rows}
    for one in PARTS:
        for other in PARTS:
            assert one == other or not asked[one] & asked[other]
    with pytest.raises(DataError, match="unknown part 'training' of the desk"):
        next(DESK.ratings(1, part="training"))


def test_raters_rate_what_a_task_has() -> None:
    check_unique(DESK.objectives)
    assert {DESK.latent_of[o.name] for o in DESK.objectives} == {*QUALITY_SLOTS, VERBOSITY}
    assert DESK.verbosity_objective in {o.name for o in DESK.objectives}
    for rater in DESK_RATERS:
        for task in rater.tasks:
            assert set(rater.latents) & {*DESK_TASKS[task].weights, VERBOSITY}
    rows = list(DESK.ratings(400))
    for row in rows:
        assert row.ratings
        assert {DESK.latent_of[name] for name in row.ratings} <= {*DESK_TASKS[row.task].weights, VERBOSITY}
    labels_NK = label_matrix(rows, DESK.objectives)
    known = labels_NK[np.isfinite(labels_NK)]
    assert ((known >= 0) & (known <= 1)).all()
    assert np.isnan(labels_NK).mean() > 0.5, "blocks are missing"


def test_raters_like_padding_and_utility_does_not() -> None:
    def slope(bias: float) -> float:
        desk = Desk(DeskConfig(verbosity_bias=bias, rater_noise=0.0, gaps=0.0))
        gained, padding = [], []
        for row in desk.ratings(400, every_rater=True):
            levels = desk.levels(row.messages)
            if "daisy-fluent" in row.ratings:
                gained.append(row.ratings["daisy-fluent"] / 100 - levels["fluent"] / 2)
                padding.append(levels[VERBOSITY] / desk.most_padding)
        return float(np.polyfit(padding, gained, 1)[0])

    assert abs(slope(0.0)) < 0.02
    assert slope(0.4) > 0.15
    row = next(r for r in DESK.ratings(50) if r.task == "facts")
    text = row.messages[-1].content
    padded = row.messages[-1].model_copy(update={"content": f"All things considered, the sun is out. {text}"})
    assert DESK.levels((*row.prompt, padded))[VERBOSITY] == DESK.levels(row.messages)[VERBOSITY] + 1
    assert DESK.utility((*row.prompt, padded)) == DESK.utility(row.messages)
