"""Drift in spreads, pairs, flips and ties; what counts for the exit code; the diagnosis as JSON."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from facetrm.doctor.drift import answer_pairs, bf16_step, drift, in_bf16, spread
from facetrm.doctor.findings import Diagnosis, Finding, Severity, Variant, worst_first


def finding(code: str = "num-labels", severity: Severity = "error") -> Finding:
    return Finding(code, severity, "a problem", "a figure", "a culprit", "a fix")


def diagnosis(*findings: Finding, allowed: tuple[str, ...] = ()) -> Diagnosis:
    return Diagnosis("model", "classifier", 2, 0.01, findings, allowed=allowed)


def test_pairs_are_those_of_one_prompt() -> None:
    assert answer_pairs([2, 1, 3]).tolist() == [[0, 1], [3, 4], [3, 5], [4, 5]]


def test_without_answers_that_compete_all_rows_do() -> None:
    assert answer_pairs([1, 1, 1]).tolist() == [[0, 1], [0, 2], [1, 2]]
    assert answer_pairs([1]).shape == answer_pairs([]).shape == (0, 2)


def test_drift_counts_in_spreads() -> None:
    compared = [0.0, 2.0, 4.0, 6.0]
    moved = drift([0.0, 2.0, 4.5, 4.0], compared, pairs_P2=answer_pairs([2, 2]))
    assert moved.spread == spread(compared) == pytest.approx(np.std(compared))
    assert moved.largest == 2.0
    assert moved.mean == 0.625
    assert moved.largest_spreads == pytest.approx(2.0 / np.std(compared))
    assert (moved.pairs, moved.flips, moved.ties) == (2, 1, 0)


def test_ties_are_no_flips_and_old_ties_do_not_count() -> None:
    moved = drift([1.0, 1.0, 3.0, 4.0], [1.0, 2.0, 3.0, 3.0], pairs_P2=answer_pairs([2, 2]))
    assert (moved.flips, moved.ties) == (0, 1)


def test_a_reward_that_is_not_finite_is_infinitely_far() -> None:
    moved = drift([math.nan, 1.0], [0.0, 1.0], pairs_P2=answer_pairs([2]))
    assert moved.largest == moved.mean_spreads == math.inf


def test_the_spread_is_never_zero() -> None:
    assert spread([0.0, 0.0]) > 0
    assert spread([-3.0, -3.0]) == 3.0


def test_bfloat16_has_eight_bits() -> None:
    assert in_bf16([1.0, 1.0 + 2**-8, 1.0 + 2**-7]) == [1.0, 1.0, 1.0 + 2**-7]
    assert bf16_step([1.0, -1.9]) == 2**-7
    assert bf16_step([0.125, 0.2]) == 2**-10
    assert bf16_step([0.0]) == 0.0


@pytest.mark.parametrize(
    ("severity", "allowed", "code"),
    [("error", (), 3), ("warning", (), 3), ("note", (), 0), ("error", ("num-labels",), 0)],
)
def test_errors_and_warnings_count_unless_allowed(severity: Severity, allowed: tuple[str, ...], code: int) -> None:
    assert diagnosis(finding(severity=severity), allowed=allowed).exit_code == code
    assert diagnosis(finding("activation"), finding(severity=severity), allowed=allowed).exit_code == 3


def test_nothing_found_is_healthy() -> None:
    assert diagnosis().exit_code == 0
    assert diagnosis().to_dict()["healthy"] is True


def test_an_unknown_code_is_no_finding() -> None:
    with pytest.raises(ValueError, match="unknown code 'x'"):
        finding("x")


def test_the_worst_comes_first_and_once() -> None:
    found = [finding(severity="note"), finding("activation", "warning"), finding(), finding()]
    assert [f.severity for f in worst_first(found)] == ["error", "warning", "note"]


def test_json_holds_no_infinity() -> None:
    moved = drift([math.inf, 1.0], [0.0, 1.0], pairs_P2=answer_pairs([2]))
    line = Variant("a", "b", "agree", moved, "fault")
    found = Diagnosis("model", "native", 2, 0.01, (finding(),), variants=(line,)).to_dict()
    read = json.loads(json.dumps(found, allow_nan=False))
    assert read["variants"][0]["drift"]["largest"] is None
    assert read["variants"][0]["drift"]["pairs"] == 1
    assert read["findings"][0]["fix"] == "a fix"
    assert read["exit_code"] == 3
