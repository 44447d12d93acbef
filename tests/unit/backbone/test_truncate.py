from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from facetrm.backbone.text.truncate import drop_oldest

OVERHEAD = 3  # tokens that a template puts around a turn


def measure(turns):
    return sum(len(turn["content"]) + OVERHEAD for turn in turns)


texts = st.text(alphabet="abc", min_size=1, max_size=30)


@given(system=st.booleans(), bodies=st.lists(texts, min_size=2, max_size=8), limit=st.integers(1, 200))
def test_what_is_kept(system, bodies, limit):
    roles = [("assistant", "user")[(len(bodies) - i) % 2 == 0] for i in range(len(bodies))]
    turns = [{"role": role, "content": text} for role, text in zip(roles, bodies, strict=True)]
    if system:
        turns.insert(0, {"role": "system", "content": "sys"})
    kept = drop_oldest(turns, measure=measure, limit=limit)
    question, answer = turns[-2]["content"], turns[-1]["content"]
    if kept is None:
        assert limit < 2 * (OVERHEAD + 1)
        return
    assert measure(kept) <= limit
    assert question.endswith(kept[-2]["content"])
    assert answer.startswith(kept[-1]["content"])
    if measure(turns) <= limit:
        assert kept == turns
    if kept[-1]["content"] != answer:  # the response is cut last, and no more than needed
        assert kept[-2]["content"] == question[-1]
        assert [turn["role"] for turn in kept] == ["user", "assistant"]
        assert measure(kept) == limit
    elif kept[-2]["content"] != question:  # the question is cut when nothing older is left, and no more than needed
        assert len(kept) <= 3
        assert measure(kept) == limit
    older = [turn for turn in kept[:-2] if turn["role"] != "system"]
    if older:
        plain = [turn for turn in turns if turn["role"] != "system"]
        assert plain[-len(older) - 2 : -2] == older


def test_a_long_text_is_never_measured_whole_again():
    longest = []

    def watched(turns):
        longest.append(measure(turns))
        return measure(turns)

    turns = [{"role": "user", "content": "x" * 100_000}, {"role": "assistant", "content": "yes"}]
    kept = drop_oldest(turns, measure=watched, limit=50)
    assert measure(kept) == 50
    assert max(longest[2:]) < 200


def test_a_prompt_alone():
    turns = [{"role": "user", "content": c * 10} for c in "ab"]
    assert drop_oldest(turns, measure=measure, limit=15, answered=False) == turns[1:]
    cut = drop_oldest(turns, measure=measure, limit=8, answered=False)
    assert cut == [{"role": "user", "content": "b" * 5}]
    assert drop_oldest(turns, measure=measure, limit=3, answered=False) is None
