from __future__ import annotations

import pytest
import torch

from facetrm.core.errors import ModelError
from facetrm.data.records import Conversation
from facetrm.model.aggregate import GatedSum, WeightEdit
from facetrm.model.gate import Gate, GateShape
from facetrm.model.mixture import Mixture
from facetrm.model.reward_model import RewardModel
from fakes import HashEncoder
from reward_models import HIDDEN, QUESTIONS, mixture, model, routed


def test_scores_are_whole_readable_and_in_order() -> None:
    scorer = model()
    scores = scorer.score(QUESTIONS)
    assert len(scores) == 12
    for messages, score in zip(QUESTIONS, scores, strict=True):
        assert score.reward == pytest.approx(score.base + sum(score.contributions.values()), abs=1e-5)
        assert score.length == len(messages[-1].content.split())
        assert score.ratings["test-helpful"] == pytest.approx(5 * score.scores["test-helpful"] - 0.5)
        assert sum(score.weights.values()) == pytest.approx(1.0, abs=1e-5)
        assert score.weights["length"] == 0.0
        assert (score.task, score.model, score.template) == ("all", scorer.hash, scorer.encoder.template_hash)
        assert score.mode == scorer.encoder.mode == "exact"
    assert len({score.reward for score in scores}) == 12
    assert [s.reward for s in scorer.score(QUESTIONS[::-1])] == pytest.approx(
        [s.reward for s in scores[::-1]], abs=1e-6
    )


def test_nothing_in_nothing_out() -> None:
    scorer = model()
    assert scorer.score([]) == []
    assert scorer.encoder.calls == 0  # type: ignore[attr-defined]
    assert scorer.score_features(scorer.encoder.encode([])) == []


def test_batch_size_does_not_change_a_score() -> None:
    scorer = model()
    together = scorer.score(QUESTIONS)
    for messages, score in zip(QUESTIONS, together, strict=True):
        assert scorer.score([messages])[0].reward == pytest.approx(score.reward, abs=1e-6)


def test_the_hash_names_what_is_computed() -> None:
    scorer = model()
    assert scorer.hash == model().hash
    assert scorer.hash != RewardModel(HashEncoder(HIDDEN), {"all": mixture(seed=1)}, provenance={"data": "abc"}).hash
    assert scorer.hash != RewardModel(HashEncoder(HIDDEN, seed=1), {"all": mixture()}, provenance={"data": "abc"}).hash
    edited = scorer.with_mixture(scorer.mixture().with_edit(WeightEdit(drop=(0,))))
    assert scorer.hash != edited.hash
    assert edited.score(QUESTIONS)[0].contributions["test-helpful"] == 0.0
    assert scorer.score(QUESTIONS)[0].contributions["test-helpful"] != 0.0


def test_margins_become_probabilities() -> None:
    probability_N = model().margin_probability(torch.tensor([0.0, 1.0, -1.0]))
    assert probability_N.tolist() == pytest.approx([0.5, 0.9525741, 0.0474259], abs=1e-6)


def test_a_router_sends_each_row_to_its_mixture_and_keeps_the_order() -> None:
    scorer = routed()
    scores = scorer.score(QUESTIONS)
    features = scorer.encoder.encode(QUESTIONS)
    tasks = [scorer.tasks[i] for i in scorer.route(features).tolist()]
    assert [score.task for score in scores] == tasks
    assert set(tasks) == {"poems", "sums"}
    for task in ("poems", "sums"):
        reward_N = scorer.output(features, task=task).reward_N
        for n, score in enumerate(scores):
            if score.task == task:
                assert score.reward == pytest.approx(float(reward_N[n]), abs=1e-6)
                assert tuple(score.contributions) == scorer.mixture(task).names


def test_wrong_parts_are_named() -> None:
    with pytest.raises(ModelError, match="2 mixtures, but there is no router"):
        RewardModel(HashEncoder(HIDDEN), {"a": mixture(), "b": mixture()})
    with pytest.raises(ModelError, match="hidden size of the experts of 'all' is 16, that of the encoder is 8"):
        RewardModel(HashEncoder(8), {"all": mixture()})
    with pytest.raises(ModelError, match="did you mean 'sums'"):
        routed().mixture("sum")
    with pytest.raises(ModelError, match="name one of poems, sums"):
        routed().mixture()
    parts = mixture()
    with pytest.raises(ModelError, match="4 experts, but the aggregator has 3"):
        Mixture(parts.experts, GatedSum(Gate(GateShape(HIDDEN, 3))))
    with pytest.raises(ModelError, match="beta"):
        Mixture(parts.experts, parts.aggregator, beta=0.0)


def test_a_reward_that_is_not_finite_is_refused() -> None:
    class Broken(HashEncoder):
        def encode(self, conversations: list[Conversation], **_: object) -> object:  # type: ignore[override]
            features = super().encode(conversations)
            features.response_NAD[1] = float("nan")
            return features

    with pytest.raises(ModelError, match="the reward of a conversation of 8 tokens is nan"):
        RewardModel(Broken(HIDDEN), {"all": mixture()}).score(QUESTIONS[:3])  # type: ignore[arg-type]


def test_an_edit_of_a_task_that_shares_its_mixture_leaves_the_others_alone() -> None:
    plain = routed()
    one = plain.mixture(plain.tasks[0])
    shared = RewardModel(plain.encoder, dict.fromkeys(plain.tasks, one), plain.router)
    last = shared.tasks[-1]
    edited = shared.with_mixture(one.with_edit(WeightEdit(drop=(0,))), task=last)
    assert edited.mixture(shared.tasks[0]) is one
    assert edited.mixture(last).aggregator.edit.drop == (0,)
    (score,) = edited.score_features(edited.features(QUESTIONS[:1]), task=last)
    assert score.task == last
