"""Commands that prepare training data: ``encode`` (features on disk) and ``label`` (capability labels from an LLM)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from facetrm import backbone as backbones
from facetrm import core, recipes
from facetrm import data as records
from facetrm import label as labels
from facetrm.cli.options import Data, Sets
from facetrm.core.errors import BackboneError


def encode(
    backbone: Annotated[str, typer.Option(help="Backbone: a folder, or a name on the Hub.")],
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder of the features. The same command resumes where it stopped.")],
    sets: Sets = [],  # noqa: B006
    shard_rows: Annotated[int, typer.Option(min=1, help="Number of rows per shard.")] = 1024,
) -> None:
    """Encode conversations with a backbone and store the features on disk."""
    config = core.parse_config(backbones.BackboneConfig, core.apply_sets({"path": backbone}, sets), place="--set")
    asked = records.read_conversations(data)
    conversations = [answer for row in asked for answer in row.answers]
    try:
        store = backbones.encode(backbones.load_encoder(config), conversations, out, shard_rows=shard_rows)
    except BackboneError as exc:
        raise recipes.located(exc, [row for row in asked for _ in row.answers]) from None
    print(f"{len(store)} conversations of {store.hidden_size} features in {store.folder}")


def label(
    data: Annotated[Path, typer.Option("--data", help="Preferences, or ratings of several answers per prompt.")],
    rubric: Annotated[
        str, typer.Option(help="Name of a built-in rubric (dmoerm, dmoerm-zh, general), or a .yaml file.")
    ],
    model: Annotated[str, typer.Option(help="Name of the judge model on the server.")],
    out: Annotated[Path, typer.Option(help="Folder of the labels. The same command resumes where it stopped.")],
    base_url: Annotated[
        str | None, typer.Option(help="Base URL of an OpenAI-compatible API; it often ends in /v1.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the number of requests and their cost, but send none.")
    ] = False,
    sets: Sets = [],  # noqa: B006
) -> None:
    """Ask an LLM which answer is better in each capability, and store the labels in a folder."""
    settings = core.apply_sets({"model": model, "base_url": base_url}, sets)
    config = core.parse_config(labels.LabelConfig, settings, place="--set")
    plan = labels.make_plan(labels.read_pairs(data), records.read_rubric(rubric), config)
    print(labels.estimate_text(plan.estimate(labels.stored_keys(out))))
    if dry_run:
        print(recipes.needed_text(plan.by_capability))
    if not dry_run:
        print(labels.report_text(labels.label_pairs(plan, out).report, out))
