from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from facetrm.core.errors import DataError
from facetrm.data.read.files import read_preferences
from facetrm.recipes.armorm.rows import FilesData, SourcesData, load_rows

OBJECTIVE = "- name: mine-good\n  low: 0\n  high: 4\n"


def rated(n: int, **side: Any) -> dict[str, Any]:
    turns = [{"role": "user", "content": f"question {n}"}, {"role": "assistant", "content": f"answer {n}"}]
    return {"messages": turns, "ratings": {"mine-good": n % 5}, **side}


def pair(n: int, **side: Any) -> dict[str, Any]:
    return {"prompt": f"ask {n}", "chosen": "yes", "rejected": "no", **side}


def write(path: Path, rows: list[Any]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def files(folder: Path, ratings: list[Any], preferences: list[Any]) -> FilesData:
    (folder / "objectives.yaml").write_text(OBJECTIVE, encoding="utf-8")
    return FilesData(
        ratings=(write(folder / "ratings.jsonl", ratings),),
        preferences=(write(folder / "pairs.jsonl", preferences),),
        objectives=str(folder / "objectives.yaml"),
        test_share=0.5,
    )


def test_rows_that_say_test_are_never_trained_on(tmp_path: Path) -> None:
    names = ["test" if n % 3 == 0 else "train" for n in range(30)]
    given = files(
        tmp_path,
        [rated(n, split=name) for n, name in enumerate(names)],
        [pair(n, split=name) for n, name in enumerate(names)],
    )
    rows = load_rows(given, seed=0)
    assert {r.split for r in (*rows.heads, *rows.gate)} == {"train"}
    assert {r.split for r in (*rows.heads_test, *rows.test)} == {"test"}
    assert (len(rows.gate), len(rows.test)) == (20, 10)


@pytest.mark.parametrize("others", ["test", None])
@pytest.mark.parametrize("name", ["validation", "val", "Dev"])
def test_rows_that_say_validation_are_never_trained_on(name: str, others: str | None, tmp_path: Path) -> None:
    splits = [(name, others, "train")[n % 3] for n in range(60)]
    given = files(
        tmp_path,
        [rated(n, split=split or "train") for n, split in enumerate(splits)],
        [*(pair(n, split=split or "train") for n, split in enumerate(splits)), pair(0, id="again", split="train")],
    )
    rows = load_rows(given, seed=0)
    kept = (*rows.heads, *rows.gate, *rows.heads_test, *rows.test)
    assert {r.split for r in kept} == {split or "train" for split in (others, "train")}
    assert not {r.prompt_key for r in (*rows.heads, *rows.gate)} & {
        r.prompt_key for r in read_preferences(given.preferences[0]) if r.split == name
    }
    assert (rows.counts["validation_ratings"], rows.counts["validation_preferences"]) == (20, 20)


def test_without_a_test_row_the_prompts_are_split_here(tmp_path: Path) -> None:
    given = files(tmp_path, [rated(n) for n in range(40)], [pair(n, split="train") for n in range(40)])
    rows = load_rows(given, seed=0)
    assert 5 < len(rows.test) < 35
    assert not {p.prompt_key for p in rows.test} & {p.prompt_key for p in rows.gate}


def test_a_row_without_a_split_is_named_where_others_have_one(tmp_path: Path) -> None:
    given = files(tmp_path, [rated(1)], [pair(n, id=f"p{n}", split="test") for n in range(3)])
    with pytest.raises(DataError, match="has split None; give every row split train or test"):
        load_rows(given, seed=0)


def test_malformed_rows_of_a_source_can_be_skipped(tmp_path: Path) -> None:
    good = [
        {
            "prompt": f"question {n}",
            "response": f"answer {n}",
            **dict.fromkeys(("helpfulness", "correctness", "coherence", "complexity", "verbosity"), n % 5),
        }
        for n in range(60)
    ]
    write(tmp_path / "helpsteer" / "train.jsonl", [*good, {**good[0], "helpfulness": 9}])
    pairs = [
        {"prompt": f"ask {n}", "response_0": "a", "response_1": "b", "safer_response_id": n % 2} for n in range(60)
    ]
    write(tmp_path / "pku-saferlhf-30k" / "train.jsonl", pairs)
    section = SourcesData(
        ratings=("helpsteer",), preferences=("pku-saferlhf-30k",), folder=str(tmp_path), test_share=0.3
    )
    with pytest.raises(DataError, match=r"'ratings\.helpsteer-helpfulness' is 9"):
        load_rows(section, seed=0)
    rows = load_rows(section.model_copy(update={"on_error": "skip"}), seed=0)
    assert len(rows.heads) + len(rows.heads_test) == 60
    (side,) = tmp_path.rglob("*.skipped.jsonl")
    assert [json.loads(line)["line"] for line in side.read_text().splitlines()] == [61]


def test_side_files_can_go_elsewhere_but_not_over_each_other(tmp_path: Path) -> None:
    given = files(tmp_path, [rated(n) for n in range(30)], [pair(n) for n in range(30)])
    with Path(given.ratings[0]).open("a") as file:
        file.write("{}\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    load_rows(given.model_copy(update={"on_error": "skip", "skipped_to": str(elsewhere)}), seed=0)
    (side,) = tmp_path.rglob("*.skipped.jsonl")
    assert side.parent == elsewhere
    assert json.loads(side.read_text())["line"] == 31
    two = {"ratings": ("a/rows.jsonl.gz",), "preferences": ("b/rows.parquet",), "on_error": "skip"}
    FilesData(**given.model_dump() | two)
    with pytest.raises(ValidationError, match=r"two files would both go to 'side.rows\.skipped\.jsonl'"):
        FilesData(**given.model_dump() | two | {"skipped_to": "side"})


def test_copies_and_prompts_of_benchmarks_are_taken_out_of_training_and_counted(tmp_path: Path) -> None:
    """In ArmoRM and fine-tuning alike, which read the same section; the test rows stay as they are."""
    splits = ["test" if n % 3 == 0 else "train" for n in range(30)]
    ratings = [rated(n, split=name) for n, name in enumerate(splits)]
    asked = {"prompt": [{"role": "user", "content": "rank"}], "split": "train"}
    ranking = {**asked, "responses": [{"role": "assistant", "content": text} for text in "abc"]}
    pairs = [
        *(ranked(pair(n, split=name)) for n, name in enumerate(splits)),
        *[ranking] * 2,
        ranked(pair(1, split="train")),
        ranked(pair(0, split="test")),
    ]
    given = files(tmp_path, [*ratings, ratings[1], ratings[0]], pairs)
    benchmark = write(tmp_path / "bench.jsonl", [pair(2), {"prompt": "Question  4", "response": "?"}, pair(0)])
    plain = load_rows(given, seed=0)
    assert (len(plain.heads), len(plain.gate)) == (21, 20 + 6 + 1)
    changes = {"deduplicate": True, "decontaminate": [benchmark]}
    cleaned = type(given).model_validate({**given.model_dump(), **changes})
    rows = load_rows(cleaned, seed=0)
    assert (len(rows.heads), len(rows.gate)) == (19, 19 + 3)
    assert (rows.heads_test, rows.test) == (plain.heads_test, plain.test)
    assert "question 4" not in {r.prompt[0].content for r in rows.heads}
    assert "ask 2" not in {p.prompt[0].content for p in rows.gate}
    assert rows.counts == {
        "training_ratings_that_are_copies": 1,
        "training_ratings_with_a_benchmark_prompt": 1,
        "training_preferences_that_are_copies": 2,
        "training_preferences_with_a_benchmark_prompt": 1,
    }
    missing = cleaned.model_copy(update={"decontaminate": ("nowhere.jsonl",)})
    with pytest.raises(DataError, match="nowhere"):
        load_rows(missing, seed=0)


def ranked(pair: dict[str, Any]) -> dict[str, Any]:
    """Return the same pair in the columns of a ranking."""
    kept = {key: value for key, value in pair.items() if key not in ("prompt", "chosen", "rejected")}
    answers = [{"role": "assistant", "content": pair[key]} for key in ("chosen", "rejected")]
    return {**kept, "prompt": [{"role": "user", "content": pair["prompt"]}], "responses": answers}
