"""Speaking as somebody else."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Final

from facetrm.data.desk.draft import Draft, Levels, Task
from facetrm.data.desk.forms import Form, Request, asked, dialogue
from facetrm.data.desk.tasks.sums import NAMES


@dataclass(frozen=True)
class Persona:
    """Somebody to speak as.

    Attributes:
        who: Description, as in "You are ...".
        openings: Sentences that only this persona would begin with.
        closings: Sentences that only this persona would end with.
        marks: Regular expressions of words that show the persona; each sentence above holds one.
    """

    who: str
    openings: tuple[str, ...]
    closings: tuple[str, ...]
    marks: tuple[str, ...]


DESK_PERSONAS: Final = (
    Persona(
        "a pirate captain",
        ("Ahoy, matey!", "Arr, listen well, ye landlubber.", "Shiver me timbers, what a question!"),
        ("Now hoist the sails, me hearties!", "So says the captain, by Davy Jones.", "Yo ho ho, and back to the ship!"),
        ("ahoy", "matey", "arr+", "landlubber", "shiver me", "hearties", "davy jones", "yo ho", "ye", "avast", "aye"),
    ),
    Persona(
        "an old-fashioned butler",
        ("At your service, sir.", "Very good, madam.", "If I may be so bold, sir."),
        ("Will that be all, sir?", "I remain your humble servant.", "Shall I bring the tea, madam?"),
        ("at your service", "sir", "madam", "humble servant", "if i may be so bold"),
    ),
    Persona(
        "a robot from the future",
        ("Beep, question received.", "My circuits are processing your words, human.", "Activating speech unit."),
        ("End of transmission.", "Beep, returning to standby.", "My battery is at a good level, human."),
        ("beep", "boop", "circuits?", "human", "activating", "transmission", "standby", "battery", "processing"),
    ),
    Persona(
        "a knight at the court of a king",
        ("Hail, noble guest!", "By my sword, I shall tell thee.", "Hearken, good people of the castle!"),
        ("Long live the king!", "I swear it on my honour as a knight.", "Now bring me my shield and my horse!"),
        ("hail", "by my sword", "thee", "thou", "thy", "hearken", "live the king", "as a knight", "shield", "castle"),
    ),
    Persona(
        "a coach of a football team",
        ("Come on, team, listen up!", "All right, champ, eyes on the ball.", "Good, that is the spirit, champ!"),
        ("Now give me ten laps, team!", "Get out there and win the match!", "That is how we play it, champ."),
        ("team", "champ", "laps", "win the match", "listen up", "eyes on the ball"),
    ),
    Persona(
        "a grandmother who loves to bake",
        (
            "Oh, my dear, sit down.",
            "Come in, sweetheart, the oven is warm.",
            "Well, dearie, let your old granny tell you.",
        ),
        (
            "Now have another slice of cake, dear.",
            "Take some biscuits home, sweetheart.",
            "Your granny is proud of you, dearie.",
        ),
        ("my dear", "dear", "sweetheart", "dearie", "granny", "slice of cake", "biscuits", "oven"),
    ),
    Persona(
        "a detective in a trench coat",
        ("The case is clear to me.", "I have been following the clues for a week.", "Every suspect asks me that."),
        ("Case closed.", "The clues never lie.", "Keep an eye on that suspect."),
        ("case", "clues?", "suspects?", "fingerprints?", "alibi"),
    ),
    Persona(
        "a wizard in a tower",
        ("By my beard and staff!", "My crystal ball has shown me your question.", "Abracadabra, here I am!"),
        ("Now back to my potions.", "May the magic be with your house.", "So it is written in the book of spells."),
        ("beard", "staff", "crystal ball", "abracadabra", "potions?", "magic", "spells?", "wand"),
    ),
)

_QUESTIONS: Final = {
    "What did you do this morning?": (
        ("morning", "got up", "woke", "breakfast"),
        ("This morning I got up early and looked out of the window.", "I had a big breakfast in the morning."),
    ),
    "What is your favourite food?": (
        ("food", "eat", "taste", "dish", "soup", "pie"),
        ("My favourite food is a hot soup with vegetables.", "There is nothing that I like to eat more than a pie."),
    ),
    "What do you think about the rain?": (
        ("rain", "wet", "umbrella"),
        ("I like the rain, because the air is clean afterwards.", "The rain makes everything wet, and I stay inside."),
    ),
    "How do you spend your evenings?": (
        ("evening", "night"),
        ("In the evening I sit by the fire and rest.", "I spend my evenings with a song and a good story."),
    ),
    "Who is your best friend?": (
        ("friend",),
        ("My best friend is somebody I have known for years.", "A good friend is worth more than gold to me."),
    ),
    "What are you afraid of?": (
        ("afraid", "fear", "scare"),
        ("I am afraid of the dark, although I never say so.", "There is little that I fear, apart from spiders."),
    ),
    "Where would you like to travel?": (
        ("travel", "journey", "trip", "visit"),
        ("I would like to travel to an island in the south.", "My next journey should take me over the mountains."),
    ),
    "What advice would you give to a child?": (
        ("child", "advice", "young"),
        ("My advice is to be kind and to ask many questions.", "A child should play outside for as long as possible."),
    ),
    "What was the best day of your life?": (
        ("best day", "day of my life"),
        ("The best day of my life was a long time ago.", "I remember the best day well, for the sun was shining."),
    ),
    "Do you like animals?": (
        ("animal", "dog", "cat", "bird"),
        ("I like animals, and a dog follows me everywhere.", "The animals around here know me well."),
    ),
    "What makes you laugh?": (
        ("laugh", "joke", "funny"),
        ("A bad joke can make me laugh for an hour.", "I laugh when somebody slips on a wet floor."),
    ),
    "What do you do when you are tired?": (
        ("tired", "sleep", "rest", "nap"),
        ("When I am tired, I close my eyes for a while.", "I take a nap in a quiet corner if I need one."),
    ),
}
_POOLS: Final = {"who": tuple(p.who for p in DESK_PERSONAS), "question": tuple(_QUESTIONS), "name": NAMES}
_BY_WHO: Final = {persona.who: persona for persona in DESK_PERSONAS}
_FORMS: Final[tuple[Form, ...]] = (
    dialogue(
        "persona",
        ("system", "You are {who}. Stay in character, whatever the user asks."),
        ("user", "{question} {name} told me to ask you."),
        pools=_POOLS,
    ),
    dialogue(
        "persona",
        ("system", "Speak as {who} would speak. The user is called {name}."),
        ("user", "{question}"),
        pools=_POOLS,
    ),
    dialogue(
        "persona",
        ("user", "Let's play a game. From now on you are {who}. My name is {name}."),
        ("assistant", "Very well. I am ready to play."),
        ("user", "{question}"),
        pools=_POOLS,
    ),
    *asked(
        "persona",
        "Please answer as {who} would. {question} The answer is for {name}.",
        "Pretend to be {who} who is talking to {name}. {question}",
        pools=_POOLS,
    ),
)
_PLAIN_OPENINGS: Final = (
    "That is a question that I can answer.",
    "I will try to answer that.",
    "As an AI model I can only imagine it.",
)
_PLAIN_CLOSINGS: Final = (
    "That is all that there is to say about it.",
    "I have nothing to add to that.",
    "That is my answer.",
)
_REMARKS: Final = (
    "It has been like that for as long as I can remember.",
    "Other people may see it in a different way.",
    "There is a lot more that I could tell about it.",
    "It is not the kind of thing that is written in books.",
)


def persona_of(request: Request) -> Persona:
    """Return the persona that the answer should speak as."""
    return _BY_WHO[request["who"]]


def words_of(request: Request) -> tuple[str, ...]:
    """Return the stems that show that an answer is about the question."""
    return _QUESTIONS[request["question"]][0]


def _stranger(random: Random, question: str) -> str:
    words = _QUESTIONS[question][0]
    fitting = [s for _, found in _QUESTIONS.values() for s in found if not any(word in s.lower() for word in words)]
    return random.choice(fitting)


def _write(random: Random, request: Request, levels: Levels) -> Draft:
    persona, question = persona_of(request), request["question"]
    shown = [True] * int(levels["persona"]) + [False] * (2 - int(levels["persona"]))
    random.shuffle(shown)
    body = random.choice(_QUESTIONS[question][1]) if levels["topic"] else _stranger(random, question)
    opening = random.choice(persona.openings if shown[0] else _PLAIN_OPENINGS)
    closing = random.choice(persona.closings if shown[1] else _PLAIN_CLOSINGS)
    return Draft((opening, body, closing), _REMARKS, unpadded=(opening, closing))


PERSONA: Final = Task(
    "persona",
    "an answer in the voice of somebody else",
    _FORMS,
    {"persona": 0.46, "topic": 0.1, "fluent": 0.42, "courteous": 0.02},
    _write,
)
