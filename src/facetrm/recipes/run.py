"""``facetrm run``: a recipe in, a run folder out.

RUN/
  config.resolved.yaml    every setting, including defaults
  model/                  the model for ``facetrm score`` and ``facetrm explain``, with a model card
  metrics.json            figures, in the schema of docs/metrics.md
  report.html             the figures as a page
  pair.jsonl              the explained pair, as a preference row
  backbone/, features/    the backbone, if the run trained one, and the features of every row
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
from facetrm.recipes.baselines.config import (
    BradleyTerryRecipe,
    DirectionRecipe,
    DpoRecipe,
    EnsembleRecipe,
    LengthCalibrationRecipe,
    PairwiseRecipe,
)
from facetrm.recipes.baselines.fitted import run_direction, run_ensemble, run_length_calibration
from facetrm.recipes.baselines.run import run_bradley_terry, run_dpo, run_pairwise
from facetrm.recipes.dmoerm.config import DmoermConfig
from facetrm.recipes.dmoerm.fit import run_dmoerm
from facetrm.recipes.finetune.config import FineTuneRecipe
from facetrm.recipes.finetune.fit import run_finetune
from facetrm.recipes.run_folder import RunFolder, run_folder
from facetrm.recipes.shipped import recipe_file
from facetrm.report.build import build_report


@dataclass(frozen=True)
class Run:
    """A finished ArmoRM run.

    Attributes:
        folder: Folder of the run.
        metrics: Content of ``metrics.json``.
        rows: Data of the run.
        model: The saved model: that of ``routed`` if the recipe has a router, else that of ``fit``.
        fit: Experts, debiasing and gate of the model without a router.
        routed: The model with a router; None without one.
        judgement: Accuracies and other figures on the test pairs.
        explained: The test pair that the report explains.
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
    """A program that ``facetrm run`` can run.

    Attributes:
        config: Class of its settings.
        run: Function that runs it, given the settings and the run folder.
    """

    config: type[Section]
    run: Callable[[Any, Path], Any]


def read_recipe(path: Path, sets: Sequence[str] = ()) -> Any:
    """Read a recipe, apply changes to its settings, and return the settings.

    Args:
        path: Path of the YAML file.
        sets: Changes, each ``section.key=value``.

    Raises:
        ConfigError: The recipe, a section, a key or a value is unknown.
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
        config: Settings of the run.
        folder: Folder of the run; a backbone and features that are already there are reused.

    Returns:
        The run.

    Raises:
        StoreError: Another run uses the folder.
        FacetrmError: A step failed; the error names value, place and fix.
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
    judgement = judge_run(config, rows, fit, watch, routed=routed)
    with watch("save"):
        held.keep_settings()
        model.save(folder / "model", backbone=config.save_backbone)
        explained = pick_pair(rows, fit)
        write_records(folder / "pair.jsonl", [explained])
    with watch("report"):
        page = report(config, rows, fit, judgement, seconds=watch.seconds, explained=explained, routed=routed)
        build_report(page, folder)
    values = metrics(
        config, rows, fit, judgement, seconds=watch.seconds, training=training, routed=routed, overall=page.overall
    )
    write_json(folder / "metrics.json", values)
    write_card(folder / "model", model, metrics=values, name=folder.name)
    checkpoint.unlink(missing_ok=True)
    return Run(folder, values, rows, model, fit, routed, judgement, explained)


def pick_pair(rows: Rows, fit: ArmormFit) -> Preference:
    """Return the test pair to explain.

    It is the correctly ordered pair whose margin is nearest to the 75% quantile of such margins.

    Args:
        rows: Data of the run.
        fit: Fitted parts.
    """
    return typical_pair(rows.test, margins({"gate": fit.mixture}, fit.test_pairs)["gate"])


RECIPES: Registry[Recipe] = Registry("recipe")
RECIPES.add("armorm", Recipe(ArmormConfig, run_armorm))
RECIPES.add("dmoerm", Recipe(DmoermConfig, run_dmoerm))
RECIPES.add("finetune", Recipe(FineTuneRecipe, run_finetune))
RECIPES.add("bradley-terry", Recipe(BradleyTerryRecipe, run_bradley_terry))
RECIPES.add("pairwise", Recipe(PairwiseRecipe, run_pairwise))
RECIPES.add("dpo", Recipe(DpoRecipe, run_dpo))
RECIPES.add("ensemble", Recipe(EnsembleRecipe, run_ensemble))
RECIPES.add("direction", Recipe(DirectionRecipe, run_direction))
RECIPES.add("length-calibration", Recipe(LengthCalibrationRecipe, run_length_calibration))


def run_recipe(path: Path, *, sets: Sequence[str] = (), out: Path | None = None) -> Any:
    """Run a recipe.

    Args:
        path: Path of the YAML file, or the name of a recipe that ships with the package.
        sets: Changes to its settings, each ``section.key=value``.
        out: Run folder; None for ``runs/NAME``, with the name of the file.

    Returns:
        A :class:`Run`, a :class:`~facetrm.recipes.dmoerm.fit.DmoermRun`, a
        :class:`~facetrm.recipes.finetune.fit.FineTuneRun` or a
        :class:`~facetrm.recipes.baselines.figures.RivalRun`. Of several processes, only the first returns a run; the
        others return None.

    Raises:
        ConfigError: The recipe, a section, a key or a value is unknown.
        FacetrmError: A step failed; the error names value, place and fix.

    Example:
        >>> from pathlib import Path
        >>> from facetrm import FacetrmError, run_recipe
        >>> try:
        ...     run_recipe(Path("no-such-recipe.yaml"))
        ... except FacetrmError as error:
        ...     print(type(error).__name__)
        ConfigError
    """
    config = read_recipe(recipe_file(path), sets)
    return RECIPES[config.recipe].run(config, out or Path("runs") / path.stem)
