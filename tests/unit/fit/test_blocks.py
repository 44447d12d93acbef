"""Fits from blocks: the same numbers as from memory, and never more than a block at a time."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

import facetrm.fit.blocks as blocks
from facetrm.backbone.encoder import Features
from facetrm.core.config import parse_config
from facetrm.core.errors import FitError
from facetrm.data.objectives import Objective
from facetrm.data.records import Conversation, Preference, Rating
from facetrm.evaluate.compare import Pairs
from facetrm.fit.blocks import VectorFile, gather, row_blocks, select_rows
from facetrm.fit.bradley_terry import BradleyTerryConfig, fit_bradley_terry_blocks
from facetrm.fit.gate.fit import GateConfig, fit_gate, fit_scored_gate
from facetrm.fit.pairs import score_pair_blocks
from facetrm.fit.projection import fit_projection
from facetrm.recipes.armorm.config import ArmormConfig
from facetrm.recipes.armorm.fit import Stopwatch, fit_parts
from facetrm.recipes.armorm.rows import Rows
from fakes import HashEncoder, chat
from preferences import four_experts, random_tensor, two_rules

EXPERTS, TRAIN = four_experts(), two_rules(800, seed=10)
GATE = GateConfig(steps=60, hidden=8, rank=4, batch_size=64)


class InBlocks:
    """Pairs in blocks of 100."""

    def __init__(self, pairs: Pairs) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def blocks(self) -> Iterator[tuple[Features, Features]]:
        for start in range(0, len(self), 100):
            part = self.pairs.select(torch.arange(start, min(start + 100, len(self))))
            yield part.chosen, part.rejected


PAIRS = InBlocks(Pairs(TRAIN.chosen, TRAIN.rejected, TRAIN.groups, ["s"] * 800))


@pytest.fixture
def on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep nothing in memory that can be on disk, in small blocks."""
    monkeypatch.setattr(blocks, "HELD", 0)
    monkeypatch.setattr(blocks, "block_rows", lambda hidden_size: 96)


def test_a_file_of_vectors_reads_as_the_matrix_does(on_disk: None, tmp_path: Path) -> None:
    x_ND = random_tensor(500, 7, seed=1)
    found = gather([x_ND[:200], x_ND[200:201], x_ND[201:]], rows=500, folder=tmp_path)
    assert isinstance(found, VectorFile)
    assert found.shape == (500, 7)
    order = torch.randperm(500, generator=torch.Generator().manual_seed(0))
    assert torch.equal(found[order[:50]], x_ND[order[:50]])
    assert torch.equal(found[slice(3, 9)], x_ND[3:9])
    turned = select_rows(select_rows(found, order), order[:77])
    assert torch.equal(turned[slice(None)], x_ND[order][order[:77]])
    assert [rows for rows, _ in row_blocks(turned)] == [slice(0, 77)]
    assert torch.equal(torch.cat([block for _, block in row_blocks(found)]), x_ND)
    assert not list(tmp_path.iterdir()), "the file has no name, so none is left behind"


def test_vectors_stay_in_memory_while_they_are_few() -> None:
    x_ND = random_tensor(50, 7, seed=1)
    assert torch.equal(gather([x_ND[:20], x_ND[20:]], rows=50), x_ND)  # type: ignore[arg-type]


def test_a_disk_that_takes_nothing_is_named(on_disk: None, tmp_path: Path) -> None:
    with pytest.raises(FitError, match=rf"{tmp_path / 'none'}: cannot keep .* of vectors .*free disk space"):
        gather([random_tensor(5, 7, seed=1)], rows=5, folder=tmp_path / "none")


@pytest.mark.parametrize("settings", [{"rank": 5}, {"rank": 0, "standardise": True}, {"rank": 0}])
def test_a_projection_from_blocks(on_disk: None, settings: dict) -> None:
    x_ND = random_tensor(500, 7, seed=1)
    whole = fit_projection(x_ND, **{"shrinkage": 0.1, "standardise": False, **settings})
    found = fit_projection(gather([x_ND], rows=500), **{"shrinkage": 0.1, "standardise": False, **settings})
    for name in ("center_D", "spread_D", "projection_DR"):
        one, other = getattr(whole, name), getattr(found, name)
        assert (one is None) == (other is None)
        if one is not None:
            assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rank", [4, 0])
