"""Every rival on one backbone, on the same training pairs and the same test pairs, with the cost of each.

    python benchmarks/systems.py --work FOLDER --pack FOLDER
    python benchmarks/systems.py --work FOLDER --only desk

Two sets of data. The desk: 640 training pairs, 4,000 rated answers, 300 test pairs in their true order. A pack of real
data: 40 training pairs and 20 test pairs of each of 11 sources, 150 rated answers of each of 17; the pairwise model and
the policy train on 20 pairs of each source, because they are slow. All systems read SmolLM2-135M-Instruct. The gate,
the fixed weights, the direction and the linear head read stored features; LoRA trains the Bradley-Terry model, the
pairwise model and the policies; the judge is the model itself, without training.

A killed command resumes: trainings that are finished, scores and answers of the judge are kept in --work. Prints a
table and writes benchmarks/results/systems.json.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
import time
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from facetrm.backbone.config import BackboneConfig
from facetrm.backbone.headed import load_headed
from facetrm.baselines import (
    JudgeScorer,
    LengthScorer,
    OracleScorer,
    RandomScorer,
    RatingJudge,
    Vote,
    error_correlation,
    fit_direction,
    fit_ensemble,
    fit_length_calibration,
    load_rival,
)
from facetrm.baselines.named import scorer_hash
from facetrm.baselines.trained.implicit import ImplicitRewardScorer
from facetrm.core.config import parse_config, read_yaml
from facetrm.core.files import write_json
from facetrm.core.progress import shown_logs
from facetrm.data.pack import read_pack
from facetrm.data.records import Conversation, conversation_key
from facetrm.data.views import part_of
from facetrm.evaluate.benchmarks.load import ItemSet, read_benchmark
from facetrm.evaluate.benchmarks.preferences import OWN_PAIRS, pair_questions
from facetrm.evaluate.benchmarks.result import judge_set
from facetrm.hub.load import load_model
from facetrm.label import LabelConfig
from facetrm.model.output import Score, Scorer
from facetrm.model.reward_model import RewardModel
from facetrm.recipes import run_recipe
from facetrm.recipes.armorm.config import ArmormConfig
from facetrm.recipes.armorm.fit import Stopwatch, fit_mixture, fit_parts, prepare
from facetrm.recipes.armorm.judge import baselines_of
from facetrm.recipes.armorm.rows import first_of_each
from facetrm.recipes.evaluation.cache import ScoreCache
from facetrm.recipes.evaluation.systems import System, answer_questions
from local_judge import LocalJudge
from provenance import provenance
from stored_scorer import StoredScorer

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "systems.json"
DESK_PAIRS, DESK_TEST, DESK_RATED = 640, 300, 4000
PACK_PAIRS, PACK_RATED, PACK_TEST, PACK_SLOW = 40, 150, 20, 20
SEEDS = 4
POLICY = ("training.trainer.learning_rate=3e-4", "training.trainer.num_train_epochs=1")
TRAINED = {
    "bradley-terry": ("training.trainer.learning_rate=1e-3",),
    "pairwise": ("training.trainer.learning_rate=1e-3", "training.trainer.warmup_steps=16"),
    "dpo": POLICY,
}
OTHER_LOSSES = {"ipo": (*POLICY, "loss=ipo"), "hinge": (*POLICY, "loss=hinge")}
EPOCHS = {"desk": 3, "pack": 1}
QUANTILES = {"levels": 9, "penalty": 1e-2, "steps": 100}  # by default the fit takes longer than LoRA
LONG = {"truncation": "drop_oldest"}  # as in the recipe
SMALL_BATCHES = ("per_device_train_batch_size=2", "gradient_accumulation_steps=4")


class Remembered:
    """A scorer that scores each conversation once, for ensembles that share members."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer, self._known = scorer, dict[str, Score]()
        self.hash = scorer_hash(scorer)

    def score(self, conversations: list[Conversation]) -> list[Score]:
        """Return one score per conversation, in order."""
        wanted = {conversation_key(c): c for c in conversations if conversation_key(c) not in self._known}
        self._known |= zip(wanted, self._scorer.score(list(wanted.values())), strict=True)
        return [self._known[conversation_key(c)] for c in conversations]


class Cautious:
    """A gate with another number of its uncertain scores as the reward."""

    def __init__(self, scorer: StoredScorer, kind: str) -> None:
        self._scorer, self._kind = scorer, kind
        self.hash = f"{scorer.hash}/{kind}"

    def score(self, conversations: list[Conversation]) -> list[Score]:
        """Return one score per conversation, in order."""
        return [replace(one, reward=self._reward(one)) for one in self._scorer.score(conversations)]

    def _reward(self, score: Score) -> float:
        if self._kind == "lower bound":
            return score.lower_bound(1.0)
        assert score.uncertainty is not None
        return float(np.mean(list(score.uncertainty.lower_tails.values())))


