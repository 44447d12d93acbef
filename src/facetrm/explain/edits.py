"""Edit the weights of a model: drop, scale or pin an objective.

    drop   sets weight and penalty to zero and renormalises the other weights
    scale  multiplies weight and penalty by a factor and renormalises nothing
    pin    fixes the weight to a value in [0, 1] for every prompt; the gate distributes the rest

A network on the experts' vectors has no weights. There, drop holds the expert's vector at the reference, so that it
contributes exactly 0, and scale and pin are errors.

The edited model is a new model. It has its own hash, and its manifest records every edit by name.

Shapes: N scored rows, K experts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from facetrm.core.errors import ModelError, did_you_mean
from facetrm.model.aggregate import GatedSum
from facetrm.model.edits import WeightEdit
from facetrm.model.mixture import Mixture
from facetrm.model.reward_model import RewardModel


@dataclass(frozen=True)
class Edit:
    """An edit of a model, by the names of its objectives.

    Attributes:
        drop: names of the objectives to drop.
        scale: factor for the weight of each objective to scale, by name.
        pin: fixed weight of each objective to pin, by name.
    """

    drop: tuple[str, ...] = ()
    scale: Mapping[str, float] = field(default_factory=dict)
    pin: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {"drop": list(self.drop), "scale": dict(self.scale), "pin": dict(self.pin)}

    def __bool__(self) -> bool:
        return bool(self.drop or self.scale or self.pin)


def parse_edit(*, drop: Sequence[str] = (), scale: Sequence[str] = (), pin: Sequence[str] = ()) -> Edit:
    """Read an edit from the command line: ``--drop name``, ``--scale name=2``, ``--pin name=1.0``.

    Args:
        drop: names of the objectives to drop.
        scale: factors, each as ``name=factor``.
        pin: fixed weights, each as ``name=weight``.

    Returns:
        The edit; its names are checked when it is applied to a model.

    Raises:
        ModelError: a value without ``=``, without a name or without a finite number, or an objective named twice.
    """
    repeated = [name for name in drop if drop.count(name) > 1]
    if repeated or any(not name.strip() for name in drop):
        problem = f"'{repeated[0]}' is given twice" if repeated else "there is an empty name"
        raise ModelError(problem, place="--drop", fix="name each objective once")
    return Edit(tuple(drop), _numbers("--scale", scale), _numbers("--pin", pin))


def edit(
    model: RewardModel,
    *,
    drop: Sequence[str] = (),
    scale: Mapping[str, float] | None = None,
    pin: Mapping[str, float] | None = None,
    task: str | None = None,
) -> RewardModel:
    """Return a copy of a model with edited weights; its manifest records the edit.

    A second edit adds to the first. Factors multiply, and a later drop or pin of an objective replaces an earlier one.

    Args:
        model: the model to start from; it is not changed.
        drop: names of the objectives whose weight and penalty become zero.
        scale: factor >= 0 for the weight and penalty of each objective, by name.
        pin: fixed weight in [0, 1] of each objective, by name. They sum to at most 1; if they sum to 1, all other
            objectives get weight 0.
        task: task of the mixture to edit; None edits each objective in the one task that has it.

    Returns:
        The edited model, which shares its parts with ``model``.

    Raises:
        ModelError: an unknown objective, a factor or weight out of range, or no objective left with a weight.

    Example:
        >>> from facetrm import World, edit, toy_model
        >>> pair = next(World().preferences(1))
        >>> silent = edit(toy_model(), drop=["verbose"])
        >>> silent.score([pair.chosen])[0].contributions["verbose"]
        0.0
    """
    wish = Edit(tuple(drop), dict(scale or {}), dict(pin or {}))
    if task is None:
        for name, part in _by_task(model, wish).items():
            model = _edited(model, part, name)
        return model
    return _edited(model, wish, task)


def _edited(model: RewardModel, wish: Edit, task: str) -> RewardModel:
    """Return the model with one task's mixture edited."""
    mixture = model.mixture(task)
    merged = _merge(mixture, wish)
    return model.with_mixture(
        mixture.with_edit(merged),
        task=task,
        provenance={"edits": [*model.provenance.get("edits", []), {"task": task, **wish.to_dict()}]},
    )


