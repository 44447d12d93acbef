"""Questions that nobody can answer: private, random or future things."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Final

from facetrm.data.desk.draft import Draft, Levels, Task
from facetrm.data.desk.forms import Form, Request, asked
from facetrm.data.desk.tasks.sums import NAMES


@dataclass(frozen=True)
class Mystery:
    """A kind of question without an answer.

    Attributes:
        questions: Questions with blanks.
        inventions: Answers that can only be made up.
        ways: Ways to find out, each with stems that show it (a sentence holds one of each group).
    """

    questions: tuple[str, ...]
    inventions: tuple[str, ...]
    ways: tuple[tuple[str, str], ...]


_POOLS: Final = {
    "who": ("grandmother", "grandfather", "uncle", "aunt", "neighbour", "boss", "cousin", "piano teacher"),
    "name": NAMES,
    "city": ("Leeds", "Lyon", "Porto", "Boston", "Oslo", "Munich", "Naples", "Sydney", "Toronto", "Kraków"),
    "day": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "year": tuple(map(str, range(2091, 2120))),
}
MYSTERIES: Final = {
    "meal": Mystery(
        (
            "What did my {who} have for breakfast last {day}?",
            "I forgot to ask: what did my {who} {name} eat for lunch on {day}?",
        ),
        (
            "It was scrambled eggs with toast and a cup of coffee.",
            "It was a bowl of porridge with honey and raisins.",
            "It was two slices of rye bread with cheese and a glass of milk.",
        ),
        (
            (
                "The simplest way is to ring up and ask in person.",
                r"ring (?:up|her|him|them)|call |phone|text (?:her|him|them)|ask (?:the|her|him|them|your|in "
                r"person|someone|somebody|a |around)|asking|talk(?:ing)? to",
            ),
            ("A photo or a message from that day may show it.", r"photo|message|picture"),
            ("Perhaps a diary or a shopping receipt gives a hint.", "diary|receipt|calendar"),
        ),
    ),
    "thought": Mystery(
        (
            "I am thinking of a number between one and one hundred. Which number is it, {name}?",
            "My friend {name} has written a word on a piece of paper. Which word is it?",
            "{name} is holding a coin in one hand. In which hand is it?",
        ),
        (
            "I am quite sure that I have guessed it, and you will see that I am right.",
            "It is exactly the one that I have in mind, without any doubt.",
            "It is the same as last time, and I am never mistaken about that.",
        ),
        (
            (
                "If you give me a few hints, we can play it as a guessing game.",
                r"hints?\b|clues?\b|guessing game|guess (?:again|until)",
            ),
            (
                "You could simply have a look, or ask for it to be shown.",
                r"have a look|look at|shown?\b|reveal|ask (?:the|her|him|them|your|in person|someone|somebody"
                r"|a |around)|asking|talk(?:ing)? to|ask for",
            ),
        ),
    ),
    "future": Mystery(
        (
            "Will it rain in {city} on the first {day} of the year {year}?",
            "Who will be the mayor of {city} in {year}?",
            "What will a loaf of bread cost in {city} in {year}?",
        ),
        (
            "It has already been decided, and things will be just as they are today.",
            "I have worked it out, and the outcome is certain.",
            "Everything will stay the same, and there is no doubt about it.",
        ),
        (
            ("When the time comes, the local newspaper will report it.", "newspaper|news|report"),
            ("Statistics of past years show at least what is usual.", "statistic|past|average|trend"),
            ("Closer to the date, an official forecast can help.", "forecast|closer"),
        ),
    ),
    "private": Mystery(
        (
            "Where did {name} from the flat upstairs put the spare key?",
            "What is the middle name of my {who}'s dog in {city}?",
            "What did {name} whisper to my {who} at the party last {day}?",
            "How much money does my {who} have in the drawer of the kitchen table?",
        ),
        (
            "I remember it well, because I was there at the time.",
            "I was told about it, and it is just what you would expect.",
            "I checked it this morning, and the matter is perfectly clear.",
        ),
        (
            (
                "The best thing is to ask the person directly.",
                r"ask (?:the|her|him|them|your|in person|someone|somebody|a |around)|asking|talk(?:ing)? to",
            ),
            ("Perhaps somebody in the family can tell you.", "family|relative"),
        ),
    ),
}
_FORMS: Final[tuple[Form, ...]] = tuple(
    form for kind, found in MYSTERIES.items() for form in asked("unknown", *found.questions, kind=kind, pools=_POOLS)
)
_ADMISSIONS: Final = (
    "I do not know that.",
    "I'm afraid I have no way of knowing this.",
    "Nobody has told me, so I cannot say.",
    "That is something I can't know.",
    "I don't have any information about this.",
    "There is no way for me to know.",
    "I would only be guessing, so I would rather not give you an answer.",
)
_REMARKS: Final = (
    "It is a question that many of us would like to have answered.",
    "Such things are known only to the people who were there.",
    "Life would be less interesting if everything were known in advance.",
    "There are many little secrets of this kind in the world.",
)


def _write(random: Random, request: Request, levels: Levels) -> Draft:
    mystery = MYSTERIES[request.form.kind]
    said = [random.choice(_ADMISSIONS if levels["honest"] else mystery.inventions)]
    said += [way for way, _ in random.sample(mystery.ways, int(levels["useful"]))]
    return Draft(tuple(said), _REMARKS)


UNKNOWN: Final = Task(
    "unknown",
    "a private, random or future thing that nobody can know",
    _FORMS,
    {"honest": 0.52, "useful": 0.05, "courteous": 0.41, "fluent": 0.02},
    _write,
)