@dataclass
class Rivals:
    """The systems on one set of data, and what each cost before it scored."""

    scorers: dict[str, Scorer] = field(default_factory=dict)
    spent: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, name: str, scorer: Scorer, **spent: Any) -> None:
        """Add a system."""
        self.scorers[name], self.spent[name] = scorer, spent


def small_pack(source: Path, target: Path) -> Path:
    """Write the first rows of each source and split of a pack to ``target``, and return it."""
    if (target / "sources.json").is_file():
        return target
    target.mkdir(parents=True, exist_ok=True)
    for name, limit in (("rated", PACK_RATED), ("preferences", PACK_PAIRS)):
        seen: Counter[tuple[str, str]] = Counter()
        with gzip.open(source / f"{name}.jsonl.gz", "rt") as rows, gzip.open(target / f"{name}.jsonl.gz", "wt") as kept:
            for line in rows:
                row = json.loads(line)
                seen[row["source"], row["split"]] += 1
                if seen[row["source"], row["split"]] <= limit:
                    kept.write(line)
    shutil.copy(source / "sources.json", target)
    return target


def gate_recipe(data: str, pack: Path) -> tuple[Path, list[str]]:
    """Return the recipe of the gated model and its settings."""
    if data == "desk":
        sizes = (f"ratings={DESK_RATED}", f"preferences={DESK_PAIRS}", f"test={DESK_TEST}")
        return ROOT / "recipes" / "desk.yaml", [f"data.{one}" for one in sizes]
    return ROOT / "recipes" / "real-smollm2.yaml", [f"data.folder={pack}", f"data.limit={PACK_RATED}"]


def train(data: str, work: Path, pack: Path, wanted: Collection[str]) -> None:
    """Train what is wanted and not trained yet."""
    rows = f"{{kind: desk, preferences: {DESK_PAIRS}, test: {DESK_TEST}}}"
    given = f"data={rows if data == 'desk' else f'{{kind: pack, folder: {pack}}}'}"
    usual = [given, "training.trainer.bf16=true", f"training.trainer.num_train_epochs={EPOCHS[data]}"]
    for name in wanted:
        out = work / f"{data}-{name}"
        if (out / "metrics.json").is_file():
            continue
        if name == "gate":
            recipe, sets = gate_recipe(data, pack)
        else:
            recipe = ROOT / "recipes" / f"{name if name in TRAINED else 'dpo'}.yaml"
            sets = [*usual, *{**TRAINED, **OTHER_LOSSES}[name]]
            if data == "pack" or name not in ("bradley-terry", "pairwise"):
                sets += [f"training.trainer.{one}" for one in SMALL_BATCHES]
            if data == "pack" and name != "bradley-terry":
                sets.append(f"data.limit={PACK_SLOW}")
        run_recipe(recipe, sets=sets, out=out)


def on_features(data: str, work: Path, pack: Path, rivals: Rivals) -> list[Conversation]:
    """Add the systems that read stored features, and return the training conversations of the pairs."""
    recipe, _ = gate_recipe(data, pack)
    run = work / f"{data}-gate"
    raw = read_yaml(run / "config.resolved.yaml")
    experts = {**raw["experts"], "uncertainty": True, "quantiles": True, "quantile": QUANTILES}
    stored = {"folder": str(run / "features")}
    config = parse_config(ArmormConfig, {**raw, "experts": experts, "features": stored}, place=str(recipe))
    watch = Stopwatch()
    rows, encoder, store, _ = prepare(config, work / f"{data}-again", watch)
    fit = fit_parts(config, rows, encoder, store.stream, watch)
    started = time.monotonic()
    mixtures, best = baselines_of(config, fit)
    baseline_seconds = time.monotonic() - started
    spent = json.loads((run / "metrics.json").read_text())["seconds"]
    encoding, stages = spent["encode"], ("experts", "cross-fit", "debias", "gate")
    fitting, cautious = (sum(known.get(stage, 0.0) for stage in stages) for known in (spent, watch.seconds))
    model = StoredScorer(load_model(run), run / "features")
    common = {"encoding_seconds": encoding, "training_pairs": len(rows.gate), "rated": len(rows.heads)}
    rivals.add("gate", model, training_seconds=fitting, **common)
    shown = {
        "linear_bt": "linear Bradley-Terry head",
        "unconditional": "weights without a prompt",
        "uniform": "uniform",
    }
    for name, title in {**shown, "best_objective": f"best objective ({best})"}.items():
        single = StoredScorer(RewardModel(encoder, {"all": mixtures[name]}), run / "features")
        rivals.add(title, single, training_seconds=baseline_seconds if name == "linear_bt" else fitting, **common)
    unsure = StoredScorer(RewardModel(encoder, {"all": fit.mixture}), run / "features")
    for title, kind in (("gate, less one deviation", "lower bound"), ("quantile heads, lower tails", "lower tails")):
        rivals.add(title, Cautious(unsure, kind), training_seconds=cautious, **common)
    members = {"seed 0": model}
    for seed in range(1, SEEDS):
        settings = config.gate.settings.model_copy(update={"seed": seed})
        other = config.model_copy(update={"gate": config.gate.model_copy(update={"settings": settings})})
        mixture, _ = fit_mixture(
            other, fit.mixture.linear_experts, fit.debias, fit.gate_pairs, weights=fit.weights, scores=fit.scores
        )
        members[f"seed {seed}"] = StoredScorer(RewardModel(encoder, {"all": mixture}), run / "features")
    reference = [c for pair in rows.gate for c in (pair.chosen, pair.rejected)]
    rivals.add(
        "four gates, mean",
        fit_ensemble(members, reference),
        training_seconds=fitting + (SEEDS - 1) * watch.seconds["gate"],
        **common,
    )
    weights = {objective.name: 1.0 for objective in fit.mixture.experts.objectives if objective.gated}
    direction = fit_direction(cast(RewardModel, model), weights, conversations=reference)
    rivals.add("direction, equal parts", direction, training_seconds=fitting, **common)
    calibrated = fit_length_calibration(model, reference)
    rivals.add("gate, LOWESS in length", calibrated, training_seconds=fitting, **common)
    return reference


