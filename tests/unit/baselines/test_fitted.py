"""Fitted rivals in a folder: the same scores after loading, and clear words where a part is missing or has changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from facetrm import World, toy_model
from facetrm.baselines import load_rival
from facetrm.baselines.directional import fit_direction
from facetrm.baselines.ensemble import fit_ensemble
from facetrm.baselines.fitted.parts import LoadedPart, PartReading, named_part
from facetrm.baselines.fitted.saved import (
    FittedRival,
    reward_model,
    save_fitted,
    saved_calibration,
    saved_direction,
    saved_ensemble,
)
from facetrm.baselines.length_calibration import fit_length_calibration
from facetrm.baselines.trained.rivals import load_part
from facetrm.core.errors import ConfigError, ModelError
from facetrm.model.door import RIVAL_MANIFEST

PAIRS = list(World().preferences(12))
REFERENCE = [c for pair in PAIRS[:8] for c in (pair.chosen, pair.rejected)]
ANSWERS = [c for pair in PAIRS[8:] for c in (pair.chosen, pair.rejected)]
WEIGHTS = {"honest": 0.8, "helpful": -0.6}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return a folder with two toy models, ``one`` and ``two``."""
    for seed, name in enumerate(("one", "two")):
        toy_model(seed=seed).save(tmp_path / name, backbone="copy")
    return tmp_path


def loaded(place: str | Path, **reading: Any) -> LoadedPart:
    return load_part(str(place), PartReading(**reading), device="cpu")


def an_ensemble(place: Path, kind: Any = "uncertainty", **more: str | Path) -> FittedRival:
    """Fit an ensemble and save it in ``place / 'rival'``; the order of its members is not that of their names."""
    places: Mapping[str, str | Path] = {"z": place / "one", "a": place / "two", "short": "shortest", **more}
    parts = {name: loaded(where) for name, where in places.items()}
    found = fit_ensemble({name: part.scorer for name, part in parts.items()}, REFERENCE, kind=kind, penalty=0.3)
    save_fitted(place / "rival", "ensemble", saved_ensemble(found, parts))
    return found


def a_direction(place: Path, scale: Any = "standard") -> FittedRival:
    part = loaded(place / "one")
    found = fit_direction(reward_model(part), WEIGHTS, conversations=REFERENCE, scale=scale)
    save_fitted(place / "rival", "direction", saved_direction(found, part))
    return found


def a_calibration(place: Path) -> FittedRival:
    part = loaded(place / "one")
    found = fit_length_calibration(part.scorer, REFERENCE, strength=0.7, unit="words")
    save_fitted(place / "rival", "length-calibration", saved_calibration(found, part))
    return found


MADE: Mapping[str, Callable[[Path], FittedRival]] = {
    **{kind: partial(an_ensemble, kind=kind) for kind in ("mean", "median", "worst", "uncertainty")},
    **{scale: partial(a_direction, scale=scale) for scale in ("unit", "source", "standard")},
    "calibration": a_calibration,
}


@pytest.mark.parametrize("make", MADE.values(), ids=list(MADE))
def test_the_scores_of_a_saved_rival_are_equal_bit_for_bit(make: Callable[[Path], FittedRival], place: Path) -> None:
    made = make(place)
    found = load_rival(place / "rival", device="cpu")
    assert type(found) is type(made)
    assert found.score(ANSWERS) == made.score(ANSWERS)
    assert found.hash == made.hash
    assert len({score.reward for score in made.score(ANSWERS)}) == len(ANSWERS)
    assert sorted(path.name for path in (place / "rival").iterdir()) == [RIVAL_MANIFEST]


def test_another_mode_is_obeyed_and_a_part_may_be_a_rival(place: Path) -> None:
    inner = a_calibration(place)
    (place / "rival").rename(place / "inner")
    outer = an_ensemble(place, inner=place / "inner")
    exact = load_rival(place / "rival", device="cpu", mode="exact")
    assert exact.hash != outer.hash
    for score, other in zip(exact.score(ANSWERS), outer.score(ANSWERS), strict=True):
        assert score.mode == "exact"
        assert score.reward == pytest.approx(other.reward, abs=1e-5)
    assert inner.hash == load_rival(place / "inner", device="cpu").hash


