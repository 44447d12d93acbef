"""What every registered source must keep: names, objectives, licence, valid records within range, nothing lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from facetrm.core.errors import ConfigError, DataError
from facetrm.data.objectives import check_unique, label_matrix
from facetrm.data.records import Preference, Rating
from facetrm.data.sources import ARMORM_OBJECTIVES, SOURCES, Dropped, load_source

SAMPLES = Path(__file__).parents[1] / "unit" / "data" / "sources"
RATED = {
    "helpsteer",
    "ultrafeedback",
    "beavertails",
    "codeultrafeedback",
    "prometheus",
    "argilla-capybara",
    "argilla-math",
    "argilla-openorca",
}
GATING = {
    "helpsteer-preferences",
    "ultrafeedback-preferences",
    "shp",
    "hh-rlhf-helpful",
    "hh-rlhf-harmless",
    "pku-saferlhf-30k",
    "argilla-capybara-preferences",
    "argilla-math-preferences",
    "codeultrafeedback-preferences",
    "prometheus-preferences",
    "prm800k-phase2",
}

LABELLED = {"mtmc-rlhf"}  # its rows name their own task


def sample(name: str) -> Path:
    return SAMPLES / f"{SOURCES[name].hub.replace('/', '__')}.jsonl"


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in sample(name).read_text(encoding="utf-8").splitlines()]


def test_the_published_sets_are_all_there() -> None:
    assert RATED | GATING | {"armorm", "armorm-unit", "rlhflow-pairs", "mtmc-rlhf"} == set(SOURCES)
    assert {name for name in SOURCES if SOURCES[name].kind == "rating"} == RATED | {"armorm", "armorm-unit"}


def test_objectives_have_the_order_of_the_published_checkpoint() -> None:
    assert [objective.name for objective in ARMORM_OBJECTIVES] == [
        "helpsteer-helpfulness",
        "helpsteer-correctness",
        "helpsteer-coherence",
        "helpsteer-complexity",
        "helpsteer-verbosity",
        "ultrafeedback-overall_score",
        "ultrafeedback-instruction_following",
        "ultrafeedback-truthfulness",
        "ultrafeedback-honesty",
        "ultrafeedback-helpfulness",
        "beavertails-is_safe",
        "prometheus-score",
        "argilla-overall_quality",
        "argilla-judge_lm",
        "code-complexity",
        "code-style",
        "code-explanation",
        "code-instruction-following",
        "code-readability",
    ]
    covered = {objective for name in RATED for objective in SOURCES[name].objectives}
    assert covered == set(ARMORM_OBJECTIVES)


@pytest.mark.parametrize("name", SOURCES)
def test_source_is_described(name: str) -> None:
    source = SOURCES[name]
    assert source.name == name
    assert len(source.hub.split("/")) == 2
    assert source.licence.strip()
    assert any(year in source.citation for year in ("2022", "2023", "2024"))
    assert len(source.rule) > 20
    check_unique(source.objectives)
    assert bool(source.objectives) == (source.kind == "rating")
    assert all(objective.meaning and objective.rater and objective.source for objective in source.objectives)


@pytest.mark.parametrize("name", SOURCES)
def test_records_are_valid_and_within_range(name: str) -> None:
    source = SOURCES[name]
    records = load_source(name, path=sample(name))
    assert records
    assert len({record.id for record in records}) == len(records)
    for record in records:
        assert isinstance(record, Rating if source.kind == "rating" else Preference)
        assert (record.source, record.split) == (name, "train")
        assert record.task == source.task or name in LABELLED
        assert type(record).model_validate(record.model_dump()) == record
        if isinstance(record, Rating):
            assert record.ratings
        else:
            assert record.responses[0] != record.responses[-1]
    labels = label_matrix([r for r in records if isinstance(r, Rating)], source.objectives)
    assert ((labels >= 0) & (labels <= 1) | (labels != labels)).all()


@pytest.mark.parametrize("name", SOURCES)
def test_nothing_is_lost_without_a_reason(name: str) -> None:
    made = list(SOURCES[name].records(rows(name)))
    kept = [record for record in made if not isinstance(record, Dropped)]
    assert len(kept) == len(load_source(name, path=sample(name)))
    assert all(item.reason for item in made if isinstance(item, Dropped))


@pytest.mark.parametrize("name", SOURCES)
def test_a_missing_column_is_named(name: str, tmp_path: Path) -> None:
    first, *others = rows(name)
    column = {"hh-rlhf-helpful": "chosen", "hh-rlhf-harmless": "chosen"}.get(name)
    column = column or next(key for key in first if key in used(name))
    broken = {key: value for key, value in first.items() if key != column}
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (broken, *others)))
    with pytest.raises(DataError, match=rf"train\.jsonl:1: column '{column}' is missing"):
        load_source(name, path=path)


def used(name: str) -> set[str]:
    """The columns that a source cannot do without."""
    columns = {"messages", "instruction", "orig_instruction", "prompt", "post_id", "question", "chosen", "input", "src"}
    return columns - ({"prompt"} if name == "shp" else set())


@pytest.mark.parametrize("name", SOURCES)
def test_limit(name: str) -> None:
    assert len(load_source(name, path=sample(name), limit=1)) == 1


def test_an_unknown_source_is_suggested() -> None:
    with pytest.raises(ConfigError, match=r"unknown source 'helpster'; did you mean 'helpsteer'\?"):
        load_source("helpster")