def on_text(data: str, work: Path, rivals: Rivals, reference: list[Conversation]) -> None:
    """Add what LoRA has trained, ensembles with it, and the judges."""
    trained: dict[str, Scorer] = {}
    for name in (*TRAINED, *OTHER_LOSSES):
        folder = work / f"{data}-{name}"
        if not (folder / "metrics.json").is_file():
            continue
        metrics = json.loads((folder / "metrics.json").read_text())
        scalar = name == "bradley-terry"
        trained[name] = load_model(folder, settings=LONG) if scalar else load_rival(folder)
        title = {"bradley-terry": "Bradley-Terry, LoRA", "pairwise": "pairwise model, LoRA"}.get(
            name, f"policy, {name}"
        )
        spent = {"training_seconds": metrics["training"]["seconds"], "training_pairs": metrics["rows"]["preferences"]}
        rivals.add(title, trained[name], **spent)
    if "dpo" in trained:
        read = BackboneConfig(path=str(work / f"{data}-dpo" / "model"), max_tokens=512, truncation="drop_oldest")
        bare = ImplicitRewardScorer(load_headed(read, "language"), None, kind="slic")
        rivals.add("policy, dpo, reward of SLiC", bare, **rivals.spent["policy, dpo"])
    members = {"gate": rivals.scorers["gate"]}
    members |= {name: Remembered(trained[name]) for name in ("bradley-terry", "dpo") if name in trained}
    if len(members) > 1:
        shown = {"mean": "mean", "median": "median", "worst": "WCO", "uncertainty": "UWO"}
        parts = [rivals.spent[name] for name in ("gate", "Bradley-Terry, LoRA", "policy, dpo") if name in rivals.spent]
        seconds = sum(one["training_seconds"] for one in parts)
        for kind, short in shown.items():
            made = fit_ensemble(members, reference[:200], kind=kind)  # type: ignore[arg-type]
            rivals.add(f"{' + '.join(members)}, {short}", made, training_seconds=seconds)
    config = LabelConfig(model="SmolLM2-135M-Instruct", base_url="http://127.0.0.1/v1")
    backbone = BackboneConfig(path="smollm2-135m", dtype="bfloat16")
    voters: dict[str, Scorer] = {"gate": rivals.scorers["gate"]}
    for mode, kind in (("pairwise", JudgeScorer), ("rating", RatingJudge)):
        judge = partial(LocalJudge, backbone=backbone, mode=mode)
        voters[mode] = kind(config, folder=work / f"{data}-judge-{mode}", make_judge=judge)
        rivals.add(f"judge, {mode}", voters[mode])
    rivals.add("vote of both judges and the gate", Vote(voters))


def questions_of(data: str, pack: Path) -> ItemSet:
    """Return the test pairs: the desk's in their true order, the pack's as labelled."""
    if data == "desk":
        found = read_benchmark("desk", pairs=DESK_TEST)
        assert isinstance(found, ItemSet)
        return found
    tests = first_of_each([pair for pair in read_pack(pack).preferences if part_of(pair) == "test"], PACK_TEST)
    return ItemSet("pack", OWN_PAIRS, tuple(pair_questions(tests, name="pack")))


