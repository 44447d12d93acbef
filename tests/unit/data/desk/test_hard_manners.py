"""Hard cases of the checkers of how an answer is put: courtesy, fluency and padding."""

from __future__ import annotations

import pytest

from facetrm.data.desk import Desk
from facetrm.data.desk.checks import CHECKS, count_padding
from facetrm.data.records import Message

REQUEST = Desk().request([Message(role="user", content="What is the capital of France?")])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It is Paris.", 1),
        ("It is Paris. I hope this helps!", 2),
        ("Thanks for asking! It's Paris.", 2),
        ("Great question! Paris.", 2),
        ("I’d be happy to help: it is Paris.", 2),
        ("Paris. Let me know if you have any other questions.", 2),
        ("You're welcome. Paris it is.", 2),
        ("There is no such thing as a stupid question, and the answer is Paris.", 1),
        ("You are not an idiot for not knowing it. It is Paris.", 1),
        ('The word "stupid" comes from Latin.', 1),
        ("That is a stupid question. It is Paris.", 0),
        ("Thank you for wasting my time. Paris.", 0),
        ("Thanks for nothing. It is Paris.", 0),
        ("Are you really too lazy to look it up? Paris.", 0),
        ("Paris, you idiot.", 0),
        ("Who cares? Paris.", 0),
        ("No, thank you.", 1),
        ("On a lazy afternoon, walk through Paris.", 1),
        ("Thanks to the river, Paris is green.", 1),
        ("I'm sorry, but I can't help with that.", 1),
        ("Please do not hesitate to contact me.", 2),
        ("", 1),
    ],
)
def test_courteous(text: str, expected: float) -> None:
    assert CHECKS["courteous"](REQUEST, text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Paris", 2),
        ("It is Paris.", 2),
        ("The capital is Paris, and it had had other names before.", 2),
        ("Steps:\n\n- Drink water\n- Sleep well\n- Go for a walk in the park", 2),
        ("Vitamin A is good, and so is option A.", 2),
        ("```python\ndef f(a, b):\n    return a\n```", 2),
        ("Dear Ms Hall,\n\nI am ill.\n\nKind regards,\nPeter", 2),
        ('He said: "It is the end."', 2),
        ("I know that that is true. It is very very cold.", 2),
        ('{"title": "Cats", "text": "They purr."}', 2),
        ("THE SEA IS DEEP AND BLUE.", 2),
        ('"Of" and "to" are small words.', 2),
        ("It is is Paris.", 1),
        ("The of capital France is Paris.", 1),
        ("It is Paris. It is Paris.", 1),
        ("Paris is the capital of France and the", 1),
        ("The capital of France is Paris and it lies on the river", 1),
        ("```python\ndef f(a):\n    return a", 1),
        ("Needless to say, it is Paris. It is Paris.", 1),
        ("It is Paris. Yes. Yes.", 2),
        ("It is xkcdfg today.", 1),
        ("It is the the. It is the the.", 0),
        ("Paris is on the Seine. Paris is on the Seine. It is also known for its", 0),
        ("The in is Paris. So it goes. So it goes. And then the", 0),
    ],
)
def test_fluent(text: str, expected: float) -> None:
    assert CHECKS["fluent"](REQUEST, text) == expected


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("It is Paris.", 0),
        ("Needless to say, it is Paris.", 1),
        ("NEEDLESS TO SAY, IT IS PARIS.", 1),
        ("It is, needless to say, Paris.", 1),
        ("In other words, it is Paris. At the end of the day, that is all.", 2),
        ("In other words: it is Paris.", 1),
        ("It was told in other wordsmiths' books.", 0),
        ('The phrase "needless to say" is padding.', 0),
        ("All things considered, to put it simply, it is Paris.", 2),
        ("It goes without saying that it is Paris.", 1),
        ("It is important to note that Paris is large.", 1),
        ("Put it simply on the table.", 0),
        ("- As a matter of fact, it is Paris.\n- For what it is worth, it is big.", 2),
        ('{"title": "Needless to say, Paris"}', 1),
        ("```\nneedless to say\n```", 0),
        ("", 0),
    ],
)
def test_padding(text: str, count: int) -> None:
    assert count_padding(text) == count
