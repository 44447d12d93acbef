"""Courtesy, faults of fluency and padding: how an answer is put, whatever it says."""

from __future__ import annotations

import itertools
from random import Random
from typing import Final

from facetrm.data.desk.draft import Draft, FluencyFault
from facetrm.data.desk.sentences import words_in

WARM_OPENINGS: Final = (
    "Thank you for your question.",
    "I'm glad that you ask.",
    "It is a pleasure to help you.",
    "Thanks for getting in touch.",
    "I am happy to answer this.",
    "That is a good question, thank you.",
)
WARM_CLOSINGS: Final = (
    "I hope that helps.",
    "Please let me know if I can do anything else for you.",
    "I wish you all the best.",
    "Please feel free to ask again.",
    "Have a lovely day!",
    "Do not hesitate to ask if anything is unclear.",
)
RUDE: Final = (
    "What a stupid question.",
    "Don't waste my time with this.",
    "You could have worked that out yourself if you weren't so lazy.",
    "Even an idiot would know what to do.",
    "Are you too dumb to look that up?",
    "I really couldn't care less.",
    "Stop bothering me with such nonsense.",
    "Go and annoy somebody else.",
)
WARM_MAIL: Final = (
    "Thank you very much for your kindness.",
    "I hope you are well.",
    "I am very grateful for your help.",
    "Many thanks in advance.",
)
RUDE_MAIL: Final = (
    "Don't waste my time again.",
    "You are the laziest person I know.",
    "Only an idiot would need this in writing.",
    "I am sick of your stupid excuses.",
)
PADDING: Final = (
    "needless to say",
    "as you may already know",
    "at the end of the day",
    "when all is said and done",
    "to put it simply",
    "for what it is worth",
    "in other words",
    "as everybody knows",
    "all things considered",
    "as a matter of fact",
)
MOST_PADDING: Final = 4

_DETERMINERS: Final = frozenset(("the", "an"))
_NOT_AFTER_THE: Final = frozenset(
    [
        "the",
        "a",
        "an",
        "of",
        "to",
        "in",
        "on",
        "at",
        "and",
        "or",
        "but",
        "is",
        "are",
        "was",
        "were",
        "it",
        "they",
        "we",
        "you",
        "he",
        "she",
        "for",
        "with",
        "from",
        "by",
        "as",
        "if",
        "that",
        "this",
    ]
)
_IMPOSSIBLE: Final = frozenset(
    (
        *(("of", word) for word in ["of", "is", "are", "was", "were", "and", "or", "in", "from"]),
        *(("to", word) for word in ["of", "is", "are", "was", "were", "and", "or", "to", "it's"]),
        *(("and", word) for word in ["and", "is", "or"]),
        *(("is", word) for word in ["is", "are", "was", "were"]),
        *(("a", word) for word in ["a", "an", "the", "of", "are", "were", "they", "we", "you"]),
        *(("in", word) for word in ["of", "is", "are", "was", "and", "to"]),
        *(("with", word) for word in ["of", "is", "are", "and", "with", "to"]),
        *(("from", word) for word in ["of", "is", "are", "and", "or", "to"]),
        *(("on", word) for word in ["of", "is"]),
        *(("for", word) for word in ["of", "is", "and"]),
    )
)


_UNPADDED: Final = frozenset((*WARM_OPENINGS, *WARM_CLOSINGS, *RUDE, *WARM_MAIL, *RUDE_MAIL))


def impossible_pair(first: str, second: str) -> bool:
    """Return whether no English sentence has these two words next to each other."""
    return (first in _DETERMINERS and second in _NOT_AFTER_THE) or (first, second) in _IMPOSSIBLE


def broken_places(words: list[str]) -> int:
    """Return the number of places where words stand next to each other that cannot; an article at the end is one."""
    ends = bool(words) and words[-1] in {"the", "a", "an"}
    return sum(impossible_pair(a, b) for a, b in itertools.pairwise(words)) + ends


def garble(random: Random, sentence: str) -> str:
    """Return the words of a sentence in an order that no English sentence has.

    A small word moves behind an article where it cannot stand, and two more words change places.
    """
    words = [word.strip(",.!?;:") for word in sentence.split()]
    words[0] = _inside(words[0])
    lower = [word.lower() for word in words]
    moves = [(i, j) for i, a in enumerate(lower) for j, b in enumerate(lower) if j != i and impossible_pair(a, b)]
    moves = [(i, j) for i, j in moves if lower[i] in {"the", "a", "an"}]
    if moves:
        article, other = random.choice(moves)
        moved = words.pop(other)
        place = article + (other > article)
        words.insert(place, moved)
        ends = [k for k in range(len(words) - 1) if not {k, k + 1} & {place - 1, place}]
    else:
        words.append(random.choice(("the", "an")))
        ends = list(range(len(words) - 3))
    if ends:
        k = random.choice(ends)
        words[k], words[k + 1] = words[k + 1], words[k]
    text = " ".join(words)
    return text[0].upper() + text[1:] + "."


