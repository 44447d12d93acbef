"""The losses of ratings, of preferences and of distributions, stable in float32.

Shapes: N pairs, K objectives.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus


def weighted_mean(values_N: Tensor, weights_N: Tensor | None = None) -> Tensor:
    """Return ``sum(w * x) / sum(w)`` of the values x and weights w, [N]; the plain mean without weights."""
    return values_N.mean() if weights_N is None else (values_N * weights_N).sum() / weights_N.sum()


def bradley_terry_loss(margin_N: Tensor, weights_N: Tensor | None = None) -> Tensor:
    """Return the mean of ``-log sigmoid(margin)``, as ``softplus(-margin)``: finite for any finite margin.

    Args:
        margin_N: log odds that the chosen answer is preferred: beta * (reward chosen - reward rejected).
        weights_N: weight of each pair.

    Reference: ArmoRM (arXiv 2406.12845), section 3.2.
    """
    return weighted_mean(softplus(-margin_N), weights_N)


def masked_mse_loss(scores_NK: Tensor, labels_NK: Tensor) -> Tensor:
    """Return the squared error over the labels that are known, each row counted once however many it has.

        1/M sum_n 1/|K_n| sum_{k in K_n} (scores_nk - labels_nk)^2

    K_n are the objectives that row n rates, and M is the number of rows that rate any; 0 where there is none.

    Args:
        scores_NK: predictions.
        labels_NK: unit labels, NaN where not rated.
    """
    known_NK = torch.isfinite(labels_NK)
    error_NK = torch.where(known_NK, scores_NK - labels_NK.nan_to_num(), 0.0).square()
    count_N = known_NK.sum(dim=-1)
    return (error_NK.sum(dim=-1) / count_N.clamp(min=1)).sum() / (count_N > 0).sum().clamp(min=1)


def divergence(logits_NK: Tensor, prior_K: Tensor) -> Tensor:
    """Return KL(softmax(logits) || prior) of each row, [N]; entries of minus infinity count as weight 0.

    Args:
        logits_NK: logits of the distribution; minus infinity where it may not put weight.
        prior_K: a distribution that is positive wherever the logits are finite.
    """
    log_weights_NK = torch.log_softmax(logits_NK, dim=-1)
    open_NK = torch.isfinite(log_weights_NK)
    log_ratio_NK = torch.where(open_NK, log_weights_NK, 0.0) - torch.where(prior_K > 0, prior_K, 1.0).log()
    return torch.where(open_NK, log_weights_NK.exp() * log_ratio_NK, 0.0).sum(dim=-1)
