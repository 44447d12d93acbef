"""verl: a dict of finite numbers with the same keys for each row, and an estimator that keeps the gate."""

from __future__ import annotations

import math
import sys
from types import ModuleType

import numpy as np
import pytest
import torch

from facetrm.core.errors import ConfigError
from facetrm.policy.bridges.scored import RewardSource, sampled_answer
from facetrm.policy.bridges.verl import register_verl_advantages, verl_advantages, verl_compute_score
from policy_samples import ANSWERS, FAILING, OBJECTIVES, PROMPTS, Moody
from reward_models import model

KEYS = {"score", "failed", "base"} | {
    f"{part}/{name}" for part in ("contribution", "rating", "weight") for name in OBJECTIVES
}


def ask(compute_score, prompt, answer, **others):
    """Call a reward function as verl's reward managers do."""
    info = {"prompt": prompt, "experiment_name": "test"}
    return compute_score(data_source="desk", solution_str=answer, ground_truth="", extra_info=info, **others)


def batch(rows: list[dict[str, float]]) -> dict[str, np.ndarray]:
    """Stack rows as verl does: by the keys of the first one."""
    return {key: np.array([row[key] for row in rows]) for key in rows[0]}


def test_a_row_is_a_dict_of_numbers_that_sum_up() -> None:
    row = ask(verl_compute_score(model()), PROMPTS[0], ANSWERS[0], reward_router_address=None)
    assert set(row) == KEYS
    assert all(type(value) is float for value in row.values())
    assert row["base"] + math.fsum(row[f"contribution/{name}"] for name in OBJECTIVES) == pytest.approx(row["score"])
    assert row["score"] == model().score([sampled_answer(PROMPTS[0], ANSWERS[0])])[0].reward
    stored = np.array([{"role": "user", "content": PROMPTS[0]}], dtype=object)  # as a Parquet file gives it back
    assert ask(verl_compute_score(model()), stored, ANSWERS[0]) == row


@pytest.mark.parametrize("failing", FAILING)
def test_a_failed_row_has_the_same_keys_and_no_nan(failing: str) -> None:
    row = ask(verl_compute_score(Moody(), objectives=OBJECTIVES), PROMPTS[0], failing)
    assert set(row) == KEYS
    assert {key: value for key, value in row.items() if value} == {"failed": 1.0}
    assert ask(verl_compute_score(model(), missing=-3.0), PROMPTS[0], " ")["score"] == -3.0
    assert verl_compute_score(model())("desk", "four", "", {"question": "?"})["failed"] == 1.0


def test_the_estimator_keeps_the_gate_and_leaves_failed_rows_out() -> None:
    compute_score = verl_compute_score(model())
    rows = [ask(compute_score, prompt, answer) for prompt in PROMPTS for answer in (*ANSWERS, " ")]
    index = np.array([prompt for prompt in PROMPTS for _ in range(5)], dtype=object)
    mask = torch.ones(10, 3)
    mask[:, 2] = 0.0
    rewards = torch.zeros(10, 3)
    advantages, returns = verl_advantages(
        token_level_rewards=rewards, response_mask=mask, index=index, non_tensor_batch=batch(rows), config={}, batch={}
    )
    scored = RewardSource(model()).score([sampled_answer(p, a) for p in PROMPTS for a in ANSWERS])
    expected = scored.advantages([p for p in PROMPTS for _ in ANSWERS])
    kept = [n for n in range(10) if n % 5 != 4]
    np.testing.assert_allclose(advantages[kept, 0].numpy(), expected, atol=1e-6)
    assert torch.equal(advantages, returns)
    assert torch.equal(advantages[:, 0], advantages[:, 1])
    assert advantages[[4, 9]].abs().max() == advantages[:, 2].abs().max() == 0.0
    assert advantages.dtype == rewards.dtype
    assert np.abs(expected).max() > 0.01


def test_an_estimator_without_the_columns_says_what_to_set() -> None:
    whole = torch.zeros(2, 1)
    for given in (None, {}, {"score": np.zeros(2)}, {"failed": np.zeros(2), "rating/a": np.zeros(2)}):
        with pytest.raises(ConfigError, match=r"no column '.*'; use verl_compute_score, .*the estimator name gdpo"):
            verl_advantages(whole, whole, [0, 0], non_tensor_batch=given)


@pytest.fixture
def algorithms(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A stand-in for verl's registry of estimators, which refuses a name that is taken."""
    found = ModuleType("verl.trainer.ppo.core_algos")
    found.ADV_ESTIMATOR_REGISTRY = {"gdpo": "verl's own"}

    def register_adv_est(name):
        def keep(function):
            if name in found.ADV_ESTIMATOR_REGISTRY:
                raise ValueError(f"Adv estimator {name} has already been registered")
            found.ADV_ESTIMATOR_REGISTRY[name] = function
            return function

        return keep

    found.register_adv_est = register_adv_est
    for name in ("verl", "verl.trainer", "verl.trainer.ppo"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, found.__name__, found)
    return found


def test_the_estimator_takes_the_name_that_gets_the_columns(algorithms: ModuleType) -> None:
    register_verl_advantages()
    register_verl_advantages(floor=1e6)
    register_verl_advantages(name="facetrm")
    assert set(algorithms.ADV_ESTIMATOR_REGISTRY) == {"gdpo", "facetrm"}
    rows = [ask(verl_compute_score(model()), PROMPTS[0], answer) for answer in ANSWERS]
    given = {"index": [0] * 4, "non_tensor_batch": batch(rows), "token_level_rewards": torch.zeros(4, 1)}
    flat, _ = algorithms.ADV_ESTIMATOR_REGISTRY["gdpo"](response_mask=torch.ones(4, 1), **given)
    full, _ = algorithms.ADV_ESTIMATOR_REGISTRY["facetrm"](response_mask=torch.ones(4, 1), **given)
    assert 0 < flat.abs().max() < 1e-3 < full.abs().max()


def test_without_verl_registering_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no module 'verl'; call this where verl is installed"):
        register_verl_advantages()
