"""The gate's input as the directions that tell tasks apart: exact, from blocks, and where it must help."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch.testing import assert_close

import facetrm.fit.blocks as blocks
from facetrm.core.errors import FitError
from facetrm.core.statistics import win_credit
from facetrm.fit.gate.fit import GateConfig, fit_gate
from facetrm.fit.pairs import score_pairs
from facetrm.fit.projection import fit_discriminants
from facetrm.model.aggregate import GatedSum
from facetrm.model.experts import LinearExperts
from facetrm.model.mixture import Mixture
from preferences import TwoRules, four_experts, random_tensor, two_rules

EXPERTS = four_experts()


def prompts(n: int = 600, *, seed: int = 0) -> tuple[torch.Tensor, list[str]]:
    """Prompt vectors of three tasks whose means differ little, in directions that hardly vary."""
    means_TD = random_tensor(3, 8, seed=7) * torch.tensor([0, 0, 0, 0, 0, 1.0, 1.0, 1.0])
    spread_D = torch.tensor([9.0, 7.0, 5.0, 3.0, 2.0, 0.3, 0.3, 0.3])
    index_N = torch.arange(n) % 3
    return means_TD[index_N] + random_tensor(n, 8, seed=seed) * spread_D, [f"task{i}" for i in index_N.tolist()]


def test_the_directions_are_those_of_linear_discriminant_analysis() -> None:
    prompt_ND, tasks = prompts()
    found = fit_discriminants(prompt_ND, tasks, rank=0, shrinkage=0.0)
    assert found.projection_DR is not None
    assert found.projection_DR.shape == (8, 2), "three tasks have two directions"
    x_NR = ((prompt_ND - found.center_D) @ found.projection_DR).numpy()
    theirs_NR = LinearDiscriminantAnalysis(solver="eigen").fit(prompt_ND.numpy(), tasks).transform(prompt_ND.numpy())
    for mine_N, their_N in zip(x_NR.T, theirs_NR.T, strict=True):
        assert abs(np.corrcoef(mine_N, their_N)[0, 1]) > 0.99999


def test_a_coordinate_has_unit_variance_inside_the_tasks() -> None:
    prompt_ND, tasks = prompts()
    found = fit_discriminants(prompt_ND, tasks, rank=1, shrinkage=0.0)
    assert found.projection_DR is not None
    x_NR = (prompt_ND - found.center_D) @ found.projection_DR
    names = np.array(tasks)
    inside = [x_NR[torch.from_numpy(names == task)].var(dim=0, correction=0) for task in sorted(set(tasks))]
    assert_close(torch.stack(inside).mean(dim=0), torch.ones(1), rtol=1e-3, atol=1e-3)
    assert float(found.projection_DR[found.projection_DR.abs().argmax()]) > 0


def test_prompts_without_a_task_change_nothing() -> None:
    prompt_ND, tasks = prompts()
    whole = fit_discriminants(prompt_ND, tasks, rank=2, shrinkage=0.1)
    more_ND = torch.cat([prompt_ND[:100], random_tensor(50, 8, seed=3) * 40, prompt_ND[100:]])
    found = fit_discriminants(more_ND, [*tasks[:100], *[None] * 50, *tasks[100:]], rank=2, shrinkage=0.1)
    assert whole.projection_DR is not None
    assert found.projection_DR is not None
    assert_close(found.projection_DR, whole.projection_DR)
    assert_close(found.center_D, whole.center_D)


def test_from_blocks_and_with_fewer_prompts_than_dimensions(monkeypatch: pytest.MonkeyPatch) -> None:
    prompt_ND, tasks = prompts()
    whole = fit_discriminants(prompt_ND, tasks, rank=2, shrinkage=0.1)
    monkeypatch.setattr(blocks, "HELD", 0)
    monkeypatch.setattr(blocks, "block_rows", lambda hidden_size: 96)
    on_disk = blocks.gather([prompt_ND[:77], prompt_ND[77:]], rows=600)  # type: ignore[arg-type]
    assert isinstance(on_disk, blocks.VectorFile)
    found = fit_discriminants(on_disk, tasks, rank=2, shrinkage=0.1)
    assert whole.projection_DR is not None
    assert found.projection_DR is not None
    assert_close(found.projection_DR, whole.projection_DR, rtol=1e-5, atol=1e-6)
    few = fit_discriminants(random_tensor(6, 40, seed=1), ["a", "b"] * 3, rank=2, shrinkage=0.1)
    assert few.projection_DR is not None
    assert bool(torch.isfinite(few.projection_DR).all())


@pytest.mark.parametrize(("tasks", "count"), [([None] * 4, 0), (["a"] * 4, 1), (["a", None, None, None], 1)])
def test_one_task_has_no_directions(tasks: list[str | None], count: int) -> None:
    with pytest.raises(FitError, match=rf"directions: the training prompts have {count} tasks?; .*to 'variance'"):
        fit_discriminants(random_tensor(4, 8, seed=0), tasks, rank=2, shrinkage=0.1)


def test_directions_along_which_no_task_differs_are_left_out() -> None:
    """Two names for the same prompts are no second direction."""
    prompt_ND = random_tensor(40, 8, seed=2)
    doubled_ND = torch.cat([prompt_ND, prompt_ND, prompt_ND + 3.0])
    tasks = ["a"] * 40 + ["b"] * 40 + ["c"] * 40
    found = fit_discriminants(doubled_ND, tasks, rank=2, shrinkage=0.1)
    assert found.projection_DR is not None
    assert found.projection_DR.shape == (8, 1)


def test_what_does_not_vary_has_no_directions() -> None:
    constant_ND = torch.ones(6, 8) * torch.arange(6)[:, None] // 3
    with pytest.raises(FitError, match=r"no prompt vector varies inside its task \(6 prompts, 2 tasks\)"):
        fit_discriminants(constant_ND, ["a"] * 3 + ["b"] * 3, rank=2, shrinkage=0.1)
    with pytest.raises(FitError, match="2 tasks for 6 prompts"):
        fit_discriminants(constant_ND, ["a", "b"], rank=2, shrinkage=0.1)


def test_a_task_that_is_held_out_alone_is_no_error() -> None:
    pairs = two_rules(40, seed=1)
    rare = sorted(set(pairs.groups))
    for prompt in rare:
        tasks = ["b" if group == prompt else "a" for group in pairs.groups]
        keywords = {"experts": EXPERTS, "debias_KK": torch.eye(4), "groups": pairs.groups, "tasks": tasks}
        fit_gate(pairs.chosen, pairs.rejected, config=GateConfig(steps=2, directions="tasks"), **keywords)  # type: ignore[arg-type]


def test_a_prompt_has_the_first_task_that_its_pairs_name() -> None:
    pairs = two_rules(40, seed=1)
    tasks = [None if n % 2 == 0 else f"task{t}" for n, t in enumerate(pairs.task_N.tolist())]
    scored = score_pairs(pairs.chosen, pairs.rejected, experts=EXPERTS, groups=pairs.groups, weights=None, tasks=tasks)
    assert scored.tasks_N.tolist() == [f"task{t}" for t in pairs.task_N.tolist()], "two pairs of a prompt, one named"


def drowned(pairs: TwoRules, *, seed: int) -> TwoRules:
    """Add to each prompt vector much that has nothing to do with its task."""
    loud_ND = 6.0 * random_tensor(len(pairs.groups) // 2, 12, seed=seed).repeat_interleave(2, dim=0)
    sides = [
        replace(
            side,
            prompt_ND=torch.cat([side.prompt_ND, loud_ND], dim=1),
            response_NAD=torch.cat([side.response_NAD, torch.zeros(len(side), side.response_NAD.shape[1], 12)], dim=2),
        )
        for side in (pairs.chosen, pairs.rejected)
    ]
    return replace(pairs, chosen=sides[0], rejected=sides[1])


def test_a_gate_finds_the_tasks_that_principal_components_miss() -> None:
    train, test = (drowned(two_rules(400, seed=s), seed=s + 1) for s in (10, 50))
    experts = LinearExperts(
        EXPERTS.objectives, torch.cat([EXPERTS.weight_KD, torch.zeros(4, 12)], dim=1), EXPERTS.bias_K
    )
    accuracy = {}
    for directions in ("variance", "tasks"):
        config = GateConfig(steps=300, hidden=16, rank=4, directions=directions)  # type: ignore[arg-type]
        found = fit_gate(
            train.chosen,
            train.rejected,
            experts=experts,
            debias_KK=torch.eye(4),
            groups=train.groups,
            config=config,
            tasks=[f"task{t}" for t in train.task_N.tolist()],
        )
        mixture = Mixture(experts, GatedSum(found.gate, None), beta=found.beta)
        accuracy[directions] = float(win_credit(mixture.margins(test.chosen, test.rejected).numpy()).mean())
    assert accuracy["tasks"] >= 0.95
    assert accuracy["tasks"] >= accuracy["variance"] + 0.1


def test_what_is_missing_is_named() -> None:
    pairs = two_rules(40, seed=1)
    keywords = {"experts": EXPERTS, "debias_KK": torch.eye(4), "groups": pairs.groups}
    config = GateConfig(steps=5, directions="tasks")
    with pytest.raises(FitError, match="the training prompts have 0 tasks"):
        fit_gate(pairs.chosen, pairs.rejected, config=config, **keywords)  # type: ignore[arg-type]
    with pytest.raises(FitError, match="3 tasks for 40 pairs"):
        fit_gate(pairs.chosen, pairs.rejected, config=config, tasks=["a"] * 3, **keywords)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="give the largest number of directions"):
        GateConfig(directions="tasks", rank=0)