def test_a_gate_from_blocks_is_the_gate_from_memory(on_disk: None, rank: int) -> None:
    config = GATE.model_copy(update={"rank": rank})
    whole = fit_gate(
        TRAIN.chosen, TRAIN.rejected, experts=EXPERTS, debias_KK=torch.eye(4), groups=TRAIN.groups, config=config
    )
    scored = score_pair_blocks(PAIRS, experts=EXPERTS, groups=TRAIN.groups, weights=None)
    assert isinstance(scored.prompt_ND, VectorFile)
    found = fit_scored_gate(scored, experts=EXPERTS, debias_KK=torch.eye(4), config=config)
    prompt_ND = TRAIN.chosen.prompt_ND
    assert_close(whole.gate(prompt_ND), found.gate(prompt_ND), rtol=0.0, atol=1e-4)
    assert found.beta == pytest.approx(whole.beta, rel=1e-3)
    assert found.accuracy == pytest.approx(whole.accuracy, abs=0.005)
    assert float(found.gate(prompt_ND).detach().std(dim=0).max()) > 0.01, "it reads the prompt"


def test_a_linear_head_from_blocks_is_the_head_from_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    config = BradleyTerryConfig(ridges=(0.01, 0.1), folds=2)
    weights = torch.linspace(0.5, 1.5, 800).tolist()
    whole = fit_bradley_terry_blocks(PAIRS, groups=TRAIN.groups, config=config, weights=weights)
    monkeypatch.setattr(blocks, "HELD", 0)
    found = fit_bradley_terry_blocks(PAIRS, groups=TRAIN.groups, config=config, weights=weights)
    assert found.ridge == whole.ridge
    assert found.losses == pytest.approx(whole.losses, rel=1e-6)
    assert_close(found.mixture.linear_experts.weight_KD, whole.mixture.linear_experts.weight_KD, rtol=1e-3, atol=1e-4)


def test_the_line_of_fits_asks_for_a_block_at_a_time(on_disk: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a run fits, no more than a block of its training features is alive at any time."""
    for module in ("facetrm.evaluate.stored_pairs", "facetrm.recipes.armorm.heads"):
        monkeypatch.setattr(f"{module}.block_rows", lambda hidden_size: 96)
    encoder = HashEncoder(8)
    given: list[weakref.ref[Features]] = []
    most = 0

    def stream(conversations: Iterable[Conversation], *, rows: int) -> Iterator[Features]:
        nonlocal most
        assert rows <= 2 * 96
        source = iter(conversations)
        while part := list(islice(source, rows)):
            features = encoder.encode(part)
            given.append(weakref.ref(features))
            yield features
            del features
            most = max(most, sum(one() is not None for one in given))

    rows = _rows(600)
    config = parse_config(
        ArmormConfig,
        {
            "backbone": {"path": "none"},
            "experts": {"length": True, "preference": True, "cross_fit": 2, "ridge": {"folds": 2, "bootstrap": 0}},
            "debias": {"target": "length"},
            "gate": {"settings": {"steps": 10, "hidden": 4, "rank": 4}},
            "compare": {"linear": {"folds": 2, "ridges": [0.1]}},
        },
        place="test",
    )
    found = fit_parts(config, rows, encoder, stream, Stopwatch())
    assert len(found.gate_pairs) == 600
    assert len(given) > 50
    assert most <= 2, "the block at hand, and the one before"


def _rows(count: int) -> Rows:
    def rated(n: int) -> Rating:
        return Rating(messages=chat(f"question {n}", f"answer {n % 7} {n}"), ratings={"own-x": n % 7})

    def pair(n: int) -> Preference:
        good, bad = (chat(f"question {n}", f"{word} {n}") for word in ("good", "bad bad"))
        return Preference(prompt=good[:-1], responses=(good[-1], bad[-1]))

    def some(make, start: int, size: int) -> Sequence:  # type: ignore[no-untyped-def]
        return [make(n) for n in range(start, start + size)]

    objective = Objective(name="own-x", low=0, high=6)
    parts = [some(rated, 0, count), some(rated, 9000, 20), some(pair, 20000, count), some(pair, 40000, 20)]
    return Rows((objective,), *parts, None, {})  # type: ignore[arg-type]