def test_how_a_part_reads_is_kept(place: Path) -> None:
    part = loaded(place / "one", max_tokens=40, truncation="drop_oldest")
    assert part.saved.hash != loaded(place / "one").saved.hash
    made = fit_direction(reward_model(part), WEIGHTS, scale="unit")
    save_fitted(place / "rival", "direction", saved_direction(made, part))
    long = [(*ANSWERS[0], *ANSWERS[0], *ANSWERS[1])]
    found = load_rival(place / "rival", device="cpu").score(long)
    assert found == made.score(long)
    assert found[0].truncated


def test_a_member_that_was_changed_is_named_with_both_hashes(place: Path) -> None:
    an_ensemble(place)
    before, after = loaded(place / "two").saved.hash[:12], toy_model(seed=7).hash[:12]
    shutil.rmtree(place / "two")
    toy_model(seed=7).save(place / "two", backbone="copy")
    with pytest.raises(ModelError, match=rf"member 'a' at '.*two' has the hash {after}.*{before}.*recipe again"):
        load_rival(place / "rival", device="cpu")


def test_a_member_that_was_moved_is_named_and_its_place_can_be_corrected(place: Path) -> None:
    made = an_ensemble(place)
    (place / "two").rename(place / "new")
    with pytest.raises(ModelError, match=r"two: member 'a' cannot be loaded: no such model folder"):
        load_rival(place / "rival", device="cpu")
    path = place / "rival" / RIVAL_MANIFEST
    path.write_text(path.read_text().replace(str(place / "two"), str(place / "new")))
    assert load_rival(place / "rival", device="cpu").score(ANSWERS) == made.score(ANSWERS)


def changed(place: Path, **settings: Any) -> None:
    path = place / "rival" / RIVAL_MANIFEST
    value = json.loads(path.read_text())
    value["settings"] |= settings
    path.write_text(json.dumps(value))


def test_numbers_that_were_changed_and_broken_settings_are_refused(place: Path) -> None:
    an_ensemble(place)
    changed(place, penalty=0.9)
    with pytest.raises(ModelError, match="the files were changed"):
        load_rival(place / "rival", device="cpu")
    changed(place, penalty="much")
    with pytest.raises(ConfigError, match="penalty"):
        load_rival(place / "rival", device="cpu")
    changed(place, penalty=0.3, members=[])
    with pytest.raises(ModelError, match="the files were changed"):
        load_rival(place / "rival", device="cpu")
    a_calibration(place)
    changed(place, lengths=[3.0, 2.0], rewards=[1.0, 1.0])
    with pytest.raises(ConfigError, match="do not increase"):
        load_rival(place / "rival", device="cpu")


def test_a_rival_that_is_a_part_of_itself_is_refused(place: Path) -> None:
    an_ensemble(place)
    path = place / "rival" / RIVAL_MANIFEST
    path.write_text(path.read_text().replace(str(place / "one"), str(place / "rival")))
    with pytest.raises(ModelError, match=r"member 'z' cannot be loaded: the rival is a part of itself"):
        load_rival(place / "rival", device="cpu")


def test_what_cannot_be_a_part_is_named(place: Path) -> None:
    load = partial(load_part, device="cpu")
    for wrong, said in (("shortes", "did you mean 'shortest'"), (str(place / "none"), "no such model folder")):
        with pytest.raises(ModelError, match=rf"{wrong}: member 'x' cannot be loaded: .*{said}|{wrong}: .*{said}"):
            named_part(load, wrong, PartReading(), called="member 'x'")
    with pytest.raises(ModelError, match="a LengthScorer has no ratings by objective; give a reward model"):
        reward_model(loaded("length"))


def test_another_model_in_the_folder_is_not_replaced(place: Path) -> None:
    made = a_direction(place, "unit")
    an_ensemble(place)
    assert load_rival(place / "rival", device="cpu").hash != made.hash
    part = loaded(place / "one")
    with pytest.raises(ModelError, match="holds another model; give another run folder"):
        save_fitted(place / "two", "direction", saved_direction(fit_direction(reward_model(part), WEIGHTS), part))
    assert loaded(place / "two").saved.hash == toy_model(seed=1).hash
