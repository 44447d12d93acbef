"""RM-Bench and LLMBar on their official files: a gated model with and without debiasing, and a Bradley-Terry head.

    python benchmarks/official.py --debiased RUN --plain RUN --rm-bench FOLDER --llmbar FOLDER --features FOLDER

Both runs come from recipes/real-smollm2.yaml with data.limit=400, on a pack without the sources rm_bench, llmbar and
humanevalpack (whose problems RM-Bench uses); the second one with debias.target=null. The Bradley-Terry head is the
expert ``preference`` of the first run by itself. All conversations are read once, in all layers of the recipe, and
stored in --features; a killed command goes on there.

Prints a table and writes benchmarks/results/official.json.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from facetrm.backbone.store import encode
from facetrm.backbone.transformer import BackboneConfig, load_encoder
from facetrm.core.files import write_json
from facetrm.core.progress import shown_logs
from facetrm.evaluate.benchmarks.load import ItemSet, read_benchmark
from facetrm.evaluate.benchmarks.result import judge_set
from facetrm.hub.load import load_model
from facetrm.recipes.evaluation.cache import ScoreCache
from facetrm.recipes.evaluation.systems import System, answer_questions
from provenance import provenance
from stored_scorer import StoredScorer

ROOT = Path(__file__).resolve().parents[1]
HEAD = "preference"
LAYERS = (6, 10, 14, 18, 22, 26, "last")


def main() -> None:
    """Evaluate, print the table, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--debiased", "--plain", "--rm-bench", "--llmbar", "--features"):
        parser.add_argument(name, required=True)
    options = parser.parse_args()
    found = [read_benchmark(f"rm-bench={options.rm_bench}"), read_benchmark(f"llmbar={options.llmbar}")]
    sets = [one for one in found if isinstance(one, ItemSet)]
    folder = Path(options.features)
    with shown_logs():
        config = BackboneConfig(path="smollm2-135m", dtype="bfloat16", max_tokens=512, truncation="drop_oldest")
        conversations = [c for one in sets for item in one.questions for c in item.conversations]
        encode(load_encoder(config), conversations, folder, shard_rows=256, layers=LAYERS)
        debiased, plain = load_model(options.debiased), load_model(options.plain)
        scorers = {
            "debiased": StoredScorer(debiased, folder),
            "not debiased": StoredScorer(plain, folder),
            "Bradley-Terry head": StoredScorer(debiased, folder, rating=HEAD),
        }
        table = {}
        for one in sets:
            with tempfile.TemporaryDirectory() as temporary:
                cache = ScoreCache(Path(temporary))
                systems = [System(name, name, "model", name, scorer) for name, scorer in scorers.items()]
                answers = {system.name: answer_questions(system, one.questions, cache).answers for system in systems}
                cache.close()
            result = judge_set(one, answers).to_dict()
            table[one.name] = {key: value for key, value in result.items() if key not in ("files", "citation")}
    for name, one in table.items():
        show(name, one, list(scorers))
    command = (
        "python benchmarks/official.py --debiased RUN --plain RUN --rm-bench FOLDER --llmbar FOLDER --features FOLDER"
    )
    path = ROOT / "benchmarks" / "results" / "official.json"
    write_json(path, {**provenance(), "command": command, "benchmarks": table})


def show(name: str, one: dict[str, Any], systems: list[str]) -> None:
    """Print the figures of one benchmark."""
    print(f"\n{name:24}" + "".join(f"{system:>26}" for system in systems) + f"{'longest':>10}{'shortest':>10}")
    for figure, row in {**one["figures"], **one["slices"]}.items():
        cells = [row[system] for system in systems]
        shown = [f"{100 * c['value']:.1f} ({100 * c['low']:.1f} to {100 * c['high']:.1f})" for c in cells]
        rest = [f"{100 * row[b]['value']:10.1f}" for b in ("longest", "shortest")]
        print(f"{figure:24}" + "".join(f"{cell:>26}" for cell in shown) + "".join(rest))
    for pair, gap in one["differences"].items():
        value, low, high = (100 * gap["figures"]["total"][key] for key in ("value", "low", "high"))
        print(f"{pair}: {value:+.1f} ({low:+.1f} to {high:+.1f})")


if __name__ == "__main__":
    main()
