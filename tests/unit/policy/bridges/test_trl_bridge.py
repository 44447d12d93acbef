"""Reward functions for TRL: what they return, and GRPO's trainer on them, with the passes of the model counted."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import trl
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from facetrm.data.world import World
from facetrm.policy.advantages import grouped_advantages
from facetrm.policy.bridges.scored import RewardSource, sampled_answer
from facetrm.policy.bridges.trl import TrlColumn, trl_advantages, trl_reward, trl_rewards
from facetrm.recipes.toy import toy_model
from fakes import tiny_decoder
from policy_samples import ANSWERS, FAILING, OBJECTIVES, PROMPTS, Moody
from reward_models import model, routed

STEPS, GENERATIONS, ROWS = 3, 4, 8
BOTH = [prompt for prompt in PROMPTS for _ in ANSWERS]


def call(columns: list[TrlColumn], prompts=BOTH, completions=ANSWERS * 2, **others):
    """Call reward functions as the trainer does: one after the other, with everything by name."""
    given = {"completion_ids": [[1]] * len(prompts), "trainer_state": None, "log_extra": None, **others}
    return [column(prompts=prompts, completions=completions, **given) for column in columns]


def test_columns_sum_to_the_reward_and_cost_one_pass() -> None:
    scorer = model()
    columns = trl_rewards(scorer)
    found = call(columns)
    assert scorer.encoder.calls == 1
    assert tuple(column.__name__ for column in columns) == OBJECTIVES
    scores = scorer.score([sampled_answer(p, a) for p, a in zip(BOTH, ANSWERS * 2, strict=True)])
    for n, score in enumerate(scores):
        assert score.base + math.fsum(column[n] for column in found) == pytest.approx(score.reward, abs=1e-5)
    assert call([trl_reward(scorer)]) == [[score.reward for score in scores]]
    assert [column.__name__ for column in trl_rewards(scorer, objectives=["length"])] == ["length"]


def test_messages_and_text_give_the_same() -> None:
    prompts = [[{"role": "user", "content": prompt}] for prompt in BOTH]
    completions = [[{"role": "assistant", "content": answer}] for answer in ANSWERS * 2]
    column = trl_reward(model())
    assert call([column], prompts, completions) == call([column])


@pytest.mark.parametrize("failing", FAILING)
def test_a_failed_row_is_none_in_every_column(failing: str) -> None:
    completions = [*ANSWERS, failing, *ANSWERS[1:]]
    source = RewardSource(Moody(), objectives=OBJECTIVES)
    parts = [TrlColumn(source, name, lambda s, _, name=name: s.contributions(name)) for name in OBJECTIVES]
    for column in call([*parts, trl_reward(Moody(), objectives=OBJECTIVES)], completions=completions):
        assert [value is None for value in column] == [False] * 4 + [True] + [False] * 3
        assert all(math.isfinite(value) for value in column if value is not None)


def test_the_advantage_column_keeps_the_gate_of_each_prompt() -> None:
    scorer = routed()
    order = np.random.default_rng(0).permutation(8)
    prompts, completions = [BOTH[n] for n in order], [(ANSWERS * 2)[n] for n in order]
    (found,) = call([trl_advantages(scorer)], prompts, completions)
    expected = dict.fromkeys(range(8), 0.0)
    for prompt in PROMPTS:
        rows = [n for n in range(8) if prompts[n] == prompt]
        scores = scorer.score([sampled_answer(prompt, completions[n]) for n in rows])
        names = list(scores[0].scores)
        ratings, weights = (
            np.array([[getattr(score, part)[name] for name in names] for score in scores])
            for part in ("scores", "coefficients")
        )
        weights /= np.abs(weights).sum(axis=1, keepdims=True)
        expected |= dict(zip(rows, grouped_advantages(ratings, weights, [0] * len(rows)), strict=True))
    np.testing.assert_allclose(found, list(expected.values()), atol=1e-12)
    assert np.abs(found).max() > 0.05
    assert call([trl_advantages(scorer)], PROMPTS, ["fine", " "])[0] == [0.0, None]


def test_the_combined_column_tells_each_objective() -> None:
    told: dict[str, float] = {}
    call([trl_reward(model())], PROMPTS, ["fine", " "], log_metric=told.__setitem__)
    assert told.pop("facetrm/failed") == 0.5
    score = model().score([sampled_answer(PROMPTS[0], "fine")])[0]
    assert told == pytest.approx({f"facetrm/{name}": value for name, value in score.contributions.items()})
    nothing: dict[str, float] = {}
    call([trl_reward(model())], PROMPTS, [" ", " "], log_metric=nothing.__setitem__)
    assert nothing == {"facetrm/failed": 1.0}


class Counted:
    """A reward model whose calls, and whose trunk's passes, are counted."""

    def __init__(self) -> None:
        self.model = toy_model(("a", "b", "c"))
        self.warm = next(World().preferences(1)).chosen
        self.model.score([self.warm])  # the first call also checks that packs are read right
        self.calls = self.passes = 0
        self.model.encoder.model.register_forward_hook(self._pass)

    def _pass(self, *_: object) -> None:
        self.passes += 1

    def score(self, conversations):
        self.calls += 1
        return self.model.score(conversations)

    @property
    def objectives(self) -> list[str]:
        return list(self.model.mixture().names)


