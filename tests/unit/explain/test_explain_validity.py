"""Validity of objectives: kept in the manifest of a model, shown wherever an objective weighs, absent in old models."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from explain_samples import talk
from facetrm.explain.ask import explain_pair
from facetrm.explain.terminal import PairView, show
from facetrm.hub.card import write_card
from facetrm.model.reward_model import RewardModel
from facetrm.model.validity import VALIDITY, Validity, validity_of
from facetrm.recipes.toy import toy_model

GOOD = Validity.of("spearman", 0.61, (0.52, 0.69), 400)
POOR = Validity.of("spearman", 0.05, (-0.1, 0.2), 400)


def known() -> RewardModel:
    """Return the toy model with figures for two of its three objectives."""
    model = toy_model()
    recorded = {"helpful": GOOD.to_dict(), "verbose": POOR.to_dict()}
    return model.with_mixture(model.mixture(), provenance={VALIDITY: recorded})


def test_validity_survives_in_the_manifest_and_old_models_have_none(tmp_path: Path) -> None:
    model = known()
    model.save(tmp_path / "model")
    again = RewardModel.load(tmp_path / "model", load_encoder=lambda _: model.encoder)
    assert validity_of(again.provenance) == {"helpful": GOOD, "verbose": POOR}
    assert validity_of(toy_model().provenance) == {}


@pytest.mark.parametrize(
    "entry",
    [None, 3, {}, {"measure": "luck", "rows": 3}, {**GOOD.to_dict(), "low": "high"}, {**GOOD.to_dict(), "rows": None}],
)
def test_a_malformed_record_is_no_figure(entry: object) -> None:
    assert validity_of({VALIDITY: {"a": entry, "b": GOOD.to_dict()}}) == {"b": GOOD}
    assert validity_of({VALIDITY: entry}) == {}


def test_wilsons_interval_of_an_accuracy() -> None:
    found = Validity.of_accuracy(0.8, 50)
    assert (found.low, found.high) == (pytest.approx(0.6696, abs=1e-4), pytest.approx(0.8876, abs=1e-4))
    assert not Validity.of_accuracy(1.0, 0).measurable


def test_an_explanation_marks_the_objective_and_says_so_if_it_decides() -> None:
    model = known()
    pair = explain_pair(model, talk("q", "yes"), talk("q", "no no no no"))
    lines = {line.objective: line for line in pair.a.lines}
    assert [lines[name].unproven for name in ("helpful", "verbose", "honest")] == [False, True, False]
    share = {line.objective: line.share for line in pair.lines}
    said = [fact for fact in pair.facts if fact.startswith("Not reliable")]
    assert bool(said) == (share["verbose"] >= 10)
    written = {line["objective"]: line["validity"] for line in pair.to_dict()["a"]["lines"]}
    assert written == {"helpful": GOOD.to_dict(), "verbose": POOR.to_dict(), "honest": None}
    out = io.StringIO()
    show(PairView(pair), file=out, width=110)
    text = out.getvalue()
    row = next(line for line in text.splitlines() if line.startswith("verbose") and "NO" in line)
    assert row.rstrip().endswith("NO")
    assert any(line.startswith("helpful") and line.rstrip().endswith("0.61") for line in text.splitlines())


def test_the_card_names_the_objectives_without_validity(tmp_path: Path) -> None:
    text = write_card(tmp_path, known()).read_text(encoding="utf-8")
    assert "Without measurable validity: verbose." in text
    assert "Spearman 0.61 (0.52 to 0.69)" in text
    assert "not measured" in text
    old = write_card(tmp_path, toy_model()).read_text(encoding="utf-8")
    assert "validity" not in old
    assert "predicted on held-out rows" not in old
