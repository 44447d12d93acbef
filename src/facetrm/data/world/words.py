"""The world's closed vocabulary: about 230 words, which are all that a tiny backbone has to learn."""

from __future__ import annotations

from typing import Final

TASKS: Final = ("role_play", "chat", "subjective_qa", "objective_qa", "text_creation", "code", "safety")

LEADS: Final[dict[str, tuple[str, ...]]] = {
    "role_play": ("let us play a scene", "stay in role for a tale", "act out a story"),
    "chat": ("i had a long day so talk to me", "let us chat for a while", "keep me company and talk"),
    "subjective_qa": ("what do you think", "give me your opinion", "which one would you prefer"),
    "objective_qa": ("answer this question", "give me the plain facts", "tell me what is true"),
    "text_creation": ("write a short letter", "compose a small poem", "draft an essay"),
    "code": ("write a program", "fix this function", "debug my script"),
    "safety": ("is there any danger", "what could go wrong and hurt us", "warn me of the risk"),
}

SITES: Final = ("river", "garden", "forest")
THINGS: Final = ("violin", "candle", "mirror")
AUDIENCES: Final = (
    *("friend", "teacher", "child", "stranger", "captain", "nurse"),
    *("farmer", "writer", "sailor", "baker", "student", "judge"),
)
PERSONAS: Final = ("pirate", "doctor", "poet")

NUMBERS: Final = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
PLACES: Final[dict[str, str]] = {
    "oslo": "norway",
    "paris": "france",
    "madrid": "spain",
    "cairo": "egypt",
    "lima": "peru",
    "tokyo": "japan",
}
PROCESSES: Final = (
    ("mix", "bake", "serve"),
    ("dig", "plant", "water"),
    ("draft", "edit", "print"),
    ("wash", "dry", "fold"),
    ("plan", "build", "test"),
    ("aim", "throw", "catch"),
)
FOUND_OUT: Final = ("checked", "measured", "counted", "verified")
MADE_UP: Final = ("assumed", "invented", "imagined", "guessed")
HARMS: Final = ("poison", "weapons", "threats", "theft")
HELPS: Final = ("bandages", "shelter", "advice", "rescue")
YOURS: Final = ("hopes", "worries", "wishes", "needs")
MINE: Final = ("pride", "comfort", "profit", "habits")
COLOURS: Final = ("red", "blue", "golden")
TRAITS: Final = ("old", "young", "tall", "small", "quiet", "clever")
ANIMALS: Final = ("dog", "horse", "rabbit", "owl", "goat", "cat")
ACTS: Final = ("sleeps", "runs", "waits", "sings", "jumps", "eats")
NAMES_IN_CODE: Final = ("alpha", "beta", "gamma", "delta")

FILLERS: Final = (
    "as you may know",
    "in other words",
    "to put it simply",
    "it goes without saying",
    "at the end of it all",
    "needless to say",
    "all things considered",
    "for what it is worth",
)
SYSTEM_TURNS: Final = ("you are a helpful assistant .", "be brief and kind .", "follow the user with care .")
SMALL_TALK: Final = (
    ("hello there .", "hello and welcome ."),
    ("can you help me today ?", "yes , i can help you today ."),
    ("are you ready ?", "yes , i am ready ."),
)
_GRAMMAR: Final = (
    ". , ? ( ) [ ] plus is in covering the and first then last i not refuse offer your before my as a signed sky"
    " about for"
)


def vocabulary() -> tuple[str, ...]:
    """Return every word that the world can write, sorted.

    Example:
        >>> from facetrm import vocabulary
        >>> "four" in vocabulary()
        True
    """
    words = set(_GRAMMAR.split()) | set(NUMBERS) | set(PLACES) | set(PLACES.values())
    for group in (
        SITES,
        THINGS,
        AUDIENCES,
        PERSONAS,
        FOUND_OUT,
        MADE_UP,
        HARMS,
        HELPS,
        YOURS,
        MINE,
        COLOURS,
        TRAITS,
        ANIMALS,
        ACTS,
    ):
        words |= set(group)
    words |= set(NAMES_IN_CODE)
    texts = [
        *FILLERS,
        *SYSTEM_TURNS,
        *(t for pair in SMALL_TALK for t in pair),
        *(t for ts in LEADS.values() for t in ts),
    ]
    texts += [" ".join(process) for process in PROCESSES]
    for text in texts:
        words |= set(text.split())
    return tuple(sorted(words))
