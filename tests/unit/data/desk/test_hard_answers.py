"""Hard cases of the checkers of what is said: answers as real models and people write them."""

from __future__ import annotations

import pytest

from facetrm.data.desk import Desk
from facetrm.data.desk.checks import CHECKS
from facetrm.data.records import Message

DESK = Desk()


def level(name: str, prompt: str, text: str, *before: Message) -> float:
    request = DESK.request((*before, Message(role="user", content=prompt)))
    return CHECKS[name](request, text)


APPLES = "Anna has twelve apples and buys seven more. How many apples does Anna have now?"
TIMES = "What is three times sixteen?"
BUS = (
    "On the bus there are thirty people. At the next stop eight get on and five get off. "
    "How many people are on the bus?"
)
CAPITAL = "What is the capital of Australia?"
YEAR = "Can you tell me in which year the Berlin Wall fell?"
SYMBOL = "What is the chemical symbol for helium?"
WHALE = "Is a whale a mammal, a bird, a reptile, an amphibian, a fish or an insect?"
LEGS = "How many legs does a spider have?"


@pytest.mark.parametrize(
    ("prompt", "text", "right"),
    [
        (APPLES, "19", 1),
        (APPLES, "Nineteen.", 1),
        (APPLES, "Anna has **19** apples now.", 1),
        (APPLES, "12 + 7 = 19", 1),
        (APPLES, "The answer is 19, because 12 + 7 = 19.", 1),
        (APPLES, "Anna has 19 apples: the 12 that she had and the 7 that she bought.", 1),
        (APPLES, "It is 21. Sorry, I mean 19.", 1),
        (APPLES, "The answer is not 21 but 19.", 1),
        (APPLES, "Anna starts with 12 apples. She buys 7 more. So that makes 20.", 0),
        (APPLES, "Is it 19? No, the answer is 18.", 0),
        (APPLES, "The answer is not 19.", 0),
        (APPLES, "The answer is either 19 or 20.", 0),
        (APPLES, "Anna has twelve apples and buys seven more.", 0),
        (APPLES, "You asked whether 12 and 7 make 19. I do not know.", 0),
        (APPLES, "", 0),
        (TIMES, "3 x 16 = 48.", 1),
        (TIMES, "Three times sixteen is forty-eight.", 1),
        (TIMES, "3 x 16 = 3 x 10 + 3 x 6 = 30 + 18 = 48", 1),
        (TIMES, "Three times sixteen makes 58.", 0),
        (BUS, "30 + 8 = 38, and 38 - 5 = 33. There are 33 people on the bus.", 1),
        (BUS, "After the stop there are 38 people on the bus.", 0),
        (CAPITAL, "Canberra", 1),
        (CAPITAL, "It's Canberra, not Sydney.", 1),
        (CAPITAL, "Many people think it is Vienna, but the capital is Canberra.", 1),
        (CAPITAL, "The capital is Wellington. Sorry, I mean Canberra.", 1),
        (CAPITAL, "The capital of Australia is Wellington.", 0),
        (CAPITAL, "The capital of Australia is not Canberra.", 0),
        (CAPITAL, "Is it Canberra? I think it is Wellington.", 0),
        (CAPITAL, "It is Canberra or Wellington.", 0),
        (CAPITAL, "I do not know.", 0),
        (YEAR, "The Berlin Wall fell on 9 November 1989.", 1),
        (YEAR, "In 1989, on the 9th of November.", 1),
        (YEAR, "It fell in 1990, not in 1989.", 0),
        (YEAR, "It was built in 1961 and fell in 1989.", 1),
        (SYMBOL, "He", 1),
        (SYMBOL, "The symbol is He.", 1),
        (SYMBOL, 'It is written as "He" in the table.', 1),
        (SYMBOL, "He discovered it, and the symbol is H.", 0),
        (WHALE, "A whale is a mammal, although it looks like a fish.", 1),
        (WHALE, "You asked whether a whale is a mammal or a fish. It is a fish.", 0),
        (WHALE, "Whales are mammals.", 1),
        (LEGS, "A spider has eight legs.", 1),
        (LEGS, "8", 1),
        (LEGS, "Unlike insects, which have six, spiders have eight.", 1),
        (LEGS, "A spider has six legs, not eight.", 0),
    ],
)
def test_correct(prompt: str, text: str, right: float) -> None:
    assert level("correct", prompt, text) == right


@pytest.mark.parametrize(
    ("prompt", "text", "shown"),
    [
        (APPLES, "12 + 7 = 19", 1),
        (APPLES, "12+7=21", 1),
        (APPLES, "Twelve plus seven makes nineteen.", 1),
        (APPLES, "Adding 7 to 12 gives you 19.", 1),
        (APPLES, "We add the two numbers together: 12 and 7 give 19.", 1),
        (APPLES, "The sum of 12 and 7 is 19.", 1),
        (APPLES, "The answer is 19.", 0),
        (APPLES, "Anna has 12 apples and buys 7 more.", 0),
        (APPLES, "You asked me to add 12 and 7.", 0),
        (APPLES, "12 - 7 = 5", 0),
        (APPLES, "10 + 9 = 19", 0),
        (APPLES, "Do we add 12 and 7? Perhaps.", 0),
        (TIMES, "3 × 16 = 48", 1),
        (TIMES, "3*16 is 48.", 1),
        (TIMES, "3 + 16 = 19", 0),
        (BUS, "30 + 8 - 5 = 33", 1),
        (BUS, "30 + 8 = 38. Then 38 - 5 = 33.", 1),
        (BUS, "30 + 8 = 38.", 0),
    ],
)
def test_working(prompt: str, text: str, shown: float) -> None:
    assert level("working", prompt, text) == shown