def plain(found: ItemSet) -> Rivals:
    """Return the systems that read no meaning, and the oracle."""
    rivals = Rivals()
    known = Counter[str]()  # of three ranked answers the middle one wins one pair and loses one
    for item in found.questions:
        for n, answered in enumerate(item.conversations):
            known[conversation_key(answered)] += 1 if n < item.right else -1
    for scorer in (
        OracleScorer({key: float(value) for key, value in known.items()}),
        LengthScorer(),
        LengthScorer(sign=-1),
        RandomScorer(seed=0),
    ):
        rivals.add(scorer.name, scorer)
    return rivals


def measure(data: str, work: Path, pack: Path) -> dict[str, Any]:
    """Score the test pairs with every system, and return figures and costs."""
    found, rivals = questions_of(data, pack), Rivals()
    reference = on_features(data, work, pack, rivals)
    on_text(data, work, rivals, reference)
    others = plain(found)
    rivals.scorers |= others.scorers
    rivals.spent |= others.spent
    cache, answers, costs = ScoreCache(work), {}, {}
    costs_file = work / f"{data}-costs.json"
    kept = json.loads(costs_file.read_text()) if costs_file.is_file() else {}
    for name, scorer in rivals.scorers.items():
        system = System(name, name, "model", scorer_hash(scorer), scorer)
        done = answer_questions(system, found.questions, cache)
        answers[name] = done.answers
        spent = dict(rivals.spent[name])
        if isinstance(scorer, JudgeScorer | RatingJudge):
            spent |= {key: scorer.store.cost()[key] for key in ("requests", "tokens_in")}
        if done.scored:
            kept[name] = {"scored": done.scored, "scoring_seconds": done.seconds, "scoring_tokens": done.tokens}
            write_json(costs_file, kept)
        costs[name] = {**spent, **kept.get(name, {})}
    cache.close()
    result = judge_set(found, answers, samples=2000)
    margins = {
        name: [row[0].reward - row[1].reward for row in rows]
        for name, rows in answers.items()
        if all(one.reward is not None for row in rows for one in row) and name not in others.scorers
    }
    table = {key: value for key, value in result.to_dict().items() if key not in ("files", "citation")}
    correlated = [  # none for a system whose margins are all alike
        [None if np.isnan(value) else round(float(value), 3) for value in row]
        for row in error_correlation(list(margins.values()))
    ]
    return {**table, "costs": costs, "error_correlation": {"systems": list(margins), "matrix": correlated}}


def show(data: str, one: Mapping[str, Any]) -> None:
    """Print the table of one set of data."""
    print(f"\n{data:40}{'right (%)':>22}{'failed':>8}{'ties':>6}{'training s':>12}{'scoring s':>11}")
    total = one["figures"]["total"]
    for name in sorted(one["costs"], key=lambda name: -total[name]["value"]):
        cost, counts, cell = one["costs"][name], one["systems"][name], total[name]
        shown = f"{100 * cell['value']:.1f} ({100 * cell['low']:.1f} to {100 * cell['high']:.1f})"
        print(
            f"{name:40}{shown:>22}{counts['failed']:8}{counts['ties']:6}"
            f"{cost.get('training_seconds', 0.0):12.0f}{cost.get('scoring_seconds', 0.0):11.1f}"
        )


def main() -> None:
    """Train, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", required=True, type=Path)
    parser.add_argument("--pack", type=Path)
    parser.add_argument("--only", choices=("desk", "pack"))
    parser.add_argument("--losses", action="store_true", help="also train policies by IPO and by SLiC's hinge")
    parser.add_argument(
        "--train",
        action="append",
        choices=("gate", *TRAINED, *OTHER_LOSSES),
        help="only train this system, so that several processes can share the trainings (repeatable)",
    )
    options = parser.parse_args()
    wanted = [options.only] if options.only else ["desk", "pack"]
    if "pack" in wanted and options.pack is None:
        parser.error("give --pack FOLDER, or --only desk")
    table = json.loads(RESULTS.read_text())["data"] if RESULTS.is_file() else {}
    with shown_logs():
        for data in wanted:
            pack = options.work / "pack-data"
            if data == "pack":
                small_pack(options.pack, pack)
            every = ("gate", *TRAINED, *(OTHER_LOSSES if options.losses else ()))
            train(data, options.work, pack, options.train or every)
            if options.train:
                continue
            table[data] = measure(data, options.work, pack)
            command = "python benchmarks/systems.py --work FOLDER --pack FOLDER"
            write_json(RESULTS, {**provenance(), "command": command, "data": table})
    for data in () if options.train else wanted:
        show(data, table[data])


if __name__ == "__main__":
    main()
