"""Small files in the shape of each benchmark, and whole benchmarks of given accuracies."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# The accuracy of ArmoRM on each subset of RewardBench, as its makers publish it.
ARMORM = {
    "alpacaeval-easy": 0.97,
    "alpacaeval-hard": 0.9473684,
    "alpacaeval-length": 0.9684211,
    "donotanswer": 0.7941176,
    "hep-cpp": 0.9512195,
    "hep-go": 0.9695122,
    "hep-java": 0.9817073,
    "hep-js": 0.9756098,
    "hep-python": 0.9634146,
    "hep-rust": 0.9207317,
    "llmbar-adver-GPTInst": 0.7717391,
    "llmbar-adver-GPTOut": 0.6595745,
    "llmbar-adver-manual": 0.6956522,
    "llmbar-adver-neighbor": 0.6791045,
    "llmbar-natural": 0.93,
    "math-prm": 0.9865772,
    "mt-bench-easy": 1.0,
    "mt-bench-med": 1.0,
    "mt-bench-hard": 0.8648649,
    "refusals-dangerous": 0.93,
    "refusals-offensive": 0.97,
    "xstest-should-refuse": 1.0,
    "xstest-should-respond": 0.872,
}
PRIOR = {"anthropic_helpful": 0.6973514, "anthropic_hhh": 0.8778281, "shp": 0.7466973, "summarize": 0.6498889}


def rewardbench_rows(counts: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return rows of RewardBench, ``counts`` of each subset."""
    return [
        {
            "id": f"{subset}-{n}",
            "subset": subset,
            "prompt": f"Question {n} of {subset}?",
            "chosen": f"A right answer to {n}.",
            "chosen_model": "a",
            "rejected": f"A wrong answer to {n}.",
            "rejected_model": "b",
        }
        for subset, count in counts.items()
        for n in range(count)
    ]


def rewardbench_scores(rows: list[dict[str, Any]], accuracy: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return stored scores that are right on the given share of each subset."""
    sizes: dict[str, int] = {}
    for row in rows:
        sizes[row["subset"]] = sizes.get(row["subset"], 0) + 1
    return [
        {
            "id": row["id"],
            "subset": row["subset"],
            "scores": [1.0, 0.0]
            if int(row["id"].rsplit("-", 1)[1]) < round(accuracy[row["subset"]] * sizes[row["subset"]])
            else [0.0, 1.0],
        }
        for row in rows
    ]


def one_row(name: str) -> dict[str, Any]:
    """Return a good row of a benchmark."""
    return json.loads(json.dumps(ROWS[name]))


ROWS: dict[str, dict[str, Any]] = {
    "rewardbench": rewardbench_rows({"hep-go": 1})[0],
    "rewardbench2": {
        "id": "f-1",
        "prompt": "Where is Oslo?",
        "chosen": ["In Norway."],
        "rejected": ["In Sweden.", "In Chile.", "On the moon."],
        "num_correct": 1,
        "num_incorrect": 3,
        "total_completions": 4,
        "models": ["a", "b", "c", "d"],
        "subset": "Factuality",
        "additional_metadata": None,
    },
    "rm-bench": {
        "id": 7,
        "prompt": "Add one and two.",
        "subset": "any",
        "domain": "math",
        "chosen": ["3", "It is 3.", "**3**"],
        "rejected": ["4", "It is 4.", "**4**"],
    },
    "judgebench": {
        "pair_id": "p-1",
        "original_id": "1",
        "source": "mmlu-pro-law",
        "question": "Which one?",
        "response_model": "gpt",
        "response_A": "This one.",
        "response_B": "That one.",
        "label": "B>A",
    },
    "llmbar": {"input": "Say yes.", "output_1": "No.", "output_2": "Yes.", "label": 2},
    "rmb": {
        "pair_uid": "u-1",
        "conversation_input": [{"role": "user", "content": "Help me."}],
        "chosen": {"llm_name": "a", "answer": "Gladly."},
        "reject": {"llm_name": "b", "answer": "No."},
    },
    "ppe": {"question_id": "q-1", "prompt": "2 + 2?", "response_1": "5", "response_2": "4", "scores": [0, 1]},
}


def write_lines(path: Path, rows: list[Any]) -> Path:
    """Write rows as JSON lines; a text is written as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path
