"""Short e-mails with required contents and a tone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Final

from facetrm.data.desk.draft import Draft, Levels, Task
from facetrm.data.desk.forms import Form, Request, asked
from facetrm.data.desk.tasks.sums import NAMES


@dataclass(frozen=True)
class Errand:
    """A reason to write an e-mail: stems that show it, and sentences about it."""

    words: tuple[str, ...]
    sentences: tuple[str, ...]


_ERRANDS: Final = {
    "ask for a day off": Errand(
        ("day off", "leave", "absent"), ("I would like to ask for a day off.", "May I take a day off soon?")
    ),
    "complain about a late delivery": Errand(
        ("delivery", "parcel", "deliver"),
        ("The delivery of my order is late.", "My parcel should have been here a week ago."),
    ),
    "suggest a dinner together": Errand(
        ("dinner",), ("I would like to invite you to dinner.", "Will you come to dinner at my place?")
    ),
    "cancel an appointment at the dentist": Errand(
        ("appointment", "dentist"),
        ("I have to cancel my appointment.", "I cannot come to my appointment at the dentist."),
    ),
    "say thank you for a present": Errand(
        ("present", "gift"), ("The present is just what I wanted.", "Your gift has arrived, and I like it.")
    ),
    "ask for a lift to the airport": Errand(
        ("lift", "airport"), ("Could I get a lift to the airport?", "I need a lift to the airport.")
    ),
    "report a broken heater": Errand(
        ("heater", "heating"), ("The heater in my flat is broken.", "The heater has stopped working.")
    ),
    "apply for a place in a cooking course": Errand(
        ("course", "cooking"),
        ("I want to apply for the cooking course.", "Is there a free place in the cooking course?"),
    ),
    "apologise for missing a meeting": Errand(
        ("meeting", "missed"), ("I am sorry that I missed the meeting.", "I apologise for missing our meeting.")
    ),
    "offer a sofa for sale": Errand(("sofa",), ("I am selling my sofa.", "My old sofa is for sale.")),
    "ask for a copy of an invoice": Errand(
        ("invoice", "bill"), ("I need a copy of the invoice.", "Could I have a copy of the invoice?")
    ),
    "announce a change of address": Errand(
        ("address", "moved"), ("My address has changed.", "I am moving and will have a new address.")
    ),
    "ask to borrow a ladder": Errand(("ladder",), ("May I borrow the ladder?", "I would like to borrow your ladder.")),
    "ask for the return of a book": Errand(
        ("book", "lent"), ("I still need the book that I lent out.", "Do you still have my book?")
    ),
}
_TIMES: Final = tuple(
    f"{day} at {hour}"
    for day in ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
    for hour in ("nine o'clock", "ten o'clock", "noon", "three o'clock", "half past six")
)
_THINGS: Final = (
    *(
        "the blue folder",
        "the spare key",
        "the signed form",
        "room 12",
        "the side entrance",
        "the car park behind the building",
    ),
    *(
        "my new telephone number",
        "the photos from last summer",
        "the guest list",
        "the green umbrella",
        "the reference number 4471",
    ),
    *("a copy of the contract", "the box of tools", "the timetable"),
)
_FORMAL: Final = (
    "Ms Hall",
    "Mr Webb",
    "Ms Novak",
    "Dr Silva",
    "Mr Okafor",
    "Ms Larsen",
    "Dr Brandt",
    "Mr Costa",
    "Ms Ito",
    "Mr Doyle",
)
_POOLS: Final[Mapping[str, tuple[str, ...]]] = {
    "errand": tuple(_ERRANDS),
    "time": _TIMES,
    "thing": _THINGS,
    "sender": NAMES,
}
_TEXTS: Final = (
    "Write a short {tone} e-mail to {reader} to {errand}. Mention {time} and {thing}. Sign it as {sender}.",
    "I have to {errand}. Please draft a {tone} e-mail to {reader}. It has to mention {time} and {thing}, and "
    "my name, {sender}, at the end.",
    "Draft an e-mail for me. The reader is {reader}, the tone is {tone}, and the aim is to {errand}. It should "
    "name {time} and {thing} and end with my name, {sender}.",
    "Can you write an e-mail in a {tone} tone? I want to {errand}. It goes to {reader}; it must include {time} "
    "and {thing}, and {sender} signs it.",
)
_FORMS: Final[tuple[Form, ...]] = tuple(
    form
    for tone, readers in (("formal", _FORMAL), ("friendly", NAMES))
    for form in asked(
        "mail", *(text.replace("{tone}", tone) for text in _TEXTS), kind=tone, pools={**_POOLS, "reader": readers}
    )
)
GREETINGS: Final = {"formal": ("Dear {reader},",), "friendly": ("Hi {reader},", "Hello {reader},")}
_WRONG_GREETINGS: Final = {
    "formal": ("Hey there,", "Hi you,"),
    "friendly": ("Dear Sir or Madam,", "To whom it may concern,"),
}
_ENDINGS: Final = {
    "formal": ("Yours sincerely,", "Kind regards,", "Best regards,"),
    "friendly": ("Best wishes,", "All the best,", "Cheers,", "See you soon,"),
}
_WRONG_ENDINGS: Final = {"formal": ("Cheers,", "See ya,"), "friendly": ("Yours faithfully,", "Respectfully yours,")}
_AT: Final = (
    "The best time for me would be {time}.",
    "Please keep {time} free for this.",
    "I will be at home on {time}.",
)
_WITH: Final = ("It is also about {thing}.", "Please do not forget {thing}.", "I will need {thing} for it.")
_REMARKS: Final = (
    "I have been thinking about it since the beginning of the week.",
    "You can reach me in the evening or at the weekend.",
    "Everything else can be settled at a later date.",
    "I did not want to wait until the end of the month with it.",
)


def errand_of(request: Request) -> Errand:
    """Return what the e-mail is about."""
    return _ERRANDS[request["errand"]]


def _write(random: Random, request: Request, levels: Levels) -> Draft:
    tone, count = request.form.kind, round(levels["instructions"] * 2)
    kept = set(random.sample(("time", "thing", "tone", "sender"), count))
    errand = request["errand"] if levels["topic"] else random.choice(_strangers(request["errand"]))
    sentences = [random.choice(_ERRANDS[errand].sentences)]
    if "time" in kept:
        sentences.append(random.choice(_AT).format(time=request["time"]))
    if "thing" in kept:
        sentences.append(random.choice(_WITH).format(thing=request["thing"]))
    greetings, endings = (GREETINGS, _ENDINGS) if "tone" in kept else (_WRONG_GREETINGS, _WRONG_ENDINGS)
    others = [name for name in NAMES if name not in (request["sender"], request["reader"])]
    sender = request["sender"] if "sender" in kept else random.choice(others)
    return Draft(
        tuple(sentences),
        _REMARKS,
        head=random.choice(greetings[tone]).format(reader=request["reader"]),
        tail=f"{random.choice(endings[tone])}\n{sender}",
        faults=("garbled", "repeated"),
    )


def _strangers(errand: str) -> list[str]:
    words = _ERRANDS[errand].words
    return [
        name
        for name, other in _ERRANDS.items()
        if not any(word in sentence.lower() for word in words for sentence in other.sentences)
    ]


MAIL: Final = Task(
    "mail",
    "a short e-mail with given contents, tone and signature",
    _FORMS,
    {"instructions": 0.58, "courteous": 0.32, "fluent": 0.02, "topic": 0.08},
    _write,
)
