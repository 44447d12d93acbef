"""A gate for each task on the parts of one ArmoRM: which tasks get one, what they share, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from facetrm.core.config import parse_config
from facetrm.core.errors import ConfigError, FitError
from facetrm.evaluate.compare import by_stratum
from facetrm.evaluate.truth import true_signs
from facetrm.recipes.armorm.config import ArmormConfig, GatesSection
from facetrm.recipes.armorm.fit import Stopwatch
from facetrm.recipes.armorm.judge import judge_run
from facetrm.recipes.armorm.routed import RoutedFit, route_armorm
from facetrm.recipes.armorm.rows import Rows
from facetrm.recipes.run import Run
from tiny_runs import recipe

CONFIG: ArmormConfig = parse_config(ArmormConfig, recipe(), place="test")


def section(**given: Any) -> GatesSection:
    value = {"settings": {"steps": 20, "hidden": 8, "samples": 10}, "least": 20, **given}
    return GatesSection.model_validate(value)


def named(rows: Rows, *tasks: str | None) -> Rows:
    """Return the rows with the tasks given in turn."""
    gate = [p.model_copy(update={"task": tasks[n % len(tasks)]}) for n, p in enumerate(rows.gate)]
    return replace(rows, gate=gate)


def routed(run: Run, *tasks: str | None, **given: Any) -> RoutedFit:
    return route_armorm(CONFIG, section(**given), named(run.rows, *tasks), run.fit)


def test_each_task_learns_from_its_own_pairs_and_shares_the_experts(tiny_run: Run) -> None:
    found = routed(tiny_run, "a", "b", "b")
    assert list(found.gates) == ["a", "b"]
    assert found.shared == {}
    assert {task: gate.pairs["train"] + gate.pairs["validation"] for task, gate in found.gates.items()} == {
        "a": 50,
        "b": 100,
    }
    mixtures = found.model.mixtures
    assert set(mixtures) == {"a", "b"}
    single = tiny_run.fit.mixture
    assert all(mixture.experts is single.experts for mixture in mixtures.values())
    weights = [mixture(tiny_run.fit.test_pairs.chosen).weights_NK.detach() for mixture in (*mixtures.values(), single)]
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])
    assert found.model.provenance["routed"] == ["a", "b"]
    assert found.margins.shape == (120,)
    # A margin is that of the mixture that the router chose.
    used_N = found.model.routes(tiny_run.fit.test_pairs.chosen.prompt_ND).used_N.tolist()
    assert found.used == [found.model.tasks[n] for n in used_N]
    for task, mixture in mixtures.items():
        own_N = mixture.margins(tiny_run.fit.test_pairs.chosen, tiny_run.fit.test_pairs.rejected).numpy()
        here = np.array([name == task for name in found.used])
        assert found.margins[here] == pytest.approx(own_N[here], abs=1e-6)


def test_rows_without_a_task_go_where_the_router_sends_them(tiny_run: Run) -> None:
    found = routed(tiny_run, "a", "b", None)
    counts = found.to_dict()["assigned"]
    assert (counts["given"], counts["given_total"], counts["routed_total"]) == ({"a": 50, "b": 50}, 100, 50)
    sizes = {task: gate.pairs["train"] + gate.pairs["validation"] for task, gate in found.gates.items()}
    assert sizes == {task: 50 + counts["routed"][task] for task in sizes}


def test_a_task_with_few_pairs_takes_the_gate_of_all(tiny_run: Run) -> None:
    found = routed(tiny_run, *["a"] * 9, "b", least=20)
    assert found.shared == {"b": 15}
    assert found.model.mixture("b") is tiny_run.fit.mixture
    assert found.model.mixture("a") is not tiny_run.fit.mixture
    enough = routed(tiny_run, *["a"] * 9, "b", least=15)
    assert enough.shared == {}
    assert "history" not in enough.to_dict()["gates"]["b"]


def test_one_prompt_is_not_enough_for_a_gate(tiny_run: Run) -> None:
    fit = tiny_run.fit
    few = [n for n in range(150) if n % 2]
    groups = ["one" if n in few else group for n, group in enumerate(fit.gate_pairs.groups)]
    pairs = replace(fit.gate_pairs, groups=groups)
    found = route_armorm(CONFIG, section(), named(tiny_run.rows, "a", "b"), replace(fit, gate_pairs=pairs))
    assert found.shared == {"b": 75}


def test_a_fall_back_is_there_where_there_is_a_threshold(tiny_run: Run) -> None:
    none = routed(tiny_run, "a", "b")
    assert set(none.model.mixtures) == {"a", "b"}
    every = routed(tiny_run, "a", "b", threshold=0.99)
    assert every.model.mixture("all") is tiny_run.fit.mixture
    assert every.used.count("all") > 0
    task = routed(tiny_run, "a", "b", threshold=1.0, fallback="b")
    assert set(task.model.mixtures) == {"a", "b"}
    assert set(task.used) == {"b"}
    with pytest.raises(ConfigError, match=r"router\.fallback: unknown task 'c'; known: a, all, b"):
        routed(tiny_run, "a", "b", threshold=0.5, fallback="c")
    with pytest.raises(ConfigError, match="task 'all' has the name of the fall-back"):
        routed(tiny_run, "all", "b", threshold=0.5)


def test_one_task_or_none_cannot_be_routed(tiny_run: Run) -> None:
    for tasks, count in ((("a",), 1), ((None,), 0), (("a", None), 1)):
        with pytest.raises(FitError, match=rf"router: {count} tasks among 150 preferences; .* of at least two tasks"):
            routed(tiny_run, *tasks)


def test_accuracy_by_task_stands_beside_the_single_gate(tiny_run: Run) -> None:
    found = routed(tiny_run, "a", "b")
    tests = [p.model_copy(update={"task": "a" if n < 40 else None}) for n, p in enumerate(tiny_run.rows.test)]
    rows = replace(tiny_run.rows, test=tests)
    judged = judge_run(CONFIG, rows, tiny_run.fit, Stopwatch(), routed=found)
    table = judged.by_task
    assert list(table) == ["a", "unlabelled"]
    assert {"routed", "gate", "unconditional"} <= set(table["a"])
    truth_N = true_signs(tiny_run.rows.world, tests)
    for task, here in (("a", slice(0, 40)), ("unlabelled", slice(40, 120))):
        margin_N = found.margins[here]
        assert table[task]["routed"].value == pytest.approx(float(((margin_N > 0) + 0.5 * (margin_N == 0)).mean()))
        assert table[task]["routed"].low <= table[task]["routed"].value <= table[task]["routed"].high
        right_N = margin_N * truth_N[here]
        assert judged.true_by_task[task]["routed"].value == pytest.approx(
            float(((right_N > 0) + 0.5 * (right_N == 0)).mean())
        )
    one = replace(tiny_run.rows, test=[p.model_copy(update={"task": "a"}) for p in tests])
    assert judge_run(CONFIG, one, tiny_run.fit, Stopwatch()).by_task == {}, "a table of one task says nothing new"


def test_the_warning_counts_the_weights_of_the_gates_that_score(tiny_run: Run) -> None:
    found = routed(tiny_run, "a", "b")
    names, fit = tiny_run.fit.mixture.names, tiny_run.fit
    assert found.weights_NK.shape == (120, len(names))
    assert torch.allclose(found.weights_NK.sum(dim=1), torch.ones(120), atol=1e-5)
    weak = next(name for name, validity in fit.validity.items() if not validity.measurable)
    moved = torch.zeros_like(found.weights_NK)
    moved[:, names.index(weak)] = 1.0
    warned = judge_run(
        CONFIG, tiny_run.rows, fit, Stopwatch(), routed=replace(found, weights_NK=moved)
    ).verdict.warnings
    assert any(line.startswith(f"{weak} holds 100% of the weight") for line in warned)
    single = judge_run(CONFIG, tiny_run.rows, fit, Stopwatch()).verdict.warnings
    assert not any(line.startswith(f"{weak} holds 100%") for line in single)


def test_gates_inside_a_task_read_principal_components(tiny_run: Run) -> None:
    """A gate that is told to tell tasks apart has only one of them behind a router."""
    gate = CONFIG.gate.model_copy(update={"settings": CONFIG.gate.settings.model_copy(update={"directions": "tasks"})})
    config = CONFIG.model_copy(update={"gate": gate})
    found = route_armorm(config, section(), named(tiny_run.rows, "a", "b"), tiny_run.fit)
    assert set(found.gates) == {"a", "b"}
    assert all(one.gate.shape.rank == CONFIG.gate.settings.rank for one in found.gates.values())


def test_accuracies_by_task_count_a_tie_as_one_half() -> None:
    margins = {"x": np.array([1.0, -1.0, 0.0, 2.0]), "y": np.array([1.0, 1.0, -1.0, -1.0])}
    table = by_stratum(margins, ["b", "b", "b", "a"], ["1", "2", "3", "4"], samples=10, seed=0)
    assert list(table) == ["a", "b"]
    assert {task: {s: i.value for s, i in row.items()} for task, row in table.items()} == {
        "a": {"x": 1.0, "y": 0.0},
        "b": {"x": pytest.approx(0.5), "y": pytest.approx(2 / 3)},
    }
