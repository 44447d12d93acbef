"""``facetrm eval``: systems on benchmarks, written to one folder.

results.json      every figure with its interval, by benchmark and system
audit.json        the audit of each system, if one was asked for
rows.jsonl        one line per question and system: scores, verdict, tokens, what decided
scores.jsonl      scores of every answer, so that the same command goes on where it stopped
official/         the files of the benchmarks' own tools
every_eval_ever/  records for the shared database
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, final

from facetrm.baselines.groups import REWARD
from facetrm.baselines.judges.store import JudgeStore
from facetrm.baselines.judges.vote import Vote
from facetrm.core.errors import ConfigError
from facetrm.core.files import write_text
from facetrm.core.locks import sole_writer
from facetrm.core.progress import log
from facetrm.core.version import __version__
from facetrm.evaluate.audit.whole import Audit
from facetrm.evaluate.benchmarks.load import PAIRS, ItemSet, RatedSet, read_benchmark
from facetrm.evaluate.benchmarks.result import AnswerScore, SetResult, judge_set
from facetrm.evaluate.rated import rank_agreement, rated_figures
from facetrm.recipes.evaluation.audited import AUDIT, audit_systems, pairs_to_audit, read_thresholds
from facetrm.recipes.evaluation.cache import ScoreCache
from facetrm.recipes.evaluation.exports import write_official, write_shared_records
from facetrm.recipes.evaluation.gates import (
    Bound,
    check_bounds,
    compare_results,
    missed_bounds,
    read_bounds,
    read_earlier,
)
from facetrm.recipes.evaluation.named import JUDGE, Loading, load_systems
from facetrm.recipes.evaluation.score_files import written_rows
from facetrm.recipes.evaluation.stored_results import RESULTS, ROWS
from facetrm.recipes.evaluation.systems import Answering, System, answer_questions, score_conversations

_KIND: Final = "facetrm evaluation"


@final
@dataclass(frozen=True)
class EvalRequest:
    """What to evaluate.

    Attributes:
        models: Texts that name the systems.
        on: Texts that name the benchmarks.
        out: Folder of the results.
        loading: How systems are loaded.
        pairs: Number of pairs of a generator.
        limit: Largest number of questions per benchmark; None for all.
        samples: Number of bootstrap samples.
        seed: Seed of the bootstrap and of the random baseline.
        fail_under: Bounds, as ``NAME=VALUE``.
        against: Folder of an earlier result; None to compare with nothing.
        tolerance: Smallest fall of a figure that fails.
        data: Pairs of an audit: a file of preferences, ``desk`` or ``world``.
        thresholds: YAML file with the settings and thresholds of an audit; None for the defaults.
        command: Command line, for the record.
    """

    models: Sequence[str]
    on: Sequence[str]
    out: Path
    loading: Loading
    pairs: int = PAIRS
    limit: int | None = None
    samples: int = 1000
    seed: int = 0
    fail_under: Sequence[str] = ()
    against: Path | None = None
    tolerance: float = 0.0
    data: str | None = None
    thresholds: Path | None = None
    command: str = "facetrm eval"


@final
@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation.

    Attributes:
        results: Content of ``results.json``.
        problems: One sentence per bound or tolerance that was missed.
        scored: Number of answers that were scored now.
        out: Folder of the results.
        audits: Audit of each system, by name; empty if none was asked for.
    """

    results: dict[str, Any]
    problems: tuple[str, ...]
    scored: int
    out: Path
    audits: Mapping[str, Audit]


def evaluate_systems(request: EvalRequest) -> Evaluation:
    """Judge systems on benchmarks, and write the results.

    Args:
        request: What to evaluate.

    Raises:
        ConfigError: A text names no system, no benchmark or no figure.
        DataError: A benchmark or a file of scores is malformed.
        ModelError: A model cannot be loaded.
    """
    bounds = read_bounds(request.fail_under)
    _check(request)
    on = [name for name in request.on if name != AUDIT]
    found = _named([read_benchmark(name, pairs=request.pairs, limit=request.limit) for name in on])
    earlier = None
    if request.against is not None:
        earlier = read_earlier(request.against, out=request.out, benchmarks=[one.name for one in found])
    check_bounds(
        bounds,
        {
            one.name: rated_figures(one.ratings) if isinstance(one, RatedSet) else one.benchmark.figures(one.questions)
            for one in found
        },
    )
    audited = None
    if AUDIT in request.on:
        audited = (
            pairs_to_audit(request.data, pairs=request.pairs)[: request.limit],
            read_thresholds(request.thresholds),
        )
    request.out.mkdir(parents=True, exist_ok=True)
    fix = "wait for it to end, or give another folder (--out)"
    with sole_writer(request.out, name=".lock", place=request.out, fix=fix):
        systems = load_systems(request.models, request.loading)
        cache = ScoreCache(request.out)
        spent = {system.name: Answering([]) for system in systems}
        try:
            audits = {}
            if audited is not None:
                audits = audit_systems(systems, *audited, request.out, cache=cache, spent=spent)
            return _judged(request, found, systems, cache, bounds, audits, earlier, spent)
        finally:
            cache.close()


