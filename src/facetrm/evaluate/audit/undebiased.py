"""The same model without its debiasing, for a ledger of biases before and after."""

from __future__ import annotations

from facetrm.core.errors import ModelError
from facetrm.model.aggregate import GatedSum
from facetrm.model.mixture import Mixture
from facetrm.model.reward_model import RewardModel


def without_debiasing(model: RewardModel) -> RewardModel:
    """Return the same model with the identity in place of each debiasing matrix. Experts and gates are shared.

    Args:
        model: a model whose tasks all have a gated sum; it is not changed.

    Raises:
        ModelError: a task has another aggregator, which has no debiasing.
    """
    for task, mixture in model.mixtures.items():
        if not isinstance(mixture.aggregator, GatedSum):
            raise ModelError(
                f"the aggregator '{mixture.aggregator.kind}' has no debiasing to leave out",
                place=f"task {task}",
                fix="audit this model without a model to compare with",
            )
        total = mixture.aggregator
        plain = GatedSum(total.gate, scale=total.scale, reference_K=total.reference_K, edit=total.edit)
        model = model.with_mixture(
            Mixture(mixture.experts, plain, beta=mixture.beta), task=task, provenance={"without_debiasing": True}
        )
    return model
