"""The world's rows: streams, parts, wrong labels, raters who like padding, gaps."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facetrm.core.errors import DataError
from facetrm.data.objectives import check_unique, label_matrix
from facetrm.data.records import Preference, Rating
from facetrm.data.synthetic.raters import VERBOSITY
from facetrm.data.world import TASKS, World, WorldConfig
from facetrm.data.world.latents import LATENT_NAMES, MOST_FILLERS
from facetrm.data.world.raters import RATERS, WORLD_MEANINGS
from facetrm.data.world.truth import SLOTS

WORLD = World()
PARTS = ("backbone", "heads", "gate", "test")


@pytest.fixture(scope="module")
def pairs() -> list[Preference]:
    return list(WORLD.preferences(6000))


@pytest.fixture(scope="module")
def rated() -> list[Rating]:
    return list(WORLD.ratings(2500, every_rater=True))


def test_it_is_as_large_as_promised() -> None:
    assert len(TASKS) >= 7
    assert len(LATENT_NAMES) >= 10
    assert len(RATERS) >= 5
    scales = {(r.low, r.high, r.kind, r.direction) for r in RATERS}
    assert len(scales) == len(RATERS), "every rater has a scale of its own"
    assert {r.kind for r in RATERS} == {"integer", "boolean", "continuous"}
    assert {r.direction for r in RATERS} == {"higher", "lower"}
    assert {latent for r in RATERS for latent in r.latents} == {*LATENT_NAMES, VERBOSITY}
    check_unique(WORLD.objectives)
    assert {WORLD.latent_of[o.name] for o in WORLD.objectives} == {*LATENT_NAMES, VERBOSITY}
    assert WORLD.verbosity_objective in {o.name for o in WORLD.objectives}


@given(st.integers(0, 60), st.integers(0, 25), st.sampled_from(PARTS), st.booleans())
@settings(max_examples=25, deadline=None)
def test_a_stream_can_be_read_from_anywhere(start: int, count: int, part: str, every: bool) -> None:
    whole = list(WORLD.ratings(start + count, part=part, every_rater=every))
    assert list(WORLD.ratings(count, part=part, start=start, every_rater=every)) == whole[start:]
    labelled = list(WORLD.preferences(start + count, part=part))
    assert list(WORLD.preferences(count, part=part, start=start)) == labelled[start:]


def test_the_pairs_of_some_tasks_are_those_of_the_stream() -> None:
    every = list(WORLD.preferences(120, part="test"))
    for tasks in (["code"], ["safety", "chat"], list(TASKS)):
        wanted = [p for p in every if p.task in tasks]
        count = len(wanted)
        assert count > 0
        assert list(WORLD.preferences_of(tasks, count, part="test")) == wanted
        assert list(WORLD.preferences_of(tasks[::-1], count - 1, part="test")) == wanted[:-1]
        late = [p for p in every[50:] if p.task in tasks]
        assert list(WORLD.preferences_of(tasks, len(late), part="test", start=50)) == late
    assert list(WORLD.preferences_of(["code"], 0)) == []
    # More than there are in any number of rows known beforehand: it reads on.
    assert len(list(WORLD.preferences_of(["code"], 60))) == 60
    assert next(WORLD.preferences_of(["code"], 1)) != next(WORLD.preferences_of(["code"], 1, part="test"))


def test_tasks_that_the_world_does_not_have_are_refused() -> None:
    with pytest.raises(DataError, match="unknown task 'coed'; did you mean 'code'"):
        list(WORLD.preferences_of(["chat", "coed"], 3))
    with pytest.raises(DataError, match="no task"):
        list(WORLD.preferences_of([], 3))


def test_equal_seeds_give_equal_rows_and_other_seeds_others() -> None:
    def rows(seed: int) -> list[Rating | Preference]:
        world = World(WorldConfig(seed=seed))
        return [*world.ratings(20), *world.preferences(20)]

    assert rows(3) == rows(3)
    assert not {r.id: r for r in rows(3)}.items() & {r.id: r for r in rows(4)}.items()
    assert len({r.prompt_key for r in rows(3)}) > 20


def test_parts_never_share_a_prompt() -> None:
    keys: dict[str, set[str]] = {}
    scenes: dict[str, set[object]] = {}
    for part in PARTS:
        rows = [*WORLD.ratings(500, part=part), *WORLD.preferences(500, part=part)]
        rows += World(WorldConfig(seed=9)).preferences(200, part=part)
        keys[part] = {r.prompt_key for r in rows}
        scenes[part] = {WORLD.scene(r.prompt) for r in rows}
    for a in PARTS:
        for b in PARTS:
            assert a == b or not keys[a] & keys[b]
            assert a == b or not scenes[a] & scenes[b]


def test_an_unknown_part_is_an_error() -> None:
    with pytest.raises(DataError, match=r"unknown part 'gates' of the world; did you mean 'gate'\?"):
        next(WORLD.preferences(1, part="gates"))


def test_a_quarter_of_the_labels_is_wrong_in_every_sense(pairs: list[Preference]) -> None:
    gaps = np.array([WORLD.utility(p.chosen) - WORLD.utility(p.rejected) for p in pairs])
    assert (gaps != 0).all(), "no pair is a tie"
    assert [bool(g > 0) for g in gaps] == [p.meta["agrees"] for p in pairs]
    assert abs(float(np.mean(gaps < 0)) - 0.25) <= 0.02
    clear = np.abs(gaps) > np.median(np.abs(gaps))
    assert np.mean(gaps[clear] < 0) < np.mean(gaps[~clear] < 0) - 0.1, "close calls are got wrong more often"


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.4])
def test_the_share_of_wrong_labels_is_a_parameter(noise: float) -> None:
    world = World(WorldConfig(noise=noise))
    wrong = [not p.meta["agrees"] for p in world.preferences(3000)]
    assert abs(float(np.mean(wrong)) - noise) <= (0.025 if noise else 0.0)


def test_both_answers_share_a_prompt_and_nothing_tells_them_apart_by_place(pairs: list[Preference]) -> None:
    assert all(len(p.responses) == 2 for p in pairs)
    assert {p.task for p in pairs} == set(TASKS)
    assert all(WORLD.scene(p.prompt).task == p.task for p in pairs[:200])
    lengths = np.array([[len(r.content.split()) for r in p.responses] for p in pairs])
    assert abs(float(np.mean(lengths[:, 0] - lengths[:, 1]))) < 1.0, "users do not care for length"


def test_verbosity_moves_ratings_and_never_the_utility(rated: list[Rating]) -> None:
    levels = [WORLD.levels(r.messages) for r in rated]
    padding = np.array([row[VERBOSITY] for row in levels]) / MOST_FILLERS
    utility = np.array([WORLD.utility(r.messages) for r in rated])
    assert abs(np.corrcoef(padding, utility)[0, 1]) <= 0.05
    labels_NK = label_matrix(rated, WORLD.objectives)
    for k, objective in enumerate(WORLD.objectives):
        latent = WORLD.latent_of[objective.name]
        if latent == VERBOSITY:
            continue
        known = np.isfinite(labels_NK[:, k])
        share = np.array([row[latent] for row in levels]) / SLOTS[latent]
        columns = np.stack([np.ones(known.sum()), share[known], padding[known]], axis=1)
        _, by_level, by_padding = np.linalg.lstsq(columns, labels_NK[known, k], rcond=None)[0]
        assert by_level > 0.4, objective.name
        assert by_padding > 0.1, f"{objective.name}: at equal levels a padded answer is rated higher"


@pytest.mark.parametrize("rater", RATERS, ids=lambda rater: rater.name)
def test_at_equal_levels_padding_raises_every_rating(rater) -> None:
    shares = dict.fromkeys(SLOTS, 0.5)

    def mean(fillers: int, bias: float) -> dict[str, float]:
        rows = [
            rater.rate(Random(seed), shares | {VERBOSITY: fillers / MOST_FILLERS}, bias=bias, noise=0.15, gaps=0.0)
            for seed in range(300)
        ]
        return {
            o.name: float(np.mean([o.to_unit(row[o.name]) for row in rows])) for o in rater.objectives(WORLD_MEANINGS)
        }

    bare, padded = mean(0, 0.4), mean(MOST_FILLERS, 0.4)
    unbiased = mean(0, 0.0), mean(MOST_FILLERS, 0.0)
    for name in bare:
        assert padded[name] > bare[name] + 0.2
        assert name == WORLD.verbosity_objective or unbiased[0][name] == unbiased[1][name]


def test_labels_are_missing_in_blocks() -> None:
    rows = list(WORLD.ratings(1200))
    blocks = {r.name: {o.name for o in r.objectives(WORLD_MEANINGS)} for r in RATERS}
    tasks = {r.name: set(r.tasks) for r in RATERS}
    assert {r.source for r in rows} == set(blocks)
    for row in rows:
        assert row.ratings
        assert row.ratings.keys() <= blocks[row.source], "nobody rates another's objectives"
        assert row.task in tasks[row.source]
    for a, b in zip(rows[::2], rows[1::2], strict=True):
        assert (a.prompt, a.source) == (b.prompt, b.source), "neighbours share prompt and rater"
        assert a.messages != b.messages
    share = np.mean([1 - len(r.ratings) / len(blocks[r.source]) for r in rows])
    assert 0.05 < share < 0.12, "one rating in ten is missing within a source"
    labels_NK = label_matrix(rows, WORLD.objectives)
    assert np.isfinite(labels_NK).any(axis=0).all()
    assert np.isfinite(labels_NK).mean() < 0.25


def test_gaps_are_a_parameter_and_one_rating_always_stays() -> None:
    full = list(World(WorldConfig(gaps=0.0)).ratings(100, every_rater=True))
    assert all(len(r.ratings) == len(WORLD.objectives) for r in full)
    sparse = list(World(WorldConfig(gaps=0.95)).ratings(300))
    assert all(r.ratings for r in sparse)
    assert np.mean([len(r.ratings) for r in sparse]) < 1.5


@given(
    st.builds(
        WorldConfig,
        seed=st.integers(0, 99),
        rater_noise=st.floats(0, 5),
        verbosity_bias=st.floats(0, 5),
        gaps=st.floats(0, 0.9),
    )
)
@settings(max_examples=20, deadline=None)
def test_ratings_are_on_their_scales_whatever_the_noise(config: WorldConfig) -> None:
    rows = list(World(config).ratings(30, every_rater=True))
    labels_NK = label_matrix(rows, WORLD.objectives)
    known = labels_NK[np.isfinite(labels_NK)]
    assert ((known >= 0) & (known <= 1)).all()
    for row in rows:
        for objective in WORLD.objectives:
            if objective.kind != "continuous" and objective.name in row.ratings:
                assert row.ratings[objective.name] == int(row.ratings[objective.name])


def test_less_noise_makes_ratings_truer() -> None:
    def error(noise: float) -> float:
        world = World(WorldConfig(rater_noise=noise, verbosity_bias=0.0, gaps=0.0))
        rows = list(world.ratings(200, every_rater=True))
        objective = next(o for o in world.objectives if o.name == "dahlia-coherence")
        off = [
            objective.to_unit(r.ratings[objective.name]) - world.levels(r.messages)["coherence"] / SLOTS["coherence"]
            for r in rows
        ]
        return float(np.mean(np.abs(off)))

    assert error(0.0) < 1e-3 < 0.03 < error(0.15) < error(0.6)
