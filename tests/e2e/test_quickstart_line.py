"""The quickstart's own recipe, made small, on a decoder that the test makes: plain English, layers and a verdict."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from command_line import Said, command
from fakes import tiny_decoder

SMALL = (
    "data.ratings=150",
    "data.preferences=120",
    "data.test=60",
    "backbone.dtype=float32",
    "backbone.max_tokens=2000",  # a tokenizer of bytes
    "experts.layers=[1, last]",
    "experts.ridge={folds: 2, bootstrap: 10, unfit: mean}",
    "gate.settings.steps=20",
    "compare.samples=10",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quickstart")


@pytest.fixture(scope="module")
def ran(folder: Path) -> Said:
    sets = [*SMALL, f"backbone.path={tiny_decoder(folder / 'backbone', max_tokens=2000)}"]
    given = [part for item in sets for part in ("--set", item)]
    return command("run", "quickstart", "--out", folder / "run", *given)


def test_it_ends_with_a_table_a_pair_and_a_verdict(ran: Said, folder: Path) -> None:
    assert ran.code == 0, ran.err
    for text in (
        "Accuracy on 60 held-out pairs",
        "linear Bradley-Terry head",
        "Why",
        "Verdict:",
        "Next: facetrm explain",
    ):
        assert text in ran.out, text
    metrics = json.loads((folder / "run" / "metrics.json").read_text())
    assert set(metrics["layers"]["basil-fluent"]["mse"]) == {"1", "last"}
    assert (folder / "run" / "report.html").read_text(encoding="utf-8").count("Which layer knows what") >= 1


def test_the_next_commands_work_as_printed(ran: Said, folder: Path) -> None:
    assert command("explain", folder / "run", "--html", folder / "pair.html").code == 0
    prompt = ("--prompt", "What is the capital of Peru?")
    said = command("explain", folder / "run", *prompt, "--a", "It is Lima.", "--b", "It is Quito.", "--json")
    assert said.code == 0, said.err
    shown = json.loads(said.out)
    assert shown["margin"] == pytest.approx(sum(line["difference"] for line in shown["lines"]), abs=1e-5)
    scored = command("score", folder / "run", *prompt, "--answer", "It is Lima.")
    assert scored.code == 0, scored.err
    assert json.loads(scored.out)["reward"] == pytest.approx(shown["a"]["reward"], abs=1e-5)