def cut_off(random: Random, sentence: str) -> str:
    """Return the beginning of a sentence."""
    words = sentence.rstrip(".!?").split()
    return " ".join(words[: random.randint(5, max(len(words) - 2, 5))]).rstrip(",")


def finish(random: Random, draft: Draft, *, courteous: float, fluent: float) -> tuple[str, int]:
    """Return the text of an answer, and the number of padding phrases in it.

    Args:
        random: Random number generator.
        draft: What the answer says.
        courteous: 2 for warm, 1 for neutral, 0 for rude.
        fluent: 2 minus the number of kinds of faults.
    """
    faults: tuple[FluencyFault, ...] = tuple(random.sample(draft.faults, int(2 - fluent)))
    if draft.fixed is not None:
        return _finish_fixed(random, draft, draft.fixed, faults)
    sentences, remarks = list(draft.sentences), random.sample(draft.remarks, 2)
    start = 1 if draft.block else 0
    if courteous == 2:
        _be_warm(random, sentences, mail=bool(draft.head))
    elif courteous == 0:
        sentences.insert(random.choice((0, len(sentences))), random.choice(RUDE_MAIL if draft.head else RUDE))
    if "garbled" in faults:
        sentences.insert(random.randint(start, len(sentences)), garble(random, remarks[0]))
    elif random.random() < 0.3:
        sentences.insert(random.randint(max(start, len(sentences) - 1), len(sentences)), remarks[0])
    if "repeated" in faults:
        longest = max(range(len(sentences)), key=lambda i: len(words_in(sentences[i])))
        sentences.insert(random.randint(longest + 1, len(sentences)), sentences[longest])
    places = [i for i, s in enumerate(sentences) if sentences.count(s) == 1 and s.endswith(".") and s not in _UNPADDED]
    fillers = _pad(random, sentences, [i for i in places if sentences[i] not in draft.unpadded])
    if "cut off" in faults:
        sentences.append(cut_off(random, remarks[1]))
    first = sentences.index(next((s for s in sentences if s.endswith(draft.sentences[0][1:])), sentences[0])) + 1
    text = " ".join(sentences)
    if draft.block:
        text = f"{' '.join(sentences[:first])}\n\n{draft.block}\n\n{' '.join(sentences[first:])}"
    return "\n\n".join(part for part in (draft.head, text.strip(), draft.tail) if part), fillers


def _be_warm(random: Random, sentences: list[str], *, mail: bool) -> None:
    if mail:
        sentences.insert(random.choice((0, len(sentences))), random.choice(WARM_MAIL))
        return
    opens, closes = random.choice(((True, False), (False, True), (True, True)))
    if opens:
        sentences.insert(0, random.choice(WARM_OPENINGS))
    if closes:
        sentences.append(random.choice(WARM_CLOSINGS))


def _pad(random: Random, sentences: list[str], places: list[int], most: int = MOST_PADDING) -> int:
    """Put padding phrases before some sentences, in place, and return their number."""
    most = min(most, len(places))
    fillers = min(random.randint(0, most), random.randint(0, most))
    phrases = random.sample(PADDING, fillers)
    for i, phrase in zip(random.sample(places, fillers), phrases, strict=True):
        sentences[i] = f"{phrase[0].upper()}{phrase[1:]}, {_inside(sentences[i])}"
    return fillers


_NAMES: Final = frozenset(("I", "I'm", "I'd", "I've", "I'll", "God", "Arr", "Ahoy", "Python"))


def _inside(sentence: str) -> str:
    """Return a sentence as it stands after a comma: its first letter is small unless it is "I" or has digits."""
    first = sentence.split()[0].strip(",.!?;:")
    return (
        sentence
        if first in _NAMES or (not first[:2].isalpha() and len(first) > 1)
        else sentence[0].lower() + sentence[1:]
    )


def _finish_fixed(
    random: Random, draft: Draft, free: tuple[int, ...], faults: tuple[FluencyFault, ...]
) -> tuple[str, int]:
    """Return a text whose number of sentences does not change."""
    sentences = list(draft.sentences)
    one, other = random.sample(free, 2)
    if "garbled" in faults:
        sentences[one] = garble(random, sentences[one])
    if "repeated" in faults:
        sentences[other] = sentences[one]
    touched = {one, other} if faults else set()
    fillers = _pad(random, sentences, [i for i in range(1, len(sentences) - 1) if i not in touched], most=2)
    render = draft.render or " ".join
    return render(sentences), fillers
