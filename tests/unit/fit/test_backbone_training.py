"""The training of a small decoder: what its losses read, what it spends, and that it learns."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.functional import log_softmax
from transformers import LlamaForCausalLM

from facetrm.backbone.text.chat import Tokenized
from facetrm.backbone.tiny import TinyShape, tiny_decoder
from facetrm.backbone.transformer import BackboneConfig, TransformerEncoder
from facetrm.core.errors import FitError
from facetrm.data.objectives import label_matrix
from facetrm.data.records import Preference, Rating
from facetrm.data.world import World, vocabulary
from facetrm.fit.backbone import BackboneTraining, TrainedBackbone, _Heads, _losses, _optimizers, train_backbone

WORLD = World()
SHAPE = TinyShape(hidden=16, layers=1, heads=2, inner=32)
FAST = BackboneTraining(
    lesson_steps=3, read_steps=4, prefer_steps=2, rehearse=0, lessons=5, rated=3, pairs=2, learning_rate=0.05
)


def decoder() -> tuple[LlamaForCausalLM, TransformerEncoder]:
    model, tokenizer = tiny_decoder(vocabulary(), shape=SHAPE, seed=0)
    return model, TransformerEncoder(model, tokenizer, config=BackboneConfig(path="tiny", device="cpu"))


def lessons() -> Iterator[Rating]:
    return (r for i in count() for r in WORLD.lessons(1, start=i))


def ratings() -> Iterator[Rating]:
    return (r for i in count() for r in WORLD.ratings(1, part="backbone", start=i, every_rater=True))


def preferences() -> Iterator[Preference]:
    return (p for i in count() for p in WORLD.preferences(1, part="backbone", start=i))


def train(
    config: BackboneTraining,
    *,
    seed: int = 0,
    taught: Iterator[Rating] | None = None,
    rated: Iterator[Rating] | None = None,
    paired: Iterator[Preference] | None = None,
) -> tuple[LlamaForCausalLM, TrainedBackbone]:
    model, encoder = decoder()
    spent = train_backbone(
        model,
        encoder,
        lessons=lessons() if taught is None else taught,
        ratings=ratings() if rated is None else rated,
        preferences=preferences() if paired is None else paired,
        objectives=WORLD.objectives,
        config=config,
        seed=seed,
        quiet=True,
    )
    return model, spent


class Recorder:
    """A stream that notes when it was read."""

    def __init__(self, name: str, stream: Iterator[Any], log: list[str]) -> None:
        self.name, self.stream, self.log = name, stream, log

    def __iter__(self) -> Recorder:
        return self

    def __next__(self) -> Any:
        self.log.append(self.name)
        return next(self.stream)


def test_losses_fall() -> None:
    few = {"rated": 8, "learning_rate": 0.05, "lesson_steps": 0, "prefer_steps": 0}
    _, first = train(BackboneTraining(read_steps=1, **few))
    _, last = train(BackboneTraining(read_steps=100, **few))
    assert first.language == pytest.approx(math.log(len(vocabulary())), rel=0.05), "it starts knowing nothing"
    assert last.language < 0.8 * first.language
    assert last.regression < 0.9 * first.regression


def test_lessons_alone_are_learned() -> None:
    few = {"lessons": 8, "learning_rate": 0.05, "read_steps": 0, "prefer_steps": 0}
    _, first = train(BackboneTraining(lesson_steps=1, **few))
    _, last = train(BackboneTraining(lesson_steps=100, **few))
    assert first.language == pytest.approx(math.log(len(vocabulary())), rel=0.05), "it starts knowing nothing"
    assert last.language < 0.9 * first.language
    assert last.regression < 0.9 * first.regression
    assert math.isnan(last.preference)


def test_preferences_are_learned() -> None:
    one = next(preferences())
    only = {"language": 0.0, "regression": 0.0, "preference": 1.0, "rated": 1, "pairs": 1}
    config = BackboneTraining(lesson_steps=0, read_steps=0, prefer_steps=40, rehearse=0, learning_rate=0.05, **only)
    _, spent = train(config, paired=(one for _ in count()))
    assert 0 < spent.preference < 0.1 < math.log(2)


def test_equal_seeds_give_equal_weights_and_the_heads_are_thrown_away() -> None:
    start, _ = decoder()
    (a, spent), (b, again), (c, _) = train(FAST), train(FAST), train(FAST, seed=1)
    assert a.state_dict().keys() == start.state_dict().keys()
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert any(not torch.equal(x, y) for x, y in zip(a.parameters(), c.parameters(), strict=True))
    assert all(not torch.equal(x, y) for x, y in zip(a.parameters(), start.parameters(), strict=True))
    assert (spent.language, spent.regression, spent.preference) == (
        again.language,
        again.regression,
        again.preference,
    )
    assert not a.training


def test_training_leaves_the_global_seed_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    train(FAST)
    assert torch.equal(torch.rand(1), expected)


def recorded(config: BackboneTraining) -> tuple[list[str], TrainedBackbone]:
    """Train; return what was read, row by row, and what was spent."""
    log: list[str] = []
    _, spent = train(
        config,
        taught=Recorder("lesson", lessons(), log),
        rated=Recorder("rated", ratings(), log),
        paired=Recorder("paired", preferences(), log),
    )
    return log, spent


def test_lessons_come_first_then_ratings_then_pairs_too() -> None:
    log, spent = recorded(FAST)
    assert log == ["lesson"] * 3 * 5 + ["rated"] * 4 * 3 + (["rated"] * 3 + ["paired"] * 2) * 2
    assert spent.steps == 9
    assert math.isfinite(spent.preference)


@pytest.mark.parametrize("every", [1, 2, 3, 7])
def test_lessons_come_back_every_so_many_steps(every: int) -> None:
    log, spent = recorded(FAST.model_copy(update={"rehearse": every}))
    later = [["rated"] * 3] * 4 + [["rated"] * 3 + ["paired"] * 2] * 2
    later = [["lesson"] * 5 if n % every == 0 else rows for n, rows in enumerate(later, start=1)]
    assert log == ["lesson"] * 3 * 5 + [name for rows in later for name in rows]
    assert spent.steps == 9


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_every_parameter_is_moved_by_one_optimizer(optimizer: str) -> None:
    model, _ = decoder()
    config = BackboneTraining(optimizer=optimizer, matrix_rate=0.5, learning_rate=0.25)  # type: ignore[arg-type]
    heads = _Heads(16, 3)
    found = _optimizers(model, heads, config)
    moved = [p for each, _ in found for group in each.param_groups for p in group["params"]]
    assert len({id(p) for p in moved}) == len(moved)
    assert {id(p) for p in moved} == {id(p) for p in (*model.parameters(), *heads.parameters())}
    rates = {type(each).__name__: rate for each, rate in found}
    assert rates == ({"AdamW": 0.25, "Muon": 0.5} if optimizer == "muon" else {"AdamW": 0.25})
    if optimizer == "muon":
        inner = {id(p) for p in model.base_model.layers.parameters() if p.ndim == 2}
        assert {id(p) for group in found[1][0].param_groups for p in group["params"]} == inner


@pytest.mark.parametrize("phase", ["lesson_steps", "read_steps", "prefer_steps"])
def test_a_phase_without_steps_reads_nothing(phase: str) -> None:
    log, spent = recorded(FAST.model_copy(update={phase: 0}))
    expected = {
        "lesson_steps": ["lesson"] * 3 * 5,
        "read_steps": ["rated"] * 4 * 3,
        "prefer_steps": (["rated"] * 3 + ["paired"] * 2) * 2,
    }
    assert log == [name for key, names in expected.items() if key != phase for name in names]
    assert spent.steps == 9 - getattr(FAST, phase)
    assert math.isnan(spent.preference) == (phase == "prefer_steps")
    assert math.isfinite(spent.regression)


def test_every_phase_changes_what_is_learned() -> None:
    whole, _ = train(FAST)
    for phase in ("lesson_steps", "read_steps", "prefer_steps"):
        without, _ = train(FAST.model_copy(update={phase: 0}))
        assert any(not torch.equal(x, y) for x, y in zip(whole.parameters(), without.parameters(), strict=True)), phase


def test_without_the_third_phase_no_pair_is_read() -> None:
    log: list[str] = []
    config = FAST.model_copy(update={"prefer_steps": 0})
    _, spent = train(config, paired=Recorder("paired", preferences(), log))
    assert log == []
    assert math.isnan(spent.preference)
    assert math.isfinite(spent.regression)


def test_the_tokens_of_every_row_are_counted() -> None:
    _, encoder = decoder()
    rows = [r.messages for r in WORLD.ratings(18, part="backbone", every_rater=True)]
    rows += [r.messages for r in WORLD.lessons(15)]
    rows += [side for p in WORLD.preferences(4, part="backbone") for side in (p.chosen, p.rejected)]
    _, spent = train(FAST)
    assert spent.tokens == sum(len(encoder.tokenize(row).ids) for row in rows)


def test_few_steps_with_pairs_still_give_a_mean_preference_loss() -> None:
    _, spent = train(FAST.model_copy(update={"lesson_steps": 2, "read_steps": 20, "prefer_steps": 1}))
    assert 0.0 < spent.preference < 2.0


@pytest.mark.parametrize("name", ["ratings", "preferences"])
def test_a_stream_that_ends_is_an_error(name: str) -> None:
    short = {
        "rated": WORLD.ratings(5, part="backbone"),
        "paired": WORLD.preferences(3, part="backbone"),
    }
    key = {"ratings": "rated", "preferences": "paired"}[name]
    with pytest.raises(FitError, match=f"backbone training: the stream of {name} ended; give more rows or fewer steps"):
        train(FAST, **{key: short[key]})


def test_lessons_that_end_are_an_error() -> None:
    ended = r"backbone training: the stream of lessons ended; give more rows or fewer steps"
    with pytest.raises(FitError, match=ended):
        train(FAST, taught=WORLD.lessons(14))
    train(FAST, taught=WORLD.lessons(15))


@pytest.mark.parametrize("steps", [{"lesson_steps": 1}, {"read_steps": 1}, {"rehearse": 1}])
def test_steps_that_would_teach_nothing_are_an_error(steps: dict[str, int]) -> None:
    nothing = {"lesson_steps": 0, "read_steps": 0, "rehearse": 0, "language": 0.0, "regression": 0.0}
    assert BackboneTraining(**nothing).prefer_steps > 0
    with pytest.raises(ValidationError, match="only pairs train: set lesson_steps, read_steps and rehearse to 0"):
        BackboneTraining(**nothing | steps)


def test_a_loss_that_is_not_finite_is_an_error() -> None:
    with pytest.raises(FitError, match=r"the loss is nan at step \d; lower learning_rate"):
        train(FAST.model_copy(update={"learning_rate": 1e30, "clip": 1e30}))


def rows_of(encoder: TransformerEncoder) -> tuple[list[Tokenized], Tensor, list[Rating]]:
    rated = list(WORLD.ratings(3, part="backbone"))
    pairs = list(WORLD.preferences(2, part="backbone"))
    conversations = [r.messages for r in rated] + [p.chosen for p in pairs] + [p.rejected for p in pairs]
    labels_NK = torch.from_numpy(label_matrix(rated, WORLD.objectives)).float()
    return [encoder.tokenize(c) for c in conversations], labels_NK, rated


def losses_on_free_states(pairs: int = 2) -> tuple[Tensor, tuple[Tensor, ...], _Heads, Sequence[Tokenized], Tensor]:
    """Return losses whose hidden states are free: their gradients say which states each loss reads."""
    torch.manual_seed(1)
    model, encoder = decoder()
    rows, labels_NK, _ = rows_of(encoder)
    rows = rows if pairs else rows[:3]
    hidden_NLD = torch.randn(len(rows), max(len(row.ids) for row in rows), 16, requires_grad=True)
    fake: Any = SimpleNamespace(
        base_model=lambda **kwargs: SimpleNamespace(last_hidden_state=hidden_NLD),
        get_output_embeddings=model.get_output_embeddings,
    )
    heads = _Heads(16, len(WORLD.objectives))
    return hidden_NLD, _losses(fake, heads, rows, labels_NK, pairs=pairs), heads, rows, labels_NK


def read_by(loss: Tensor, hidden_NLD: Tensor) -> set[tuple[int, int]]:
    """Return the (row, place) of every state that ``loss`` depends on."""
    (gradient_NLD,) = torch.autograd.grad(loss, hidden_NLD, retain_graph=True)
    return {(int(n), int(p)) for n, p in gradient_NLD.abs().sum(-1).nonzero()}


def test_the_regression_reads_every_token_of_the_answer_and_no_other() -> None:
    hidden_NLD, (_, regression, _), heads, rows, labels_NK = losses_on_free_states()
    answers = {(n, p) for n, row in enumerate(rows[:3]) for p in range(row.response_start, len(row.ids))}
    assert read_by(regression, hidden_NLD) == answers
    total, goal_NK = 0.0, (labels_NK - 0.5) * 3.0
    for n, p in answers:
        error_K = (heads.rate(hidden_NLD[n, p]) - goal_NK[n]) ** 2
        total += float(error_K[torch.isfinite(goal_NK[n])].mean().detach())
    assert float(regression.detach()) == pytest.approx(total / len(answers), rel=1e-5)


def test_an_objective_that_is_not_rated_teaches_nothing() -> None:
    _, (_, regression, _), heads, _, labels_NK = losses_on_free_states()
    regression.backward()
    taught = heads.rate.weight.grad.abs().sum(-1) > 0
    assert torch.equal(taught, torch.isfinite(labels_NK).any(dim=0))
    assert not taught.all()


def test_the_language_model_reads_rated_rows_and_predicts_the_next_token() -> None:
    hidden_NLD, (language, _, _), _, rows, _ = losses_on_free_states()
    places = {(n, p) for n, row in enumerate(rows[:3]) for p in range(len(row.ids) - 1)}
    assert read_by(language, hidden_NLD) == places
    output: nn.Module = decoder()[0].get_output_embeddings()
    total = sum(-float(log_softmax(output(hidden_NLD[n, p]), -1)[rows[n].ids[p + 1]].detach()) for n, p in places)
    assert float(language.detach()) == pytest.approx(total / len(places), rel=1e-5)


def test_the_preference_is_read_at_the_last_token_of_both_answers() -> None:
    hidden_NLD, (_, _, preference), heads, rows, _ = losses_on_free_states()
    assert read_by(preference, hidden_NLD) == {(n, len(rows[n].ids) - 1) for n in range(3, 7)}
    reward = [float(heads.reward(hidden_NLD[n, len(rows[n].ids) - 1]).detach()) for n in range(3, 7)]
    expected = sum(math.log1p(math.exp(reward[2 + i] - reward[i])) for i in range(2)) / 2
    assert float(preference.detach()) == pytest.approx(expected, rel=1e-5)


def test_without_pairs_there_is_no_preference_loss() -> None:
    _, (language, regression, preference), _, _, _ = losses_on_free_states(pairs=0)
    assert float(preference) == 0.0
    assert float(language.detach()) > 0
    assert float(regression.detach()) > 0
