"""Every other recipe of the house from its file to a scored row, on tiny data and a tiny backbone."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from command_line import command
from facetrm.data.sources import SOURCES
from fakes import tiny_decoder, tiny_encoder
from tiny_runs import write_rows

RECIPES = Path(__file__).parents[2] / "recipes"
SMALL = (
    "experts.ridge.alphas=[1.0, 100.0]",
    "experts.ridge.bootstrap=10",
    "experts.ridge.unfit=mean",
    "gate.settings.steps=40",
    "gate.settings.hidden=8",
    "gate.settings.rank=4",
    "compare.samples=20",
    "compare.bag_of_words=16",
    "compare.least=10",
)
WORDS = ("why", "sky", "blue", "red", "tea", "sun", "sea", "owl", "fig", "yes", "no", "oak")


def question(n: int) -> str:
    return f"{WORDS[n % 12]} {WORDS[n * 5 % 11]} {n}?"


def reply(n: int) -> str:
    return " ".join(WORDS[(n * k + k) % 12] for k in range(1, 3 + n % 7))


def asked(n: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": question(n)}]


def answered(n: int) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": reply(n)}]


def files(folder: Path) -> list[str]:
    rated = [
        {"messages": asked(n // 2) + answered(n), "ratings": {"mine-x": n % 5, "mine-y": n % 3}} for n in range(160)
    ]
    pairs = [{"prompt": asked(n), "chosen": answered(n), "rejected": answered(n + 3)} for n in range(20, 140)]
    write_rows(folder / "rated.jsonl", rated)
    write_rows(folder / "pairs.jsonl", pairs)
    declared = [{"name": name, "low": 0, "high": 4} for name in ("mine-x", "mine-y")]
    (folder / "objectives.yaml").write_text(yaml.safe_dump(declared))
    return [
        f"data.ratings=[{folder / 'rated.jsonl'}]",
        f"data.preferences=[{folder / 'pairs.jsonl'}]",
        f"data.objectives={folder / 'objectives.yaml'}",
    ]


def pack(folder: Path) -> list[str]:
    attribute = {"type": "integer", "min": 0, "max": 4, "direction": "higher_is_better"}
    described = {"rated": {"s": {"attributes": {"s-x": attribute, "s-y": {**attribute, "direction": "unknown"}}}}}
    (folder / "sources.json").write_text(json.dumps(described))
    split = ["train", "train", "train", "test"]
    rated = [
        {
            "id": f"s/{n}",
            "source": "s",
            "category": "chat",
            "split": split[n // 2 % 4],
            "messages": asked(n // 2) + answered(n),
            "ratings": {"s-x": n % 5, "s-y": n % 2},
        }
        for n in range(160)
    ]
    pairs = [
        {
            "id": f"p/{n}",
            "source": "pq"[n % 2],
            "category": "chat",
            "split": split[n % 4],
            "prompt": asked(n),
            "chosen": answered(n),
            "rejected": answered(n + 3),
        }
        for n in range(40, 240)
    ]
    write_rows(folder / "rated.jsonl", rated)
    write_rows(folder / "preferences.jsonl", pairs)
    return [f"data.folder={folder}"]


def helpsteer(folder: Path, name: str) -> None:
    scores = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
    rows = [
        {
            "prompt": question(n // 2),
            "response": reply(n),
            **{key: (n * (k + 2) + n // 3) % 5 for k, key in enumerate(scores)},
        }
        for n in range(200)
    ]
    write_rows(folder / name / "train.jsonl", rows)


def hh(folder: Path) -> None:
    rows = [
        {
            side: f"\n\nHuman: {question(n)}\n\nAssistant: {reply(n + k)}"
            for k, side in enumerate(("chosen", "rejected"))
        }
        for n in range(90, 150)
    ]
    write_rows(folder / "hh-rlhf-harmless" / "train.jsonl", rows)


def sources(folder: Path) -> list[str]:
    helpsteer(folder, "helpsteer")
    helpsteer(folder, "helpsteer-preferences")
    hh(folder)
    return [
        f"data.folder={folder}",
        "data.ratings=[helpsteer]",
        "data.preferences=[helpsteer-preferences, hh-rlhf-harmless]",
        "data.test_share=0.2",
    ]


def published(folder: Path) -> list[str]:
    names = [objective.name for objective in SOURCES["armorm-unit"].objectives]
    blocks = (names[:5], names[5:7], names[7:])  # a row has the labels of one source, null elsewhere
    rows = [
        {
            "messages": asked(n // 2) + answered(n),
            **{name: (n * (k + 3) % 2 if name in blocks[n // 2 % 3] else None) for k, name in enumerate(names)},
        }
        for n in range(300)
    ]
    write_rows(folder / "armorm-unit" / "train.jsonl", rows)
    helpsteer(folder, "helpsteer-preferences")
    hh(folder)
    return [
        f"data.folder={folder}",
        "data.preferences=[helpsteer-preferences, hh-rlhf-harmless]",
        "data.test_share=0.2",
        "backbone.dtype=float32",
        "gate.settings.batch_size=32",
        "gate.settings.rank=0",
    ]


def pack_for_layers(folder: Path) -> list[str]:
    return [*pack(folder), "experts.layers=[1, last]"]


DATA = {
    "own-data": files,
    "real-small": pack,
    "real-smollm2": pack_for_layers,
    "armorm-small-decoder": sources,
    "armorm-llama3-8b": published,
}


def test_every_recipe_has_its_line() -> None:
    elsewhere = {
        "quickstart",
        "desk",
        "world",
        "world-large",
        "finetune-world",
        "finetune-llama3-8b",
        "dmoerm-quickstart",
        "dmoerm-desk",
    }
    routed = {"real-tasks", "dmoerm-paper", "dmoerm-own-data", "lora-gated", "armorm-routed"}
    trained = {"bradley-terry", "bradley-terry-llama3-8b", "pairwise", "dpo"}
    fitted = {"ensemble", "direction", "length-calibration"}
    assert {path.stem for path in RECIPES.glob("*.yaml")} == {*DATA, *elsewhere, *routed, *trained, *fitted}


@pytest.mark.parametrize("name", DATA)
def test_a_recipe_runs_from_its_file_to_a_scored_row(name: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    data: Sequence[str] = DATA[name](tmp_path / "data")
    backbone = tiny_encoder(tmp_path / "backbone") if name == "real-small" else tiny_decoder(tmp_path / "backbone")
    where = [f"backbone.path={backbone}", f"backbone.max_tokens={128 if name == 'real-small' else 256}"]
    sets = [part for item in (*SMALL, *where, *data) for part in ("--set", item)]
    said = command("run", RECIPES / f"{name}.yaml", "--out", tmp_path / "run", *sets)
    assert said.code == 0, said.err
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert {"gate", "linear_bt", "unconditional", "uniform", "best_objective", "longer"} <= set(
        metrics["pair_accuracy"]["noisy"]
    )
    assert metrics["pair_accuracy"]["true"] == {}
    assert metrics["weight_recovery_spearman"] is None
    assert metrics["debias"]["target"] is not None
    assert "held-out pairs" in said.out
    rows = write_rows(tmp_path / "rows.jsonl", [{"messages": asked(3) + answered(4)}])
    scored = command("score", tmp_path / "run", "--data", rows)
    assert scored.code == 0, scored.err
    (row,) = map(json.loads, scored.out.splitlines())
    assert math.isfinite(row["reward"])
    assert abs(row["reward"] - row["base"] - math.fsum(row["contributions"].values())) <= 1e-5
    assert row["model"] == metrics["hashes"]["model"]
