"""Checks that a chat template renders the text of every turn, because scores cannot depend on text that it omits.

The text of each turn must appear in the rendering, in order. A system turn may appear anywhere, because templates move
it into a user turn. Whitespace is ignored, because templates trim it. One part may be missing: the reasoning of an
*earlier* answer, up to the last ``</think>`` or similar tag, which many official templates remove. The last answer is
the one that is scored, so its reasoning must be present.
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
_SHOWN: Final = 40  # characters of a text shown in an error message

Render = Callable[[TemplateTurns], str]


@dataclass(frozen=True)
class UnrenderedTurn:
    """A turn that a template does not render completely.

    Attributes:
        turn: Index of the turn in the conversation.
        role: Role of the turn.
        missing: Description of the missing part, such as ``its text 'Be brief.'``.
    """

    turn: int
    role: str
    missing: str


def turns_left_out(turns: TemplateTurns, text: str) -> list[UnrenderedTurn]:
    """Return the turns whose text is not completely in the rendering, in order; empty if nothing is missing.

    Args:
        turns: messages that the template received, oldest first.
        text: rendered text.
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
    """Return the turns of probe conversations that a template does not render completely, each kind once.

    The probes have one or several questions, with and without a system turn and reasoning. Probes that the template
    rejects with an error are skipped, because such conversations also fail with a clear error when they are read.

    Args:
        render: function that renders turns (dicts with ``role`` and ``content``) to text, such as
            ``lambda turns: tokenizer.apply_chat_template(turns, tokenize=False)``.
    """
    found: dict[tuple[str, str], UnrenderedTurn] = {}
    for turns, text in _rendered(render):
        for one in turns_left_out(turns, text):
            found.setdefault((one.role, one.missing), one)
    return list(found.values())


def cuts_earlier_thoughts(render: Render) -> bool:
    """Return whether a template omits the reasoning of earlier answers, as many official ones do."""
    return any(
        _squeezed(turn["content"]) not in _squeezed(text)
        for turns, text in _rendered(render)
        for turn in turns[:-1]
        if turn["role"] == "assistant" and not turns_left_out(turns, text)
    )


def check_rendered(turns: TemplateTurns, text: str, *, never: Collection[int] = (), place: str) -> None:
    """Check that ``text`` contains the text of all ``turns``.

    Args:
        turns: messages that the template received, oldest first.
        text: rendered text.
        never: indices of turns that the template never renders, as returned by :func:`never_rendered`.
        place: location of the conversation, for the error message.

    Raises:
        BackboneError: A turn is not completely in the rendering. The message names the turn and the missing part.
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
    """Return the indices of the turns that a template never renders, whatever their text.

    A short text may occur in the rendering by chance (such as ``user`` in a header), so the check uses texts that no
    template writes.

    Args:
        render: function that renders turns to text.
        roles: role of each turn.
    """
    turns = [{"role": role, "content": f"Qx{number}Zv"} for number, role in enumerate(roles)]
    return frozenset(one.turn for one in turns_left_out(turns, render(turns)))


def without_thought(text: str) -> str:
    """Return the part of ``text`` after its reasoning, or all of it if there is none."""
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
    """Describe which part of ``content`` is not in ``whole``, the rendering without whitespace."""
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
    """Return the largest number up to ``size`` that satisfies ``holds``, which must hold for all smaller ones too."""
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
