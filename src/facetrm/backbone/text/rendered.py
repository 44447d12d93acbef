"""Whether a chat template renders the text of every turn: what it leaves out, no score can depend on.

The text of each turn must stand in the rendering, turn after turn; a system turn may stand anywhere, because templates
move it into a user turn. White space does not count: templates trim. One part may be missing: the reasoning of an
*earlier* answer, up to the last ``</think>`` or its like, which many official templates cut. The last answer is what is
scored, so its reasoning must be there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import jinja2

from facetrm.backbone.text.truncate import TemplateTurns
from facetrm.core.errors import BackboneError

_THOUGHT_ENDS: Final = re.compile(r"</(?:\w+:)?think(?:ing)?>|\[/THINK\]|<\|END_THINKING\|>", re.IGNORECASE)
_SHOWN: Final = 40  # characters of a text in a message

Render = Callable[[TemplateTurns], str]


@dataclass(frozen=True)
class UnrenderedTurn:
    """A turn of which a template leaves something out.

    Attributes:
        turn: its number in the conversation, from 0.
        role: who speaks.
        missing: what is not in the rendering, in words: ``its text 'Be brief.'``.
    """

    turn: int
    role: str
    missing: str


def turns_left_out(turns: TemplateTurns, text: str) -> list[UnrenderedTurn]:
    """Return the turns whose text is not in the rendering ``text``, in order; none where all is there.

    Args:
        turns: the messages as they were given to the template, oldest first.
        text: what the template made of them.
    """
    whole, at = _squeezed(text), 0
    found = []
    for number, turn in enumerate(turns):
        said = _squeezed(turn["content"])
        earlier_answer = turn["role"] == "assistant" and number < len(turns) - 1
        place = -1
        for wanted in (said, _squeezed(without_thought(turn["content"])) if earlier_answer else said):
            place = whole.find(wanted, 0 if turn["role"] == "system" else at)
            if place >= 0:
                said = wanted
                break
        if place < 0:
            found.append(UnrenderedTurn(number, turn["role"], _missing(turn["content"], whole)))
        elif turn["role"] != "system":
            at = place + len(said)
    return found


def unrendered_turns(render: Render) -> list[UnrenderedTurn]:
    """Return which turns of probing conversations a template does not render, each kind once; none where all is well.

    The probes are one question, several, with a system turn, and an answer that thinks aloud. A probe that the template
    refuses with an error is passed over: such a conversation is refused when it is read, by name.

    Args:
        render: turns (dicts with ``role`` and ``content``) to the text, such as
            ``lambda turns: tokenizer.apply_chat_template(turns, tokenize=False)``.
    """
    found: dict[tuple[str, str], UnrenderedTurn] = {}
    for turns, text in _rendered(render):
        for one in turns_left_out(turns, text):
            found.setdefault((one.role, one.missing), one)
    return list(found.values())


def cuts_earlier_thoughts(render: Render) -> bool:
    """Return whether a template leaves out the reasoning of earlier answers, as many official ones do."""
    return any(
        _squeezed(turn["content"]) not in _squeezed(text)
        for turns, text in _rendered(render)
        for turn in turns[:-1]
        if turn["role"] == "assistant" and not turns_left_out(turns, text)
    )


def check_rendered(turns: TemplateTurns, text: str, *, never: Collection[int] = (), place: str) -> None:
    """Check that ``text`` holds what ``turns`` say.

    Args:
        turns: the messages as they were given to the template.
        text: what the template made of them.
        never: numbers of turns that the template leaves out whatever they say (see :func:`never_rendered`).
        place: of the conversation, for the message of the error.

    Raises:
        BackboneError: a turn that is not in the rendering, or in part; it names the turn, what is missing and the fix.
    """
    found = turns_left_out(turns, text)
    found += [UnrenderedTurn(n, turns[n]["role"], f"its text {_shown(turns[n]['content'])}") for n in sorted(never)]
    for one in found[:1]:
        raise BackboneError(
            f"the chat template leaves out of turn {one.turn + 1} of {len(turns)} ({one.role}) {one.missing}, "
            "so no score can depend on it",
            place=place,
            fix="give a template (backbone.template) that writes the content of each turn as it is",
        )


def never_rendered(render: Render, roles: Sequence[str]) -> frozenset[int]:
    """Return the numbers of the turns that a template leaves out whatever they say.

    A short text may stand in the rendering by chance (``user`` in a header); texts that no template writes may not.

    Args:
        render: turns to the text.
        roles: who speaks, turn after turn.
    """
    turns = [{"role": role, "content": f"Qx{number}Zv"} for number, role in enumerate(roles)]
    return frozenset(one.turn for one in turns_left_out(turns, render(turns)))


def without_thought(text: str) -> str:
    """Return ``text`` from behind the end of its reasoning; all of it where there is none."""
    ends = [match.end() for match in _THOUGHT_ENDS.finditer(text)]
    return text[ends[-1] :] if ends else text


def _rendered(render: Render) -> Iterator[tuple[TemplateTurns, str]]:
    for turns in _probes():
        try:
            yield turns, render(turns)
        except (BackboneError, jinja2.TemplateError, TypeError, ValueError, KeyError):
            continue


def _probes() -> list[TemplateTurns]:
    def talk(*texts: str, system: str = "") -> TemplateTurns:
        said = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]
        return [{"role": "system", "content": system}, *said] if system else said

    asked, answer = "Which Town lies on the Seine?", "Paris does, as does Rouen."
    more, last = "And on the Rhine: Name one, please!", "Basel (or Cologne)."
    thought = "<think>\nFrance, I Suppose.\n</think>\n\n"
    return [
        talk(asked, answer),
        talk(asked, answer, more, last),
        talk(asked, answer, system="Answer in One line."),
        talk(asked, answer, more, last, system="Answer in One line."),
        talk(asked, thought + answer),
        talk(asked, thought + answer, more, thought + last),
    ]


def _missing(content: str, whole: str) -> str:
    """Return what of ``content`` is not in the squeezed rendering ``whole``, in words."""
    behind = without_thought(content)
    if behind != content and (not behind.strip() or _squeezed(behind) in whole):
        return f"the reasoning {_shown(content[: len(content) - len(behind)])}"
    if _squeezed(content).casefold() in whole.casefold():
        return f"the upper and lower case of {_shown(content)}"
    words = content.split()
    kept = _longest(len(words), lambda n: "".join(words[:n]) in whole)
    if 2 * kept >= len(words) and kept:
        return f"the part from {_shown(' '.join(words[kept:]))} on"
    kept = _longest(len(words), lambda n: "".join(words[len(words) - n :]) in whole)
    if 2 * kept >= len(words) and kept:
        return f"the part {_shown(' '.join(words[: len(words) - kept]))} at its beginning"
    return f"its text {_shown(content)}"


def _longest(size: int, holds: Callable[[int], bool]) -> int:
    """Return the largest number up to ``size`` for which ``holds``, where it holds for all smaller ones too."""
    good, bad = 0, size + 1
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if holds(middle) else (good, middle)
    return good


def _shown(text: str) -> str:
    text = text.strip()
    return repr(text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "...")


def _squeezed(text: str) -> str:
    return "".join(text.split())
