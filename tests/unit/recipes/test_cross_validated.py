"""Accuracy that is cross-validated by prompt: no gate sees the prompts that it is measured on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

import facetrm.recipes.armorm.cross_validated as module
from facetrm.core.config import parse_config
from facetrm.core.errors import FitError
from facetrm.core.statistics import win_credit
from facetrm.recipes.armorm.config import ArmormConfig, CompareSection
from facetrm.recipes.armorm.cross_validated import cross_validated
from facetrm.recipes.run import Run
from tiny_runs import recipe


def config(**compare: Any) -> ArmormConfig:
    return parse_config(ArmormConfig, recipe(compare={"bag_of_words": 0, "samples": 50, **compare}), place="test")


def test_no_gate_is_measured_on_prompts_that_it_saw(tiny_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[str]] = []
    made: list[Any] = []
    real = module.fit_mixture

    def watched(config: Any, experts: Any, debias: Any, pairs: Any, **more: Any) -> Any:
        seen.append(set(pairs.groups))
        assert len(more["scores"][0]) == len(pairs)
        made.append(real(config, experts, debias, pairs, **more))
        return made[-1]

    monkeypatch.setattr(module, "fit_mixture", watched)
    found = cross_validated(config(folds=3), tiny_run.rows, tiny_run.fit)
    assert found is not None
    accuracy, pairs = found
    every = set(tiny_run.fit.gate_pairs.groups)
    assert len(seen) == 3
    held = [every - kept for kept in seen]
    assert set.union(*held) == every, "each prompt is held out once"
    assert sum(map(len, held)) == len(every)
    assert max(map(len, held)) - min(map(len, held)) <= 1
    assert pairs == len(tiny_run.fit.gate_pairs)
    right: list[float] = []
    whole = tiny_run.fit.gate_pairs.whole()
    for kept, (mixture, _) in zip(seen, made, strict=True):
        credit_N = win_credit(mixture.margins(whole.chosen, whole.rejected).detach().numpy())
        right += [c for c, group in zip(credit_N, whole.groups, strict=True) if group not in kept]
    assert accuracy.value == pytest.approx(np.mean(right))
    assert accuracy.low <= accuracy.value <= accuracy.high


def test_it_finds_what_the_pairs_say_and_nothing_in_coin_tosses(tiny_run: Run) -> None:
    """Labels that follow the scores are predicted; labels that follow nothing are not."""
    fit = tiny_run.fit
    random = np.random.default_rng(0)
    chosen_NK, rejected_NK = module.expert_scores(fit.mixture.linear_experts, fit.gate_pairs)
    whole = fit.gate_pairs.whole()
    ahead_N = fit.mixture.margins(whole.chosen, whole.rejected) > 0
    found = {}
    for name, swap_N in (("clear", ~ahead_N.numpy()), ("tossed", random.random(len(ahead_N)) < 0.5)):
        keep = np.asarray(swap_N)[:, None]
        scores = (
            chosen_NK.new_tensor(np.where(keep, rejected_NK.numpy(), chosen_NK.numpy())),
            chosen_NK.new_tensor(np.where(keep, chosen_NK.numpy(), rejected_NK.numpy())),
        )
        measured = cross_validated(config(folds=5), tiny_run.rows, replace(fit, scores=scores))
        assert measured is not None
        found[name] = measured[0].value
    assert found["clear"] >= 0.8
    assert found["tossed"] <= 0.6


def test_pairs_whose_prompt_was_rated_do_not_count(tiny_run: Run) -> None:
    rows, gate = tiny_run.rows, tiny_run.rows.gate
    shared = rows.heads[0].model_copy(update={"messages": gate[0].chosen})
    found = cross_validated(config(folds=3), replace(rows, heads=[*rows.heads, shared]), tiny_run.fit)
    assert found is not None
    assert found[1] == sum(pair.prompt_key != gate[0].prompt_key for pair in gate)
    scores = module.expert_scores(tiny_run.fit.mixture.linear_experts, tiny_run.fit.gate_pairs)
    crossed = replace(tiny_run.fit, scores=scores)
    again = cross_validated(config(folds=3), replace(rows, heads=[*rows.heads, shared]), crossed)
    assert again is not None
    assert again[1] == len(gate), "cross-fitted scores did not see the prompt"


def test_it_is_left_out_where_it_says_nothing_new_or_nothing_true(tiny_run: Run) -> None:
    rows, fit = tiny_run.rows, tiny_run.fit
    assert cross_validated(config(folds=0), rows, fit) is None
    prompts = len({pair.prompt_key for pair in rows.test})
    assert cross_validated(config(few=prompts), rows, fit) is None, "enough held-out prompts"
    assert cross_validated(config(few=prompts + 1), rows, fit) is not None
    leaking = config()
    leaking = leaking.model_copy(update={"experts": leaking.experts.model_copy(update={"preference": True})})
    assert cross_validated(leaking, rows, fit) is None, "the preference expert learned from these pairs"
    with pytest.raises(ValidationError, match="one fold leaves nothing to fit on"):
        CompareSection(folds=1)


def test_a_fold_that_cannot_be_fitted_leaves_the_run_alive(tiny_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise FitError("the training prompts have 1 task", place="gate", fix="give more")

    monkeypatch.setattr(module, "fit_mixture", fails)
    assert cross_validated(config(), tiny_run.rows, tiny_run.fit) is None


def test_the_verdict_says_it_in_a_sentence(tiny_run: Run) -> None:
    """In the terminal's lines, in the metrics, in the report and on the card."""
    verdict = tiny_run.judgement.verdict
    assert verdict.cross_validated is not None
    (sentence,) = verdict.evidence
    assert f"({verdict.cross_pairs} training pairs)" in sentence
    assert f"{100 * verdict.cross_validated.value:.1f}%" in sentence
    assert f"  {sentence}" in verdict.lines()
    assert tiny_run.metrics["verdict"]["evidence"] == [sentence]
    assert sentence in (tiny_run.folder / "report.html").read_text(encoding="utf-8")
    assert sentence in (tiny_run.folder / "model" / "README.md").read_text(encoding="utf-8")
