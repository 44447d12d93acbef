"""``facetrm eval`` on a conversation that is too long: counted as failed, and the option that shortens it is named."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from benchmark_samples import one_row, write_lines
from command_line import assert_refused, command
from facetrm.recipes.run import Run
from tiny_runs import write_rows

LONG = {"prompt": "Say yes.", "chosen": "fine " * 600, "rejected": "No."}


def systems(out: Path) -> Collection[dict[str, Any]]:
    return json.loads((out / "results.json").read_text())["benchmarks"]["llmbar"]["systems"].values()


def test_what_is_too_long_is_failed_and_the_option_that_shortens_it_is_named(tiny_run: Run, tmp_path: Path) -> None:
    rows = [one_row("llmbar"), one_row("llmbar") | {"input": "Say yes and no.", "output_1": "fine " * 600}]
    path, out = write_lines(tmp_path / "Natural" / "dataset.jsonl", rows), tmp_path / "out"
    line = ("eval", tiny_run.folder, "--on", path, "--out", out, "--samples", 20)
    said = command(*line)
    assert said.code == 0, said.err
    (problem,) = [row.strip() for row in said.out.splitlines() if "first problem" in row]
    assert re.fullmatch(
        r"first problem: \d+ tokens, above the limit of \d+; give --truncation drop_oldest to drop its oldest turns",
        problem,
    )
    (system,) = systems(out)
    assert (system["failed"], system["truncated"]) == (1, 0)
    assert command(*line, "--truncation", "drop_oldest").code == 0
    (system,) = systems(out)
    assert (system["failed"], system["truncated"]) == (0, 1)
    assert "counts them as failed" in " ".join(command("eval", "--help").out.replace("│", " ").split())
    audited = ("--on", "audit", "--data", write_rows(tmp_path / "long.jsonl", [LONG] * 40))
    assert_refused(command("eval", tiny_run.folder, *audited, "--out", tmp_path / "audit"), "--truncation drop_oldest")
