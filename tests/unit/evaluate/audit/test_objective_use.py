"""Equal objectives are in one cluster, and who decides is counted; models lose their debiasing and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from adapter_models import one_task
from audit_samples import Parts, luck, random_pairs
from facetrm.baselines.groups import bare_score
from facetrm.core.errors import ModelError
from facetrm.evaluate.audit import AuditConfig, audit, without_debiasing
from facetrm.evaluate.audit.objectives import correlated
from reward_models import QUESTIONS, model, routed


def test_correlation_agrees_with_numpy_and_finds_the_cluster() -> None:
    values = np.random.default_rng(0).normal(size=(200, 3))
    rows = [{"a": x, "b": y, "same": -2 * x + 0.01 * z, "flat": 1.0} for x, y, z in values.tolist()]
    found = correlated(rows, limit=0.9)
    table = np.corrcoef(np.array([[row[name] for name in found.names] for row in rows]).T)
    assert np.allclose(found.correlation, table)
    assert found.clusters == (("a", "same"),)
    assert found.constant == ("flat",)
    assert found.effective_rank == pytest.approx(1.89, abs=0.05)  # eigenvalues 2, 1, 0: exp(entropy of 2/3, 1/3)


def test_the_deciding_objective_is_named() -> None:
    found = audit(Parts(luck=luck, size=len), random_pairs(50), config=AuditConfig(samples=100)).objectives["all"]
    assert found.decided["size"] > 0.9
    assert found.weight == pytest.approx({"luck": 0.5, "size": 0.5})
    one = audit(Parts(only=luck), random_pairs(5), config=AuditConfig(samples=100))
    assert one.objectives == {}
    assert bare_score(1.0, model="m").contributions == {"reward": 1.0}


@pytest.mark.parametrize("build", [model, routed])
def test_the_model_without_debiasing_is_the_plain_gated_sum(build: object) -> None:
    whole = build()  # type: ignore[operator]
    plain = without_debiasing(whole)
    for before, after in zip(whole.score(QUESTIONS), plain.score(QUESTIONS), strict=True):
        total = sum(after.weights[name] * after.scores[name] for name in after.scores)
        assert after.reward == pytest.approx(total, abs=1e-4)
        assert before.scores == after.scores
        assert after.weights == before.weights
        assert after.reward != pytest.approx(before.reward, abs=1e-6)
    assert all(torch.equal(m.gated_sum.debias_KK, torch.eye(len(m.names))) for m in plain.mixtures.values())
    assert whole.hash != plain.hash


def test_a_model_of_the_house_is_audited_with_its_own_beta() -> None:
    found = audit(model(), random_pairs(12), config=AuditConfig(samples=100), before=without_debiasing(model()))
    assert found.calibration is not None
    assert (found.calibration.source, found.calibration.beta) == ("model", 3.0)
    assert {"characters", "tokens"} <= {bias.feature for bias in found.biases}


def test_a_network_has_no_debiasing_to_leave_out() -> None:
    with pytest.raises(ModelError, match="no debiasing"):
        without_debiasing(one_task())