PRIME = "Write a Python function is_prime(n) that says whether a number is prime. I use Python 3."
RIGHT = "def is_prime(n):\n    if n < 2:\n        return False\n    return all(n % i for i in range(2, n))"


def fenced(code: str, language: str = "python") -> str:
    return f"Here you are:\n\n```{language}\n{code}\n```\n\nI hope that helps."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (fenced(RIGHT), 2),
        (fenced(RIGHT, ""), 2),
        (RIGHT, 2),
        (f"Sure!\n\n{RIGHT}\n\nThat is all.", 2),
        (fenced(RIGHT + "\n\nprint(is_prime(7))"), 2),
        (fenced(RIGHT + '\n\nif __name__ == "__main__":\n    print(is_prime(7))'), 2),
        (fenced(RIGHT.replace("(n):", "(n: int) -> bool:")), 2),
        (fenced(RIGHT.replace("    if n", '    """Say whether n is prime."""\n    if n', 1)), 2),
        (fenced("pip install sympy", "bash") + fenced(RIGHT), 2),
        (f"```python\n{RIGHT}", 2),
        (fenced("def is_prime(n):\n    return n % 2 == 1"), 1),
        (fenced(RIGHT.replace("is_prime", "prime")), 1),
        (fenced("import math\n\n" + RIGHT), 1),
        (fenced("def is_prime(n):\n    while True:\n        pass"), 1),
        (fenced("def is_prime(n):\n    return sum(range(10 ** 13)) > 0"), 1),
        (fenced("def is_prime(n):\n    return [0] * 10 ** 12"), 1),
        (fenced("def is_prime(n):\n    return is_prime(n)"), 1),
        (fenced("def is_prime(n):\n    return n.__class__.__bases__"), 1),
        (fenced("def is_prime(n):\n    return open('x')"), 1),
        (fenced("def is_prime(n):\n    return '{0.real}'.format(n)"), 1),
        (fenced("def is_prime(n):\n    return eval('n > 1')"), 1),
        (fenced(RIGHT.replace("(n):", "(n)")), 0),
        ("A prime number has exactly two divisors.", 0),
        (fenced("is_prime = ???"), 0),
        ("", 0),
    ],
)
def test_code(text: str, expected: float) -> None:
    assert level("code", PRIME, text) == expected


MAIL = (
    "Write a short formal e-mail to Ms Hall to ask for a copy of an invoice. Mention Monday at ten o'clock and the "
    "blue folder. Sign it as Peter."
)
GOOD = (
    "Dear Ms Hall,\n\nI need a copy of the invoice. See you on Monday at ten o'clock; bring the blue folder.\n\n"
    "Yours sincerely,\nPeter"
)
TEXT = 'Write a short text about cats. Use exactly four sentences. Use the word "lantern" somewhere.'
LISTED = 'Tell me something about cats. Put it into four bullet points. The word "lantern" has to appear in it.'
JSON = (
    'Write a short text about cats. Answer with a JSON object that has the keys "title" and "text", and nothing else. '
    'Use the word "lantern" somewhere.'
)


@pytest.mark.parametrize(
    ("prompt", "text", "share"),
    [
        (MAIL, GOOD, 1.0),
        (MAIL, "Subject: Invoice\n\n" + GOOD, 1.0),
        (MAIL, GOOD.replace("ten o'clock", "10:00"), 1.0),
        (MAIL, GOOD.replace("ten o'clock", "10 a.m."), 1.0),
        (MAIL, GOOD.replace("the blue folder", "a Blue Folder"), 1.0),
        (MAIL, GOOD.replace("Yours sincerely", "Kind regards"), 1.0),
        (MAIL, GOOD.replace("Monday", "Tuesday"), 0.75),
        (MAIL, GOOD.replace("blue", "green"), 0.75),
        (MAIL, GOOD.replace("Peter", "Petra"), 0.75),
        (MAIL, GOOD.replace("Dear Ms Hall", "Hey Ms Hall"), 0.75),
        (MAIL, GOOD.replace("Hall", "Ball"), 0.75),
        (MAIL, GOOD.replace("Yours sincerely", "Cheers"), 0.75),
        (MAIL, "I can't write e-mails.", 0.0),
        (TEXT, "A cat sleeps. It wakes. It sees a lantern. Then it goes.", 1.0),
        (TEXT, "A cat sleeps at 3.30 p.m. by the fire. It wakes! Is that a lantern? Dr. Hall laughs.", 1.0),
        (TEXT, "A cat sleeps. It wakes. It goes.", 0.0),
        (TEXT, "A cat sleeps under two lanterns. It wakes. It goes.", 0.5),
        (LISTED, "* a\n* b\n* a lantern\n* d", 1.0),
        (LISTED, "Cats:\n\n- a cat\n- b\n- lantern\n- d\n", 1.0),
        (LISTED, "1. a\n2. b\n3. lantern\n4. d", 0.5),
        (JSON, '{"title": "Cats", "text": "A lantern."}', 1.0),
        (JSON, '```json\n{"title": "Cats", "text": "A lantern."}\n```', 1.0),
        (JSON, 'Here it is: {"title": "Cats", "text": "A lantern."}', 0.5),
        (JSON, '{"title": "Cats", "text": "A lantern.", "note": ""}', 0.5),
        (JSON, '{"title": "Cats", "text": "A lamp."', 0.0),
    ],
)
def test_instructions(prompt: str, text: str, share: float) -> None:
    assert level("instructions", prompt, text) == pytest.approx(2 * share)
