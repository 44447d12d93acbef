"""The command ``eval``, which judges systems on benchmarks."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from facetrm import core, recipes
from facetrm.cli.options import AskedMode, MaxTokens, ReadingSets, Trust, reading_settings
from facetrm.core.printed import print_json

Models = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL...",
        help="Model or run folder, shipped model, hf://owner/name, URL of a reward server, judge:MODEL@BASE_URL, "
        "length, shortest, random, or a file of scores.",
    ),
]
On = Annotated[
    list[str],
    typer.Option(
        "--on",
        metavar="NAME|PATH",
        help="audit, rewardbench, rewardbench2, rm-bench, judgebench, llmbar, rmb, ppe, desk, world, NAME=PATH, "
        "or a file of preferences or ratings (repeatable).",
    ),
]
FailUnder = Annotated[
    list[str], typer.Option(metavar="NAME=VALUE", help="Exit code 3 if this figure is lower (repeatable).")
]
Against = Annotated[
    Path | None, typer.Option(help="Folder of an earlier result: show what changed, exit code 3 if a figure fell.")
]
Thresholds = Annotated[Path | None, typer.Option(help="YAML file with settings and thresholds of --on audit.")]
JudgeModeOption = Annotated[Literal["pairwise", "rating", "ranking"], typer.Option(help="How a judge is asked.")]
JudgeSets = Annotated[
    list[str], typer.Option(metavar="KEY=VALUE", help="Setting of a judge's client, as in label (repeatable).")
]
KeyEnv = Annotated[
    str | None, typer.Option(metavar="NAME", help="Environment variable with the API key of a server or judge.")
]
Timeout = Annotated[float, typer.Option(min=0.1, max=86400.0, help="Timeout of one request, in seconds.")]
TooLong = Annotated[
    Literal["error", "drop_oldest"] | None,
    typer.Option(
        help="Conversations that are too long for a model: error counts them as failed (an audit stops), drop_oldest "
        "drops their oldest turns."
    ),
]
AuditData = Annotated[
    str | None, typer.Option("--data", help="Pairs for --on audit: a file of preferences, desk or world.")
]


def evaluate(
    models: Models,
    on: On,
    out: Annotated[Path | None, typer.Option(help="Folder of the results (default: runs/eval-MODEL).")] = None,
    pairs: Annotated[int, typer.Option(min=1, help="Number of pairs of desk or world.")] = 600,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first questions of each benchmark.")] = None,
    samples: Annotated[int, typer.Option(min=10, help="Number of bootstrap samples.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the bootstrap and of random scores.")] = 0,
    fail_under: FailUnder = [],  # noqa: B006
    against: Against = None,
    tolerance: Annotated[float, typer.Option(min=0.0, help="A figure may fall by this much.")] = 0.0,
    data: AuditData = None,
    thresholds: Thresholds = None,
    judge_mode: JudgeModeOption = "pairwise",
    judge_set: JudgeSets = [],  # noqa: B006
    as_json: Annotated[bool, typer.Option("--json", help="Print results.json instead of tables.")] = False,
    device: Annotated[str, typer.Option(help="Device: auto, cpu or cuda.")] = "auto",
    mode: AskedMode = None,
    truncation: TooLong = None,
    max_tokens: MaxTokens = None,
    sets: ReadingSets = [],  # noqa: B006
    trust_remote_code: Trust = False,
    timeout: Timeout = 60.0,
    key_env: KeyEnv = None,
) -> None:
    """Judge reward models on benchmarks. The same command goes on where it stopped. Exit code 3: a bound was missed."""
    folder = out or Path("runs") / f"eval-{recipes.file_name(models[0])}"
    loading = recipes.Loading(
        device=device,
        mode=mode,
        settings=reading_settings(sets, truncation=truncation, max_tokens=max_tokens),
        trust_remote_code=trust_remote_code,
        timeout=timeout,
        key_env=key_env,
        seed=seed,
        folder=folder,
        judge_mode=judge_mode,
        judge=core.apply_sets({}, judge_set, option="--judge-set"),
    )
    done = recipes.evaluate_systems(
        recipes.EvalRequest(
            models=models,
            on=on,
            out=folder,
            loading=loading,
            pairs=pairs,
            limit=limit,
            samples=samples,
            seed=seed,
            fail_under=fail_under,
            against=against,
            tolerance=tolerance,
            data=data,
            thresholds=thresholds,
            command=shlex.join(["facetrm", *sys.argv[1:]]),
        )
    )
    if as_json:
        print_json(done.results, indent=2)
    else:
        for name, audit in done.audits.items():
            print("\n".join([f"Audit of {name}", *audit.lines()]), end="\n\n")
        if done.results["benchmarks"] or done.results["ratings"]:
            print(recipes.evaluation_text(done.results))
        print(f"Results: {done.out}")
    for problem in done.problems:
        print(f"facetrm: {problem}", file=sys.stderr)
    raise typer.Exit(3 if done.problems else 0)
