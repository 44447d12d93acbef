"""Reads texts that were rendered with a chat template back into messages, as other programs send them.

What the template writes between turns is found by rendering turns whose texts no template writes. A text is cut at
these marks, and the result is accepted only if the template renders it to the same text again. White space does not
count, because templates trim it. The end of the last turn may be missing or followed by padding, as after a generation
that stopped at its limit; an answer is always read as a finished turn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

from pydantic import ValidationError

from facetrm.backbone.text.truncate import TemplateTurns
from facetrm.core.errors import BackboneError
from facetrm.data.records import Conversation, Message

_FIX: Final = "send messages, or a prompt and answers, so that the model's own template renders them"


@dataclass(frozen=True)
class _Marks:
    """What a template writes around the turns of a conversation."""

    head: str
    to_answer: str
    to_user: str
    tail: str
    after_system: str | None = None


@final
class TextParser:
    """Reads texts that one chat template rendered.

    Args:
        render: renders turns with the template.
        has_control: tells whether a text holds a control token, which plain text never does.
        before: texts of the tokens that other programs write before a conversation: padding, beginning of text.
        after: texts of the tokens that other programs write after it: end of text, padding.
    """

    def __init__(
        self,
        render: Callable[[TemplateTurns], str],
        *,
        has_control: Callable[[str], bool],
        before: Sequence[str],
        after: Sequence[str],
    ) -> None:
        self._render, self._has_control = render, has_control
        self._before, self._after = [text for text in before if text], [text for text in after if text]
        self._forms = [marks for marks in (self._marks(False), self._marks(True)) if marks is not None]

    def parse(self, text: str) -> Conversation:
        """Return the conversation that the template renders as ``text``.

        Args:
            text: the rendered conversation, which ends with the answer.

        Raises:
            BackboneError: the template does not render any conversation like this.
        """
        body = self._begun(text)
        for marks in self._forms:
            turns = self._turns(body, marks)
            if turns is not None and self._same(turns, body, marks):
                return messages_of(turns)
        raise BackboneError(
            "the text is not a conversation as the model's chat template renders it, so where the answer begins "
            "cannot be told",
            place="rendered text",
            fix=_FIX,
        )

    def converse(self, prompt: str, response: str) -> Conversation:
        """Return the conversation of a prompt and an answer, where the prompt is rendered or plain.

        Args:
            prompt: the prompt up to the answer as the template renders it, or the plain text of one user turn.
            response: the answer.

        Raises:
            BackboneError: the prompt holds control tokens, but the template does not render it.
        """
        try:
            return self.parse(prompt + response)
        except BackboneError as exc:
            if self._has_control(prompt):
                raise BackboneError(exc.problem, place="prompt", fix=exc.fix) from None
        return messages_of(
            [{"role": "user", "content": prompt}, {"role": "assistant", "content": self.answer_of(response)}]
        )

    def answer_of(self, response: str) -> str:
        """Return an answer without the end of its turn and without padding.

        Args:
            response: the answer as it was generated.
        """
        return self._ended(response, self._forms[0]) if self._forms else response

    def _marks(self, with_system: bool) -> _Marks | None:
        """Return what the template writes around turns; None if it refuses such turns."""
        roles = (["system"] if with_system else []) + ["user", "assistant", "user", "assistant"]
        for count in (len(roles), len(roles) - 2):
            turns = [{"role": role, "content": f"Qx{n}Zv"} for n, role in enumerate(roles[:count])]
            try:
                text = self._render(turns)
            except BackboneError:
                continue
            parts, rest = list[str](), self._begun(text)
            for turn in turns:
                before, found, rest = rest.partition(turn["content"])
                if not found:
                    return None
                parts.append(before)
            parts.append(rest)
            after_system = parts.pop(1) if with_system else None
            return _Marks(parts[0], parts[1], parts[2] if len(parts) > 3 else "", parts[-1], after_system)
        return None

    def _begun(self, text: str) -> str:
        """Return a text without the padding and the beginning-of-text token before it."""
        text = text.lstrip()
        while filler := next((one for one in self._before if text.startswith(one)), None):
            text = text[len(filler) :].lstrip()
        return text

    def _ended(self, text: str, marks: _Marks) -> str:
        """Return a text without the end of its last turn and without what follows it."""
        endings = [ending for ending in (marks.tail.strip(), *self._after) if ending]
        text = text.rstrip()
        while ending := next((one for one in endings if text.endswith(one)), None):
            text = text[: -len(ending)].rstrip()
        return text

    def _turns(self, body: str, marks: _Marks) -> list[dict[str, str]] | None:
        if not body.startswith(marks.head) or not marks.to_answer:
            return None
        rest, turns = self._ended(body[len(marks.head) :], marks), list[dict[str, str]]()
        if marks.after_system is not None:
            text, found, rest = rest.partition(marks.after_system)
            if not found:
                return None
            turns.append({"role": "system", "content": text})
        while True:
            text, found, rest = rest.partition(marks.to_answer)
            if not found:
                return None
            turns.append({"role": "user", "content": text})
            text, found, rest = rest.partition(marks.to_user) if marks.to_user else (rest, "", "")
            turns.append({"role": "assistant", "content": text})
            if not found:
                return turns

    def _same(self, turns: list[dict[str, str]], body: str, marks: _Marks) -> bool:
        """Whether the template renders ``turns`` to the same text, but for white space and the end of the last turn."""
        if not all(turn["content"].strip() for turn in turns):
            return False
        try:
            again = self._begun(self._render(turns))
        except BackboneError:
            return False
        return _squeezed(self._ended(again, marks)) == _squeezed(self._ended(body, marks))


def messages_of(turns: Sequence[dict[str, Any]]) -> Conversation:
    """Return turns as messages.

    Args:
        turns: dicts with ``role`` and ``content``.

    Raises:
        BackboneError: a turn is empty, or not a text.
    """
    try:
        return tuple(Message.model_validate(turn) for turn in turns)
    except ValidationError as exc:
        blank = next((turn["role"] for turn in turns if not str(turn["content"]).strip()), None)
        if blank is not None:
            what = "the answer" if blank == "assistant" else f"a {blank} turn"
            raise BackboneError(f"{what} is blank", place="rendered text", fix="leave it out") from None
        reason = exc.errors()[0]["msg"].removeprefix("Value error, ")
        raise BackboneError(f"a turn cannot be read ({reason})", place="rendered text", fix=_FIX) from None


def _squeezed(text: str) -> str:
    return "".join(text.split())
