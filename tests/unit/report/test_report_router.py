"""The report of a model with a router: its figures as they were given, and nothing where there is none."""

from __future__ import annotations

import re

import pytest
from test_report_page import check, text_of

from adapter_models import PAIRS, two_tasks
from facetrm.core.statistics import Interval
from facetrm.explain.ask import explain_pair, flip_explained
from facetrm.fit.router.assign import AssignmentCounts
from facetrm.fit.router.fit import RouterConfig, fit_router
from facetrm.recipes.router_figures import router_part
from facetrm.report.build import render_report
from facetrm.report.run_report import ExplainedPair, RunReport
from facetrm.report.task_parts import Accuracy, CapabilityRow, CoverageRow, ReliabilityRow, RouterPart
from report_samples import run_report
from routed_prompts import prompts

NAMES = ("chat", "code & <maths>")


def part(**given) -> RouterPart:
    value = {
        "names": NAMES,
        "rows": 1234,
        "accuracy": Accuracy(value=0.873, low=0.851, high=0.895),
        "majority": 0.512,
        "linear": Accuracy(value=0.8119),
        "confusion": ((431, 17), (29, 757)),
        "calibration_error": 0.0172,
        "uncalibrated": 0.0834,
        "temperature": 1.375,
        "reliability": (
            ReliabilityRow(low=0.0, high=0.5, rows=0),
            ReliabilityRow(low=0.5, high=0.75, rows=40, confidence=0.61, accuracy=0.655),
            ReliabilityRow(low=0.75, high=1.0, rows=900, confidence=0.93, accuracy=0.915),
        ),
        "coverage": (
            CoverageRow(threshold=0.5, coverage=1.0, accuracy=0.873),
            CoverageRow(threshold=0.95, coverage=0.337, accuracy=0.988, accuracy_below=0.777),
        ),
        "given": {NAMES[0]: 3001, NAMES[1]: 2002},
        "routed": {NAMES[0]: 115},
        "below": {NAMES[0]: 9},
        "threshold": 0.55,
    }
    return RouterPart(**{**value, **given})


def systems(value: float) -> dict[str, Accuracy]:
    return {"model": Accuracy(value=value, low=value - 0.01, high=value + 0.01), "task_rm": Accuracy(value=0.611)}


TRAINED = {"start": 0.6611, "loss": 0.5432, "start_loss": 0.6543, "steps": 219, "change": 0.3141, "kept": True}
LINEAR = {"start": 0.5, "loss": 0.691, "start_loss": 0.691, "steps": 200, "change": 0.0, "kept": False}
EXPERTS = (
    CapabilityRow(
        task="chat", name="chat/wit", preferences=1417, held_out=0.7321, agrees=0.6012, share=0.417, true=0.9, **TRAINED
    ),
    CapabilityRow(task="chat", name="chat/overall", preferences=98, held_out=0.5, agrees=0.71, share=0.583, **LINEAR),
    CapabilityRow(task="code", name="code/<b>", preferences=77, held_out=0.81, **TRAINED),
)


def routed(**given) -> RunReport:
    pair = explain_pair(two_tasks(), *PAIRS[0])
    flip = flip_explained(two_tasks(), pair)
    value = {
        "title": "Two tasks",
        "config": "recipe: dmoerm",
        "seconds": {"data": 1.0, "experts of chat": 2.5},
        "pair_accuracy": {"noisy": systems(0.702), "true": systems(0.804)},
        "by_task": {"chat": systems(0.733), "unlabelled": systems(0.654)},
        "router": part(),
        "capabilities": EXPERTS,
        "pair": ExplainedPair(explanation=pair, conversations=PAIRS[0], flip=flip),
        "notes": ("2 tasks, 3 experts on one backbone.",),
    }
    return RunReport(**{**value, **given})


def ids(page) -> set[str | None]:
    return {attributes.get("id") for _, attributes in page.tags}


