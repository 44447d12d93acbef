"""Train a rival, as a straight line: read pairs, train, save, load what was saved, and measure it on held-out pairs.

RUN/
  config.resolved.yaml    every setting, including defaults
  training/               checkpoints during training; settings.json, log.jsonl
  model/                  the trained model, in Transformers' format; with rival.json unless it is a reward model
  metrics.json            figures on the held-out pairs

The figures are those of the saved folder, loaded again. A finished training is not repeated.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from facetrm.backbone.config import BackboneConfig
from facetrm.backbone.headed import Head, HeadedModel, load_headed, save_headed
from facetrm.baselines.trained.implicit import ImplicitKind, ImplicitRewardScorer, load_implicit
from facetrm.baselines.trained.pairwise import PairwiseScorer, load_pairwise
from facetrm.baselines.trained.pairwise_fit import train_pairwise
from facetrm.baselines.trained.rival_folder import write_manifest
from facetrm.baselines.trained.training import begin_training, end_training
from facetrm.baselines.trained.with_trl import PolicyLoss, tokenized_pairs, train_policy, train_reward, trl_library
from facetrm.core.files import write_json
from facetrm.core.statistics import Floats
from facetrm.data.records import Preference
from facetrm.fit.trainer import TrainingCost
from facetrm.hub.load import load_model
from facetrm.model.output import Scorer
from facetrm.recipes.armorm.fit import Stopwatch, readable_rows
from facetrm.recipes.armorm.rows import Rows
from facetrm.recipes.baselines.config import BradleyTerryRecipe, DpoRecipe, PairwiseRecipe, RivalRecipe
from facetrm.recipes.baselines.figures import RivalRun, rival_run
from facetrm.recipes.baselines.rows import load_pairs
from facetrm.recipes.run_folder import RunFolder, run_folder

FORMULA: Final[dict[PolicyLoss, ImplicitKind]] = {"sigmoid": "dpo", "hinge": "dpo", "ipo": "ipo"}
"""The implicit reward that belongs to each loss of a policy."""


def run_bradley_terry(config: BradleyTerryRecipe, folder: Path) -> RivalRun:
    """Train, save and measure a Bradley-Terry reward model.

    Args:
        config: Settings of the run.
        folder: Folder of the run.

    Returns:
        The run; :func:`facetrm.load_model` loads its model.

    Raises:
        StoreError: Another run uses the folder.
        FacetrmError: A step failed; the error names value, place and fix.
    """
    trl_library()  # a missing library is found before the data are read
    with run_folder(folder, config) as held:
        watch, model = Stopwatch(), folder / "model"
        rows, start = _begin(config, held, watch, "reward")
        spent = _finished(config, folder, rows, start)
        if spent is None:
            with watch("training"):
                pairs = tokenized_pairs(start, rows.gate)
                spent, pad = train_reward(start, pairs, training=config.training, folder=folder / "training")
            with watch("save"):
                save_headed(start, model, pad=pad)
        with watch("statistics"):
            read: dict[str, object] = {"max_tokens": start.encoder.max_tokens, "truncation": config.backbone.truncation}
            read |= {"date": config.backbone.date, "dtype": _dtype(start)}
            scorer = load_model(model, device=config.backbone.device, mode=config.backbone.mode, settings=read)
            margin_N = score_margins(scorer, rows.test)
        return _end(config, held, rows, margin_N, spent=spent, hash=scorer.hash, watch=watch)


def run_pairwise(config: PairwiseRecipe, folder: Path) -> RivalRun:
    """Train, save and measure a pairwise preference model.

    Args:
        config: Settings of the run.
        folder: Folder of the run.

    Returns:
        The run; :func:`facetrm.baselines.trained.rivals.load_rival` loads its model.

    Raises:
        StoreError: Another run uses the folder.
        FacetrmError: A step failed; the error names value, place and fix.
    """
    with run_folder(folder, config) as held:
        watch, model = Stopwatch(), folder / "model"
        rows, start = _begin(config, held, watch, "language")
        spent = _finished(config, folder, rows, start)
        if spent is None:
            with watch("training"):
                spent = train_pairwise(start, rows.gate, training=config.training, folder=folder / "training")
            with watch("save"):
                saved = save_headed(start, model)
                made = PairwiseScorer(load_headed(saved, "language"))
                write_manifest(model, "pairwise", hash=made.hash, backbone=saved, settings={})
        with watch("statistics"):
            scorer = load_pairwise(model, device=config.backbone.device, mode=config.backbone.mode)
            wins_N2 = scorer.first_wins([(p.chosen, p.rejected) for p in rows.test])
            margin_N = 2.0 * wins_N2.mean(axis=1) - 1.0
        more = {"order": order_figures(wins_N2)}
        return _end(config, held, rows, margin_N, spent=spent, hash=scorer.hash, watch=watch, more=more)


def run_dpo(config: DpoRecipe, folder: Path) -> RivalRun:
    """Train and save a policy, and measure its implicit reward.

    Args:
        config: Settings of the run.
        folder: Folder of the run.

    Returns:
        The run; :func:`facetrm.baselines.trained.rivals.load_rival` loads the implicit reward.

    Raises:
        StoreError: Another run uses the folder.
        FacetrmError: A step failed; the error names value, place and fix.
    """
    trl_library()
    with run_folder(folder, config) as held:
        watch, model = Stopwatch(), folder / "model"
        rows, start = _begin(config, held, watch, "language")
        spent = _finished(config, folder, rows, start)
        if spent is None:
            reference = start.encoder.config.model_copy(update={"dtype": _dtype(start)})
            with watch("training"):
                pairs = tokenized_pairs(start, rows.gate)
                spent = train_policy(
                    start,
                    pairs,
                    loss=config.loss,
                    beta=config.beta,
                    training=config.training,
                    folder=folder / "training",
                )
            with watch("save"):
                _save_policy(config, start, reference, model)
        with watch("statistics"):
            scorer = load_implicit(model, device=config.backbone.device, mode=config.backbone.mode)
            margin_N = score_margins(scorer, rows.test)
        more = {"implicit": {"loss": config.loss, "kind": FORMULA[config.loss], "beta": config.beta}}
        return _end(config, held, rows, margin_N, spent=spent, hash=scorer.hash, watch=watch, more=more)


def score_margins(scorer: Scorer, pairs: list[Preference]) -> Floats:
    """Return the score of the chosen answer minus that of the rejected one, [N].

    Args:
        scorer: Scorer of single conversations.
        pairs: N pairs.
    """
    rewards = [s.reward for s in scorer.score([c for p in pairs for c in (p.chosen, p.rejected)])]
    found: Floats = np.asarray(rewards[0::2], dtype=np.float64) - np.asarray(rewards[1::2], dtype=np.float64)
    return found


def order_figures(wins_N2: Floats) -> dict[str, float]:
    """Return how much the order of the two answers matters to a pairwise model.

    Args:
        wins_N2: Probability that the better answer wins if it is read as A, and if it is read as B.

    Returns:
        ``agreement``: the share of pairs with the same verdict in both orders; ``first``: the mean probability of A,
        which is one half for a model without a preference for a place.
    """
    same = (wins_N2[:, 0] > 0.5) == (wins_N2[:, 1] > 0.5)
    return {
        "agreement": float(same.mean()),
        "first": float(np.concatenate([wins_N2[:, 0], 1.0 - wins_N2[:, 1]]).mean()),
    }


def _begin(config: RivalRecipe, held: RunFolder, watch: Stopwatch, head: Head) -> tuple[Rows, HeadedModel]:
    """Return the rows and the model that training starts from."""
    with watch("data"):
        rows = load_pairs(config.data, seed=config.seed)
    held.begin()
    with watch("backbone"):
        start = load_headed(config.start, head, seed=config.training.seed)
    with watch("reading"):
        rows = readable_rows(rows, start.encoder)
    return rows, start


def _finished(config: RivalRecipe, folder: Path, rows: Rows, start: HeadedModel) -> TrainingCost | None:
    """Return the cost of the training if ``folder`` holds its result, else reserve the folder."""
    others = config.model_dump(mode="json", exclude=set(RivalRecipe.model_fields))
    question = {"recipe": config.recipe, "start": start.fingerprint, "data": rows.hash, **others}
    return begin_training(config.training, folder / "training", question, result=folder / "model")


def _save_policy(config: DpoRecipe, trained: HeadedModel, reference: BackboneConfig, model: Path) -> None:
    """Write the policy and its manifest, with the reference or its place."""
    saved = save_headed(trained, model)
    copied = config.save_reference == "copy"
    original = load_headed(reference, "language")
    if copied:
        reference = save_headed(original, model / "reference").model_copy(update={"path": "reference"})
    formula = FORMULA[config.loss]
    made = ImplicitRewardScorer(load_headed(saved, "language"), original, beta=config.beta, kind=formula)
    settings = {"kind": formula, "beta": config.beta, "reference": reference.model_dump(mode="json")}
    write_manifest(model, "implicit", hash=made.hash, backbone=saved, settings=settings)


def _end(
    config: RivalRecipe,
    held: RunFolder,
    rows: Rows,
    margin_N: Floats,
    *,
    spent: TrainingCost,
    hash: str,
    watch: Stopwatch,
    more: Mapping[str, Any] | None = None,
) -> RivalRun:
    """Write the figures, and remove the checkpoints, which are no longer needed."""
    held.keep_settings()
    end_training(held.path / "training", spent)
    run = rival_run(config, rows, margin_N, folder=held.path, spent=spent, hash=hash, seconds=watch.seconds, more=more)
    write_json(held.path / "metrics.json", run.metrics)
    return run


def _dtype(start: HeadedModel) -> str:
    return str(start.encoder.model.dtype).removeprefix("torch.")