def _judged(
    request: EvalRequest,
    found: Sequence[ItemSet | RatedSet],
    systems: Sequence[System],
    cache: ScoreCache,
    bounds: Sequence[Bound],
    audits: Mapping[str, Audit],
    earlier: Mapping[str, Any] | None,
    spent: dict[str, Answering],
) -> Evaluation:
    when = time.time()
    benchmarks: dict[str, Any] = {}
    ratings: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    for one in found:
        if isinstance(one, RatedSet):
            ratings[one.name] = _rated(one, systems, cache, request)
            continue
        result = _on_questions(one, systems, cache, request, spent)
        benchmarks[one.name] = result.to_dict()
        made = {system.name: result.rows(system.name) for system in systems}
        rows += [row for listed in made.values() for row in listed]
        write_official(result, systems, request.out / "official")
        folder = request.out / "every_eval_ever"
        write_shared_records(result, systems, folder, rows=made, when=when, command=request.command)
        log("benchmark done", name=one.name, questions=len(one.questions))
    results: dict[str, Any] = {
        "kind": _KIND,
        "facetrm": __version__,
        "date": datetime.fromtimestamp(when, UTC).isoformat(timespec="seconds"),
        "command": request.command,
        "seed": request.seed,
        "samples": request.samples,
        "level": 0.95,
        "models": {system.name: _about(system, spent[system.name]) for system in systems},
        "benchmarks": benchmarks,
        "ratings": ratings,
        "audit": None if not audits else {"data": request.data, "findings": _findings(audits)},
    }
    write_text(request.out / ROWS, written_rows(rows))
    problems = missed_bounds(results, bounds)
    problems += [f"{name}: {finding.sentence}" for name, one in audits.items() for finding in one.failures()]
    if request.against is not None and earlier is not None:
        change = compare_results(results, rows, request.against, earlier, tolerance=request.tolerance)
        results["against"] = change
        problems += [
            f"{one['benchmark']}/{one['name']} fell from {one['before']:.4f} to {one['now']:.4f}"
            for one in change["failed"]
        ]
    write_results(request.out / RESULTS, results)
    return Evaluation(results, tuple(problems), sum(one.scored for one in spent.values()), request.out, audits)


def _check(request: EvalRequest) -> None:
    """Refuse options that would do nothing."""
    if not request.on:
        raise ConfigError("no benchmark", place="--on", fix="give --on NAME or --on FILE")
    for option, given in (("--data", request.data), ("--thresholds", request.thresholds)):
        if given is not None and AUDIT not in request.on:
            raise ConfigError(f"'{given}' is for an audit", place=option, fix="add --on audit, or leave it out")
    if request.loading.judge and not any(text.startswith(JUDGE) for text in request.models):
        raise ConfigError("no judge is asked", place="--judge-set", fix="name a judge:MODEL@BASE_URL, or leave it out")
    if request.tolerance and request.against is None:
        raise ConfigError(
            f"{request.tolerance:g} is for a comparison",
            place="--tolerance",
            fix="add --against FOLDER, or leave it out",
        )


def _findings(audits: Mapping[str, Audit]) -> dict[str, list[str]]:
    return {name: [finding.sentence for finding in one.findings] for name, one in audits.items()}


def write_results(path: Path, results: Mapping[str, Any]) -> None:
    """Write results as JSON, with systems and figures in their order.

    Args:
        path: The file.
        results: JSON-ready results.
    """
    write_text(path, json.dumps(results, ensure_ascii=False, indent=1, allow_nan=False) + "\n")


def _on_questions(
    found: ItemSet,
    systems: Sequence[System],
    cache: ScoreCache,
    request: EvalRequest,
    spent: dict[str, Answering],
) -> SetResult:
    answers: dict[str, Sequence[Sequence[AnswerScore]]] = {}
    for system in systems:
        done = answer_questions(system, found.questions, cache, benchmark=found.name)
        spent[system.name] = spent[system.name].cost_with(done)
        answers[system.name] = done.answers
    return judge_set(found, answers, samples=request.samples, seed=request.seed)


def _rated(found: RatedSet, systems: Sequence[System], cache: ScoreCache, request: EvalRequest) -> dict[str, Any]:
    """Return the rank correlations of each system on a file of ratings."""
    figures: dict[str, dict[str, Any]] = {}
    table: dict[str, Any] = {
        "files": [asdict(one) for one in found.files],
        "rows": len(found.ratings),
        "figures": figures,
        "systems": {},
    }
    for system in systems:
        scores = score_conversations(system, [rating.messages for rating in found.ratings], cache)
        known: list[Mapping[str, float] | None] = [
            None if one.reward is None else {**one.ratings, REWARD: one.reward} for one in scores
        ]
        agreement = rank_agreement(found.ratings, known, samples=min(request.samples, 200), seed=request.seed)
        table["systems"][system.name] = agreement.objectives
        for figure, row in agreement.figures.items():
            figures.setdefault(figure, {})[system.name] = row
    return table


def _about(system: System, spent: Answering) -> dict[str, Any]:
    asked = system.scorer.members.values() if isinstance(system.scorer, Vote) else [system.scorer]
    stores = [store for one in asked if isinstance(store := getattr(one, "store", None), JudgeStore)]
    rate = spent.tokens / spent.seconds if spent.seconds and spent.tokens else None
    return {
        "asked": system.asked,
        "kind": system.kind,
        "hash": system.hash,
        "scored": spent.scored,
        "tokens": spent.tokens,
        "seconds": round(spent.seconds, 2),
        "tokens_per_second": None if rate is None else round(rate, 1),
        "cost": _cost([store.cost() for store in stores]) if stores else None,
    }


def _cost(costs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the sum of what some judges have cost; None where one of them has no price."""
    return {key: None if None in (held := [one[key] for one in costs]) else sum(held) for key in costs[0]}


def _named(found: Sequence[ItemSet | RatedSet]) -> list[ItemSet | RatedSet]:
    """Return the sets with distinct names."""
    taken: set[str] = set()
    named: list[ItemSet | RatedSet] = []
    for one in found:
        name, n = one.name, 2
        while name in taken:
            name, n = f"{one.name}-{n}", n + 1
        taken.add(name)
        named.append(type(one)(**{**vars(one), "name": name}))
    return named
