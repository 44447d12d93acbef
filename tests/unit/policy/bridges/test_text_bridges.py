"""ms-swift, OpenRLHF, verifiers and distilabel: what they send, what they get, and what a failed row gives."""

from __future__ import annotations

import asyncio
import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from facetrm.core.errors import ConfigError, ModelError
from facetrm.policy.advantages import gdpo_advantages
from facetrm.policy.bridges.distilabel import distilabel_step
from facetrm.policy.bridges.ms_swift import swift_orms
from facetrm.policy.bridges.openrlhf import openrlhf_reward
from facetrm.policy.bridges.scored import sampled_answer
from facetrm.policy.bridges.verifiers import judge_score
from policy_samples import ANSWERS, FAILING, OBJECTIVES, PROMPTS, Moody
from reward_models import model

BOTH = [(prompt, answer) for prompt in PROMPTS for answer in ANSWERS]
REWARDS = [score.reward for score in model().score([sampled_answer(p, a) for p, a in BOTH])]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def swift(classes, pairs, *, ends: bool = True) -> dict[str, list[float]]:
    """Call swift's reward classes as its trainer does; its messages end with the answer or with the prompt."""
    messages = [[user(p), *([assistant(a)] if ends else [])] for p, a in pairs]
    given = {"completions": [answer for _, answer in pairs], "messages": messages, "solution": [None] * len(pairs)}
    return {name: kind(args=SimpleNamespace())(**given) for name, kind in classes.items()}


def test_swift_classes_share_a_pass() -> None:
    scorer = model()
    classes = swift_orms(scorer)
    assert set(classes) == {"reward", "test_helpful", "test_honest", "test_wordy", "length"}
    assert all(kind.__name__ == name for name, kind in classes.items())
    found = swift(classes, BOTH)
    assert scorer.encoder.calls == 1
    assert found["reward"] == REWARDS
    assert swift(classes, BOTH, ends=False) == found
    assert set(swift_orms(Moody(), objectives=["reward", "a b"])) == {"reward", "objective_reward", "a_b"}
    assert len(swift_orms(Moody(), objectives=["a b", "a.b", "a_b"])) == 4, "no objective takes another's name"


@pytest.mark.parametrize("failing", FAILING)
def test_a_failed_row_of_swift_gets_the_mean_of_its_group(failing: str) -> None:
    pairs = [*BOTH, (PROMPTS[1], failing)]
    found = swift(swift_orms(Moody(), objectives=OBJECTIVES), pairs)
    whole = swift(swift_orms(model()), BOTH)
    groups = [prompt for prompt, _ in pairs]
    for name, column in found.items():
        assert column[:-1] == pytest.approx(whole[name])
        assert column[-1] == pytest.approx(sum(whole[name][4:]) / 4)
    columns = torch.tensor([found[name] for name in found], dtype=torch.float64).T
    assert abs(float(gdpo_advantages(columns, groups)[-1])) < 1e-6
    alone = swift(swift_orms(Moody(), objectives=OBJECTIVES), [(PROMPTS[0], failing)] * 2)
    assert all(column == [0.0, 0.0] for column in alone.values())


def test_swift_without_messages_gives_numbers() -> None:
    assert swift_orms(model())["reward"]()(completions=["a", "b"]) == [0.0, 0.0]


CHATML = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("template", "end"), [(CHATML, "<|im_end|>"), ("{}", ""), (CHATML, "<|im_end|><|endoftext|>\n")]
)
def test_openrlhf_reads_rendered_text(template: str, end: str) -> None:
    prompts = [template.format(prompt) for prompt, _ in BOTH]
    queries = [prompt + answer + end for prompt, (_, answer) in zip(prompts, BOTH, strict=True)]
    found = openrlhf_reward(model())(queries=queries, prompts=prompts, labels=[None] * 8)
    assert found["rewards"].tolist() == pytest.approx(REWARDS)
    assert ((found["scores"] > 0) & (found["scores"] < 1)).all()
    order = [sorted(range(4), key=lambda n, key=key: float(found[key][n])) for key in ("rewards", "scores")]
    assert order[0] == order[1]
    assert set(found["extra_logs"]) == {"failed", *OBJECTIVES}
    assert not found["extra_logs"]["failed"].any()


@pytest.mark.parametrize("failing", FAILING)
def test_openrlhf_gets_a_number_for_a_failed_row(failing: str) -> None:
    reward_func = openrlhf_reward(Moody(), objectives=OBJECTIVES, missing=-4.0)
    found = reward_func([PROMPTS[0] + failing, PROMPTS[0] + "fine"], [PROMPTS[0]] * 2, None)
    assert found["rewards"][0] == -4.0
    assert found["scores"][0] == 0.0
    assert found["extra_logs"]["failed"].tolist() == [1.0, 0.0]
    assert all(torch.isfinite(values).all() for values in (found["rewards"], *found["extra_logs"].values()))
    other = reward_func(["something else"], [PROMPTS[0]])
    assert other["extra_logs"]["failed"].tolist() == [1.0]


def test_openrlhf_takes_messages_as_labels() -> None:
    odd = "[INST] question [/INST]"
    reward_func = openrlhf_reward(model(), read=lambda prompt, response, label: label)
    label = [user(PROMPTS[0])]
    assert reward_func([odd + ANSWERS[0]], [odd], [label])["rewards"].tolist() == pytest.approx(REWARDS[:1])
    refused = openrlhf_reward(model())([odd + ANSWERS[0]], [odd], [label])
    assert refused["extra_logs"]["failed"].tolist() == [1.0]


def rollout(prompt: str, answer: str):
    return SimpleNamespace(prompt_text=prompt), SimpleNamespace(last_reply=answer)


def test_a_judge_gives_the_reward_or_its_parts() -> None:
    task, trace = rollout(*BOTH[0])
    assert asyncio.run(judge_score(model())(task, trace)) == REWARDS[0]
    parts = asyncio.run(judge_score(model(), parts=True)(task, trace))
    assert list(parts) == ["base", *OBJECTIVES]
    assert math.fsum(parts.values()) == pytest.approx(REWARDS[0], abs=1e-5)


def test_names_that_a_trainer_uses_are_refused_as_objectives() -> None:
    for make, name in ((partial(judge_score, parts=True), "base"), (openrlhf_reward, "failed")):
        with pytest.raises(ConfigError, match=f"an objective is named '{name}'"):
            make(Moody(), objectives=[name])


@pytest.mark.parametrize("failing", FAILING)
def test_a_judge_without_a_verdict_raises(failing: str) -> None:
    with pytest.raises(ModelError, match="judge: no reward: "):
        asyncio.run(judge_score(Moody(), objectives=OBJECTIVES)(*rollout(PROMPTS[0], failing)))


def test_distilabel_rows_keep_their_columns() -> None:
    rows = [
        {"instruction": PROMPTS[0], "response": ANSWERS[0], "id": 7},
        {"conversation": [user(PROMPTS[0]), assistant(ANSWERS[1])]},
        {"instruction": PROMPTS[0], "response": "broken"},
        {"instruction": PROMPTS[0]},
    ]
    (found,) = distilabel_step(Moody(), objectives=OBJECTIVES)(rows)
    assert [row["score"] for row in found] == [*REWARDS[:2], None, None]
    assert [row["reason"] is None for row in found] == [True, True, False, False]
    assert found[0].items() >= rows[0].items()
    assert "give instruction and response, or conversation" in found[3]["reason"]
    assert {tuple(row["contributions"]) for row in found} == {OBJECTIVES}
    assert set(found[2]["contributions"].values()) == {None}
