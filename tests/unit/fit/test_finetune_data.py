"""The mix of rated rows and pairs: what a batch holds, in which order, and that it is what scoring reads."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from facetrm.core.errors import BackboneError, FitError
from facetrm.data.records import Rating
from facetrm.fit.finetune.rows import Collator, MixedRows, rounds
from fakes import chat, tiny_decoder, tiny_encoder
from finetune_samples import OBJECTIVES, PREFERENCES, RATINGS, opened, rows, settings


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_decoder(tmp_path_factory.mktemp("b") / "llama")


def test_rounds_go_through_all_rows_before_any_comes_again():
    order = rounds(7, 20, seed=3)
    assert sorted(order[:7]) == sorted(order[7:14]) == list(range(7))
    assert list(order[:7]) != list(order[7:14])
    assert max(Counter(order.tolist()).values()) - min(Counter(order.tolist()).values()) <= 1
    assert np.array_equal(order, rounds(7, 20, seed=3))
    assert not np.array_equal(order, rounds(7, 20, seed=4))
    assert len(rounds(0, 5, seed=0)) == 0


def test_an_epoch_holds_every_row_and_every_example_the_same_mix(base):
    config = settings(ratings=3, pairs=1)
    mixed = rows(opened(base), config)
    assert len(mixed) == max(-(-len(RATINGS) // 3), len(PREFERENCES)) == 120
    examples = [mixed[i] for i in range(len(mixed))]
    assert {(len(e.rated), len(e.labels), len(e.pairs)) for e in examples} == {(3, 3, 1)}
    seen = Counter(row.ids.tobytes() for e in examples for row in e.rated)
    assert len(seen) == len({row.ids.tobytes() for row in mixed._rated})
    assert len({e.pairs[0][0].ids.tobytes() for e in examples}) == len(PREFERENCES)
    again = rows(opened(base), config)
    assert all(np.array_equal(a.rated[0].ids, again[i].rated[0].ids) for i, a in enumerate(examples))


def test_a_loss_without_weight_takes_its_rows_along(base):
    only_pairs = rows(opened(base), settings(regression=0.0))[0]
    assert (only_pairs.rated, len(only_pairs.pairs)) == ([], 1)
    only_ratings = rows(opened(base), settings(preference=0.0))[0]
    assert (len(only_ratings.rated), only_ratings.pairs) == (1, [])
    with pytest.raises(FitError, match=r"no row among the ratings; .*set regression: 0"):
        MixedRows(opened(base), ratings=[], objectives=OBJECTIVES, preferences=PREFERENCES, config=settings())


@pytest.mark.parametrize("kind", ["decoder", "encoder"])
def test_a_batch_holds_what_the_encoder_tokenises(kind, base, tmp_path):
    encoder = opened(base if kind == "decoder" else tiny_encoder(tmp_path / "bert"))
    mixed = rows(encoder, settings(pairs=2))
    batch = Collator(pad=5, objectives=2)([mixed[0], mixed[1]])
    ids, mask = batch["input_ids"], batch["attention_mask"]
    assert len(ids) == 2 + 4 + 4
    assert batch["labels_NK"].shape == (2, 2)
    wanted = {tuple(encoder.tokenize(r.messages).ids): r for r in RATINGS}
    chosen = {tuple(encoder.tokenize(p.chosen).ids): p for p in PREFERENCES}
    for n, row in enumerate(ids):
        real = tuple(row[mask[n] == 1].tolist())
        assert bool((row[mask[n] == 0] == 5).all())
        if n < 2:
            labels = wanted[real].ratings
            assert torch.isnan(batch["labels_NK"][n]).tolist() == [o.name not in labels for o in OBJECTIVES]
        elif n < 6:
            pair = chosen[real]
            assert tuple(ids[n + 4][mask[n + 4] == 1].tolist()) == tuple(encoder.tokenize(pair.rejected).ids)
        length = len(real)
        if kind == "decoder":
            assert (int(batch["start_N"][n]), int(batch["stop_N"][n])) == (length - 1, length)
        else:
            assert 0 < int(batch["start_N"][n]) < int(batch["stop_N"][n]) < length
    assert ("token_type_ids" in batch) == (kind == "encoder")


def test_a_long_row_follows_the_truncation_of_the_encoder_and_is_never_dropped(base):
    long = Rating(id="long", messages=chat("old " * 20, "b", "new", "answer"), ratings={"kind": 1.0})
    given = {"objectives": OBJECTIVES, "preferences": PREFERENCES[:2], "config": settings()}
    with pytest.raises(BackboneError, match="rating long"):
        MixedRows(opened(base, max_tokens=60), ratings=[long], **given)
    cut = MixedRows(opened(base, max_tokens=60, truncation="drop_oldest"), ratings=[long], **given)
    assert cut.truncated >= 1
    assert len(cut[0].rated[0].ids) <= 60
