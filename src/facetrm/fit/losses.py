"""Losses for ratings, preferences and distributions, numerically stable in float32.

Shapes: N pairs, K objectives.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus


def weighted_mean(values_N: Tensor, weights_N: Tensor | None = None) -> Tensor:
    """Return the weighted mean ``sum(w * x) / sum(w)`` of values x and weights w, [N]; without weights, the mean."""
    return values_N.mean() if weights_N is None else (values_N * weights_N).sum() / weights_N.sum()


def bradley_terry_loss(margin_N: Tensor, weights_N: Tensor | None = None) -> Tensor:
    """Return the mean of ``-log sigmoid(margin)``, as ``softplus(-margin)``: finite for any finite margin.

    Args:
        margin_N: log odds that the chosen answer is preferred, beta * (reward chosen - reward rejected), [N].
        weights_N: weight of each pair, [N]; None for equal weights.

    Reference: ArmoRM (arXiv 2406.12845), section 3.2.
    """
    return weighted_mean(softplus(-margin_N), weights_N)


def masked_mse_loss(scores_NK: Tensor, labels_NK: Tensor) -> Tensor:
    """Return the mean squared error over known labels; every row has the same weight, however many labels it has.

        1/M sum_n 1/|K_n| sum_{k in K_n} (scores_nk - labels_nk)^2

    K_n are the objectives that row n rates, and M is the number of rows with at least one label. The loss is 0 if there
    is no label.

    Args:
        scores_NK: predicted ratings on the [0, 1] scale, [N, K].
        labels_NK: labels on the [0, 1] scale, [N, K]; NaN if not rated.
    """
    known_NK = torch.isfinite(labels_NK)
    error_NK = torch.where(known_NK, scores_NK - labels_NK.nan_to_num(), 0.0).square()
    count_N = known_NK.sum(dim=-1)
    return (error_NK.sum(dim=-1) / count_N.clamp(min=1)).sum() / (count_N > 0).sum().clamp(min=1)


def divergence(logits_NK: Tensor, prior_K: Tensor) -> Tensor:
    """Return KL(softmax(logits) || prior) of each row, [N].

    Args:
        logits_NK: logits of the distributions, [N, K]; minus infinity means weight 0.
        prior_K: prior distribution, [K]; it must be positive where logits are finite.
    """
    log_weights_NK = torch.log_softmax(logits_NK, dim=-1)
    open_NK = torch.isfinite(log_weights_NK)
    log_ratio_NK = torch.where(open_NK, log_weights_NK, 0.0) - torch.where(prior_K > 0, prior_K, 1.0).log()
    return torch.where(open_NK, log_weights_NK.exp() * log_ratio_NK, 0.0).sum(dim=-1)
