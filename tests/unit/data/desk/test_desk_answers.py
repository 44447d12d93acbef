"""The desk's prompts and composed answers: every level is written, read back from the text, and nothing else needed."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facetrm.core.errors import DataError
from facetrm.data.desk import Desk
from facetrm.data.desk.facts import FACT_KINDS
from facetrm.data.desk.qualities import QUALITY_SLOTS, draw_qualities
from facetrm.data.desk.sampled import mean_utilities, measure_answer, sample_answers
from facetrm.data.desk.subjects.functions import EXERCISES
from facetrm.data.desk.tasks import DESK_TASKS
from facetrm.data.records import Message
from facetrm.data.synthetic.raters import VERBOSITY

DESK = Desk()


def answer(text: str) -> Message:
    return Message(role="assistant", content=text)


def test_it_is_as_large_as_promised() -> None:
    assert len(DESK_TASKS) >= 8
    assert len(QUALITY_SLOTS) + 1 >= 10, "and padding"
    assert sum(len(task.forms) for task in DESK_TASKS.values()) >= 60
    assert sum(len(kind.table) for kind in FACT_KINDS) >= 300
    random = Random(0)
    prompts = {DESK._prompt(random, DESK._any(random, random.choice(DESK.tasks))) for _ in range(30_000)}
    assert len(prompts) >= 20_000
    assert len({prompt[-1].content for prompt in prompts}) >= 15_000
    roles = Counter(prompt[0].role for prompt in prompts)
    assert roles["system"] > 1000
    assert sum(len([m for m in prompt if m.role == "user"]) > 1 for prompt in prompts) > 1000


def test_no_fact_is_ambiguous() -> None:
    for kind in FACT_KINDS:
        assert len(kind.answers) >= 5, "enough wrong answers of the same kind"
        names = [name for found in kind.answers for name in (found, *kind.aliases.get(found, ()))]
        assert len(names) == len(set(names)), kind.name
        assert set(kind.aliases) <= set(kind.answers), kind.name
        assert not re.search(r"[{}=;]", "".join((*kind.table, *names))), kind.name


def test_checkers_are_right_on_composed_answers() -> None:
    """At least 99% of the texts composed with a known level, for every quality."""
    wrong: dict[str, list[str]] = defaultdict(list)
    counts: Counter[str] = Counter()
    for i in range(2700):
        random = Random(f"composed {i}")
        request = DESK._any(random, DESK.tasks[i % len(DESK.tasks)])
        levels = draw_qualities(random, request)
        written, fillers = DESK._answer(random, request, levels)
        read = DESK.levels((*request.messages(), written))
        for name, level in {**levels, VERBOSITY: fillers}.items():
            counts[name] += 1
            if read[name] != pytest.approx(level):
                wrong[name].append(written.content)
    assert set(counts) == {*QUALITY_SLOTS, VERBOSITY}
    assert min(counts.values()) >= 250
    for name, count in counts.items():
        assert len(wrong[name]) <= 0.01 * count, wrong[name][:3]


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda e: e.names[0])
def test_right_code_is_right_and_wrong_code_is_wrong(exercise: object) -> None:
    form = next(f for f in DESK_TASKS["code"].forms if f.kind == str(EXERCISES.index(exercise)))
    request = form.fill(Random(0))
    head = f"def {request['name']}({exercise.parameters}):\n"
    for level, bodies in ((2, exercise.right), (1, exercise.wrong)):
        for body in bodies:
            code = head + "\n".join(f"    {line}" for line in body.split("\n"))
            assert DESK.levels((*request.messages(), answer(f"```python\n{code}\n```")))["code"] == level, code


def test_every_form_reads_back_what_it_asks() -> None:
    random = Random(1)
    for task in DESK_TASKS.values():
        assert len({form.turns for form in task.forms}) == len(task.forms)
        for form in task.forms:
            request = form.fill(random)
            found = DESK.request(DESK._prompt(random, request))
            assert (found.task, found.key, dict(found.values)) == (request.task, request.key, dict(request.values))


def test_prompts_are_plain_text() -> None:
    random = Random(2)
    for task in DESK_TASKS.values():
        for _ in range(150):
            levels = draw_qualities(random, request := DESK._any(random, task.name))
            texts = [m.content for m in request.messages()] + [DESK._answer(random, request, levels)[0].content]
            for text in texts:
                assert not re.search(r"\{\w+\}|  |\bNone\b| ,|\.\.", re.sub(r"```.*?```", "", text, flags=re.DOTALL)), (
                    text
                )
                assert text == text.strip()


@given(st.text(min_size=1, max_size=300).filter(lambda t: bool(t.strip())), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_any_text_has_levels_within_their_bounds(text: str, seed: int) -> None:
    random = Random(seed)
    request = DESK._any(random, random.choice(DESK.tasks))
    try:
        said = answer(text)
    except ValueError:
        return
    levels = DESK.levels((*request.messages(), said))
    assert set(levels) == {*QUALITY_SLOTS, VERBOSITY}
    assert all(0 <= levels[name] <= slots for name, slots in QUALITY_SLOTS.items())
    assert 0 <= DESK.utility((*request.messages(), said)) <= 1


def test_a_foreign_prompt_is_an_error() -> None:
    for asked in ("What is the capital of Atlantis?", "Hello!", "What is the capital of France"):
        with pytest.raises(DataError, match="not of the desk"):
            DESK.levels((Message(role="user", content=asked), answer("Paris.")))


def test_the_last_turns_decide_what_is_asked() -> None:
    asked = Message(role="user", content="What is the capital of France?")
    talk = (Message(role="user", content="Hello!"), Message(role="assistant", content="Hello! What can I do for you?"))
    assert DESK.request((*talk, asked)).values == {"subject": "France"}
    paris, lima = answer("It is Paris."), answer("It is Lima.")
    assert DESK.utility((*talk, asked, paris)) > DESK.utility((*talk, asked, lima))


def test_sampled_answers_are_measured() -> None:
    asked: list[int] = []

    def model(messages: object) -> str:
        asked.append(len(messages))
        return "I do not know that. Thank you for your question." if len(asked) % 2 else "  "

    found = list(sample_answers(DESK, model, 60))
    assert len(asked) == 60
    by_task = mean_utilities(found)
    unknown = [one for one in found if one.task == "unknown"]
    assert {one.levels["honest"] for one in unknown} == {0.0, 1.0}
    assert all(one.levels["honest"] == ("know" in one.messages[-1].content) for one in unknown)
    assert all(one.levels.get("correct", 0.0) == 0.0 for one in found)
    for one in found:
        assert set(one.levels) == set(DESK_TASKS[one.task].weights)
        assert one == measure_answer(DESK, one.messages)
    assert by_task["all"] == pytest.approx(sum(one.utility for one in found) / 60)
