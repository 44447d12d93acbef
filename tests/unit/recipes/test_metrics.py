"""metrics.json: every promised figure is there, none is NaN, and docs/metrics.md says what each one means."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from facetrm.recipes.run import Run
from facetrm.report.run_report import SYSTEM_TITLES
from tiny_runs import OF_ROUTED

PAGE = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text(encoding="utf-8")
NAMES = set(re.findall(r"`([\w.-]+)`", PAGE))


@pytest.fixture(scope="module")
def metrics(tiny_run: Run) -> dict[str, Any]:
    def refuse(text: str) -> float:
        raise AssertionError(f"{text} is no JSON")

    text = (tiny_run.folder / "metrics.json").read_text(encoding="utf-8")
    return dict(json.loads(text, parse_constant=refuse))


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, list):
        for item in value:
            yield from leaves(item, path)
    else:
        yield path, value


def test_what_is_returned_is_what_is_written(metrics: dict[str, Any], tiny_run: Run) -> None:
    assert json.loads(json.dumps(tiny_run.metrics)) == metrics
    assert all(math.isfinite(value) for _, value in leaves(metrics) if isinstance(value, float))


def test_the_verdict_stands_in_metrics_report_and_card(metrics: dict[str, Any], tiny_run: Run) -> None:
    verdict = metrics["verdict"]
    assert verdict["accuracy"]["value"] == metrics["pair_accuracy"]["noisy"]["gate"]
    assert verdict["pairs"] == metrics["rows"]["preferences_test"]
    low, high = (verdict["accuracy"][end] for end in ("low", "high"))
    assert (verdict["status"] in ("chance", "backwards")) == (low <= 0.5)
    assert (verdict["enough"] is None) == (high - low <= 0.1)
    assert verdict["statement"] in html.unescape((tiny_run.folder / "report.html").read_text(encoding="utf-8"))
    card = (tiny_run.folder / "model" / "README.md").read_text(encoding="utf-8")
    assert verdict["statement"].split(":")[0] in card
    assert all(line in html.unescape((tiny_run.folder / "report.html").read_text()) for line in verdict["warnings"])


def test_promised_figures_are_there(metrics: dict[str, Any], tiny_run: Run) -> None:
    assert metrics["schema"] == 1
    assert metrics["seconds"]["total"] == pytest.approx(sum(v for k, v in metrics["seconds"].items() if k != "total"))
    names = [o.name for o in tiny_run.fit.mixture.objectives if o.name != "length"]
    assert list(metrics["objectives"]) == sorted(names)
    for name, row in metrics["objectives"].items():
        assert {"n", "alpha", "mse", "spearman", "interval"} <= row.keys()
        assert row["name"] == name
        assert row["n"] > 0
        assert len(row["interval"]) == 2
    debias = metrics["debias"]
    assert debias["target"] == "almond-verbosity"
    assert 0 <= debias["max_abs_rho"] <= 0.01
    after = {name: row["spearman_after"] for name, row in debias["held_out"].items() if name != debias["target"]}
    assert debias["max_abs_rho_held_out"] == max(abs(rho) for rho in after.values() if rho is not None)
    assert debias["max_abs_rho_held_out"] > debias["max_abs_rho"]
    assert -1 <= debias["within_prompt_length_rho"] <= 1
    accuracy = metrics["pair_accuracy"]
    for kind in ("noisy", "true"):
        assert set(accuracy[kind]) == set(SYSTEM_TITLES) - OF_ROUTED
        for name, (low, high) in accuracy["intervals"][kind].items():
            assert 0 <= low <= accuracy[kind][name] <= high <= 1
    assert accuracy["true"]["ceiling"] == 1.0
    assert 0.6 < accuracy["noisy"]["ceiling"] < 0.9
    assert set(accuracy["by_source"]) == {"world", "macro"}
    assert accuracy["by_source"]["world"] == accuracy["by_source"]["macro"] == accuracy["noisy"]
    assert set(accuracy["gate_minus_linear_bt"]) == {"micro", "macro"}
    assert accuracy["best_objective"] in names
    assert -1 <= metrics["weight_recovery_spearman"] <= 1
    assert metrics["seeds"] == {"run": 0, "ridge": 0, "gate": 0, "world": 0}
    assert metrics["versions"]["torch"] == version("torch")
    assert all(len(value) == 64 for value in metrics["hashes"].values())
    assert metrics["rows"] == {"ratings": 300, "ratings_test": 120, "preferences": 150, "preferences_test": 120}


def test_the_figures_are_those_of_the_run(metrics: dict[str, Any], tiny_run: Run) -> None:
    """Recomputed from the model alone: accuracy of the gate, of the longer answer, and the ceiling."""
    tests = tiny_run.fit.test_pairs
    margin_N = tiny_run.fit.mixture.margins(tests.chosen, tests.rejected)
    right = float(((margin_N > 0).double() + 0.5 * (margin_N == 0).double()).mean())
    assert metrics["pair_accuracy"]["noisy"]["gate"] == pytest.approx(right)
    gap_N = tests.chosen.length_N - tests.rejected.length_N
    longer = float(((gap_N > 0).double() + 0.5 * (gap_N == 0).double()).mean())
    assert metrics["pair_accuracy"]["noisy"]["longer"] == pytest.approx(longer)
    assert metrics["hashes"]["model"] == tiny_run.fit.model.hash
    pairs = metrics["gate"]["pairs"]
    assert pairs["train"] + pairs["validation"] == 150


def test_every_name_is_documented(metrics: dict[str, Any]) -> None:
    assert set(metrics) <= NAMES
    for section in (
        "seconds",
        "rows",
        "backbone_training",
        "debias",
        "gate",
        "pair_accuracy",
        "seeds",
        "hashes",
        "verdict",
    ):
        assert set(metrics[section]) <= NAMES | {"objectives", "held_out", "noisy", "true"}, section
    for section in (metrics["objectives"], metrics["objectives_test"], metrics["debias"]["objectives"]):
        assert set(next(iter(section.values()))) <= NAMES
    assert set(next(iter(metrics["debias"]["held_out"].values()))) <= NAMES
    assert {key for row in metrics["gate"]["history"] for key in row} <= NAMES
    assert set(metrics["gate"]["accuracy"]) == {
        f"{part}{which}"
        for part in ("train", "before_refit.train", "before_refit.validation")
        for which in ("", ".unconditional")
    } | {"test"}
    assert set(metrics["reading"]["equal_pairs"]["test"]) <= NAMES


def test_every_system_is_documented(metrics: dict[str, Any]) -> None:
    table = set(re.findall(r"^\| `(\w+)` \|", PAGE[PAGE.index("## pair_accuracy") :], re.MULTILINE))
    assert set(SYSTEM_TITLES) <= table
    assert set(metrics["pair_accuracy"]["noisy"]) <= table


def test_no_documented_field_is_missing(metrics: dict[str, Any]) -> None:
    """What the page promises at the top level and of an objective is in the file."""
    promised = re.findall(r"^\| `(\w+)` \|", PAGE[: PAGE.index("## verdict")], re.MULTILINE)
    assert set(promised) == set(metrics)
    start, end = PAGE.index("## objectives"), PAGE.index("## debias")
    rows = re.findall(r"^\| (`[^|]+`) \|", PAGE[start:end], re.MULTILINE)
    names = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert names == set(next(iter(metrics["objectives"].values())))
