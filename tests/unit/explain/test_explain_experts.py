"""Explanations of models whose experts read adapters: what is shown, what is not defined, what an ablation finds."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch

from adapter_models import MATHS, NAMED, PAIRS, TALKS, experts, network, one_task, router, two_tasks, weighed
from facetrm.cli.explained import print_overall, print_row
from facetrm.core.errors import ModelError
from facetrm.core.statistics import win_credit
from facetrm.data.read.conversations import ScoringRow
from facetrm.explain.ablation import ablate
from facetrm.explain.ask import explain_local, explain_pair, flip_explained
from facetrm.explain.edits import edit
from facetrm.explain.flip import flip_pair
from facetrm.explain.local import explain_score, explain_scores_pair
from facetrm.explain.overall import explain_overall
from facetrm.explain.terminal import AnswerView, PairView, show
from facetrm.model.concat import ConcatMLP
from facetrm.model.mixture import Mixture
from facetrm.model.reward_model import RewardModel
from facetrm.report.page import render_page
from fakes import NamedHashEncoder, chat


def text_of(view: AnswerView | PairView) -> str:
    out = io.StringIO()
    show(view, file=out, width=140)
    return out.getvalue()


def asked(pairs: list[tuple]) -> list[ScoringRow]:
    return [ScoringRow(str(n), pair, f"row {n}") for n, pair in enumerate(pairs)]


def test_differences_of_shares_sum_to_the_margin_and_nothing_claims_a_weight() -> None:
    for a, b in PAIRS:
        pair = explain_pair(one_task(), a, b)
        flip = flip_explained(one_task(), pair)
        assert flip is None
        assert sum(line.difference for line in pair.lines) == pytest.approx(pair.margin, abs=1e-5)
        assert pair.base_difference == 0.0
        assert pair.same_prompt
        assert pair.probability == pytest.approx(1 / (1 + np.exp(-2.0 * pair.margin)), abs=1e-6)
        assert not pair.a.weighted
        assert {line.weight for line in pair.a.lines} == {line.coefficient for line in pair.a.lines} == {None}
        assert json.loads(json.dumps(pair.to_dict()))["a"]["lines"][0]["coefficient"] is None


def test_experts_that_the_prompt_weighs_are_explained_as_any_gated_sum() -> None:
    a, b = PAIRS[0]
    pair = explain_pair(weighed(), a, b)
    flip = flip_explained(weighed(), pair)
    assert flip is not None
    assert flip.weights
    assert pair.a.weighted
    assert sum(line.weight or 0.0 for line in pair.a.lines) == pytest.approx(1.0, abs=1e-6)
    assert sum(line.difference for line in pair.lines) == pytest.approx(pair.margin, abs=1e-5)


def test_what_would_flip_a_pair_is_not_defined_under_a_network() -> None:
    a, b = one_task().score(PAIRS[0])
    with pytest.raises(ModelError, match="not defined for this aggregator"):
        flip_pair(explain_scores_pair(a, b))


def test_two_prompts_and_two_tasks_are_told_apart() -> None:
    model = two_tasks()
    tasks = model.tasks_of(TALKS)
    chats = [talk for talk, task in zip(TALKS, tasks, strict=True) if task == "chat"]
    one = TALKS[tasks.index("maths")]
    pair = explain_pair(model, chats[0], chats[1])
    flip = flip_explained(model, pair)
    assert not pair.same_prompt
    assert pair.base_difference == 0.0
    assert "The prompts differ, so the answers are not directly comparable." in pair.facts
    mixed = explain_pair(model, chats[0], one)
    flip = flip_explained(model, mixed)
    assert flip is None
    assert mixed.probability is None
    assert any(fact.startswith("Two mixtures scored them (chat, maths)") for fact in mixed.facts)
    total = mixed.base_difference + sum(line.difference for line in mixed.lines)
    assert total == pytest.approx(mixed.margin, abs=1e-5)
    assert {line.objective for line in mixed.lines if line.b is None} == set(model.mixture("chat").names)
    assert "chat/empathy" in text_of(PairView(mixed))


def test_the_text_shows_task_confidence_ratings_and_shares() -> None:
    model = two_tasks()
    for talk in TALKS[:4]:
        answer = explain_local(model, talk)
        shown = text_of(AnswerView(answer, talk))
        assert f"task {answer.task} (router confidence {answer.confidence:.0%})" in shown
        for line in answer.lines:
            assert line.scale is not None
            assert line.objective in shown
            assert f"{line.contribution:+.4f}" in shown
        assert "weight" not in shown.split("Ratings")[1].split("model")[0]
        assert "coefficient" not in shown
    pair = explain_pair(model, *PAIRS[0])
    flip = flip_explained(model, pair)
    assert "not defined: the reward is not a weighted sum of ratings" in text_of(PairView(pair, flip=flip))


def test_the_text_says_when_the_fall_back_scored() -> None:
    model = two_tasks(fallback="chat", threshold=1.0)
    scores = model.score(TALKS)
    score = next(s for s in scores if s.routed == "maths")
    shown = text_of(AnswerView(explain_score(score)))
    assert f"task chat (fallback: the router chose maths with only {score.confidence:.0%} confidence)" in shown
    assert "router" not in text_of(AnswerView(explain_local(one_task(), TALKS[0])))


def test_the_page_has_shares_and_no_gate() -> None:
    a, b = PAIRS[0]
    pair = explain_pair(two_tasks(), a, b)
    flip = flip_explained(two_tasks(), pair)
    page = render_page(pair, conversations=(a, b), flip=flip)
    assert "Shapley value" in page
    assert "gate weight" not in page
    assert "Not defined for this model" in page
    assert "(router confidence " in page
    gated = explain_pair(weighed(), a, b)
    moves = flip_explained(weighed(), gated)
    page = render_page(gated, conversations=(a, b), flip=moves)
    assert "gate weight" in page
    assert "Not defined for this model" not in page
    assert "Shapley" not in page
    assert "contributions" in render_page(explain_local(one_task(), a), conversations=(a,)).lower()


def test_drop_holds_a_vector_at_the_reference_and_is_recorded() -> None:
    model = one_task()
    edited = edit(model, drop=["chat/proactivity"])
    assert edited.hash != model.hash
    assert edited.provenance["edits"] == [{"task": "all", "drop": ["chat/proactivity"], "scale": {}, "pin": {}}]
    total = model.mixture().aggregator
    assert isinstance(total, ConcatMLP)
    features = model.features(TALKS)
    features.response_NAD[:, 1] = total.reference_KD[1]
    expected = model.score_features(features)
    for before, after, held in zip(model.score(TALKS), edited.score(TALKS), expected, strict=True):
        assert after.contributions["chat/proactivity"] == 0.0
        assert after.scores == before.scores
        assert after.base == before.base
        assert after.reward == pytest.approx(held.reward, abs=1e-6)
        assert after.reward != before.reward
        assert after.reward == pytest.approx(after.base + sum(after.contributions.values()), abs=1e-5)
    both = edit(edited, drop=["chat/empathy"])
    assert both.mixture().aggregator.edit.drop == (0, 1)


@pytest.mark.parametrize(("kind", "value"), [("scale", 2.0), ("pin", 1.0)])
def test_scale_and_pin_say_why_they_are_errors(kind: str, value: float) -> None:
    with pytest.raises(ModelError, match=rf"{kind} is not defined for this aggregator.*no weight to {kind}"):
        edit(one_task(), **{kind: {"chat/empathy": value}})  # type: ignore[arg-type]
    assert edit(weighed(), **{kind: {"chat/empathy": value}}).hash != weighed().hash  # type: ignore[arg-type]


def test_an_edit_finds_the_task_of_each_objective() -> None:
    model = two_tasks()
    edited = edit(model, drop=["maths/logic", "chat/empathy"])
    assert edited.mixture("maths").aggregator.edit.drop == edited.mixture("chat").aggregator.edit.drop == (0,)
    assert [record["task"] for record in edited.provenance["edits"]] == ["maths", "chat"]
    for score in edited.score(TALKS):
        assert score.contributions["maths/logic" if score.task == "maths" else "chat/empathy"] == 0.0
    with pytest.raises(ModelError, match="did you mean 'maths/logic'"):
        edit(model, drop=["math/logic"])
    with pytest.raises(ModelError, match="no objective is given for 2 tasks"):
        edit(model)
    twins = {"a": model.mixture("maths"), "b": Mixture(experts("maths", MATHS, 5), network(2, 5))}
    twin = RewardModel(model.encoder, twins, router())
    with pytest.raises(ModelError, match=r"'maths/logic' is an objective of 2 tasks.*one of a, b"):
        edit(twin, drop=["maths/logic"])
    assert edit(twin, drop=["maths/logic"], task="b").mixture("a").aggregator.edit.drop == ()


def test_ablation_is_the_edit_measured() -> None:
    model = one_task()
    chosen, rejected = (model.features([pair[side] for pair in PAIRS]) for side in (0, 1))
    table = ablate(model, chosen, rejected, samples=50)
    margins = (model.output(chosen).reward_N - model.output(rejected).reward_N).double().numpy()
    assert table.accuracy.value == pytest.approx(win_credit(margins).mean())
    assert {line.objective for line in table.lines} == set(model.mixture().names)
    for line in table.lines:
        dropped = edit(model, drop=[line.objective])
        change = [dropped.output(side).reward_N - model.output(side).reward_N for side in (chosen, rejected)]
        assert line.reward.value == pytest.approx(float(torch.cat(change).mean()), abs=1e-6)
        assert line.margin.value == pytest.approx(float((change[0] - change[1]).mean()), abs=1e-6)
        new = (dropped.output(chosen).reward_N - dropped.output(rejected).reward_N).double().numpy()
        assert line.accuracy == pytest.approx(win_credit(new).mean())
    assert table.needed == ()
    last = ablate(edit(model, drop=["chat/empathy", "chat/proactivity"]), chosen, rejected, samples=50)
    assert last.needed == ("chat/content",)


def test_who_is_listened_to_is_told_by_shares_where_there_are_no_weights() -> None:
    model = one_task()
    chosen, rejected = (model.features([pair[side] for pair in PAIRS]) for side in (0, 1))
    whole = explain_overall(model, chosen, rejected, tasks=["x" if n % 2 else "y" for n in range(len(PAIRS))])
    assert whole.everyone.weights == whole.by_task["x"].weights == {}
    both = torch.cat([model.output(side).contributions_NK for side in (chosen, rejected)])
    assert list(whole.everyone.contributions.values()) == pytest.approx(both.abs().mean(0).tolist(), rel=1e-5)
    assert whole.decided is not None


def test_the_command_line_explains_each_task_with_its_own_experts(capsys: pytest.CaptureFixture[str]) -> None:
    model = two_tasks()
    print_overall(model, asked(PAIRS), as_json=True)
    shown = json.loads(capsys.readouterr().out)["tasks"]
    tasks = model.tasks_of([a for a, _ in PAIRS])
    assert {task: part["overall"]["everyone"]["answers"] for task, part in shown.items()} == {
        task: 2 * tasks.count(task) for task in ("chat", "maths")
    }
    assert shown["maths"]["ablation"]["pairs"] == tasks.count("maths")
    print_overall(model, asked(PAIRS), as_json=False)
    text = capsys.readouterr().out
    assert "mean weight" not in text
    assert all(name in text for task in ("chat", "maths") for name in model.mixture(task).names)
    print_row(model, asked(PAIRS)[0], html=None, as_json=True)
    assert json.loads(capsys.readouterr().out)["flip"] is None
    print_overall(one_task(), asked([(talk,) for talk in TALKS]), as_json=True)
    alone = json.loads(capsys.readouterr().out)
    assert alone["ablation"] is None
    assert alone["overall"]["everyone"]["weights"] == {}


def test_a_score_row_is_json_with_every_field() -> None:
    row = json.loads(json.dumps(two_tasks().score(TALKS)[0].to_dict(), allow_nan=False))
    assert row["weights"] == row["coefficients"] == {}
    assert set(row["contributions"]) == set(row["ratings"]) == set(row["scores"])
    assert row["routed"] == row["task"]
    assert 0 < row["confidence"] <= 1


def test_fast_encoders_give_the_same_explanation_of_a_batch() -> None:
    class Fast(NamedHashEncoder):
        @property
        def mode(self) -> str:
            return "fast"

    model = two_tasks()
    fast = RewardModel(Fast(16, named=NAMED), model.mixtures, model.router)
    for one, other in zip(model.score(TALKS), fast.score(TALKS), strict=True):
        assert other.mode == "fast"
        assert other.reward == pytest.approx(one.reward, abs=1e-6)
        assert list(other.contributions.values()) == pytest.approx(list(one.contributions.values()), abs=1e-6)
    twice = chat("question 3 about sums", "well well well well answer 3")
    assert fast.score([twice, twice])[0] == fast.score([twice, twice])[1]
