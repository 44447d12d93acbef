"""Uncertainty from the recipe to the command line: stored, told beside the same rewards, measured and documented."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from command_line import Said, command
from facetrm.core.errors import ConfigError
from facetrm.data.records import conversation
from facetrm.recipes.run import Run, read_recipe, run_recipe
from tiny_runs import PAIR, A, B, U, recipe, run, write_recipe, write_rows

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def sure(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The tiny run with everything that tells uncertainty."""
    experts = {**recipe()["experts"], "uncertainty": True, "quantiles": True, "quantile": {"steps": 5}}
    gate = {**recipe()["gate"], "seeds": 3}
    return run(tmp_path_factory.mktemp("sure") / "run", experts=experts, gate=gate)


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [{"id": "one", "messages": [U, A]}, {**PAIR, "id": "two"}, {"messages": [U, B]}]
    return write_rows(tmp_path_factory.mktemp("answers") / "answers.jsonl", rows)


def rows_of(said: Said) -> list[dict[str, Any]]:
    assert said.code == 0, said.err
    return [json.loads(line) for line in said.out.splitlines()]


def test_rewards_are_those_of_the_run_without_and_uncertainty_stands_beside_them(
    sure: Run, tiny_run: Run, answers: Path
) -> None:
    found, plain = (rows_of(command("score", folder, "--data", answers)) for folder in (sure.folder, tiny_run.folder))
    names = [objective.name for objective in sure.fit.mixture.objectives if objective.name != "length"]
    for row, other in zip(found, plain, strict=True):
        unsure = row.pop("uncertainty")
        assert set(unsure) == {"reward", "ratings", "gate", "lower_tails"}
        assert set(unsure["ratings"]) <= set(names) == set(unsure["lower_tails"])
        assert len(unsure["ratings"]) > 10
        assert 0 < unsure["gate"] < unsure["reward"]
        assert all(0 < value < 2 for value in unsure["ratings"].values())
        assert {key: row[key] for key in row if key != "model"} == {key: other[key] for key in row if key != "model"}


def test_the_model_in_memory_and_the_folder_agree_bit_by_bit(sure: Run, answers: Path) -> None:
    own = sure.model.score([conversation([U, answer]) for answer in (A, A, B, B)])
    found = rows_of(command("score", sure.folder, "--data", answers))
    assert [{**row, "id": "", "answer": 0} for row in found] == [
        {"id": "", "answer": 0, **score.to_dict()} for score in own
    ]


def test_lower_bounds_stand_beside_the_reward(sure: Run, answers: Path, tmp_path: Path) -> None:
    bounded = rows_of(command("score", sure.folder, "--data", answers, "--lower-bound", "1.5"))
    plain = rows_of(command("score", sure.folder, "--data", answers))
    for row, other in zip(bounded, plain, strict=True):
        assert list(row)[:4] == ["id", "answer", "reward", "lower_bound"]
        assert row.pop("lower_bound") == pytest.approx(row["reward"] - 1.5 * row["uncertainty"]["reward"])
        assert row == other
    out = tmp_path / "scores.jsonl"
    assert command("score", sure.folder, "--data", answers, "--lower-bound", "1.5", "--out", out).code == 0
    assert [json.loads(line) for line in out.read_text().splitlines()] == rows_of(
        command("score", sure.folder, "--data", answers, "--lower-bound", "1.5")
    )


def test_scores_of_another_bound_are_not_reused(sure: Run, tmp_path: Path) -> None:
    good = [{"id": str(n), "messages": [U, A]} for n in range(260)]  # more than a chunk, so that one is finished
    data, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    write_rows(data, [*good, {"id": "bad"}])
    stopped = command("score", sure.folder, "--data", data, "--lower-bound", "1", "--out", out)
    assert stopped.code != 0
    assert "256 scores" in stopped.err or (tmp_path / "out.jsonl.partial").exists()
    write_rows(data, good)
    for bound, reused in (("2", False), ("2", True)):
        if reused:
            write_rows(data, [*good, {"id": "bad"}])
            out.unlink()
            assert command("score", sure.folder, "--data", data, "--lower-bound", bound, "--out", out).code != 0
            write_rows(data, good)
        done = command("score", sure.folder, "--data", data, "--lower-bound", bound, "--out", out)
        assert done.code == 0, done.err
        assert ("from an earlier run" in done.out) == reused
        row = json.loads(out.read_text().splitlines()[0])
        assert row["lower_bound"] == pytest.approx(row["reward"] - 2 * row["uncertainty"]["reward"])


