"""Learning-rate schedules whose warm-up takes no step at rate 0."""

from __future__ import annotations

from collections.abc import Callable

from torch.optim.lr_scheduler import LambdaLR, LRScheduler


def without_zero_rate(schedule: LRScheduler, *, warm: int) -> LRScheduler:
    """Return ``schedule`` with a warm-up of w steps that goes from 1/w to 1 instead of from 0 to (w - 1)/w.

    Args:
        schedule: schedule that has not taken a step yet; only a ``LambdaLR`` is changed.
        warm: number of warm-up steps w.
    """
    if not warm or not isinstance(schedule, LambdaLR):
        return schedule
    schedule.lr_lambdas = [_one_ahead(factor, warm) for factor in schedule.lr_lambdas]
    rates = [base * factor(0) for base, factor in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)]
    for group, rate in zip(schedule.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    schedule._last_lr = rates
    return schedule


def _one_ahead(factor: Callable[[int], float], warm: int) -> Callable[[int], float]:
    """Return ``factor`` with its first ``warm`` steps shifted by one, so that step t has the rate of step t + 1."""
    return lambda step: factor(step + 1) if step < warm else factor(step)
