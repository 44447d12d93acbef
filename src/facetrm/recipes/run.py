"""``facetrm run``: a recipe in, a run folder out.

RUN/
  config.resolved.yaml    every setting, defaults written out
  model/                  what ``facetrm score`` and ``facetrm explain`` read, with a model card
  metrics.json            figures, in the schema of docs/metrics.md
  report.html             the same to read
  pair.jsonl              the explained pair, as a preference row
  backbone/, features/    where the run trained a backbone, and what it read
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facetrm.core.config import Section, apply_sets, parse_config, read_yaml
from facetrm.core.errors import ConfigError, did_you_mean
from facetrm.core.files import write_json
from facetrm.core.registry import Registry
from facetrm.data.read.files import write_records
from facetrm.data.records import Preference
from facetrm.evaluate.compare import margins, typical_pair
from facetrm.hub.card import write_card
from facetrm.model.reward_model import RewardModel
from facetrm.recipes.armorm.config import ArmormConfig
from facetrm.recipes.armorm.figures import metrics, report
from facetrm.recipes.armorm.fit import ArmormFit, Stopwatch, fit_parts, prepare
from facetrm.recipes.armorm.judge import RunJudgement, judge_run
from facetrm.recipes.armorm.routed import RoutedFit, route_armorm
from facetrm.recipes.armorm.rows import Rows
from facetrm.recipes.dmoerm.config import DmoermConfig
from facetrm.recipes.dmoerm.fit import run_dmoerm
from facetrm.recipes.finetune.config import FineTuneRecipe
from facetrm.recipes.finetune.fit import run_finetune
from facetrm.recipes.run_folder import RunFolder, run_folder
from facetrm.report.build import build_report


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, its figures, and the fitted parts.

    ``model`` is the one that was saved: that of ``routed`` where the recipe has a router, else that of ``fit``.
    """

    folder: Path
    metrics: dict[str, Any]
    rows: Rows
    model: RewardModel
    fit: ArmormFit
    routed: RoutedFit | None
    judgement: RunJudgement
    explained: Preference


@dataclass(frozen=True)
class Recipe:
    """A program that ``facetrm run`` knows: its settings, and the function that runs it in a folder."""

    config: type[Section]
    run: Callable[[Any, Path], Any]


def read_recipe(path: Path, sets: Sequence[str] = ()) -> Any:
    """Read a recipe, apply ``section.key=value`` settings, and return its settings.

    Raises:
        ConfigError: an unknown recipe, section, key or value.
    """
    value = apply_sets(read_yaml(path), sets)
    name = value.get("recipe")
    if not isinstance(name, str):
        raise ConfigError("'recipe' is missing", place=path, fix=f"add 'recipe: {next(iter(RECIPES))}'")
    if name not in RECIPES:
        raise ConfigError(f"unknown recipe '{name}'", place=path, fix=did_you_mean(name, RECIPES))
    return parse_config(RECIPES[name].config, value, place=path)


def run_armorm(config: ArmormConfig, folder: Path) -> Run:
    """Train, compare, explain and save one ArmoRM.

    Args:
        config: settings.
        folder: folder of the run; a backbone and features that are there already are used again.

    Returns:
        The run.

    Raises:
        StoreError: another run holds the folder.
        FacetrmError: what a step raises, naming value, place and fix.
    """
    with run_folder(folder, config) as held:
        held.begin()
        return _run_armorm(config, held)


def _run_armorm(config: ArmormConfig, held: RunFolder) -> Run:
    watch, folder = Stopwatch(), held.path
    rows, encoder, store, training = prepare(config, folder, watch)
    checkpoint = folder / "gate.checkpoint.safetensors"
    fit = fit_parts(config, rows, encoder, store.stream, watch, checkpoint=checkpoint, folder=folder)
    model, routed = fit.model, None
    if config.router is not None:
        with watch("router"):
            routed = route_armorm(config, config.router, rows, fit)
        model = routed.model
    judgement = judge_run(config, rows, fit, watch, more={} if routed is None else {"routed": routed.margins})
    with watch("save"):
        held.keep_settings()
        model.save(folder / "model", backbone=config.save_backbone)
        explained = pick_pair(rows, fit)
        write_records(folder / "pair.jsonl", [explained])
    with watch("report"):
        page = report(config, rows, fit, judgement, seconds=watch.seconds, explained=explained, routed=routed)
        build_report(page, folder)
    values = metrics(config, rows, fit, judgement, seconds=watch.seconds, training=training, routed=routed)
    write_json(folder / "metrics.json", values)
    write_card(folder / "model", model, metrics=values, name=folder.name)
    checkpoint.unlink(missing_ok=True)
    return Run(folder, values, rows, model, fit, routed, judgement, explained)


def pick_pair(rows: Rows, fit: ArmormFit) -> Preference:
    """Return the test pair of ``rows`` to explain.

    It is one that the fit orders rightly, with the margin nearest to the 75% quantile of such margins.
    """
    return typical_pair(rows.test, margins({"gate": fit.mixture}, fit.test_pairs)["gate"])


RECIPES: Registry[Recipe] = Registry("recipe")
RECIPES.add("armorm", Recipe(ArmormConfig, run_armorm))
RECIPES.add("dmoerm", Recipe(DmoermConfig, run_dmoerm))
RECIPES.add("finetune", Recipe(FineTuneRecipe, run_finetune))


def run_recipe(path: Path, *, sets: Sequence[str] = (), out: Path | None = None) -> Any:
    """Run the recipe at ``path`` with settings ``sets``; the run folder ``out`` is ``runs/NAME`` by default.

    Returns:
        What the recipe leaves: a :class:`Run`, or a :class:`~facetrm.recipes.finetune.fit.FineTuneRun` (None in a
        process that is not the first).

    Example:
        >>> from pathlib import Path
        >>> from facetrm import FacetrmError, run_recipe
        >>> try:
        ...     run_recipe(Path("no-such-recipe.yaml"))
        ... except FacetrmError as error:
        ...     print(type(error).__name__)
        ConfigError
    """
    config = read_recipe(path, sets)
    return RECIPES[config.recipe].run(config, out or Path("runs") / path.stem)
