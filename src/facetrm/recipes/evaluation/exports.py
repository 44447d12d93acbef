"""Results for other tools: the files of a benchmark's own tool, and records in the schema of Every Eval Ever.

OUT/official/BENCHMARK/MODEL/...            what the benchmark's tool writes, with its keys
OUT/every_eval_ever/BENCHMARK-MODEL.json    one record per benchmark and model, schema 0.2.1
OUT/every_eval_ever/BENCHMARK-MODEL_samples.jsonl    one line per question
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from facetrm.core.files import write_text
from facetrm.core.version import __version__
from facetrm.evaluate.benchmarks.benchmark import Entrant
from facetrm.evaluate.benchmarks.item import Item
from facetrm.evaluate.benchmarks.result import SetResult
from facetrm.recipes.evaluation.systems import System

SCHEMA: Final = "0.2.1"


def file_name(text: str) -> str:
    """Return a text as part of a file name.

    Args:
        text: Any text.
    """
    return re.sub(r"[^\w.-]+", "-", text).strip("-.")[:80] or "unnamed"


def write_official(result: SetResult, systems: Sequence[System], folder: Path) -> None:
    """Write the files of the benchmark's own tool for each system.

    Args:
        result: Result on one benchmark.
        systems: The systems.
        folder: Folder ``official`` of the evaluation.
    """
    benchmark = result.found.benchmark
    if benchmark.official is None:
        return
    for system in systems:
        figures = {name: row[system.name].value for name, row in result.values.items()}
        entrant = Entrant(system.name, figures, system.template, system.render)
        place = folder / file_name(result.found.name) / file_name(system.name)
        for name, text in benchmark.official(result.answered(system.name), entrant).items():
            place.mkdir(parents=True, exist_ok=True)
            write_text(place / name, text)


def write_shared_records(
    result: SetResult,
    systems: Sequence[System],
    folder: Path,
    *,
    rows: Mapping[str, Sequence[Mapping[str, Any]]],
    when: float,
    command: str,
) -> None:
    """Write one record of Every Eval Ever per system, with one line per question beside it.

    Args:
        result: Result on one benchmark.
        systems: The systems.
        folder: Folder ``every_eval_ever`` of the evaluation.
        rows: Rows of each system, as in ``rows.jsonl``.
        when: Time of the evaluation, in seconds since 1970.
        command: Command that made it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for system in systems:
        stem = f"{file_name(result.found.name)}-{file_name(system.name)}"
        name = f"{result.found.name}/{system.name}/{when:.0f}"
        lines = "".join(
            json.dumps(_sample(question, row, name, system), ensure_ascii=False) + "\n"
            for question, row in zip(result.found.questions, rows[system.name], strict=True)
        )
        write_text(folder / f"{stem}_samples.jsonl", lines)
        record = _record(result, system, name, when=when, command=command)
        record["detailed_evaluation_results"] = {
            "format": "jsonl",
            "file_path": f"{stem}_samples.jsonl",
            "hash_algorithm": "sha256",
            "checksum": hashlib.sha256(lines.encode()).hexdigest(),
            "total_rows": len(result.found.questions),
        }
        write_text(folder / f"{stem}.json", json.dumps(record, ensure_ascii=False, indent=2) + "\n")


def _record(result: SetResult, system: System, name: str, *, when: float, command: str) -> dict[str, Any]:
    benchmark = result.found.benchmark
    source: dict[str, Any] = {"dataset_name": benchmark.title, "source_type": "other"}
    if benchmark.hub is not None:
        source = {"dataset_name": benchmark.title, "source_type": "hf_dataset", "hf_repo": benchmark.hub[0]}
    figures = []
    for figure, row in result.values.items():
        interval = row[system.name]
        if interval.value != interval.value:
            continue
        uncertainty = {
            "confidence_interval": {
                "lower": interval.low,
                "upper": interval.high,
                "confidence_level": interval.level,
                "method": "cluster bootstrap over prompts",
            },
            "num_samples": len(result.found.questions),
        }
        low, high = result.figures[figure].within
        figures.append(
            {
                "evaluation_name": f"{result.found.name}/{figure}",
                "source_data": source,
                "metric_config": {
                    "evaluation_description": f"{benchmark.title}, {figure}. {benchmark.tie_rule}",
                    "lower_is_better": False,
                    "score_type": "continuous",
                    "min_score": low,
                    "max_score": high,
                },
                "score_details": {"score": interval.value, "uncertainty": uncertainty},
                "generation_config": {"generation_args": {"execution_command": command}},
            }
        )
    return {
        "schema_version": SCHEMA,
        "evaluation_id": name,
        "evaluation_timestamp": f"{when:.0f}",
        "retrieved_timestamp": f"{when:.0f}",
        "source_metadata": {
            "source_name": "facetrm",
            "source_type": "evaluation_run",
            "source_organization_name": "unknown",
            "evaluator_relationship": "other",
        },
        "eval_library": {"name": "facetrm", "version": __version__},
        "model_info": {
            "name": system.name,
            "id": system.asked.removeprefix("hf://"),
            "additional_details": {"hash": system.hash, "kind": system.kind},
        },
        "evaluation_results": figures,
    }


def _sample(question: Item, row: Mapping[str, Any], name: str, system: System) -> dict[str, Any]:
    prompt = "\n\n".join(f"{m.role}: {m.content}" for m in question.prompt)
    answers = [answer.content for answer in question.answers]
    scores = [None if x is None else float(x) for x in row["scores"]]
    known = [x for x in scores if x is not None]
    chosen = answers[scores.index(max(known))] if len(known) == len(scores) and known else ""
    return {
        "schema_version": f"instance_level_eval_{SCHEMA}",
        "evaluation_id": name,
        "model_id": system.asked.removeprefix("hf://"),
        "evaluation_name": row["benchmark"],
        "sample_id": f"{question.subset}/{question.id}",
        "sample_hash": hashlib.sha256("\x1f".join([prompt, *answers[: question.right]]).encode()).hexdigest(),
        "interaction_type": "single_turn",
        "input": {"raw": prompt, "reference": answers[: question.right], "choices": answers},
        "output": {"raw": [json.dumps(scores)]},
        "answer_attribution": [
            {
                "turn_idx": 0,
                "source": "output.raw",
                "extracted_value": chosen,
                "extraction_method": "highest score",
                "is_terminal": True,
            }
        ],
        "evaluation": {"score": row["credit"] or 0.0, "is_correct": row["verdict"] == "right"},
        "error": row.get("problem"),
        "metadata": {"subset": question.subset, "verdict": row["verdict"]},
    }
