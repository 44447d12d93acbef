"""Own data of users: the same answers and ratings, in files of different conventions and types."""

from __future__ import annotations

import csv
import gzip
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from facetrm.backbone.tiny import TinyShape, tiny_decoder

WORDS = ("river", "candle", "garden", "mirror", "violin", "forest", "kite", "stone", "paper", "glass")
KINDS = ("kind", "brief", "rude", "clear", "late")
QUICK = (
    *("gate.settings.steps=4", "gate.settings.hidden=4", "gate.settings.rank=2", "compare.samples=10"),
    *("compare.bag_of_words=0", "compare.linear.folds=2", "experts.ridge.folds=2", "experts.ridge.bootstrap=0"),
    *("experts.ridge.alphas=[1.0]", "data.test_share=0.4"),
)
"""Settings that make a training take about a second."""


def quick(*more: str) -> list[str]:
    """Return :data:`QUICK` and ``more`` as options of the command line."""
    return [part for one in (*QUICK, *more) for part in ("--set", one)]


def save_backbone(folder: Path) -> Path:
    """Save a tiny decoder whose words are those of the rows, and return its folder."""
    words = (*WORDS, *KINDS, *(str(n) for n in range(40)), "question", "about", "answer", "a", "?", ".", ":", "system")
    model, tokenizer = tiny_decoder(words, shape=TinyShape(hidden=8, layers=1, heads=1, inner=8, max_tokens=64))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class Asked:
    """One question with two answers, the first one better, and the ratings of both."""

    question: str
    better: str
    worse: str
    helpful: tuple[int, int]
    toxic: tuple[float, float]


def questions(count: int = 24) -> list[Asked]:
    """Return questions with answers; the better answer has the higher rating."""
    rng = random.Random(0)
    found = []
    for n in range(count):
        a, b = rng.sample(range(5), 2)
        worse, better = sorted((a, b))
        more = {level: " ".join(rng.sample(WORDS, 1 + (n + level) % 4)) for level in (better, worse)}
        texts = [f"a {KINDS[level]} answer about {more[level]} ." for level in (better, worse)]
        found.append(
            Asked(f"question {n} about {WORDS[n % 10]} ?", *texts, (better, worse), (0.1 * worse, 0.1 * better))
        )
    return found


def turns(question: str, answer: str) -> list[dict[str, str]]:
    """Return a conversation of one question and one answer."""
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write rows in the file type that the name of ``path`` says."""
    if path.name.endswith((".csv", ".tsv")):
        with path.open("w", newline="", encoding="utf-8") as handle:
            writer = csv.DictWriter(handle, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(list(rows)), encoding="utf-8")
    else:
        data = "".join(json.dumps(row) + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def each_answer(row: Callable[[Asked, str, int, float], dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row for each answer of the questions."""
    return [row(q, text, q.helpful[k], q.toxic[k]) for q in questions() for k, text in enumerate((q.better, q.worse))]


