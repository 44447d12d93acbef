"""Views: splits that never cut a prompt, mixtures with the asked shares, filters that say what they removed."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facetrm.core.errors import ConfigError, DataError, FacetrmError
from facetrm.data.objectives import Objective
from facetrm.data.records import Message, Preference, Rating
from facetrm.data.views import decontaminate, deduplicate, mix, ratings_to_preferences, split_by_prompt

STORY = "please write a short story about a dragon that learns to bake bread in a small village"


def rated(prompt: str, answer: str = "ok", ratings: dict[str, float] | None = None, id: str = "") -> Rating:
    turns = (Message(role="user", content=prompt), Message(role="assistant", content=answer))
    return Rating(id=id, messages=turns, ratings=ratings or {})


def pair(prompt: str, chosen: str = "yes", rejected: str = "no", strength: float | None = None) -> Preference:
    answers = tuple(Message(role="assistant", content=text) for text in (chosen, rejected))
    return Preference(prompt=(Message(role="user", content=prompt),), responses=answers, strength=strength)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=60), st.integers(0, 5))
def test_no_prompt_stands_on_both_sides(prompts: list[int], seed: int) -> None:
    records = [rated(f"question {p}", f"answer {n}") for n, p in enumerate(prompts)]
    parts = split_by_prompt(records, {"train": 0.6, "valid": 0.2, "test": 0.2}, seed=seed)
    assert sorted(r.messages[-1].content for part in parts.values() for r in part) == sorted(
        r.messages[-1].content for r in records
    )
    keys = [{r.prompt_key for r in part} for part in parts.values()]
    assert sum(map(len, keys)) == len(set.union(*keys))


def test_a_split_depends_on_the_prompt_and_the_seed_alone() -> None:
    ratings = [rated(f"question {n}") for n in range(400)]
    pairs = [pair(f"Question   {n}") for n in range(0, 400, 3)]
    fractions = {"train": 0.7, "test": 0.3}
    whole = split_by_prompt(ratings, fractions, seed=1)
    assert split_by_prompt(ratings[::-1][:150], fractions, seed=1)["test"] == [
        r for r in ratings[::-1][:150] if r in whole["test"]
    ]
    test_keys = {r.prompt_key for r in whole["test"]}
    assert {p.prompt_key for p in split_by_prompt(pairs, fractions, seed=1)["test"]} == test_keys & {
        p.prompt_key for p in pairs
    }
    assert 0.6 < len(whole["train"]) / 400 < 0.8
    assert split_by_prompt(ratings, fractions, seed=2)["test"] != whole["test"]


def test_an_empty_share_gets_nothing() -> None:
    parts = split_by_prompt([rated(f"q{n}") for n in range(50)], {"a": 0.0, "b": 1.0, "c": 0.0}, seed=0)
    assert {name: len(part) for name, part in parts.items()} == {"a": 0, "b": 50, "c": 0}


@pytest.mark.parametrize("fractions", [{}, {"a": 0.5}, {"a": 1.5, "b": -0.5}, {"a": 0.8, "b": 0.3}])
def test_bad_fractions(fractions: dict[str, float]) -> None:
    with pytest.raises(DataError, match="sum to 1"):
        split_by_prompt([rated("q")], fractions, seed=0)


def test_mix_has_the_asked_shares_and_repeats_nothing() -> None:
    parts = {"a": [rated(f"a{n}") for n in range(100)], "b": [rated(f"b{n}") for n in range(30)]}
    mixed = mix(parts, {"a": 3, "b": 1}, seed=0, size=80)
    texts = [r.messages[0].content for r in mixed]
    assert Counter(text[0] for text in texts) == {"a": 60, "b": 20}
    assert len(set(texts)) == 80
    assert texts != sorted(texts)
    assert mix(parts, {"a": 3, "b": 1}, seed=0, size=80) == mixed
    assert mix(parts, {"a": 3, "b": 1}, seed=1, size=80) != mixed


def test_mix_is_as_large_as_it_can_be_by_default() -> None:
    parts = {"a": [rated(f"a{n}") for n in range(100)], "b": [rated(f"b{n}") for n in range(30)]}
    assert Counter(r.messages[0].content[0] for r in mix(parts, {"a": 1, "b": 1}, seed=0)) == {"a": 30, "b": 30}
    assert len(mix(parts, {"a": 1, "b": 0}, seed=0)) == 100


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.sampled_from("abcd"), st.floats(0.01, 5), min_size=1), st.integers(0, 200))
def test_mix_rounds_to_the_size(weights: dict[str, float], size: int) -> None:
    parts = {name: [rated(f"{name}{n}") for n in range(3)] for name in weights}
    mixed = mix(parts, weights, seed=0, size=size, repeat=True)
    assert len(mixed) == size
    counts = Counter(r.messages[0].content[0] for r in mixed)
    total = sum(weights.values())
    assert all(abs(counts[name] - size * weight / total) < 1.0 + 1e-6 for name, weight in weights.items())


def test_mix_repeats_only_when_allowed() -> None:
    parts = {"a": [rated("a1"), rated("a2")]}
    with pytest.raises(DataError, match="part 'a' has 2 records and the mixture needs 5"):
        mix(parts, {"a": 1}, seed=0, size=5)
    counts = Counter(r.messages[0].content for r in mix(parts, {"a": 1}, seed=0, size=5, repeat=True))
    assert sorted(counts.values()) == [2, 3]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"a": 1, "bb": 1}, "'bb' has no part"),
        ({}, "'a' has no weight"),
        ({"a": -1}, "finite weights >= 0"),
        ({"a": 0}, "one of them > 0"),
    ],
)
def test_bad_weights(weights: dict[str, float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        mix({"a": [rated("a")]}, weights, seed=0)


def test_deduplicate_keeps_noise_and_drops_copies() -> None:
    first = rated("q", "a", {"x": 1}, id="one")
    noisy = rated("q", "a", {"x": 2}, id="two")
    copy = rated("q", "a", {"x": 1}, id="three")
    result = deduplicate([first, noisy, copy, rated("Q", "a", {"x": 1})])
    assert [r.id for r in result.records] == ["one", "two", ""]
    assert [(r.id, reason) for r, reason in result.removed] == [("three", "the same as one")]


def test_deduplicate_pairs_minds_order_and_strength() -> None:
    records = [pair("q"), pair("q", "no", "yes"), pair("q", strength=0.5), pair("q")]
    assert deduplicate(records).records == records[:3]


def test_decontaminate_removes_the_same_and_the_similar_prompt() -> None:
    benchmark = [pair(STORY), pair("short")]
    records = [
        rated(STORY.upper() + "  ", id="same"),
        rated("I would like you to " + STORY + ", thank you very much for it", id="similar"),
        rated("Short!", id="punctuation"),
        rated("please write a short story about my cat, it lives in a big and noisy town", id="kept"),
        rated("something short", id="kept too"),
    ]
    result = decontaminate(records, benchmark)
    assert [r.id for r in result.records] == ["kept", "kept too"]
    reasons = {r.id: reason for r, reason in result.removed}
    assert reasons["same"].startswith("the prompt of")
    assert reasons["similar"].startswith("shares 100% of its n-grams")
    assert set(reasons) == {"same", "similar", "punctuation"}


def test_decontaminate_obeys_the_threshold() -> None:
    half = " ".join(STORY.split()[:11]) + " and nothing that stands in the other text at all"
    assert decontaminate([rated(half)], [pair(STORY)], threshold=0.3).removed
    assert not decontaminate([rated(half)], [pair(STORY)], threshold=0.6).removed
    assert not decontaminate([rated(half)], [], threshold=0.3).removed
    assert not decontaminate([rated(half)], [pair(STORY)], ngram=12).removed


def test_decontaminate_reads_text_without_blanks() -> None:
    text = "请写一个关于会做面包的小龙的短篇故事"
    assert decontaminate([rated("你好，" + text)], [pair(text)]).removed
    assert not decontaminate([rated("今天的天气怎么样呢你觉得会下雨吗")], [pair(text)]).removed


@pytest.mark.parametrize("settings", [{"ngram": 0}, {"threshold": 0.0}, {"threshold": 1.5}])
def test_bad_decontamination(settings: dict[str, float]) -> None:
    with pytest.raises(FacetrmError, match="give ngram >= 1 and 0 < threshold <= 1"):
        decontaminate([rated("q")], [], **settings)  # type: ignore[arg-type]


HELP = Objective(name="help", low=0, high=4)
ERRORS = Objective(name="errors", low=0, high=10, kind="continuous", direction="lower")


def test_ratings_become_pairs_within_a_prompt() -> None:
    ratings = [
        rated("q", "good", {"help": 4}, id="g"),
        rated("q", "bad", {"help": 1}, id="b"),
        rated("q", "also bad", {"help": 1}, id="c"),
        rated("q", "unrated"),
        rated("other", "alone", {"help": 2}),
    ]
    pairs = ratings_to_preferences(ratings, HELP)
    assert [(p.id, p.responses[0].content, p.responses[1].content) for p in pairs] == [
        ("g>b", "good", "bad"),
        ("g>c", "good", "also bad"),
    ]
    assert [p.strength for p in pairs] == pytest.approx([0.6, 0.6])
    assert {p.aspect for p in pairs} == {"help"}
    assert {p.aspect for p in ratings_to_preferences(ratings, HELP, aspect="overall")} == {"overall"}


def test_lower_is_better_is_respected() -> None:
    ratings = [rated("q", "many", {"errors": 8}), rated("q", "few", {"errors": 1})]
    (only,) = ratings_to_preferences(ratings, ERRORS)
    assert (only.responses[0].content, only.strength) == ("few", pytest.approx(0.7))


@pytest.mark.parametrize(("min_gap", "count"), [(0.0, 3), (0.2, 3), (0.21, 1), (0.5, 0)])
def test_min_gap_is_on_the_unit_scale(min_gap: float, count: int) -> None:
    ratings = [rated("q", f"answer {n}", {"help": n}) for n in range(3)]
    assert len(ratings_to_preferences(ratings, HELP, min_gap=min_gap)) == count


def test_the_same_text_makes_no_pair() -> None:
    assert ratings_to_preferences([rated("q", "a", {"help": 1}), rated("q", "a", {"help": 3})], HELP) == []


def test_unknown_direction_and_odd_prompts_are_refused() -> None:
    with pytest.raises(DataError, match="direction of objective 'x' is unknown"):
        ratings_to_preferences([], Objective(name="x", low=0, high=1, direction="unknown"))
    turns = (Message(role="system", content="s"), Message(role="assistant", content="a"))
    odd = [Rating(id="odd", messages=turns, ratings={"help": n}) for n in (1, 2)]
    odd[1] = odd[1].model_copy(update={"messages": (turns[0], Message(role="assistant", content="b"))})
    with pytest.raises(DataError, match="the prompt of rating 'odd' ends with 'system'"):
        ratings_to_preferences(odd, HELP)
    assert not issubclass(DataError, ConfigError)


def test_decontaminate_does_not_mind_a_system_turn_that_all_rows_share() -> None:
    system = Message(role="system", content="you are a helpful assistant who answers all questions in full sentences")
    ours, theirs = (
        row.model_copy(update={"prompt": (system, *row.prompt)}) for row in (pair("what is a fox ?"), pair(STORY))
    )
    assert not decontaminate([ours], [theirs]).removed
    assert decontaminate([theirs], [pair(STORY)]).removed
