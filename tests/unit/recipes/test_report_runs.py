"""Training runs in ``facetrm report``: what the gate, or each capability, weighs by task."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from facetrm.core.errors import DataError
from facetrm.recipes.evaluation.gathered import gather_results
from facetrm.recipes.evaluation.reported import report_on
from facetrm.report.evaluated.build import render_evaluation


def test_gate_weights_of_a_run_are_drawn(tmp_path: Path) -> None:
    metrics = {
        "pair_accuracy": {"noisy": {"gate": {"value": 0.625, "low": 0.5, "high": 0.75}}},
        "gate_weights": {"code": {"kind": 0.25, "clear": 0.75}, "chat": {"kind": 0.9, "clear": 0.1}},
    }
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    report = gather_results([tmp_path])
    assert report.runs[0].accuracy == {"against the labels": {"gate": 0.625}}
    assert report.runs[0].gates["chat"] == {"kind": 0.9, "clear": 0.1}
    html = render_evaluation(report)
    assert "Mean gate weight by task" in html
    assert "90%" in html
    assert "62.5%" in html


def test_shares_of_capabilities_are_drawn_by_task(tmp_path: Path) -> None:
    experts = [
        {"task": "chat", "name": "chat/warmth", "share": 0.7},
        {"task": "chat", "name": "chat/overall", "share": 0.3},
        {"task": "code", "name": "code/overall", "share": 1.0},
        {"task": "safety", "name": "safety/overall", "share": None},
    ]
    metrics = {"pair_accuracy": {"noisy": {"model": {"value": 0.6}}}, "gate_weights": {}, "experts": experts}
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "metrics.json").write_text(json.dumps(metrics))
    report = gather_results([folder])
    assert report.runs[0].shares == {"chat": {"warmth": 0.7, "overall": 0.3}, "code": {"overall": 1.0}}
    html = render_evaluation(report)
    assert "What each capability decides by task" in html
    assert "warmth: chat 70%" in html, "a task without this expert is no 0%"
    assert "overall: chat 30%, code 100%" in html
    done = report_on([folder], out=tmp_path / "page")
    assert done.content["runs"]["run"]["shares"]["chat"]["warmth"] == 0.7
    page = (tmp_path / "page" / "report.md").read_text()
    assert "| warmth | 70.0% | – |" in page
    del experts[1]["share"]
    (folder / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(DataError, match="key 'experts' is broken"):
        gather_results([folder])
