"""Rows of a run, of every kind of data: counted, split by prompt, no test prompt in training."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from facetrm.core.errors import ConfigError, DataError
from facetrm.data.read.files import write_records
from facetrm.data.records import Message, Preference, Rating
from facetrm.data.world import WorldConfig
from facetrm.recipes.armorm.rows import FilesData, PackData, Rows, SourcesData, WorldData, load_rows
from tiny_runs import write_rows


def keys(rows: Iterable[Rating | Preference]) -> set[str]:
    return {row.prompt_key for row in rows}


def assert_disjoint(rows: Rows) -> None:
    """No prompt of a test part stands in a training part, of either kind."""
    held_out = keys(rows.heads_test) | keys(rows.test)
    assert held_out
    assert not held_out & (keys(rows.heads) | keys(rows.gate))


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


# --- the world


def test_the_world() -> None:
    section = WorldData(ratings=30, preferences=20, test=12, world=WorldConfig(seed=3))
    rows = load_rows(section, seed=0)
    assert [len(part) for part in (rows.heads, rows.heads_test, rows.gate, rows.test)] == [30, 12, 20, 12]
    assert rows.world is not None
    assert rows.world.config.seed == 3
    assert rows.objectives == tuple(rows.world.objectives)
    assert rows.counts == {}
    assert_disjoint(rows)
    assert not keys(rows.heads) & keys(rows.gate), "heads and gate learn from other prompts"
    assert load_rows(section, seed=9).hash == rows.hash, "the world has its own seed"
    other = section.model_copy(update={"world": WorldConfig(seed=4)})
    assert load_rows(other, seed=0).hash != rows.hash


# --- a pack


ATTRIBUTES = {
    "s-good": {"type": "integer", "min": 0, "max": 4, "direction": "higher_is_better"},
    "s-long": {"type": "integer", "min": 0, "max": 4, "direction": "unknown"},
}


def rated_row(name: str, split: str, asked: str, **ratings: float) -> dict[str, Any]:
    about = {"id": name, "source": "s", "split": split, "category": "chat"}
    return {**about, "messages": [user(asked), said(f"answer {name}")], "ratings": ratings}


def pair_row(name: str, split: str, asked: str, **more: Any) -> dict[str, Any]:
    about = {"id": name, "source": "p", "split": split, "category": "chat"}
    return {**about, "prompt": [user(asked)], "chosen": [said(f"a {name}")], "rejected": [said(f"b {name}")], **more}


def write_pack(folder: Path, rated: list[dict[str, Any]], pairs: list[dict[str, Any]]) -> PackData:
    folder.mkdir(exist_ok=True)
    (folder / "sources.json").write_text(json.dumps({"rated": {"s": {"attributes": ATTRIBUTES}}}))
    write_rows(folder / "rated.jsonl", rated)
    write_rows(folder / "preferences.jsonl", pairs)
    return PackData(folder=str(folder))


RATED = [
    rated_row("r0", "train", "one", **{"s-good": 1.0}),
    rated_row("r1", "train", "two", **{"s-long": 4.0}),
    rated_row("r2", "train", "  THREE ", **{"s-good": 2.0}),
    rated_row("r3", "test", "four", **{"s-good": 3.0}),
]
PAIRS = [
    pair_row("p0", "train", "five"),
    pair_row("p1", "train", "four"),
    pair_row("p2", "train", "one", strength=0.5),
    pair_row("p3", "test", "three"),
    pair_row("p4", "test", "six"),
    pair_row("p5", "train", "seven", aspect="safety"),
]


def test_a_pack_keeps_its_split_and_takes_test_prompts_out_of_training(tmp_path: Path) -> None:
    rows = load_rows(write_pack(tmp_path / "pack", RATED, PAIRS), seed=0)
    assert [r.id for r in rows.heads] == ["r0", "r1"], "r2 is a prompt of the test pairs, spelt otherwise"
    assert [r.id for r in rows.heads_test] == ["r3"]
    assert [p.id for p in rows.gate] == ["p0", "p2"], "p1 is a prompt of the test ratings, p5 about something else"
    assert [p.id for p in rows.test] == ["p3", "p4"]
    assert rows.counts == {
        "preferences_about_another_aspect": 1,
        "training_ratings_with_a_test_prompt": 1,
        "training_preferences_with_a_test_prompt": 1,
    }
    assert {o.name: o.direction for o in rows.objectives} == {"s-good": "higher", "s-long": "unknown"}
    assert rows.gate[1].strength == 0.5
    assert rows.world is None
    assert_disjoint(rows)


def test_a_limit_of_a_pack_holds_for_each_source_and_split(tmp_path: Path) -> None:
    section = write_pack(tmp_path / "pack", RATED, PAIRS)
    whole, few = (load_rows(section.model_copy(update={"limit": limit}), seed=0) for limit in (None, 1))
    parts = [[r.id for r in part] for part in (few.heads, few.heads_test, few.gate, few.test)]
    assert parts == [["r0"], ["r3"], ["p0"], ["p3"]]
    assert few.counts["ratings_beyond_the_limit"] == 2
    assert few.counts["preferences_beyond_the_limit"] == 4
    assert not {name for name in whole.counts if "limit" in name}
    assert load_rows(section.model_copy(update={"limit": 100}), seed=0).hash == whole.hash


def test_every_row_of_a_pack_is_accounted_for(tmp_path: Path) -> None:
    rows = load_rows(write_pack(tmp_path / "pack", RATED, PAIRS), seed=0)
    kept = sum(len(part) for part in (rows.heads, rows.heads_test, rows.gate, rows.test))
    assert kept + sum(rows.counts.values()) == len(RATED) + len(PAIRS)


def test_the_hash_names_the_rows(tmp_path: Path) -> None:
    same, again = (load_rows(write_pack(tmp_path / name, RATED, PAIRS), seed=0).hash for name in ("a", "b"))
    changed = [*RATED[:3], rated_row("r3", "test", "four", **{"s-good": 4.0})]
    assert same == again != load_rows(write_pack(tmp_path / "c", changed, PAIRS), seed=0).hash


def test_a_part_without_a_row_is_an_error(tmp_path: Path) -> None:
    section = write_pack(tmp_path / "pack", RATED, PAIRS[:3])
    with pytest.raises(DataError, match=r"data \(pack\): no rows for part 'test'; give more data"):
        load_rows(section, seed=0)


# --- files


def files(folder: Path, *, test_share: float = 0.3, **more: Any) -> FilesData:
    """Write 60 prompts, half of them with a rating and a pair, in two formats."""
    ratings = [
        Rating(
            messages=(Message(**user(f"question {n // 2}")), Message(**said(f"answer {n}"))), ratings={"mine-x": n % 5}
        )
        for n in range(80)
    ]
    pairs = [
        Preference(
            prompt=(Message(**user(f"question {n}")),),
            responses=(Message(**said(f"good {n}")), Message(**said(f"bad {n}"))),
        )
        for n in range(20, 60)
    ]
    ranking = Preference(
        prompt=(Message(**user("question 99")),), responses=tuple(Message(**said(f"rank {i}")) for i in range(3))
    )
    write_records(folder / "rated.jsonl", ratings[:50])
    write_records(folder / "more.parquet", ratings[50:])
    write_records(folder / "pairs.jsonl.gz", [*pairs, ranking])
    (folder / "objectives.yaml").write_text(yaml.safe_dump([{"name": "mine-x", "low": 0, "high": 4}]))
    return FilesData(
        ratings=(str(folder / "rated.jsonl"), str(folder / "more.parquet")),
        preferences=(str(folder / "pairs.jsonl.gz"),),
        objectives=str(folder / "objectives.yaml"),
        test_share=test_share,
        **more,
    )


def test_files_are_split_by_prompt_in_both_kinds_alike(tmp_path: Path) -> None:
    section = files(tmp_path)
    rows = load_rows(section, seed=0)
    assert len(rows.heads) + len(rows.heads_test) == 80
    assert len(rows.gate) + len(rows.test) == 40 + 3, "a ranking of three is three pairs"
    assert_disjoint(rows)
    assert rows.counts == {}, "the same split on both sides leaves nothing to take out"
    assert 0.15 < len(rows.heads_test) / 80 < 0.45
    assert {r.messages[-1].content for r in (*rows.heads, *rows.heads_test)} == {f"answer {n}" for n in range(80)}


def test_the_seed_decides_the_split_and_the_share_its_size(tmp_path: Path) -> None:
    section = files(tmp_path)
    first, again, other = (keys(load_rows(section, seed=seed).test) for seed in (0, 0, 1))
    assert first == again != other
    small = load_rows(section.model_copy(update={"test_share": 0.1}), seed=0)
    assert keys(small.test) < first


def test_rows_that_name_a_test_split_are_split_as_they_say(tmp_path: Path) -> None:
    section = files(tmp_path)
    for path, key in ((tmp_path / "rated.jsonl", "messages"), (tmp_path / "pairs.jsonl", "prompt")):
        rows = [{"split": "train", **rated_row(f"x{n}", "train", f"asked {n}", **{"mine-x": 1.0})} for n in range(4)]
        if key == "prompt":
            rows = [pair_row(f"y{n}", "train", f"asked {n}") for n in range(2, 6)]
        rows[0]["split"] = "test"
        write_rows(path, rows)
    update = {"ratings": (str(tmp_path / "rated.jsonl"),), "preferences": (str(tmp_path / "pairs.jsonl"),)}
    rows = load_rows(section.model_copy(update=update), seed=0)
    assert [r.id for r in rows.heads_test] == ["x0"]
    assert [p.id for p in rows.test] == ["y2"]
    assert [r.id for r in rows.heads] == ["x1", "x3"], "x2 has the prompt of a test pair"
    assert rows.counts == {"training_ratings_with_a_test_prompt": 1}
    assert_disjoint(rows)


def test_bad_rows_of_files_are_skipped_on_request_only(tmp_path: Path) -> None:
    section = files(tmp_path)
    path = tmp_path / "rated.jsonl"
    path.write_text(path.read_text() + '{"messages": 3, "ratings": {}}\n')
    with pytest.raises(DataError, match=r"rated\.jsonl:51"):
        load_rows(section, seed=0)
    rows = load_rows(section.model_copy(update={"on_error": "skip"}), seed=0)
    assert len(rows.heads) + len(rows.heads_test) == 80
    assert len((tmp_path / "rated.skipped.jsonl").read_text().splitlines()) == 1


# --- sources


def sources(folder: Path, **more: Any) -> SourcesData:
    """Write rows in the public schema of HelpSteer (ratings, and pairs made from them) and of HH-RLHF."""
    scores = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
    steer = [
        {"prompt": f"question {n // 2}", "response": f"answer {n}", **dict.fromkeys(scores, (n + n // 2) % 5)}
        for n in range(120)
    ]
    talk = [
        {"chosen": f"\n\nHuman: ask {n}\n\nAssistant: yes {n}", "rejected": f"\n\nHuman: ask {n}\n\nAssistant: no {n}"}
        for n in range(40)
    ]
    write_rows(folder / "helpsteer" / "train.jsonl", steer)
    write_rows(folder / "helpsteer-preferences" / "train.jsonl", steer)
    write_rows(folder / "hh-rlhf-harmless" / "train.jsonl", talk)
    names = {"ratings": ("helpsteer",), "preferences": ("helpsteer-preferences", "hh-rlhf-harmless")}
    return SourcesData(**{**names, "folder": str(folder), "test_share": 0.25, **more})


def test_sources_from_local_folders(tmp_path: Path) -> None:
    rows = load_rows(sources(tmp_path), seed=0)
    assert len(rows.heads) + len(rows.heads_test) == 120
    pairs = [*rows.gate, *rows.test]
    assert {p.source for p in pairs} == {"helpsteer-preferences", "hh-rlhf-harmless"}
    assert sum(p.source == "hh-rlhf-harmless" for p in pairs) == 40
    assert {p.task for p in pairs if p.source == "hh-rlhf-harmless"} == {"safety"}
    assert [o.name for o in rows.objectives] == [
        f"helpsteer-{name}" for name in ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
    ]
    assert_disjoint(rows)
    assert rows.counts == {}


def test_a_limit_holds_for_each_source(tmp_path: Path) -> None:
    rows = load_rows(sources(tmp_path, limit=12), seed=0)
    assert len(rows.heads) + len(rows.heads_test) == 12
    assert len(rows.gate) + len(rows.test) == 24


def test_sources_are_known_and_of_the_right_kind(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.ratings: unknown source 'helpster'; did you mean 'helpsteer'\?"):
        load_rows(sources(tmp_path, ratings=("helpster",)), seed=0)
    with pytest.raises(ConfigError, match=r"data\.preferences: source 'helpsteer' holds ratings; did you mean"):
        load_rows(sources(tmp_path, preferences=("helpsteer",)), seed=0)
    with pytest.raises(DataError, match="nowhere"):
        load_rows(sources(tmp_path).model_copy(update={"folder": str(tmp_path / "nowhere")}), seed=0)
