"""Label a file of pairs and write a folder of labels. A later run on the same folder continues where this one ended.

::

    FOLDER/labels.sqlite        every answer, keyed by the content of its question
    FOLDER/preferences.jsonl    the kept labels, as preferences whose aspect is task/capability
    FOLDER/undecided.jsonl      judgements that were answered but not kept: ties, abstentions, position bias
    FOLDER/failures.jsonl       the questions without an answer, each with its reason
    FOLDER/report.json          counts, rates, tokens and cost
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

from facetrm.core.errors import LabelError
from facetrm.core.files import write_json, write_text
from facetrm.core.progress import Meter, progress
from facetrm.data.read.files import write_records
from facetrm.data.records import Preference
from facetrm.label.ask import AskingOutcome, ask_all, refuse_running_loop, verdict_of
from facetrm.label.client import Judge, OpenAIJudge, judge_address
from facetrm.label.outcomes import KEPT, Judged, decide, judge_all
from facetrm.label.plan import Plan
from facetrm.label.report import summarise
from facetrm.label.settings import LabelConfig
from facetrm.label.store import LabelStore
from facetrm.label.verdicts import JudgeVerdict

PREFERENCES: Final = "preferences.jsonl"
UNDECIDED: Final = "undecided.jsonl"
FAILURES: Final = "failures.jsonl"
REPORT: Final = "report.json"


@final
@dataclass(frozen=True)
class Labelled:
    """The result of a labelling run.

    Attributes:
        preferences: the labels that were kept.
        failures: the questions without an answer, one row each as in ``failures.jsonl``.
        report: the content of ``report.json``.
    """

    preferences: list[Preference]
    failures: list[dict[str, Any]]
    report: dict[str, Any]


def label_pairs(
    plan: Plan,
    out: Path,
    *,
    make_judge: Callable[[LabelConfig], Judge] | None = None,
    quiet: bool = False,
) -> Labelled:
    """Ask every question of ``plan`` and write the folder ``out``.

    Questions that already have an answer in ``out`` are not asked again. The function starts an event loop. If one is
    already running, as in a notebook, call it as ``await asyncio.to_thread(label_pairs, plan, out)``.

    Args:
        plan: the plan from :func:`facetrm.label.plan.make_plan`.
        out: the folder to write, or to continue.
        make_judge: builds the judge from the plan's settings; None uses :class:`facetrm.label.client.OpenAIJudge`.
        quiet: whether to hide the progress bar.

    Returns:
        The labels, the questions without an answer, and the report.

    Raises:
        ConfigError: the address is invalid, or a public server has no key.
        LabelError: the server cannot be used, no question was answered, or an event loop is already running. Earlier
            answers are kept.
        StoreError: the store cannot be used, or another run has it open.
    """
    refuse_running_loop("label_pairs(plan, out)")
    judge = (make_judge or OpenAIJudge)(plan.config)
    with LabelStore(out) as store:
        verdicts = store.verdicts()
        asked = _ask(plan, judge, store, verdicts, quiet=quiet)
        labelled = _write(plan, asked, store, verdicts, out)
    _raise_failure(plan, asked, labelled, out, place=judge_address(plan.config) if make_judge is None else out)
    return labelled


def _raise_failure(plan: Plan, asked: AskingOutcome, labelled: Labelled, out: Path, *, place: object) -> None:
    """Raise LabelError if the run ended early because of an error, or if no question was answered."""
    questions, known = len(plan.keys), labelled.report["answered"]
    kept = f"{known} of {questions} questions are answered and stored"
    if asked.fatal:
        fix = f"{asked.fix}; {kept}" if asked.fix else f"{kept}; fix the cause and run it again"
        raise LabelError(str(asked.stopped), place=place, fix=fix)
    # If the judge answered other questions and refuses only these, nothing is wrong with the run.
    in_vain = known > 0 and asked.failures.keys() == asked.permanent
    if asked.failures and not asked.answered and not in_vain:
        reason, count = Counter(asked.failures.values()).most_common(1)[0]
        problem = f"no question was answered; the most common reason ({count} of {len(asked.failures)}): {reason}"
        raise LabelError(problem, place=place, fix=f"all reasons are in {out / FAILURES}; {kept}")


def _ask(
    plan: Plan, judge: Judge, store: LabelStore, verdicts: dict[str, JudgeVerdict], *, quiet: bool
) -> AskingOutcome:
    todo = len(plan.keys - verdicts.keys())
    with progress("label", len(plan.keys), quiet=quiet) as meter:
        meter.skip(len(plan.keys) - todo)
        tally = _Tally(plan, store, verdicts, meter)

        async def ask() -> AskingOutcome:
            return await ask_all(
                plan.questions(set(verdicts)),
                judge=judge,
                store=store,
                config=plan.config,
                heard=tally.hear,
                read=verdict_of,
                proven=todo < len(plan.keys),
            )

        return asyncio.run(ask())


@final
class _Tally:
    """Counts kept labels while answers arrive, for the progress bar."""

    def __init__(self, plan: Plan, store: LabelStore, verdicts: dict[str, JudgeVerdict], meter: Meter) -> None:
        self._config, self._store, self._verdicts, self._meter = plan.config, store, verdicts, meter
        self._pairs: dict[str, list[tuple[str, str]]] = {}
        for judgement in plan.judgements:
            for key in judgement.keys:
                self._pairs.setdefault(key, []).append(judgement.keys)
        known = [one.outcome for one in judge_all(plan.judgements, verdicts)]
        self._answered = sum(outcome != "unanswered" for outcome in known)
        self._kept = sum(outcome in KEPT for outcome in known)
        self._failed = 0

    def hear(self, key: str, verdict: JudgeVerdict | None) -> None:
        if verdict is None:
            self._failed += 1
        else:
            self._verdicts[key] = verdict
            for first, second in self._pairs[key]:
                outcome = decide(self._verdicts.get(first), self._verdicts.get(second))
                self._answered += outcome != "unanswered"
                self._kept += outcome in KEPT
        self._meter.advance(1, note=self._note())

    def _note(self) -> str:
        spent = self._store.spent()
        cost = self._config.cost(spent.tokens_in, spent.tokens_out)
        paid = f"{spent.tokens_in + spent.tokens_out:,} tokens" if cost is None else f"cost {cost:,.2f}"
        kept = f"{100 * self._kept / self._answered:.0f}% kept" if self._answered else "nothing judged"
        return f"{kept}, {self._failed} failed, {paid}"


def _write(
    plan: Plan, asked: AskingOutcome, store: LabelStore, verdicts: dict[str, JudgeVerdict], out: Path
) -> Labelled:
    judged = list(judge_all(plan.judgements, verdicts))
    config, rubric = plan.config, plan.rubric
    kept = [one.record(model=config.model, rubric=rubric.name) for one in judged if one.outcome in KEPT]
    failures = [row for one in judged for row in _failures(one, asked)]
    undecided = [
        {"id": one.judgement.pair.id, "aspect": one.judgement.aspect, "outcome": one.outcome, "verdicts": one.verdicts}
        for one in judged
        if one.outcome not in KEPT and one.outcome != "unanswered"
    ]
    spent = store.spent()
    report = {
        "rubric": rubric.name,
        "judge": config.model,
        "models_that_answered": store.models(),
        "settings": config.model_dump(mode="json", exclude={"extra", "base_url", "api_key_env"}),
        "pairs": plan.pairs,
        "skipped": plan.skipped,
        "questions": len(plan.keys),
        "answered": len(plan.keys & verdicts.keys()),
        "failed": len({row["key"] for row in failures}),
        "refused": len(asked.permanent),
        "commonest_reason": _commonest(failures),
        "stopped": asked.stopped,
        "this_run": {"requests": asked.requests, "answered": asked.answered},
        "folder": {
            "requests": spent.requests,
            "tokens_in": spent.tokens_in,
            "tokens_out": spent.tokens_out,
            "cost": config.cost(spent.tokens_in, spent.tokens_out),
        },
        **summarise(judged),
    }
    write_records(out / PREFERENCES, kept)
    _write_lines(out / UNDECIDED, undecided)
    _write_lines(out / FAILURES, failures)
    write_json(out / REPORT, report)
    return Labelled(kept, failures, report)


def _failures(one: Judged, asked: AskingOutcome) -> list[dict[str, Any]]:
    return [
        {
            "id": one.judgement.pair.id,
            "aspect": one.judgement.aspect,
            "swapped": bool(swapped),
            "key": key,
            "reason": asked.failures.get(key, f"not asked: {asked.stopped}"),
            "permanent": key in asked.permanent,
        }
        for swapped, key in enumerate(one.judgement.keys)
        if one.verdicts[swapped] is None
    ]


def _commonest(failures: Sequence[dict[str, Any]]) -> str | None:
    counts = Counter({row["key"]: row["reason"] for row in failures}.values())
    return counts.most_common(1)[0][0] if counts else None


def _write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows))
