"""A ranking weighs as much as one pair in every fit, shared by its pairs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from facetrm.core.errors import FitError
from facetrm.data.records import Message, Preference
from facetrm.data.views import as_pairs
from facetrm.fit.experts.ranked import ranked_pairs
from facetrm.fit.finetune.config import FineTuneConfig
from facetrm.fit.finetune.rows import Collator, MixedRows
from facetrm.fit.rankings import preference_weights, ranking_of, ranking_shares
from facetrm.recipes.reading import RowsReader
from fakes import HashEncoder, tiny_decoder
from finetune_samples import opened


def ranking(n: int, *answers: str, source: str = "s") -> Preference:
    return Preference(
        id=f"r{n}",
        source=source,
        prompt=(Message(role="user", content=f"question {n}"),),
        responses=tuple(Message(role="assistant", content=text) for text in answers),
    )


NINE = as_pairs(ranking(0, *"abcdefghi"))
TWO = as_pairs(ranking(1, "a", "b"))


def test_nine_answers_weigh_as_much_as_two() -> None:
    weights = preference_weights([*NINE, *TWO])
    assert len(weights) == 37
    assert weights.mean() == pytest.approx(1.0)
    assert weights[:36].sum() == pytest.approx(weights[36])
    assert ranking_shares(NINE).tolist() == pytest.approx(ranked_pairs([9])[2]), "the rule of the other family"


def test_pairs_alone_weigh_as_before() -> None:
    pairs = [ranking(n, "a", "b", source="one" if n % 3 else "two") for n in range(9)]
    assert preference_weights(pairs).tolist() == [1.0] * 9
    by_source = preference_weights(pairs, balance=1.0)
    assert by_source[0] == pytest.approx(2 * by_source[1])


def test_a_source_of_rankings_is_as_large_as_its_rankings_are_many() -> None:
    large = [pair for n in range(4) for pair in as_pairs(ranking(n, *"abcdefghi", source="large"))]
    small = [ranking(n, "a", "b", source="small") for n in range(4)]
    for balance in (0.0, 0.5, 1.0):
        weights = preference_weights([*large, *small], balance=balance)
        assert weights[:144].sum() == pytest.approx(weights[144:].sum()), "four of each"
    with pytest.raises(FitError, match="balance is 2"):
        preference_weights([*large, *small], balance=2.0)


def test_what_is_left_of_a_ranking_shares_its_weight() -> None:
    left = [pair for pair in NINE if 8 not in ranking_of(pair)[1:]]
    assert ranking_shares(left).tolist() == pytest.approx([1 / 28] * 28)
    assert ranking_shares([*NINE, *NINE]).tolist() == pytest.approx([1 / 36] * 72), "twice in the data counts twice"


def test_an_answer_that_stands_twice_keeps_its_better_place() -> None:
    row = ranking(2, "a", "b", "a", "c")
    [kept] = RowsReader(HashEncoder()).training([row])
    assert [r.content for r in kept.responses] == ["a", "b", "c"]
    reader = RowsReader(HashEncoder())
    pairs = reader.training(as_pairs(row))
    assert [(p.chosen[-1].content, p.rejected[-1].content) for p in pairs] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert ranking_shares(pairs).tolist() == pytest.approx([1 / 3] * 3)
    found = reader.done([row]).to_dict()["equal_pairs"]
    assert found["training"] == {"of": 6, "given_equal": 1, "equal_after_truncation": 0, "read_alike": 0}
    assert found["test"] == found["training"]


def test_fine_tuning_weighs_them_the_same_way(tmp_path: Path) -> None:
    config = FineTuneConfig(regression=0.0, pairs=4)
    base = tiny_decoder(tmp_path / "base")

    def batch(pairs: list[Preference]) -> dict[str, torch.Tensor]:
        rows = MixedRows(opened(base), ratings=(), objectives=(), preferences=pairs, config=config)
        return Collator(0, 0)([rows[n] for n in range(len(rows))])

    mixed = batch([*as_pairs(ranking(0, "a", "b", "c")), *TWO])
    assert sorted(mixed["weight_P"].tolist()) == pytest.approx([1 / 3, 1 / 3, 1 / 3, 1.0])
    assert "weight_P" not in batch([*TWO, ranking(2, "c", "d")])