def _by_task(model: RewardModel, wish: Edit) -> dict[str, Edit]:
    """Return the edit of each task's mixture. Every objective goes to the one task that has it."""
    if len(model.mixtures) == 1:
        return dict.fromkeys(model.mixtures, wish)
    owners: dict[str, list[str]] = {}
    for task, mixture in model.mixtures.items():
        for name in mixture.names:
            owners.setdefault(name, []).append(task)
    names = dict.fromkeys([*wish.drop, *wish.scale, *wish.pin])
    if not names:
        raise ModelError(
            f"no objective is given for {len(model.mixtures)} tasks", place="edit", fix="name at least one"
        )
    for name in names:
        if name not in owners:
            raise ModelError(
                f"objective '{name}' is not in this model", place="edit", fix=did_you_mean(name, list(owners))
            )
        if len(owners[name]) > 1:
            raise ModelError(
                f"'{name}' is an objective of {len(owners[name])} tasks",
                place="edit",
                fix=f"name the task: one of {', '.join(owners[name])}",
            )
    return {
        task: Edit(
            tuple(name for name in wish.drop if owners[name] == [task]),
            {name: factor for name, factor in wish.scale.items() if owners[name] == [task]},
            {name: weight for name, weight in wish.pin.items() if owners[name] == [task]},
        )
        for task in dict.fromkeys(owners[name][0] for name in names)
    }


def _merge(mixture: Mixture, wish: Edit) -> WeightEdit:
    """Return the mixture's earlier edit combined with ``wish``, after checking its names and values."""
    names = mixture.names
    for what, named in (("drop", wish.drop), ("scale", wish.scale), ("pin", wish.pin)):
        for name in named:
            if name not in names:
                raise ModelError(
                    f"objective '{name}' is not in this model", place=f"edit: {what}", fix=did_you_mean(name, names)
                )
    both = sorted(set(wish.drop) & (wish.pin.keys() | wish.scale.keys()))
    if both:
        raise ModelError(f"'{both[0]}' is both dropped and scaled or pinned", place="edit", fix="do one or the other")
    for name, factor in wish.scale.items():
        if not (math.isfinite(factor) and factor >= 0):
            raise ModelError(f"'{name}' is scaled by {factor}", place="edit: scale", fix="give a factor of 0 or more")
    for name, weight in wish.pin.items():
        if not 0 <= weight <= 1:
            raise ModelError(f"'{name}' is pinned to {weight}", place="edit: pin", fix="give a weight in [0, 1]")
        total = mixture.aggregator
        if isinstance(total, GatedSum) and weight > 0 and not bool(total.debias_KK[:, names.index(name)].any()):
            raise ModelError(
                f"the scores are debiased against '{name}', so its own debiased score is always 0",
                place="edit: pin",
                fix="pin another objective; scale this one to weaken its penalties, or drop it to remove them",
            )
    earlier, index = mixture.aggregator.edit, {name: k for k, name in enumerate(names)}
    dropped = {index[name] for name in wish.drop}
    pinned = {index[name]: weight for name, weight in wish.pin.items()}
    pins = {k: weight for k, weight in earlier.pin if k not in dropped} | pinned
    factors = dict(earlier.scale)
    for name, factor in wish.scale.items():
        factors[index[name]] = factors.get(index[name], 1.0) * factor
    pinned_total = sum(pins.values())
    if pinned_total > 1 + 1e-6:
        raise ModelError(
            f"the pinned weights sum to {pinned_total:g}", place="edit: pin", fix="make them sum to at most 1"
        )
    return WeightEdit(
        drop=tuple(sorted((set(earlier.drop) | dropped) - pinned.keys())),
        scale=tuple(sorted(factors.items())),
        pin=tuple(sorted(pins.items())),
    )


def _numbers(option: str, items: Sequence[str]) -> dict[str, float]:
    result: dict[str, float] = {}
    for item in items:
        name, equals, text = item.rpartition("=")
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not equals or not name.strip() or not math.isfinite(value):
            raise ModelError(f"'{item}' is not name=number", place=option, fix=f"write {option} helpfulness=1.0")
        if name in result:
            raise ModelError(f"'{name}' is given twice", place=option, fix="name each objective once")
        result[name] = value
    return result
