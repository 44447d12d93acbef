"""The router's figures against numbers that were worked out by hand, and the assignment of tasks."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from facetrm.core.errors import FitError
from facetrm.fit.router.assign import assign
from facetrm.fit.router.report import calibration_error, report_routing
from facetrm.model.gate import Gate, GateShape

NAMES = ("a", "b")
P_NT = np.array([[0.95, 0.05], [0.85, 0.15], [0.15, 0.85], [0.45, 0.55]])
TRUTH = [0, 1, 1, 1]


def linear_gate() -> Gate:
    """P(b) = sigmoid(x) of a prompt vector [x]."""
    gate = Gate(GateShape(hidden_size=1, choices=2, hidden=1, n_hidden=0))
    assert gate.head is not None
    with torch.no_grad():
        gate.head.weight.copy_(torch.tensor([[0.0], [1.0]]))
    return gate


def test_figures_by_hand() -> None:
    report = report_routing(P_NT, TRUTH, groups=["p", "q", "r", "s"], names=NAMES, thresholds=(0.0, 0.6, 0.9, 1.0))
    assert (report.rows, report.prompts) == (4, 4)
    assert (report.accuracy.value, report.majority) == (0.75, 0.75)
    assert 0.0 <= report.accuracy.low < 0.75 < report.accuracy.high == 1.0
    assert report.confusion == [[1, 0], [1, 2]]
    assert (report.tasks["a"].precision, report.tasks["a"].recall) == (0.5, 1.0)
    assert (report.tasks["b"].precision, report.tasks["b"].recall) == (1.0, pytest.approx(2 / 3))
    assert (report.tasks["b"].rows, report.tasks["b"].routed) == (3, 2)
    assert report.loss == pytest.approx(-np.log([0.95, 0.15, 0.85, 0.55]).mean())
    # bins: 0.55 alone (right), 0.85 twice (one right), 0.95 alone (right)
    assert report.calibration_error == pytest.approx((0.45 + 2 * abs(0.5 - 0.85) + 0.05) / 4)
    assert [b.rows for b in report.reliability] == [0, 0, 0, 0, 0, 1, 0, 0, 2, 1]
    assert report.reliability[8].accuracy == 0.5
    assert report.reliability[8].confidence == pytest.approx(0.85)
    assert [point.coverage for point in report.coverage] == [1.0, 0.75, 0.25, 0.0]
    assert [point.accuracy for point in report.coverage] == [0.75, pytest.approx(2 / 3), 1.0, None]
    assert [point.accuracy_below for point in report.coverage] == [None, 1.0, pytest.approx(2 / 3), 0.75]
    json.dumps(report.to_dict(), allow_nan=False)


def test_the_interval_knows_prompts_and_not_rows() -> None:
    p_NT, truth = np.tile(P_NT, (50, 1)), TRUTH * 50
    apart = report_routing(p_NT, truth, groups=[str(n) for n in range(200)], names=NAMES)
    together = report_routing(p_NT, truth, groups=[str(n % 4) for n in range(200)], names=NAMES)
    assert apart.accuracy.value == together.accuracy.value
    assert apart.accuracy.high - apart.accuracy.low < 0.4 * (together.accuracy.high - together.accuracy.low)
    assert (apart.prompts, together.prompts) == (200, 4)


def test_certainty_is_calibrated_when_it_is_right_and_as_wrong_as_can_be_when_it_is_not() -> None:
    sure = np.eye(2)[[0, 1, 1]]
    assert calibration_error(sure, [0, 1, 1]) == 0.0
    assert calibration_error(sure, [1, 0, 0]) == 1.0
    assert report_routing(sure, [1, 0, 0], groups=["x", "y", "z"], names=NAMES).loss < 1000
    assert calibration_error(np.full((4, 2), 0.5), [0, 0, 1, 1]) == 0.0
    assert calibration_error(P_NT, TRUTH, bins=1) == pytest.approx(abs(0.75 - 0.8))


def test_a_task_that_is_absent_has_no_recall() -> None:
    report = report_routing(P_NT[:1], [0], groups=["x"], names=NAMES)
    assert (report.tasks["b"].precision, report.tasks["b"].recall) == (None, None)
    assert report.accuracy.value == 1.0


@pytest.mark.parametrize(
    ("truth", "groups", "names"), [([], [], NAMES), ([0], ["x"], NAMES), (TRUTH, ["x"] * 4, ("a", "b", "c"))]
)
def test_sides_that_do_not_fit_are_refused(truth: list[int], groups: list[str], names: tuple[str, ...]) -> None:
    with pytest.raises(FitError, match=r"probabilities of shape \(4, 2\)"):
        report_routing(P_NT, truth, groups=groups, names=names)


def test_assigned_rows_are_counted_by_how_they_came_by_their_task(capsys: pytest.CaptureFixture[str]) -> None:
    prompt_ND = torch.tensor([[-5.0], [5.0], [0.5], [5.0], [-0.5]])
    tasks, counts = assign(linear_gate(), prompt_ND, tasks=[None, None, None, "a", None], names=NAMES, threshold=0.9)
    assert tasks == ["a", "b", "b", "a", "a"]
    assert counts.given == {"a": 1, "b": 0}
    assert counts.routed == {"a": 2, "b": 2}
    assert counts.below == {"a": 1, "b": 1}
    event = json.loads(capsys.readouterr().err.splitlines()[-1])
    assert (event["given_total"], event["routed_total"], event["below_total"], event["threshold"]) == (1, 4, 2, 0.9)
    bare, counts = assign(linear_gate(), prompt_ND, tasks=None, names=NAMES)
    assert bare == ["a", "b", "b", "b", "a"]
    assert (sum(counts.given.values()), sum(counts.below.values())) == (0, 0)
    assert assign(linear_gate(), torch.zeros(0, 1), tasks=[], names=NAMES)[0] == []


def test_what_cannot_be_assigned_is_named() -> None:
    gate, prompt_ND = linear_gate(), torch.zeros(2, 1)
    with pytest.raises(FitError, match=r"row 0 has the unknown task 'aa'; did you mean 'a'\?"):
        assign(gate, prompt_ND, tasks=["aa", None], names=NAMES)
    with pytest.raises(FitError, match="3 names for a router over 2 tasks"):
        assign(gate, prompt_ND, tasks=None, names=("a", "b", "c"))
    with pytest.raises(FitError, match=r"shape \(2, 1\) for 1 rows"):
        assign(gate, prompt_ND, tasks=[None], names=NAMES)
    with pytest.raises(FitError, match=r"the threshold is 1\.5"):
        assign(gate, prompt_ND, tasks=None, names=NAMES, threshold=1.5)
    with pytest.raises(FitError, match="row 1 are not finite"):
        assign(gate, torch.tensor([[0.0], [float("nan")]]), tasks=None, names=NAMES)
