"""The router's fit: what it learns, what it must not learn, and what it says about itself."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from torch.testing import assert_close

from facetrm.core.errors import FitError
from facetrm.data.tasks import task_rows
from facetrm.data.world import TASKS, World
from facetrm.fit.router.assign import assign
from facetrm.fit.router.fit import RouterConfig, RouterFit, evaluate_router, fit_router
from facetrm.model.gate import Gate
from fakes import HashEncoder
from routed_prompts import HIDDEN, NAMES, Prompts, prompts

QUICK = RouterConfig(steps=120, hidden=16, dropout=0.0, batch_size=64, learning_rate=0.01, patience=0, samples=200)
TRAIN, TEST = prompts(600, seed=1), prompts(600, seed=2)


def fit(rows: Prompts = TRAIN, config: RouterConfig = QUICK, **keywords: Any) -> RouterFit:
    return fit_router(rows.prompt_ND, rows.tasks, **{"groups": rows.groups, "config": config, **keywords})


def changed(config: RouterConfig = QUICK, **changes: Any) -> RouterConfig:
    return RouterConfig(**{**config.model_dump(), **changes})


def names_of(router: RouterFit, rows: Prompts) -> list[str]:
    return [router.names[t] for t in router.gate.choose(rows.prompt_ND).tolist()]


def equal(a: RouterFit, b: RouterFit) -> bool:
    left, right = a.gate.state_dict(), b.gate.state_dict()
    return a.to_dict() == b.to_dict() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.fixture(scope="module")
def router() -> RouterFit:
    return fit()


@pytest.fixture(scope="module")
def noisy() -> RouterFit:
    """Few noisy rows and many steps, the last state kept: a router that is far too sure of itself."""
    config = changed(steps=300, evaluate_every=300, hidden=64, validation=0.5, batch_size=0)
    return fit(prompts(500, seed=3, spread=2.0, flips=0.3), config)


def test_tasks_that_can_be_told_apart_are(router: RouterFit) -> None:
    assert router.names == NAMES
    assert names_of(router, TEST) == TEST.tasks
    assert (router.report.accuracy.value, router.report.accuracy.low) == (1.0, 1.0)
    assert_close(router.gate(TEST.prompt_ND).sum(-1), torch.ones(len(TEST.tasks)))
    confusion = np.array(router.report.confusion)
    assert (confusion == np.diag(np.diag(confusion))).all()
    assert confusion.sum() == router.report.rows


def test_the_loss_of_right_answers_goes_to_zero(router: RouterFit) -> None:
    """A softmax before the cross-entropy could not go below log(1 + (T - 1) / e)."""
    assert min(row["validation_loss"] for row in router.history) < 0.05 < np.log(1 + 2 / np.e)
    assert router.report.loss < 0.01
    assert router.history[0]["validation_loss"] == pytest.approx(np.log(3), abs=0.05)


def test_noise_bounds_the_accuracy_and_no_more() -> None:
    rows = prompts(3000, seed=4, flips=0.3)
    found = fit(rows)
    assert found.report.accuracy.low < 0.8 < found.report.accuracy.high
    truth = prompts(3000, seed=4).tasks
    assert sum(a == b for a, b in zip(names_of(found, rows), truth, strict=True)) == len(truth)
    confidence_N = found.gate(rows.prompt_ND).detach().max(dim=-1).values
    assert 0.7 < float(confidence_N.mean()) < 0.9


def test_calibration_mends_too_much_confidence_and_moves_no_row(noisy: RouterFit) -> None:
    rows = prompts(500, seed=3, spread=2.0, flips=0.3)
    plain = fit(rows, changed(steps=300, evaluate_every=300, hidden=64, validation=0.5, batch_size=0, calibrate=False))
    assert (plain.temperature, noisy.best_step) == (1.0, plain.best_step)
    assert noisy.temperature != 1.0
    assert noisy.report.calibration_error < noisy.uncalibrated["calibration_error"]
    assert noisy.report.loss < noisy.uncalibrated["loss"]
    assert plain.report.calibration_error == pytest.approx(noisy.uncalibrated["calibration_error"], abs=1e-6)
    assert plain.report.loss == pytest.approx(noisy.uncalibrated["loss"], abs=1e-6)
    others = prompts(2000, seed=5, spread=2.0, flips=0.3)
    assert torch.equal(plain.gate.choose(others.prompt_ND), noisy.gate.choose(others.prompt_ND))
    assert noisy.report.confusion == plain.report.confusion


@pytest.mark.parametrize("seed", range(6))
def test_calibration_never_makes_the_held_out_error_worse(seed: int) -> None:
    rows = prompts(240, seed=20 + seed, spread=1.5, flips=0.1 * seed)
    found = fit(rows, changed(seed=seed, steps=60))
    assert found.report.calibration_error <= found.uncalibrated["calibration_error"] + 1e-6
    assert found.report.loss <= found.uncalibrated["loss"] + 1e-6


def test_the_temperature_is_the_one_under_which_held_out_tasks_are_most_likely(noisy: RouterFit) -> None:
    rows = prompts(500, seed=3, spread=2.0, flips=0.3)
    held = torch.from_numpy(noisy.held_out_N)
    gate = Gate.from_state(*noisy.gate.state())
    assert gate.temperature == noisy.temperature
    logits = (gate.logits(rows.prompt_ND[held]) * gate.temperature).detach().double().numpy()
    truth = np.array([NAMES.index(task) for task in rows.tasks])[noisy.held_out_N]

    def cost(temperature: float) -> float:
        losses = -log_softmax(logits / temperature, axis=1)[np.arange(len(truth)), truth]
        return float(losses.sum() + 0.5 * np.log(temperature) ** 2)

    assert cost(noisy.temperature) < min(cost(noisy.temperature * f) for f in (0.8, 0.95, 1.05, 1.25))


def test_labels_of_chance_are_met_by_chance() -> None:
    shuffled = np.random.default_rng(0).permutation(np.array(NAMES).repeat(400))
    rows = prompts(2400, seed=6)
    found = fit(replace(rows, tasks=[str(task) for task in shuffled.repeat(2)]), changed(validation=0.5))
    assert found.report.accuracy.low < 1 / 3 < found.report.accuracy.high
    assert found.report.loss < 1.15
    covered = {point.threshold: point.coverage for point in found.report.coverage}
    assert covered[0.9] == 0.0


def test_no_prompt_stands_on_both_sides(router: RouterFit) -> None:
    groups = np.array(TRAIN.groups)
    assert not set(groups[router.held_out_N]) & set(groups[~router.held_out_N])
    assert router.counts == {"train": 480, "validation": 120, "prompts": 300, "prompts_with_several_tasks": 0}
    for task in NAMES:
        own = np.array(TRAIN.tasks) == task
        assert router.held_out_N[own].mean() == pytest.approx(0.2, abs=0.02)
    assert set(groups[fit(config=changed(seed=5)).held_out_N]) != set(groups[router.held_out_N])


def test_the_report_is_that_of_the_gate_on_the_rows_held_out(router: RouterFit) -> None:
    held = router.held_out_N
    again = evaluate_router(
        router.gate,
        TRAIN.prompt_ND[torch.from_numpy(held)],
        tasks=[task for task, out in zip(TRAIN.tasks, held, strict=True) if out],
        groups=[group for group, out in zip(TRAIN.groups, held, strict=True) if out],
        names=router.names,
        config=QUICK,
    )
    assert again.to_dict() == router.report.to_dict()
    only = evaluate_router(router.gate, TEST.prompt_ND[:2], tasks=["code"] * 2, groups=["a", "a"], names=NAMES)
    assert [only.tasks[name].rows for name in NAMES] == [0, 2, 0]


def test_what_a_line_cannot_part_needs_a_hidden_layer() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((800, HIDDEN))
    tasks = [NAMES[int(same)] for same in (x[:, 0] * x[:, 1] > 0)]
    rows = Prompts(torch.from_numpy(x).float(), tasks, [str(n) for n in range(800)])
    found = fit(rows, changed(steps=400, hidden=32))
    assert found.report.accuracy.value > 0.9
    assert found.linear.accuracy.high < 0.65
    assert found.gain.low > 0.2
    assert found.gain.value == pytest.approx(found.report.accuracy.value - found.linear.accuracy.value)
    flat = fit(rows, changed(steps=400, hidden=32, n_hidden=0))
    assert flat.report is flat.linear
    assert (len(flat.gate.body), flat.gain.value) == (0, 0.0)
    assert flat.report.to_dict() == found.linear.to_dict()


def test_balanced_tasks_make_a_rare_one_heard() -> None:
    rows = prompts(2000, seed=8, spread=3.0)
    rare = np.random.default_rng(0).random(1000).repeat(2) < 0.05
    kept = [n for n in range(2000) if rows.tasks[n] != "code" or rare[n]]
    rows = Prompts(rows.prompt_ND[torch.tensor(kept)], [rows.tasks[n] for n in kept], [rows.groups[n] for n in kept])
    plain, balanced = fit(rows), fit(rows, changed(class_weight="balanced"))
    test = prompts(2000, seed=9, spread=3.0)
    recall = {
        name: evaluate_router(f.gate, test.prompt_ND, tasks=test.tasks, groups=test.groups, names=NAMES).tasks["code"]
        for name, f in (("plain", plain), ("balanced", balanced))
    }
    assert recall["balanced"].recall > recall["plain"].recall + 0.05  # type: ignore[operator]


def test_rows_of_weight_0_are_left_out() -> None:
    wrong = prompts(600, seed=10)
    turned = [NAMES[(NAMES.index(task) + 1) % 3] for task in wrong.tasks]
    both = Prompts(torch.cat([TRAIN.prompt_ND, wrong.prompt_ND]), TRAIN.tasks + turned, TRAIN.groups + wrong.groups)
    found = fit(both, weights=[1.0] * 600 + [0.0] * 600)
    assert names_of(found, TEST) == TEST.tasks
    assert found.counts["train"] + found.counts["validation"] == 600
    assert not found.held_out_N[600:].any()


def test_one_task_needs_no_training() -> None:
    rows = prompts(40, seed=11, names=("chat",))
    found = fit(rows)
    assert (found.names, found.best_step, found.temperature) == (("chat",), 0, 1.0)
    assert (found.report.accuracy.value, found.report.loss, found.report.calibration_error) == (1.0, 0.0, 0.0)
    assert found.report.confusion == [[8]]
    assert names_of(found, TEST) == ["chat"] * 600


def test_a_task_with_one_row_is_trained_on_and_not_judged() -> None:
    rows = Prompts(
        torch.cat([TRAIN.prompt_ND, 3 * torch.ones(1, HIDDEN)]), [*TRAIN.tasks, "odd"], [*TRAIN.groups, "the odd one"]
    )
    found = fit(rows)
    assert found.names == ("chat", "code", "odd", "text")
    figures = found.report.tasks["odd"]
    assert (figures.rows, figures.recall) == (0, None)
    assert not found.held_out_N[-1]
    assert names_of(found, TEST) == TEST.tasks


def test_the_order_of_the_names_is_that_of_the_gate(router: RouterFit) -> None:
    turned = fit(names=["text", "chat", "code"])
    assert turned.names == ("text", "chat", "code")
    assert names_of(turned, TEST) == TEST.tasks
    assert turned.gate.choose(TEST.prompt_ND).tolist() != router.gate.choose(TEST.prompt_ND).tolist()


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(router: RouterFit) -> None:
    torch.manual_seed(123)
    assert equal(router, fit())
    assert not equal(router, fit(config=changed(seed=1)))


def test_the_best_state_is_kept() -> None:
    found = fit(prompts(300, seed=12, spread=2.0, flips=0.4), changed(steps=400, hidden=64, calibrate=False))
    losses = {row["step"]: row["validation_loss"] for row in found.history}
    assert losses[found.best_step] == min(losses.values()) < losses[400]
    assert found.report.loss == pytest.approx(losses[found.best_step], abs=1e-5)
    assert found.report.loss <= found.history[0]["validation_loss"]


def test_the_report_is_json(noisy: RouterFit) -> None:
    values = json.loads(json.dumps(noisy.to_dict(), allow_nan=False))
    assert values["held_out"]["accuracy"]["value"] == noisy.report.accuracy.value
    assert values["linear"]["accuracy"]["value"] == noisy.linear.accuracy.value
    assert values["temperature"] == noisy.temperature
    assert set(values["held_out"]["tasks"]) == set(NAMES)


def test_components_can_take_the_place_of_the_whole_vector() -> None:
    found = fit(config=changed(rank=2))
    assert found.gate.shape.rank == 2
    assert names_of(found, TEST) == TEST.tasks


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": []}, "0 tasks and 600 prompt groups"),
        ({"tasks": TRAIN.tasks[:-1]}, "599 tasks and 600 prompt groups"),
        ({"groups": TRAIN.groups[1:]}, "600 tasks and 599 prompt groups"),
        ({"tasks": [*TRAIN.tasks[:-1], None]}, "row 599 has no task; leave rows without a task out"),
        ({"names": ["chat", "code", "texts"]}, r"unknown task 'text'; did you mean 'texts'\?"),
        ({"names": [*NAMES, "chat"]}, "a task occurs twice in"),
        ({"names": [*NAMES, "poem"]}, "task 'poem' has no row"),
        ({"weights": [-1.0] * 600}, "one finite number >= 0 per row"),
        ({"weights": [1.0] * 599}, "one finite number >= 0 per row"),
        ({"weights": [0.0] * 600}, "one finite number >= 0 per row"),
        ({"groups": ["one"] * 600}, "no task has two prompts"),
        ({"prompt_ND": TRAIN.prompt_ND[:-1]}, r"shape \(599, 10\) for 600 rows"),
        ({"prompt_ND": TRAIN.prompt_ND[:, 0]}, r"shape \(600,\) for 600 rows"),
        ({"prompt_ND": TRAIN.prompt_ND / (torch.arange(600) != 3)[:, None]}, "row 3 are not finite"),
    ],
)
def test_bad_input_is_named(change: dict[str, Any], message: str) -> None:
    values = {"prompt_ND": TRAIN.prompt_ND, "tasks": TRAIN.tasks, "groups": TRAIN.groups, "config": QUICK, **change}
    with pytest.raises(FitError, match=message):
        fit_router(values.pop("prompt_ND"), values.pop("tasks"), **values)


def test_the_world_end_to_end() -> None:
    """Rows to features, features to a router, and the router to tasks of rows whose label was taken away."""
    world, encoder = World(), HashEncoder(64)
    rows = task_rows(list(world.preferences(800, part="gate")), names=TASKS)
    features = encoder.encode(rows.conversations)
    found = fit_router(
        features.prompt_ND,
        [task for task in rows.tasks if task],
        groups=rows.groups,
        config=changed(steps=300),
        names=TASKS,
    )
    assert found.report.accuracy.low > 0.9 > found.report.majority
    test = task_rows(list(world.preferences(200, part="test")), names=TASKS)
    hidden = [task if n % 4 else None for n, task in enumerate(test.tasks)]
    assigned, counts = assign(
        found.gate, encoder.encode(test.conversations).prompt_ND, tasks=hidden, names=TASKS, threshold=0.9
    )
    assert all(a == task for a, task in zip(assigned, hidden, strict=True) if task)
    assert sum(counts.routed.values()) == 50
    assert np.mean([a == task for a, task in zip(assigned[::4], test.tasks[::4], strict=True)]) > 0.85