def test_every_figure_of_router_tasks_and_experts_is_shown() -> None:
    page = check(render_report(routed()))
    text = text_of(page)
    assert {"router", "capabilities", "tasks"} <= ids(page)
    shown = [
        "1,234", "87.3%", "85.1% to 89.5%", "51.2%", "81.2%", "431", "17", "29", "757", "0.017", "0.083", "1.38",
        "Below a confidence of 0.55", "3,001", "2,002", "115", "0.95", "33.7%", "98.8%", "77.7%", *NAMES,
        "chat/wit", "1,417", "73.2%", "60.1%", "41.7%", "90.0%", "58.3%", "code/<b>", "81.0%", "true level",
        "66.1%", "0.543", "0.654", "219", "31.4%", "adapter", "linear head", "0.691",
        "73.3%", "65.4%", "unlabelled", "the task's adapter alone",
        "61.1%", "70.2%", "80.4%", "experts of chat",
        "2 tasks, 3 experts on one backbone.", "of held-out prompts routed correctly, 2 tasks",
    ]  # fmt: skip
    for words in shown:
        assert words in text, words
    html = render_report(routed())
    for trace in ("Undefined", "{{", "}}", "None", "nan", "code/<b>"):
        assert trace not in re.sub(r"<style.*?</style>", "", html, flags=re.DOTALL), trace


def test_what_a_routed_model_has_in_another_form_is_not_missed() -> None:
    text = text_of(check(render_report(routed())))
    left_out = text.partition("Not in this report, because the run has no data for it: ")[2]
    assert "what the model listens to" in left_out
    for name in ("experts", "debiasing", "gate training", "accuracy by source", "weight recovery", "length audit"):
        assert name not in left_out.split(". ")[0].split(", ")


def test_without_a_router_its_sections_are_not_there() -> None:
    page = check(render_report(run_report()))
    assert not {"router", "capabilities", "tasks"} & ids(page)
    single = check(render_report(routed(router=None, by_task={})))
    assert not {"router", "tasks"} & ids(single)
    assert "capabilities" in ids(single)
    assert "prompts routed correctly" not in text_of(single)


def test_columns_and_sentences_that_depend_on_the_run() -> None:
    known = [row.model_copy(update={"true": None}) for row in EXPERTS]
    text = text_of(check(render_report(routed(capabilities=tuple(known), router=part(threshold=0.0)))))
    assert "true level" not in text
    assert "No fall-back is set: the router decides every row." in text
    assert "Below a confidence" not in text
    empty = part(reliability=(ReliabilityRow(low=0.0, high=1.0, rows=0),))
    assert "Reliability: share routed correctly" not in text_of(check(render_report(routed(router=empty))))
    assert "Reliability: share routed correctly" in text_of(check(render_report(routed())))


def test_a_real_router_fills_the_section() -> None:
    rows = prompts(300, seed=4, spread=1.5)
    config = RouterConfig(steps=60, hidden=8, dropout=0.0, batch_size=64, samples=50)
    fit = fit_router(rows.prompt_ND, rows.tasks, groups=rows.groups, config=config)
    counts = AssignmentCounts(
        dict.fromkeys(fit.names, 7), dict.fromkeys(fit.names, 3), dict.fromkeys(fit.names, 2), 0.4
    )
    found = router_part(fit, counts, threshold=0.4)
    assert found is not None
    assert found.accuracy == Accuracy.of(fit.report.accuracy)
    assert found.names == tuple(fit.names)
    assert sum(map(sum, found.confusion)) == found.rows == fit.report.rows
    assert sum(found.confusion[n][n] for n in range(len(found.names))) / found.rows == pytest.approx(
        found.accuracy.value
    )
    assert found.uncalibrated == fit.uncalibrated["calibration_error"]
    assert (found.given, found.routed, found.below) == (counts.given, counts.routed, counts.below)
    assert len(found.coverage) == len(config.thresholds)
    assert found.coverage[0].coverage == 1.0
    assert sum(row.rows for row in found.reliability) == found.rows
    text = text_of(check(render_report(routed(router=found))))
    assert f"{100 * found.accuracy.value:.1f}%" in text
    assert router_part(None, None, threshold=0.0) is None
    bare = router_part(fit, None, threshold=0.0)
    assert bare is not None
    assert (bare.given, bare.routed, bare.below) == ({}, {}, {})


def test_an_interval_of_one_system_by_task_is_shown_where_it_is_known() -> None:
    table = {"chat": {"model": Accuracy.of(Interval(0.71, 0.6, 0.8)), "mine": Accuracy(value=0.33)}}
    text = text_of(check(render_report(routed(by_task=table))))
    assert "71.0% 60% to 80%" in text
    assert "33.0%" in text
    assert "mine" in text
