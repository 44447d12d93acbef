"""Drafts for own files: what the audit says, what the recipe holds, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from facetrm.core.errors import BackboneError, ConfigError, DataError
from facetrm.evaluate.verdict import WANTED, expected_half_width, prompts_wanted
from facetrm.recipes.own_data.start import Drafted, draft, keep_objectives, write_draft
from own_files import questions, save_backbone, turns
from tiny_runs import write_rows


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_backbone(tmp_path_factory.mktemp("own") / "backbone"))


def rated_rows() -> list[dict[str, Any]]:
    return [{"prompt": q.question, "response": q.better, "helpful": q.helpful[0]} for q in questions()]


def pair_rows() -> list[dict[str, Any]]:
    return [{"prompt": q.question, "chosen": q.better, "rejected": q.worse} for q in questions()]


def drafted(folder: Path, backbone: str, *, rated: Any = None, pairs: Any = None, **options: Any) -> Drafted:
    files = (
        write_rows(folder / "rated.jsonl", rated or rated_rows()),
        write_rows(folder / "pairs.jsonl", pairs or pair_rows()),
    )
    return draft([files[0]], [files[1]], backbone=backbone, written=folder / "out" / "objectives.yaml", **options)


def test_clean_data_have_no_finding(backbone: str, tmp_path: Path) -> None:
    text = "\n".join(drafted(tmp_path, backbone).lines)
    for word in ("left out", "skipped", "not used", "constant", "drop one", "repeat", "both orders", "longer:"):
        assert word not in text
    assert "helpful: 24 ratings, integer 0 to 4, higher is better" in text
    assert "prompts in both: 24" in text
    assert "by its tokenizer" in text


def test_the_audit_names_every_finding(backbone: str, tmp_path: Path) -> None:
    rated = [{**row, "twin": row["helpful"], "flat": 3, "user_id": n} for n, row in enumerate(rated_rows())]
    rated.append(rated[0])
    pairs = [*pair_rows(), pair_rows()[0], {**pair_rows()[1], "chosen": "same", "rejected": "same"}]
    pairs.append({"prompt": "question 2 about garden ?", "chosen": "kite " * 80, "rejected": "stone ."})
    pairs.append({"prompt": "question 2 about garden ?", "chosen": "stone .", "rejected": "kite " * 80})
    lines = drafted(tmp_path, backbone, rated=rated, pairs=pairs).lines
    text = "\n".join(lines)
    assert "flat is constant: every rating is 3" in text
    assert "helpful and twin say the same on 25 rows (identical)" in text
    assert "look like ids, counts or lengths: user_id" in text
    assert "rows that repeat an earlier one, labels too: 1" in text
    assert "rows that repeat an earlier one: 1" in text
    assert "pairs with the same text as chosen and rejected: 1" in text
    assert "pairs labelled in both orders: 1" in text
    assert "limit of 64 tokens per conversation: longer: 1, and the run cuts them" in text
    assert not any("user_id is not declared" in line for line in lines)


def test_the_interval_is_that_of_the_held_out_prompts(backbone: str, tmp_path: Path) -> None:
    text = "\n".join(drafted(tmp_path, backbone).lines)
    (line,) = (one for one in text.splitlines() if "the accuracy will be known to about" in one)
    held_out = int(line.split()[0])
    assert 0 < held_out < 24
    assert f"on {held_out} prompts" in line
    assert f"+-{100 * expected_half_width(held_out):.0f} points" in line


def test_the_expected_width_is_the_normal_one() -> None:
    assert expected_half_width(100) == pytest.approx(1.96 * 0.05)
    assert expected_half_width(0) == 1.0
    assert expected_half_width(prompts_wanted()) <= WANTED < expected_half_width(prompts_wanted() - 1)
    assert prompts_wanted() == math.ceil(384.16)


def test_the_reading_time_is_in_proportion_to_the_stated_rate(backbone: str, tmp_path: Path) -> None:
    (line,) = (one for one in drafted(tmp_path, backbone).lines if "reading time" in one)
    assert "not measured here" in line
    assert "1,000 tokens/s for 135M parameters" in line


def test_a_backbone_out_of_reach_leaves_an_estimate(tmp_path: Path) -> None:
    text = "\n".join(drafted(tmp_path, "hf://nobody/nothing").lines)
    assert "assuming 4 characters per token" in text
    assert "reading time: unknown" in text


def test_a_backbone_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match="no such folder"):
        drafted(tmp_path, "./nowhere")


def test_the_recipe_follows_from_the_rows(backbone: str, tmp_path: Path) -> None:
    shared = drafted(tmp_path, backbone).config
    assert (shared.experts.cross_fit, shared.experts.length, shared.debias.target) == (5, True, "length")
    apart = [{**row, "prompt": f"{row['prompt']} please"} for row in pair_rows()]
    assert drafted(tmp_path, backbone, pairs=apart).config.experts.cross_fit == 0
    named = [{"messages": turns(q.question, q.better), "ratings": {"length": q.helpful[0]}} for q in questions()]
    own = drafted(tmp_path, backbone, rated=named).config
    assert (own.experts.length, own.debias.target) == (False, "length")
    even = [{**row, "chosen": "kite stone", "rejected": "stone paper"} for row in pair_rows()]
    assert drafted(tmp_path, backbone, pairs=even).config.debias.target is None


def test_settings_of_the_user_win(backbone: str, tmp_path: Path) -> None:
    made = drafted(tmp_path, backbone, sets=["experts.cross_fit=2", "data.test_share=0.5", "backbone.max_tokens=32"])
    assert (made.config.experts.cross_fit, made.config.backbone.max_tokens) == (2, 32)  # type: ignore[union-attr]
    assert any(line.strip().startswith("limit of 32 tokens") for line in made.lines)
    with pytest.raises(ConfigError, match=r"unknown setting 'experts.crossfit'"):
        drafted(tmp_path, backbone, sets=["experts.crossfit=2"])
    with pytest.raises(ConfigError, match="not a recipe for files"):
        drafted(tmp_path, backbone, sets=["data={kind: desk}"])


def test_declared_objectives_are_used_and_not_guessed(backbone: str, tmp_path: Path) -> None:
    declared = tmp_path / "mine.yaml"
    declared.write_text(yaml.safe_dump([{"name": "helpful", "low": 0, "high": 10, "direction": "lower"}]))
    made = drafted(tmp_path, backbone, objectives=declared)
    assert (made.guessed_text, made.config.data.objectives) == ("", str(declared))  # type: ignore[union-attr]
    assert any("helpful: 24 ratings, integer 0 to 10, lower is better" in line for line in made.lines)
    write_draft(made, tmp_path / "out")
    assert not (tmp_path / "out" / "objectives.yaml").exists()


def test_nothing_is_overwritten_without_force(backbone: str, tmp_path: Path) -> None:
    made = drafted(tmp_path, backbone)
    write_draft(made, tmp_path / "out")
    (tmp_path / "out" / "recipe.yaml").write_text("mine")
    with pytest.raises(ConfigError, match=r"objectives.yaml: is there already; .*--force"):
        write_draft(made, tmp_path / "out")
    assert (tmp_path / "out" / "recipe.yaml").read_text() == "mine"
    write_draft(made, tmp_path / "out", force=True)
    assert yaml.safe_load((tmp_path / "out" / "recipe.yaml").read_text())["recipe"] == "armorm"


def test_a_run_folder_keeps_the_objectives_of_its_own_training(backbone: str, tmp_path: Path) -> None:
    made, path = drafted(tmp_path, backbone), tmp_path / "run" / "objectives.yaml"
    keep_objectives(made, path)
    keep_objectives(made, path)
    before = path.read_text()
    path.write_text(before.replace("direction: higher", "direction: lower"))
    with pytest.raises(DataError, match=r"objectives of another training, or was edited.*--objectives"):
        keep_objectives(made, path)
    assert "direction: lower" in path.read_text()


def test_labels_that_are_lost_are_counted(backbone: str, tmp_path: Path) -> None:
    rows = [
        {"question": q.question, "response_a": q.better, "response_b": q.worse, "winner": "tie" if n < 3 else "a"}
        for n, q in enumerate(questions())
    ]
    rows[7]["winner"] = "who knows"
    with pytest.raises(DataError, match=r"pairs.jsonl:8: 'winner' is 'who knows'"):
        drafted(tmp_path, backbone, pairs=rows)
    text = "\n".join(drafted(tmp_path, backbone, pairs=rows, sets=["data.on_error=skip"]).lines)
    assert "left out: ties (3)" in text
    assert "bad rows skipped: 1" in text
    assert "preferences: 20 pairs" in text
