"""Advice about everyday things."""

from __future__ import annotations

from random import Random
from typing import Final

from facetrm.data.desk.draft import Draft, Levels, Task
from facetrm.data.desk.forms import Form, Request, asked
from facetrm.data.desk.subjects.advice_topics import ADVICE_TOPICS, Topic

_BY_AIM: Final = {topic.aim: topic for topic in ADVICE_TOPICS}
_SITUATIONS: Final = (
    "I have very little time.",
    "I do not want to spend much.",
    "I am a student.",
    "I have just turned sixty.",
    "I have two small children.",
    "I work at night.",
    "I have never been good at this.",
    "I tried last year and failed.",
    "I live alone.",
    "I would like to begin today.",
    "I have asked at home, but nobody could tell me.",
    "I am rather impatient.",
)
_FORMS: Final[tuple[Form, ...]] = asked(
    "advice",
    "How can I {aim}? {situation}",
    "{situation} What is the best way to {aim}?",
    "Can you give me some advice on how to {aim}? {situation}",
    "I would like to {aim}. {situation} Where should I start?",
    "{situation} Do you have any tips on how to {aim}?",
    "A friend asks me how to {aim}, and I do not know what to say. What would you suggest? {situation}",
    pools={"aim": tuple(_BY_AIM), "situation": _SITUATIONS},
)
_LEADS: Final = (
    "It is a good aim to {aim}.",
    "Many people would like to {aim}.",
    "It is possible to {aim}.",
    "Not everybody finds it easy to {aim}.",
)
_VAGUE: Final = (
    "It depends on the person and on the situation.",
    "Everybody has to find a way of their own.",
    "In the end it is a question of character.",
    "Some find it easy and others find it hard.",
)
_REMARKS: Final = (
    "Nothing of this kind happens from one day to the next.",
    "The first step is often the hardest of them all.",
    "It is a subject about which a lot has been said.",
    "A little patience is needed at the beginning of such a thing.",
)


def topic_of(request: Request) -> Topic:
    """Return the topic that advice is asked about."""
    return _BY_AIM[request["aim"]]


def _strangers(topic: Topic) -> tuple[Topic, ...]:
    """Return the topics whose texts share no word with ``topic``."""
    return tuple(
        other
        for other in ADVICE_TOPICS
        if not any(word in " ".join((other.aim, *(tip for tip, _ in other.tips))).lower() for word in topic.words)
    )


_STRANGERS: Final = {topic.aim: _strangers(topic) for topic in ADVICE_TOPICS}


def _adjust(random: Random, request: Request, levels: dict[str, float]) -> None:
    """Give tips for another topic to no credit: an answer that is off the topic holds none of the right ones."""
    if not levels["topic"]:
        levels["useful"] = 0.0


def _write(random: Random, request: Request, levels: Levels) -> Draft:
    topic = topic_of(request)
    shown = topic if levels["topic"] else random.choice(_STRANGERS[topic.aim])
    count = int(levels["useful"]) if levels["topic"] else random.randint(0, 2)
    tips = [tip for tip, _ in random.sample(shown.tips, count)]
    vague = random.sample(_VAGUE, 2 - count)
    return Draft((random.choice(_LEADS).format(aim=shown.aim.replace("my ", "your ")), *tips, *vague), _REMARKS)


ADVICE: Final = Task(
    "advice",
    "advice about an everyday thing",
    _FORMS,
    {"useful": 0.34, "courteous": 0.44, "topic": 0.2, "fluent": 0.02},
    _write,
    _adjust,
)