@pytest.fixture(scope="module")
def policy(tmp_path_factory) -> Path:
    return tiny_decoder(tmp_path_factory.mktemp("policy") / "model", style="chatml", pad="<|im_start|>")


def train(policy: Path, folder: Path, rewards: list[TrlColumn], **settings) -> trl.GRPOTrainer:
    prompts = [[{"role": "user", "content": text}] for text in ("write a program .", "refuse theft .", "two plus two")]
    trainer = trl.GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(policy),
        processing_class=AutoTokenizer.from_pretrained(policy),
        reward_funcs=rewards,
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        args=trl.GRPOConfig(
            output_dir=str(folder),
            max_steps=STEPS,
            per_device_train_batch_size=ROWS,
            num_generations=GENERATIONS,
            max_completion_length=6,
            learning_rate=1e-3,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
            **settings,
        ),
    )
    trainer.train()
    return trainer


def passes_of_one(scorer: Counted) -> int:
    before = scorer.passes
    scorer.model.score([scorer.warm] * ROWS)
    return scorer.passes - before


@pytest.mark.parametrize("kind", ["combined", "gdpo", "advantages"])
def test_grpo_trains_with_one_pass_for_all_objectives(kind: str, policy: Path, tmp_path: Path) -> None:
    scorer = Counted()
    settings: dict[str, object] = {}
    if kind == "combined":
        rewards = [trl_reward(scorer, objectives=scorer.objectives)]
    elif kind == "gdpo":
        rewards, settings = (
            trl_rewards(scorer, objectives=scorer.objectives),
            {"multi_objective_aggregation": "normalize_then_sum"},
        )
        assert len(rewards) == 3
    else:
        rewards, settings = [trl_advantages(scorer, objectives=scorer.objectives)], {"scale_rewards": "none"}
    once = passes_of_one(scorer)
    scorer.passes = 0
    trainer = train(policy, tmp_path, rewards, **settings)
    assert scorer.calls == STEPS
    assert scorer.passes == STEPS * once == STEPS
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert [log["step"] for log in logs] == [1, 2, 3]
    assert all(math.isfinite(log[key]) for log in logs for key in ("loss", "grad_norm", "reward", "reward_std"))
    assert any(log["grad_norm"] > 0 for log in logs)
    assert all(f"rewards/{column.__name__}/mean" in logs[0] for column in rewards)
    if kind != "gdpo":
        assert {f"facetrm/{name}" for name in ("a", "b", "c", "failed")} <= logs[0].keys()
