"""The diagnosis in a terminal: every finding with its parts, the table at any width, foreign text as data."""

from __future__ import annotations

import io

import pytest

from facetrm.doctor.drift import answer_pairs, drift
from facetrm.doctor.findings import Diagnosis, Finding, Variant
from facetrm.doctor.terminal import show_diagnosis

MOVED = drift([0.0, 0.5], [0.0, 1.0], pairs_P2=answer_pairs([2]))


def shown(diagnosis: Diagnosis, width: int = 100) -> str:
    out = io.StringIO()
    show_diagnosis(diagnosis, file=out, width=width)
    return out.getvalue()


def diagnosis(*findings: Finding, **parts: object) -> Diagnosis:
    return Diagnosis("models/mine", "classifier", 2, 0.02, findings, **parts)  # type: ignore[arg-type]


@pytest.mark.parametrize("width", [40, 80, 200])
def test_every_part_is_shown(width: int) -> None:
    variants = (
        Variant("plain, padded left", "plain, alone", "agree", MOVED, "fault"),
        Variant("no BOS", "engine", "moves", None, "not run", "the mistake changes none of these rows"),
    )
    found = Finding("pad-is-eos", "warning", "the problem", "the figure", "the culprit", "the fix")
    text = shown(diagnosis(found, variants=variants, skipped=("the reason",)), width)
    flat = " ".join(text.split())
    for part in (
        "warning pad-is-eos: the problem",
        "the figure",
        "the culprit",
        "the fix",
        "not checked: the reason",
    ):
        assert part in flat
    assert "errors: 0, warnings: 1, at a threshold of 0.02 spreads" in flat
    assert max(map(len, text.splitlines())) <= width
    if width >= 80:
        assert "fault" in flat
        assert f"{MOVED.largest_spreads:.2g}" in flat
        assert "0/1" in flat


def test_the_healthy_are_told_so() -> None:
    assert shown(diagnosis()).endswith("healthy at a threshold of 0.02 spreads\n")


def test_an_allowed_finding_is_marked_and_does_not_count() -> None:
    found = Finding("activation", "warning", "p", "m", "c", "f")
    text = shown(diagnosis(found, allowed=("activation",)))
    assert "warning (allowed) activation" in text
    assert "healthy" in text


def test_foreign_text_is_data() -> None:
    text = shown(diagnosis(Finding("activation", "error", "[red]x\x1b[2J\u202e", "m", "c", "f")))
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "[red]x" in text
