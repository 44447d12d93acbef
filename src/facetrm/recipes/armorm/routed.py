"""ArmoRM with a router: the same experts and debiasing for all tasks, and one gate per task.

    prompts -> router        pairs of a task -> its gate        model = router over {task: experts + gate}

Shapes: N pairs, K experts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from facetrm.core.errors import FitError
from facetrm.core.progress import log
from facetrm.core.statistics import Floats
from facetrm.data.tasks import task_rows
from facetrm.fit.gate.fit import GateFit
from facetrm.fit.router.assign import AssignmentCounts, assign
from facetrm.fit.router.fit import RouterFit, fit_router
from facetrm.model.mixture import Mixture
from facetrm.model.reward_model import RewardModel
from facetrm.recipes.armorm.config import EVERY, ArmormConfig, GatesSection, check_fallback
from facetrm.recipes.armorm.fit import ArmormFit, fit_mixture
from facetrm.recipes.armorm.rows import Rows


@dataclass(frozen=True)
class RoutedFit:
    """The fitted parts of an ArmoRM with a router.

    Attributes:
        model: The reward model, ready to score.
        router: Fitted router.
        assigned: Number of training pairs whose task was given, and whose task the router chose.
        gates: Fitted gate by task, for tasks with enough pairs.
        shared: Number of training pairs of each task that uses the gate of all tasks.
        margins: Margin of each test pair, chosen minus rejected, [N].
        used: Name of the mixture that scored each test pair.
        weights_NK: Gate weights of each test pair, of the mixture that scored it, [N, K].
    """

    model: RewardModel
    router: RouterFit
    assigned: AssignmentCounts
    gates: dict[str, GateFit]
    shared: dict[str, int]
    margins: Floats
    used: list[str]
    weights_NK: Tensor

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-ready figures."""
        gates = {task: gate.to_dict() for task, gate in self.gates.items()}
        for gate in gates.values():
            gate.pop("history")
        return {
            "router": self.router.to_dict(),
            "assigned": self.assigned.to_dict(),
            "gates": gates,
            "shared": self.shared,
            "used": {task: self.used.count(task) for task in dict.fromkeys(self.used)},
        }


def route_armorm(config: ArmormConfig, section: GatesSection, rows: Rows, fit: ArmormFit) -> RoutedFit:
    """Fit a router, and one gate per task, to a fitted ArmoRM.

    Args:
        config: Settings of the run.
        section: Settings of the router and the gates.
        rows: Data of the run; some of its pairs must name their task.
        fit: Fitted ArmoRM with one gate.

    Raises:
        FitError: The pairs name fewer than two tasks, or the router cannot be fitted.
        ConfigError: The fall-back is unknown.
    """
    labelled = task_rows(rows.gate)
    names = tuple(labelled.counts)
    if len(names) < 2:
        raise FitError(
            f"{len(names)} tasks among {len(rows.gate)} preferences",
            place="router",
            fix="give preferences of at least two tasks (field 'task' or 'category'), or remove the router",
        )
    check_fallback(section, names)
    prompt_ND = fit.gate_pairs.prompts()
    known = labelled.labelled
    router = fit_router(
        prompt_ND[known],
        [str(labelled.tasks[n]) for n in known],
        groups=[labelled.groups[n] for n in known],
        config=section.settings,
        names=names,
    )
    tasks, assigned = assign(router.gate, prompt_ND, tasks=labelled.tasks, names=names, threshold=section.threshold)
    settings = config.gate.settings.model_copy(update={"directions": "variance"})  # inside, there is one task
    inside = config.model_copy(update={"gate": config.gate.model_copy(update={"settings": settings})})
    gates: dict[str, GateFit] = {}
    mixtures: dict[str, Mixture] = {}
    shared: dict[str, int] = {}
    for task in names:
        here = torch.tensor([n for n, other in enumerate(tasks) if other == task], dtype=torch.int64)
        if len(here) < section.least or len({fit.gate_pairs.groups[n] for n in here.tolist()}) < 2:
            mixtures[task], shared[task] = fit.mixture, len(here)
            continue
        mixtures[task], gates[task] = fit_mixture(
            inside,
            fit.mixture.linear_experts,
            fit.debias,
            fit.gate_pairs.select(here),
            weights=None if fit.weights is None else fit.weights[here.numpy()],
            scores=None if fit.scores is None else (fit.scores[0][here], fit.scores[1][here]),
            folder=fit.folder,
            seeds=config.gate.seeds,
            known=fit.mixture.uncertainty,
        )
    if shared:
        log("gates", of_all_tasks=shared, least=section.least)
    routing: dict[str, Any] = {}
    if section.threshold > 0:
        routing = {"fallback": section.fallback, "threshold": section.threshold}
        if section.fallback == EVERY:
            mixtures[EVERY] = fit.mixture
    model = RewardModel(
        fit.model.encoder, mixtures, router.gate, **routing, provenance={**fit.model.provenance, "routed": list(names)}
    )
    margin_N, weights_NK, used = _judged(model, fit)
    return RoutedFit(model, router, assigned, gates, shared, margin_N, used, weights_NK)


def _judged(model: RewardModel, fit: ArmormFit) -> tuple[Floats, Tensor, list[str]]:
    """Return margin and gate weights of each test pair, and the task whose mixture scored it."""
    pairs = fit.test_pairs
    used_N: Tensor = model.routes(pairs.chosen.prompt_ND).used_N
    margin_N, weights_NK = np.zeros(len(pairs)), torch.zeros(len(pairs), len(fit.mixture.names))
    for index, mixture in enumerate(model.mixtures.values()):
        here = torch.nonzero(used_N == index).flatten()
        if len(here):
            part = pairs.select(here)
            margin_N[here.numpy()] = mixture.margins(part.chosen, part.rejected).numpy()
            with torch.no_grad():
                found_NK = mixture(part.chosen).weights_NK
            if found_NK is not None:
                weights_NK[here] = found_NK
    return margin_N, weights_NK, [model.tasks[n] for n in used_N.tolist()]
