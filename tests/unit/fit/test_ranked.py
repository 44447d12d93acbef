"""Ranked responses as a batch: every pair of a group once, groups alike, the loss that the formula says."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch

from expert_samples import group, opened, random_head
from facetrm.core.errors import BackboneError, FitError
from facetrm.fit.experts.ranked import RankedCollator, RankedRows, ranked_pairs
from facetrm.fit.finetune.model import TrainableHeads, TrunkWithHeads
from fakes import chat, tiny_decoder, tiny_encoder


def test_every_pair_of_a_group_stands_once_and_groups_count_alike():
    better, worse, weight = ranked_pairs([2, 4, 3])
    expected = [(0, 1), *combinations(range(2, 6), 2), *combinations(range(6, 9), 2)]
    assert list(zip(better, worse, strict=True)) == expected
    assert weight == pytest.approx([1.0] + 6 * [1 / 6] + 3 * [1 / 3])
    assert ranked_pairs([]) == ([], [], [])


@pytest.fixture(scope="module", params=["decoder", "encoder"])
def encoder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranked") / request.param
    return opened(tiny_decoder(folder) if request.param == "decoder" else tiny_encoder(folder))


def batch_of(encoder, groups):
    rows = RankedRows(encoder, groups)
    assert len(rows) == len(groups)
    return RankedCollator(encoder.pad)([rows[n] for n in range(len(rows))])


def whole(encoder, head_D):
    heads = TrainableHeads(encoder.hidden_size, 0, preference=True, seed=0)
    with torch.no_grad():
        heads.preference_D.copy_(head_D)
    pooled = encoder.kind == "encoder"
    return TrunkWithHeads(encoder.model, heads, regression=0.0, preference=1.0, pooled=pooled).eval()


def by_hand(encoder, groups, head_D):
    """Return the mean over groups of the mean over pairs of log(1 + exp(worse - better)), in float64."""
    means = []
    for one in groups:
        talks = [(*one.prompt, answer) for answer in one.responses]
        rewards = [float(encoder.encode([talk]).response_NAD[0, 0].double() @ head_D.double()) for talk in talks]
        losses = [math.log1p(math.exp(low - high)) for high, low in combinations(rewards, 2)]
        means.append(sum(losses) / len(losses))
    return sum(means) / len(means)


def test_the_loss_of_a_batch_is_the_formula_on_what_scoring_reads(encoder):
    groups = [group(1, 2), group(2, 4), group(3, 2), group(4, 4)]
    head_D = 30 * random_head(encoder.hidden_size)
    with torch.no_grad():
        found = whole(encoder, head_D)(**batch_of(encoder, groups))
        turned = whole(encoder, -head_D)(**batch_of(encoder, groups))
    assert float(found["loss"]) == pytest.approx(by_hand(encoder, groups, head_D), rel=1e-4)
    assert float(turned["loss"]) == pytest.approx(by_hand(encoder, groups, -head_D), rel=1e-4)
    assert abs(float(found["loss"] - turned["loss"])) > 0.01
    assert float(found["preference"]) == float(found["loss"])


def test_a_batch_reads_each_response_once_with_its_own_span(encoder):
    groups = [group(1, 3), group(2, 2)]
    batch = batch_of(encoder, groups)
    talks = [(*g.prompt, answer) for g in groups for answer in g.responses]
    assert len(batch["input_ids"]) == len(talks) == 5
    for n, talk in enumerate(talks):
        row = encoder.tokenize(talk)
        size = len(row.ids)
        assert batch["input_ids"][n, :size].tolist() == list(row.ids)
        assert batch["input_ids"][n, size:].tolist() == [encoder.pad] * (batch["input_ids"].shape[1] - size)
        assert batch["attention_mask"][n].tolist() == [1] * size + [0] * (batch["input_ids"].shape[1] - size)
        if encoder.kind == "encoder":
            assert batch["token_type_ids"][n, :size].tolist() == list(row.types)
            # What the trunk reads of an answer is its mean; the closing [SEP] is no part of it.
            start, stop = int(batch["start_N"][n]), int(batch["stop_N"][n])
            assert 0 < start < stop <= size
            assert encoder.encode([talk]).length_N[0] == stop - start
        else:
            assert "token_type_ids" not in batch
            assert int(batch["stop_N"][n]) == size
    rows = RankedRows(encoder, groups)
    assert rows.tokens == sum(len(encoder.tokenize(talk).ids) for talk in talks)
    assert rows.truncated == 0


def test_the_dialogue_before_the_last_question_is_read(encoder):
    """The released code reads the last question alone."""
    answers = group(1, 2).responses
    talks = [chat("hello", "hi there", "and now?", "x")[:-1], chat("goodbye", "see you", "and now?", "x")[:-1]]
    rows = [group(1).model_copy(update={"prompt": talk, "responses": answers}) for talk in talks]
    batch = batch_of(encoder, rows)
    for n, one in enumerate(rows):
        ids = encoder.tokenize((*one.prompt, answers[0])).ids
        assert batch["input_ids"][2 * n, : len(ids)].tolist() == list(ids)
    assert not torch.equal(batch["input_ids"][0], batch["input_ids"][2])


def test_rows_that_cannot_be_learned_from_are_named(tmp_path, encoder):
    with pytest.raises(FitError, match="no preference to learn from"):
        RankedRows(encoder, [])
    short = opened(tiny_decoder(tmp_path / "short", max_tokens=40))
    long = group(7, 3)
    responses = (*long.responses[:2], chat("x", "yes " * 40)[-1])
    with pytest.raises(BackboneError, match=r"preference 7: .* above the limit of 40"):
        RankedRows(short, [group(1), long.model_copy(update={"responses": responses})])