def test_an_edited_model_keeps_its_uncertainty(sure: Run, answers: Path, tmp_path: Path) -> None:
    best = max(sure.fit.mixture.names, key=lambda name: sure.model.score([conversation([U, A])])[0].weights[name])
    said = command("explain", sure.folder, "--data", answers, "--drop", best, "--save", tmp_path / "edited")
    assert said.code == 0, said.err
    row = rows_of(command("score", tmp_path / "edited", "--data", answers, "--lower-bound", "1"))[0]
    before = rows_of(command("score", sure.folder, "--data", answers))[0]["uncertainty"]
    assert row["coefficients"][best] == 0
    assert row["uncertainty"]["ratings"] == before["ratings"]
    assert row["uncertainty"]["reward"] != before["reward"]


def test_a_model_without_uncertainty_names_the_setting(tiny_run: Run, answers: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.jsonl"
    for more in ((), ("--out", out)):
        said = command("score", tiny_run.folder, "--data", answers, "--lower-bound", "1", *more)
        assert said.code == 2
        assert "stores no uncertainty of its rewards" in said.complaint
        assert "experts.uncertainty: true" in said.complaint
        assert not said.out
    assert not out.exists()


@pytest.mark.parametrize("bound", ["-1", "nan", "inf"])
def test_an_impossible_bound_is_refused(sure: Run, answers: Path, bound: str) -> None:
    said = command("score", sure.folder, "--data", answers, f"--lower-bound={bound}")
    assert said.code != 0
    assert "standard deviations from 0" in said.complaint


def test_uncertainty_of_heads_fitted_on_a_part_is_refused(tmp_path: Path) -> None:
    experts = {"ridge": {"folds": 1, "refit": "train"}, "uncertainty": True}
    with pytest.raises(ConfigError, match=r"ridge\.refit 'all'"):
        read_recipe(write_recipe(tmp_path / "recipe.yaml", recipe(experts=experts)))


def test_coverage_is_measured_shown_and_documented(sure: Run, tiny_run: Run) -> None:
    figures = json.loads((sure.folder / "metrics.json").read_text())["uncertainty"]
    page = (DOCS / "metrics.md").read_text(encoding="utf-8")
    part = page[page.index("## uncertainty") :]
    part = part[: part.index("\n## ", 5)]
    documented = set(re.findall(r"`([\w.-]+)`", part))
    with_a_head = [row for row in figures.values() if "coverage_90" in row]
    assert len(with_a_head) > 10
    for row in figures.values():
        assert set(row) <= documented
        assert row["rated"] > 0
        assert 0 <= row["quantile_coverage_90"] <= 1
        assert row["pinball"] > 0
        assert row["pinball_constant"] > 0
    rated = sum(row["rated"] for row in with_a_head)
    assert 0.8 < sum(row["rated"] * row["coverage_90"] for row in with_a_head) / rated < 0.98
    column = "in 90% interval"
    assert column in (sure.folder / "report.html").read_text(encoding="utf-8")
    assert column not in (tiny_run.folder / "report.html").read_text(encoding="utf-8")
    assert "uncertainty" not in tiny_run.metrics


def test_each_gate_of_a_router_keeps_the_uncertainty(tmp_path: Path) -> None:
    value = recipe(
        experts={**recipe()["experts"], "uncertainty": True},
        gate={**recipe()["gate"], "seeds": 2},
        router={"settings": {"steps": 4, "hidden": 4, "samples": 10}, "least": 20},
        compare={**recipe()["compare"], "bag_of_words": 0},
    )
    made = run_recipe(write_recipe(tmp_path / "routed.yaml", value), out=tmp_path / "run")
    assert len(made.model.tasks) > 1
    for mixture in made.model.mixtures.values():
        assert mixture.uncertainty is not None
        assert mixture.uncertainty.posterior is not None
        assert len(mixture.uncertainty.gates) == 1
    score = made.model.score([conversation([U, A])])[0]
    assert score.lower_bound(1.0) < score.reward
