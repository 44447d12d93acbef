"""The recipes of rivals without training, from their files to an evaluation, on toy models."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark_samples import write_lines
from command_line import assert_refused, command
from facetrm import World, load_model, toy_model
from facetrm.baselines import Ensemble, ensemble_rewards, load_rival
from facetrm.core.statistics import win_credit

ROOT = Path(__file__).parents[2]
NAMES = ("ensemble", "direction", "length-calibration")
OWN = {
    "ensemble": ("members={one: ONE, two: TWO, short: shortest}", "kind=worst"),
    "direction": ("model=ONE", "weights={honest: 0.8, helpful: -0.6}"),
    "length-calibration": ("model=ONE", "strength=0.5"),
}
TRAIN, TEST = list(World().preferences(40, part="gate")), list(World().preferences(30, part="test"))
ASKED = [c for pair in TEST for c in (pair.chosen, pair.rejected)]
PAGE = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")


def sets(place: Path, name: str, *more: str) -> list[str]:
    given = ["data={kind: world, preferences: 40, test: 30}", "samples=50", "device=cpu", *OWN[name], *more]
    found = [text.replace("ONE", str(place / "one")).replace("TWO", str(place / "two")) for text in given]
    return [part for text in found for part in ("--set", text)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fitted")
    for seed, name in enumerate(("one", "two")):
        toy_model(seed=seed).save(folder / name, backbone="copy")
    return folder


@pytest.fixture(scope="module")
def ran(place: Path) -> dict[str, Any]:
    found = {}
    for name in NAMES:
        said = command("run", ROOT / "recipes" / f"{name}.yaml", "--out", place / name, *sets(place, name))
        assert said.code == 0, said.err
        assert "alone: " in said.out
        assert f"Next: facetrm eval {place / name}" in said.out.replace("\n", "")
        found[name] = json.loads((place / name / "metrics.json").read_text())
    return found


def margins(scorer: Any) -> np.ndarray:
    rewards = np.array([score.reward for score in scorer.score(ASKED)])
    return rewards[0::2] - rewards[1::2]


@pytest.mark.parametrize("name", NAMES)
def test_the_figures_are_those_of_the_saved_rival(ran: dict[str, Any], place: Path, name: str) -> None:
    metrics, rival = ran[name], load_rival(place / name, device="cpu")
    system = name.replace("-", "_")
    right = float(win_credit(margins(rival)).mean())
    assert metrics["pair_accuracy"]["noisy"][system]["value"] == pytest.approx(right)
    assert metrics["hashes"]["model"] == rival.hash
    assert metrics["rows"] == {"preferences": 40, "preferences_test": 30}
    assert metrics["answers"] == {"reference": 80, "test": 60, "truncated_test": 0}
    alone = float(win_credit(margins(load_model(place / "one", device="cpu"))).mean())
    part = metrics["parts"]["one" if name == "ensemble" else "model"]
    assert part["accuracy"]["value"] == pytest.approx(alone)
    assert part["lead"]["value"] == pytest.approx(right - alone)
    assert metrics["verdict"]["pairs"] == 30
    assert "training" not in metrics
    assert (place / name / "config.resolved.yaml").is_file()


def test_an_ensemble_is_standardised_on_the_training_answers(ran: dict[str, Any], place: Path) -> None:
    members = [load_model(place / name, device="cpu") for name in ("one", "two")]
    reference = [c for pair in TRAIN for c in (pair.chosen, pair.rejected)]
    rewards = [[[s.reward for s in m.score(asked)] for m in members] for asked in (ASKED, reference)]
    rewards[0].append([-float(len(c[-1].content)) for c in ASKED])
    rewards[1].append([-float(len(c[-1].content)) for c in reference])
    expected = ensemble_rewards(np.array(rewards[0]), reference_MR=np.array(rewards[1]), kind="worst")
    rival = load_rival(place / "ensemble", device="cpu")
    assert isinstance(rival, Ensemble)
    assert list(rival.members) == ["one", "two", "short"]
    assert [score.reward for score in rival.score(ASKED)] == pytest.approx(expected, abs=1e-5)
    assert np.diag(ran["ensemble"]["ensemble"]["error_correlation"]) == pytest.approx(1.0)


def test_a_curve_takes_length_out_of_the_reward(ran: dict[str, Any], place: Path) -> None:
    found = ran["length-calibration"]["length_calibration"]
    assert found["strength"] == 0.5
    assert set(found["length_rho"]) == {"before", "after"}
    assert ran["direction"]["direction"]["weights"] == {"honest": 0.8, "helpful": -0.6}
    assert ran["direction"]["direction"]["scale"] == "standard"


def test_every_figure_is_documented(ran: dict[str, Any]) -> None:
    known = set(re.findall(r"`([\w.-]+)`", PAGE))
    own = {"ensemble", "direction", "length_calibration", "parts", "answers"}
    for metrics in ran.values():
        for section in own & metrics.keys():
            assert section in known
            inner = metrics[section].values() if section == "parts" else [metrics[section]]
            assert {key for value in inner for key in value} <= known, section


def test_the_rivals_are_judged_by_their_folders(ran: dict[str, Any], place: Path, tmp_path: Path) -> None:
    rows = [
        {
            "prompt": [m.model_dump() for m in pair.prompt],
            "chosen": [pair.responses[0].model_dump()],
            "rejected": [pair.responses[1].model_dump()],
        }
        for pair in TEST
    ]
    path = write_lines(tmp_path / "mine.jsonl", rows)
    folders = [str(place / name) for name in NAMES]
    said = command("eval", *folders, "--on", path, "--out", tmp_path / "out", "--samples", "20", "--device", "cpu")
    assert said.code == 0, said.err
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    total = results["benchmarks"]["mine.jsonl"]["figures"]["total"]
    for name in NAMES:
        right = ran[name]["pair_accuracy"]["noisy"][name.replace("-", "_")]["value"]
        assert total[name]["value"] == pytest.approx(right)
    refused = command("score", place / "ensemble", "--data", path)
    assert_refused(refused, "made of other models", "facetrm eval", "load_rival")


def test_a_second_run_replaces_the_first_and_another_model_is_not_replaced(place: Path, tmp_path: Path) -> None:
    line = ("run", ROOT / "recipes" / "direction.yaml", "--out", tmp_path / "run")
    first = command(*line, *sets(place, "direction"))
    again = command(*line, *sets(place, "direction", "scale=unit"))
    assert (first.code, again.code) == (0, 0), first.err + again.err
    assert load_rival(tmp_path / "run", device="cpu").scale == "unit"
    shutil.rmtree(tmp_path / "run" / "model")
    shutil.copytree(place / "one", tmp_path / "run" / "model")
    assert_refused(command(*line, *sets(place, "direction")), "holds another model", "give another run folder")


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("ensemble", "members={one: ONE, two: nowhere/two}", ("member 'two'", "nowhere/two", "no such model folder")),
        ("ensemble", "members={one: ONE, gate: desc}", ("member 'gate'", "did you mean 'desk'")),
        ("ensemble", "members={one: ONE}", ("members", "at least 2")),
        ("ensemble", "members={one: ONE, two: ONE}", ("members", "name each system once")),
        ("ensemble", "kind=best", ("kind", "'mean', 'median', 'worst' or 'uncertainty'")),
        ("direction", "weights={honnest: 1.0}", ("objective 'honnest'", "did you mean 'honest'")),
        ("direction", "weights={honest: 0.0}", ("no objective has a weight other than 0",)),
        ("direction", "model=length", ("LengthScorer", "give a reward model")),
        ("length-calibration", "fraction=1.5", ("fraction", "1.5")),
        ("length-calibration", "model=nowhere/one", ("the model", "nowhere/one", "no such model folder")),
    ],
)
def test_a_wrong_setting_is_named(name: str, given: str, said: tuple[str, ...], place: Path, tmp_path: Path) -> None:
    line = sets(place, name, given)
    refused = command("run", ROOT / "recipes" / f"{name}.yaml", "--out", tmp_path / "run", *line)
    assert_refused(refused, *said)
    assert not (tmp_path / "run" / "model").exists()


def test_a_changed_member_is_refused_by_an_evaluation(ran: dict[str, Any], place: Path, tmp_path: Path) -> None:
    moved = tmp_path / "one"
    shutil.copytree(place / "one", moved)
    line = ("run", ROOT / "recipes" / "ensemble.yaml", "--out", tmp_path / "run", *sets(place, "ensemble"))
    members = ("--set", f"members={{one: {moved}, short: shortest}}")
    assert command(*line, *members).code == 0
    shutil.rmtree(moved)
    shutil.copytree(place / "two", moved)
    hashes = [load_model(place / name, device="cpu").hash[:12] for name in ("two", "one")]
    refused = command("eval", tmp_path / "run", "--on", "world", "--out", tmp_path / "out", "--device", "cpu")
    assert_refused(refused, "member 'one'", str(moved), *hashes, "run the recipe again")
