"""Capability labels that train no expert are counted, and a run in which none would is refused before training."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from facetrm.core.errors import FitError
from facetrm.recipes.armorm.fit import Stopwatch
from facetrm.recipes.backbones import TinyBackbone
from facetrm.recipes.dmoerm import fit as dmoerm
from facetrm.recipes.dmoerm.config import DmoermConfig
from facetrm.recipes.dmoerm.generated import WorldTasks
from facetrm.recipes.dmoerm.labels_used import check_any_expert, needed_text, unused_labels
from facetrm.recipes.dmoerm.rows import cut_phases, load_tasks

CONFIG = DmoermConfig(
    data=WorldTasks(tasks=("chat", "code"), preferences=60, labelled=60, test=20, most=2), tiny=TinyBackbone()
)


def cut(config: DmoermConfig = CONFIG):
    rows = load_tasks(config.data, seed=0)
    return rows, cut_phases(rows, [p.task or "chat" for p in rows.overall], config.split)


def test_labels_of_other_phases_and_of_small_capabilities_are_counted_and_told() -> None:
    rows, phases = cut()
    shared = [p.model_copy(update={"prompt": rows.overall[n].prompt}) for n, p in enumerate(rows.capabilities[:40])]
    rows = replace(rows, capabilities=[*shared, *rows.capabilities[40:]])
    phases = cut_phases(rows, [p.task or "chat" for p in rows.overall], CONFIG.split)
    sizes = {name: len(found) for part in phases.values() for name, found in part.capabilities.items()}
    least = sorted(sizes.values())[-1]
    found = unused_labels(rows.capabilities, phases, least=least)
    assert found.labels == len(rows.capabilities)
    assert found.by_split == len(rows.capabilities) - sum(sizes.values()) > 5
    assert found.too_few == {name: size for name, size in sizes.items() if size < least} != {}
    split, few = found.sentences(CONFIG)
    assert split.startswith(f"{found.by_split} of {found.labels} capability labels train no expert")
    assert "split.experts is 30%" in split
    assert all(f"{name} ({size})" in few for name, size in found.too_few.items())
    assert unused_labels(rows.capabilities, phases, least=2).too_few == {}


def test_a_run_that_would_train_no_expert_is_refused_with_what_to_do() -> None:
    rows, phases = cut()
    check_any_expert(rows.capabilities, phases, CONFIG)
    high = CONFIG.model_copy(update={"experts": CONFIG.experts.model_copy(update={"least": 5000})})
    with pytest.raises(FitError, match="no capability would get an expert") as refused:
        check_any_expert(rows.capabilities, phases, high)
    assert "label about 16667 pairs per capability" in str(refused.value)
    assert "lower experts.least" in str(refused.value)
    check_any_expert([], phases, high)  # a run without labels wants no experts


def test_nothing_is_trained_in_a_refused_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, _ = cut()
    tasks = [p.task or "chat" for p in rows.overall]
    monkeypatch.setattr(dmoerm, "route_rows", lambda *_: (None, tasks, None))
    monkeypatch.setattr(dmoerm, "fit_inner", lambda *_, **__: pytest.fail("an adapter was trained"))
    high = CONFIG.model_copy(update={"experts": CONFIG.experts.model_copy(update={"least": 5000})})
    with pytest.raises(FitError, match="no capability would get an expert"):
        dmoerm.fit_tasks(high, rows, None, tmp_path, Stopwatch())


def test_the_pairs_that_each_capability_needs_are_told_before_labelling() -> None:
    text = needed_text({"chat/wit": 66, "chat/empathy": 67, "code/style": 0})
    assert "each capability needs about 67 labelled pairs (20 on the 30% of the prompts" in text
    assert re.search(r"too few: chat/wit \(66\), code/style \(0\)$", text)
    assert needed_text({"a": 500}).endswith("all have enough")