def each_pair(row: Callable[[Asked, int], dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row for each question, with its number."""
    return [row(q, n) for n, q in enumerate(questions())]


def _sided(q: Asked, n: int, names: tuple[str, str]) -> dict[str, str]:
    """Return both answers under ``names``: the better one comes first in even rows."""
    return dict(zip(names, (q.better, q.worse) if n % 2 == 0 else (q.worse, q.better), strict=True))


def _completion(q: Asked, k: int) -> dict[str, Any]:
    rated = {"helpfulness": {"Rating": str(q.helpful[k] + 1), "Rationale": "x"}, "honesty": {"Rating": "N/A"}}
    return {"model": "m", "response": (q.better, q.worse)[k], "annotations": rated, "overall_score": q.helpful[k] * 2.5}


def _arena(q: Asked, n: int) -> dict[str, Any]:
    sides = _sided(q, n, ("conversation_a", "conversation_b"))
    talks = {name: turns(q.question, text) for name, text in sides.items()}
    return {"question_id": n, "model_a": "x", "model_b": "y", **talks, "winner": ("model_a", "model_b")[n % 2]}


RATED: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "messages and ratings": (
        "rated.jsonl",
        each_answer(lambda q, a, h, t: {"messages": turns(q.question, a), "ratings": {"helpful": h, "toxicity": t}}),
    ),
    "messages and columns": (
        "rated.jsonl",
        each_answer(lambda q, a, h, t: {"messages": turns(q.question, a), "helpful": h, "toxicity": None, "id": 7}),
    ),
    "helpsteer": (
        "rated.parquet",
        each_answer(lambda q, a, h, t: {"prompt": q.question, "response": a, "helpfulness": h, "verbosity": h // 2}),
    ),
    "instruction and output": (
        "rated.jsonl.gz",
        each_answer(lambda q, a, h, t: {"instruction": "question", "input": q.question, "output": a, "quality": h}),
    ),
    "question and answer": (
        "rated.csv",
        each_answer(lambda q, a, h, t: {"row_id": len(a), "question": q.question, "answer": a, "score": h, "toxic": t}),
    ),
    "table with tabs": (
        "rated.tsv",
        each_answer(lambda q, a, h, t: {"query": q.question, "completion": a, "clear": h, "safe": int(t < 0.2)}),
    ),
    "list of rows": (
        "rated.json",
        each_answer(lambda q, a, h, t: {"prompt": q.question, "completion": a, "helpful": h + 0.5}),
    ),
}
PAIRED: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "trl": (
        "pairs.jsonl",
        each_pair(lambda q, n: {"prompt": q.question, "chosen": q.better, "rejected": q.worse, "margin": n % 3 + 1.0}),
    ),
    "trl conversations": (
        "pairs.json",
        each_pair(lambda q, n: {"chosen": turns(q.question, q.better), "rejected": turns(q.question, q.worse)}),
    ),
    "winner by letter": (
        "pairs.jsonl.gz",
        each_pair(
            lambda q, n: {
                "question": q.question,
                **_sided(q, n, ("response_a", "response_b")),
                "winner": "tie" if n == 0 else "ab"[n % 2],
            }
        ),
    ),
    "winner by number": (
        "pairs.csv",
        each_pair(
            lambda q, n: {"instruction": q.question, **_sided(q, n, ("output_1", "output_2")), "preference": n % 2 + 1}
        ),
    ),
    "arena": ("pairs.parquet", each_pair(_arena)),
    "transcripts": (
        "pairs.jsonl",
        each_pair(
            lambda q, n: {
                "chosen": f"\n\nHuman: {q.question}\n\nAssistant: {q.better}",
                "rejected": f"\n\nHuman: {q.question}\n\nAssistant: {q.worse}",
            }
        ),
    ),
    "helpsteer3": (
        "pairs.jsonl",
        each_pair(
            lambda q, n: {
                "context": turns(q.question, q.better)[:1],
                **_sided(q, n, ("response1", "response2")),
                "overall_preference": -2 if n % 2 == 0 else 1,
            }
        ),
    ),
    "table with tabs": (
        "pairs.tsv",
        each_pair(lambda q, n: {"prompt": q.question, "chosen": q.better, "rejected": q.worse, "strength": 0.5}),
    ),
    "scored pairs": (
        "scored.jsonl",
        each_pair(
            lambda q, n: {
                "prompt": q.question,
                "chosen": turns(q.question, q.better),
                "rejected": turns(q.question, q.worse),
                "score_chosen": q.helpful[0],
                "score_rejected": q.helpful[1],
            }
        ),
    ),
    "scored completions": (
        "completions.jsonl",
        each_pair(lambda q, n: {"instruction": q.question, "completions": [_completion(q, k) for k in (1, 0)]}),
    ),
}
"""One file of each convention. The last two hold ratings as well."""

TOGETHER: dict[str, tuple[str | None, str | None]] = {
    "messages and ratings": ("messages and ratings", "trl"),
    "messages and columns": ("messages and columns", "transcripts"),
    "helpsteer": ("helpsteer", "helpsteer3"),
    "alpaca and letters": ("instruction and output", "winner by letter"),
    "csv": ("question and answer", "winner by number"),
    "tsv": ("table with tabs", "table with tabs"),
    "json": ("list of rows", "trl conversations"),
    "arena": ("helpsteer", "arena"),
    "scored pairs alone": (None, "scored pairs"),
    "ultrafeedback alone": ("scored completions", None),
}
"""Ten users' own data: a file of ratings and a file of preferences, or one file with both."""


def write_own(name: str, folder: Path) -> list[str]:
    """Write the files of one user to ``folder``, and return the options that name them."""
    rated, paired = TOGETHER[name]
    options: list[str] = []
    folder.mkdir(parents=True, exist_ok=True)
    for option, key, table in (("--ratings", rated, PAIRED | RATED), ("--pairs", paired, PAIRED)):
        if key is not None:
            file, rows = table[key]
            options += [option, str(write_table(folder / file, rows))]
    return options
