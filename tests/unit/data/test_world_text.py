"""The world's text: every level is written, read back, and told by order or context rather than by words."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facetrm.core.errors import DataError
from facetrm.data.records import Message, Rating
from facetrm.data.synthetic.raters import VERBOSITY
from facetrm.data.world import TASKS, World, vocabulary
from facetrm.data.world import words as w
from facetrm.data.world.latents import LATENTS, MOST_FILLERS, Latent, Scene
from facetrm.data.world.truth import SLOTS

WORLD = World()
BY_NAME = {latent.name: latent for latent in LATENTS}
SCENE = Scene("code", ("river", "candle"), "poet", "friend")
PROMPT = Message(role="user", content="as a poet for a friend about river and candle , write a program .")

scenes = st.builds(
    Scene,
    st.sampled_from(TASKS),
    st.tuples(st.sampled_from(w.SITES), st.sampled_from(w.THINGS)),
    st.sampled_from(w.PERSONAS),
    st.sampled_from(w.AUDIENCES),
)


def answer(text: str) -> Message:
    return Message(role="assistant", content=text)


def prompt_of(scene: Scene, lead: int = 0) -> Message:
    about = f"as a {scene.persona} for a {scene.audience} about {scene.topics[0]} and {scene.topics[1]}"
    return Message(role="user", content=f"{about} , {w.LEADS[scene.task][lead]} .")


@given(scenes, st.sampled_from(LATENTS), st.data(), st.integers(0, 10**6))
@settings(max_examples=300, deadline=None)
def test_a_latent_reads_back_what_it_wrote_and_no_other_latent_answers(
    scene: Scene, latent: Latent, data: st.DataObject, seed: int
) -> None:
    level = data.draw(st.integers(0, latent.slots))
    clauses = latent.write(Random(seed), scene, level)
    found = [latent.read(clause, scene) for clause in clauses]
    assert None not in found, clauses
    assert sum(good for good, _ in found) == level
    assert sum(judged for _, judged in found) == latent.slots
    for other in LATENTS:
        assert other is latent or all(other.read(clause, scene) is None for clause in clauses)


@given(
    scenes,
    st.fixed_dictionaries({latent.name: st.integers(0, latent.slots) for latent in LATENTS}),
    st.integers(0, 2),
    st.integers(0, 10**6),
)
@settings(max_examples=150, deadline=None)
def test_a_whole_answer_parses_back(scene: Scene, levels: dict[str, int], lead: int, seed: int) -> None:
    written, fillers = WORLD._answer(Random(seed), scene, levels)
    read = WORLD.levels((prompt_of(scene, lead), written))
    assert read == {**levels, VERBOSITY: fillers}
    assert WORLD.scene([prompt_of(scene, lead)]) == scene


@pytest.mark.parametrize("latent", LATENTS, ids=lambda latent: latent.name)
def test_every_level_is_written(latent: Latent) -> None:
    """No text of one scene stands for two levels, and over scenes every level has many texts."""
    scenes = [
        Scene("code", topics, who, "friend")
        for topics in (("river", "candle"), ("forest", "violin"), ("garden", "mirror"))
        for who in w.PERSONAS
    ]
    many: dict[int, set[str]] = {level: set() for level in range(latent.slots + 1)}
    for scene in scenes:
        here = {level: {" . ".join(latent.write(Random(s), scene, level)) for s in range(20)} for level in many}
        assert not any(here[a] & here[b] for a in here for b in here if a < b)
        for level, texts in here.items():
            many[level] |= texts
    assert all(len(texts) >= 3 for texts in many.values()), {level: len(texts) for level, texts in many.items()}


def bags(latent: Latent, level: int, scene: Scene) -> set[tuple[tuple[str, int], ...]]:
    """Bags of words of single clauses, all slots at ``level``."""
    found = set()
    for seed in range(3000):
        for clause in latent.write(Random(seed), scene, level):
            found.add(tuple(sorted(Counter(clause.split()).items())))
    return found


@pytest.mark.parametrize("name", ["honesty", "harmlessness", "empathy", "style", "fluency", "coherence"])
def test_good_and_bad_clauses_are_made_of_the_same_words(name: str) -> None:
    latent, scene = BY_NAME[name], SCENE
    assert bags(latent, latent.slots, scene) == bags(latent, 0, scene)


@pytest.mark.parametrize("name", ["instruction_following", "persona"])
def test_the_same_answer_is_good_or_bad_by_its_prompt(name: str) -> None:
    latent, asked, other = (
        BY_NAME[name],
        SCENE,
        Scene("code", ("forest", "mirror"), "doctor", "friend"),
    )
    text = answer(" . ".join(latent.write(Random(3), asked, latent.slots)) + " .")
    assert WORLD.levels((prompt_of(asked), text))[name] == latent.slots
    assert WORLD.levels((prompt_of(other), text))[name] == 0


@pytest.mark.parametrize("name", ["correctness", "knowledge"])
def test_the_words_of_right_and_wrong_facts_are_the_same_set(name: str) -> None:
    latent, scene = BY_NAME[name], SCENE
    right, wrong = ({word for bag in bags(latent, level, scene) for word, _ in bag} for level in (latent.slots, 0))
    assert right == wrong


def test_every_word_is_in_the_vocabulary() -> None:
    known, seen = set(vocabulary()), set()
    rows = [*WORLD.ratings(300, part="heads"), *WORLD.ratings(300, part="backbone", every_rater=True)]
    rows += WORLD.lessons(300)
    texts = [m.content for r in rows for m in r.messages]
    texts += [m.content for p in WORLD.preferences(300) for m in (*p.prompt, *p.responses)]
    for text in texts:
        seen |= set(text.split())
    assert seen <= known, seen - known
    assert known - seen <= {"seven", "nine"}, "hardly a word is never written"
    assert len(known) == len(vocabulary()) < 300


def test_what_the_text_says_is_what_is_read() -> None:
    said = (
        "needless to say , two plus two is four . paris in france . cairo in peru . covering river and candle . "
        "first bake then mix last serve . i checked not guessed . i invented not measured . ( [ alpha ] ) . as poet ."
    )
    levels = WORLD.levels((PROMPT, answer(said)))
    assert levels == {
        "correctness": 1,
        "knowledge": 1,
        "instruction_following": 2,
        "coherence": 2,
        "honesty": 1,
        "harmlessness": 0,
        "empathy": 0,
        "persona": 1,
        "style": 1,
        "richness": 0,
        "fluency": 0,
        VERBOSITY: 1,
    }
    assert WORLD.levels((PROMPT, answer("two plus two is five .")))["correctness"] == 0


def test_a_sum_that_the_world_does_not_write_is_judged_too() -> None:
    for text, right in (
        ("two plus one is three .", 1),
        ("three plus four is seven .", 1),
        ("one plus two is two .", 0),
    ):
        assert WORLD.levels((PROMPT, answer(text)))["correctness"] == right
    right, wrong = (
        {clause for seed in range(300) for clause in BY_NAME["correctness"].write(Random(seed), SCENE, level)}
        for level in (1, 0)
    )
    doubles = (("one", "two"), ("two", "four"), ("three", "six"), ("four", "eight"), ("five", "ten"))
    assert right == {f"{a} plus {a} is {twice}" for a, twice in doubles}
    assert len(wrong) == 20, "a double, and the result of another one"


def test_surplus_clauses_are_averaged_and_cannot_be_piled_up() -> None:
    right, wrong = "two plus two is four .", "two plus two is five ."
    assert WORLD.levels((PROMPT, answer(" ".join([right] * 5))))["correctness"] == 1
    assert WORLD.levels((PROMPT, answer(" ".join([right, wrong, wrong, right]))))["correctness"] == 0.5
    assert WORLD.levels((PROMPT, answer("needless to say , " * 9)))[VERBOSITY] == 9 > MOST_FILLERS


words_of_the_world = st.lists(st.sampled_from([*vocabulary(), ".", ","]), min_size=1, max_size=60).map(" ".join)
any_text = st.text(st.characters(codec="utf-8"), min_size=1, max_size=200).filter(lambda text: bool(text.strip()))


@given(words_of_the_world | any_text)
@settings(max_examples=200, deadline=None)
def test_any_text_has_levels_within_their_bounds(text: str) -> None:
    levels = WORLD.levels((PROMPT, answer(text)))
    assert set(levels) == {*SLOTS, VERBOSITY}
    assert all(0 <= levels[name] <= slots for name, slots in SLOTS.items())
    assert 0 <= WORLD.utility((PROMPT, answer(text))) <= 1


@given(any_text)
@settings(max_examples=50, deadline=None)
def test_a_foreign_prompt_is_an_error(text: str) -> None:
    with pytest.raises(DataError, match="not of this world"):
        WORLD.levels((Message(role="user", content=text), answer("two plus two is four .")))


def test_a_prompt_without_a_task_or_a_user_is_an_error() -> None:
    for asked in (
        "as a poet for a friend about river and candle , sing .",
        "as a poet for a friend about gold and candle , write a program .",
        "as a poet about river and candle , write a program .",
        "well , as a poet for a friend about river and candle , write a program .",
    ):
        with pytest.raises(DataError, match=r"prompt .* is not of this world"):
            WORLD.scene([Message(role="user", content=asked)])
    with pytest.raises(DataError, match="not of this world"):
        WORLD.utility((Message(role="system", content="be kind ."), answer("yes")))


def test_the_last_user_turn_decides_the_scene() -> None:
    row = next(r for r in WORLD.ratings(200) if sum(m.role == "user" for m in r.messages) == 2)
    assert isinstance(row, Rating)
    assert WORLD.scene(row.prompt).task == row.task
    assert WORLD.levels(row.messages) == WORLD.levels(row.messages[-2:])
