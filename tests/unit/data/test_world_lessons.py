"""The world's lessons: short answers that realise one latent and are rated on nothing else but padding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facetrm.core.errors import DataError
from facetrm.data.objectives import label_matrix
from facetrm.data.records import Message, Preference, Rating
from facetrm.data.synthetic.raters import VERBOSITY
from facetrm.data.world import TASKS, World, WorldConfig
from facetrm.data.world import words as w
from facetrm.data.world.latents import HARD_LATENTS, LATENT_NAMES, LATENTS, MOST_FILLERS
from facetrm.data.world.truth import SLOTS

WORLD = World()
PARTS = ("backbone", "heads", "gate", "test")


@pytest.fixture(scope="module")
def lessons() -> list[Rating]:
    return list(WORLD.lessons(4000))


def written(messages: Sequence[Message]) -> Counter[str]:
    """Count the slots that the clauses of the last message fill, by latent; every clause must belong to one latent."""
    scene, slots = WORLD.scene(messages[:-1]), Counter()
    for said in messages[-1].content.removesuffix(" .").split(" . "):
        filler = next((f"{f} , " for f in w.FILLERS if said.startswith(f"{f} , ")), "")
        clause = said.removeprefix(filler)
        found = {x.name: read[1] for x in LATENTS if (read := x.read(clause, scene)) is not None}
        assert len(found) == 1, clause
        slots.update(found)
    return slots


def rated_on(row: Rating) -> set[str]:
    return {WORLD.latent_of[name] for name in row.ratings}


def test_a_lesson_realises_one_latent_and_is_rated_on_it(lessons: list[Rating]) -> None:
    for row in lessons:
        ((latent, slots),) = written(row.messages).items()
        assert slots == SLOTS[latent], "all of its clauses are there"
        assert {latent} <= rated_on(row) <= {latent, VERBOSITY}
        levels = WORLD.levels(row.messages)
        assert all(levels[name] == 0 for name in LATENT_NAMES if name != latent), "nothing is said of the others"
    assert {name for row in lessons for name in written(row.messages)} == set(LATENT_NAMES)


def test_hard_latents_come_twice_as_often(lessons: list[Rating]) -> None:
    assert set(HARD_LATENTS) < set(LATENT_NAMES)
    assert len(set(HARD_LATENTS)) == len(HARD_LATENTS)
    counts = Counter(name for row in lessons for name in written(row.messages))
    one = len(lessons) / (len(LATENT_NAMES) + len(HARD_LATENTS))
    for name in LATENT_NAMES:
        assert counts[name] / one == pytest.approx(2 if name in HARD_LATENTS else 1, rel=0.2), name
    easy = [counts[name] for name in LATENT_NAMES if name not in HARD_LATENTS]
    assert np.mean([counts[name] for name in HARD_LATENTS]) == pytest.approx(2 * np.mean(easy), rel=0.1)


def test_levels_and_padding_of_lessons_are_drawn_evenly(lessons: list[Rating]) -> None:
    drawn: dict[str, list[float]] = {name: [] for name in LATENT_NAMES}
    for row in lessons:
        (name,) = written(row.messages)
        levels = WORLD.levels(row.messages)
        drawn[name].append(levels[name])
        clauses = row.messages[-1].content.count(" .")
        assert 0 <= levels[VERBOSITY] <= min(clauses, MOST_FILLERS)
    for name, levels in drawn.items():
        share = np.bincount(np.array(levels, dtype=int), minlength=SLOTS[name] + 1) / len(levels)
        assert np.abs(share - 1 / (SLOTS[name] + 1)).max() < 0.1, name
    assert {row.task for row in lessons} == set(TASKS)
    assert {WORLD.levels(row.messages)[VERBOSITY] for row in lessons} == {0, 1, 2}


def test_without_noise_the_ratings_say_what_the_text_says() -> None:
    quiet = World(WorldConfig(rater_noise=0.0, verbosity_bias=0.0, gaps=0.0))
    objectives = {o.name: o for o in quiet.objectives}
    seen = set()
    for row in quiet.lessons(600):
        (latent,) = written(row.messages)
        known = {name for name in objectives if quiet.latent_of[name] in {latent, VERBOSITY}}
        assert set(row.ratings) == known, "every source rates it that knows of it"
        share = quiet.levels(row.messages)[latent] / SLOTS[latent]
        for name in known - {quiet.verbosity_objective}:
            scale, unit = objectives[name], objectives[name].to_unit(row.ratings[name])
            half_a_step = {"integer": 0.5 / (scale.high - scale.low + 1), "boolean": 0.5, "continuous": 5e-4}[
                scale.kind
            ]
            assert abs(unit - share) <= half_a_step + 1e-9, name
            seen.add((name, share))
    both = {name for name, share in seen if share == 0} & {name for name, share in seen if share == 1}
    assert both == objectives.keys() - {quiet.verbosity_objective}


def test_every_objective_is_taught_in_one_block_of_lessons(lessons: list[Rating]) -> None:
    known_NK = np.isfinite(label_matrix(lessons, WORLD.objectives))
    assert (known_NK.sum(axis=0) > 100).all()
    assert known_NK.any(axis=1).all()
    assert {row.source for row in lessons} == {"every"}
    assert len({row.id for row in lessons}) == len(lessons)


@given(st.integers(0, 60), st.integers(0, 25), st.sampled_from(PARTS))
@settings(max_examples=25, deadline=None)
def test_lessons_can_be_read_from_anywhere(start: int, count: int, part: str) -> None:
    whole = list(WORLD.lessons(start + count, part=part))
    assert list(WORLD.lessons(count, part=part, start=start)) == whole[start:]
    assert list(World().lessons(count, part=part, start=start)) == whole[start:]


def test_other_seeds_and_other_parts_give_other_lessons() -> None:
    def texts(world: World, part: str = "backbone") -> list[tuple[Message, ...]]:
        return [row.messages for row in world.lessons(60, part=part)]

    here = texts(WORLD)
    assert len(set(here)) == len(here)
    for others in (texts(World(WorldConfig(seed=1))), texts(WORLD, "heads")):
        assert sum(a == b for a, b in zip(here, others, strict=True)) <= 1


def test_lessons_never_share_a_prompt_with_another_part(lessons: list[Rating]) -> None:
    def scenes(rows: Sequence[Rating | Preference]) -> set[object]:
        return {WORLD.scene(r.prompt) for r in rows}

    keys, asked = {r.prompt_key for r in lessons}, scenes(lessons)
    for part in ("heads", "gate", "test"):
        rows = [*WORLD.ratings(1500, part=part), *WORLD.lessons(300, part=part)]
        assert not keys & {r.prompt_key for r in [*rows, *WORLD.preferences(1500, part=part)]}
        assert not asked & scenes(rows)
    read = scenes(list(WORLD.preferences(4000, part="backbone")))
    assert len(asked & read) > 0.8 * len(asked), "they are about what the backbone reads"


def test_only_lessons_are_short(lessons: list[Rating]) -> None:
    longest = max(len(r.messages[-1].content.split()) for r in lessons)
    for part in PARTS:
        answers = [r.messages[-1] for r in WORLD.ratings(100, part=part)]
        answers += [side for p in WORLD.preferences(100, part=part) for side in p.responses]
        assert min(len(a.content.split()) for a in answers) > longest
    for row in WORLD.ratings(100):
        assert written(row.messages) == SLOTS, "a whole answer realises every latent"


def test_lessons_of_an_unknown_part_are_an_error() -> None:
    with pytest.raises(DataError, match=r"unknown part 'backbones' of the world; did you mean 'backbone'\?"):
        next(WORLD.lessons(1, part="backbones"))
