"""Renders untrusted chat templates as Transformers does, but within limits.

A template is a program. Its environment has the same tags, filters and functions as Transformers'
``apply_chat_template``, and gives the same text byte for byte. But loop iterations, calls, created strings and written
text are all counted (see :mod:`facetrm.backbone.text.budget`), so that rendering ends with a text or a BackboneError
within seconds and with bounded memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, final

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from facetrm.backbone.text.budget import Budget, LimitError
from facetrm.backbone.text.sandbox import BUDGET, CountedEnvironment
from facetrm.backbone.text.truncate import TemplateTurns
from facetrm.core.errors import BackboneError, printable

LONGEST_SOURCE: Final = 200_000  # characters; the longest templates of published models have 30,000
_SHOWN: Final = 300  # characters shown of an error message that the template raises


@final
class GuardedTemplate:
    """A chat template that renders within limits.

    Args:
        source: source of the template.

    Raises:
        BackboneError: The template is invalid or too long.
    """

    def __init__(self, source: str) -> None:
        if len(source) > LONGEST_SOURCE:
            raise BackboneError(
                f"the chat template has {len(source)} characters, more than {LONGEST_SOURCE}",
                place="chat template",
                fix="give another backbone.template",
            )
        token = BUDGET.set(Budget(characters=0, turns=0))
        try:
            self._render = CountedEnvironment().from_string(source)
        except Exception as exc:  # an untrusted program can raise anything
            raise BackboneError(
                f"the chat template cannot be read ({_reason(exc)})",
                place="chat template",
                fix="give another backbone.template",
            ) from None
        finally:
            BUDGET.reset(token)

    def render(
        self,
        tokenizer: PreTrainedTokenizerBase,
        turns: TemplateTurns,
        *,
        date: str | None,
        place: str,
        opened: bool = False,
    ) -> str:
        """Return the same text as ``tokenizer.apply_chat_template(turns, tokenize=False)``.

        Args:
            tokenizer: tokenizer whose special tokens the template can use.
            turns: messages, oldest first.
            date: value of ``date_string`` in the template; None to leave it undefined.
            place: location of the conversation, for error messages.
            opened: whether to add the generation prompt.

        Raises:
            BackboneError: The template rejects the turns, exceeds a limit, or fails.
        """
        size = sum(len(turn["content"]) for turn in turns)
        known: dict[str, Any] = {name: _plain(value) for name, value in tokenizer.special_tokens_map.items()}
        known |= {} if date is None else {"date_string": date}
        known |= {"messages": [dict(turn) for turn in turns], "tools": None, "documents": None}
        known |= {"add_generation_prompt": opened}
        token = BUDGET.set(Budget(characters=size, turns=len(turns)))
        try:
            return self._text(known)
        except Exception as exc:
            raise _refusal(exc, turns, place) from None
        finally:
            BUDGET.reset(token)

    def _text(self, known: Mapping[str, Any]) -> str:
        budget, pieces = BUDGET.get(), []
        for piece in self._render.root_render_func(self._render.new_context(dict(known))):
            budget.write(len(piece))
            pieces.append(piece)
        text = "".join(pieces)
        if not text.isascii():
            text.encode("utf-8")  # fails for half a surrogate pair, which no tokenizer accepts
        return text


def _refusal(exc: Exception, turns: TemplateTurns, place: str) -> BackboneError:
    if isinstance(exc, TemplateError | TypeError | ValueError | KeyError) and not isinstance(exc, UnicodeError):
        roles = ", ".join(turn["role"] for turn in turns[:20]) + (", ..." if len(turns) > 20 else "")
        system = any(turn["role"] == "system" for turn in turns)
        return BackboneError(
            f"the chat template refuses a conversation with the roles {roles} ({_reason(exc)})",
            place=place,
            fix="put the system text into the first user turn, or give another backbone.template"
            if system
            else "give another backbone.template, or fix the order of the roles",
        )
    return BackboneError(
        f"the chat template cannot be rendered: {_reason(exc)}", place=place, fix="give another backbone.template"
    )


def _reason(exc: Exception) -> str:
    """Return a short description of the error, without terminal control characters."""
    if isinstance(exc, UnicodeError):
        return "it writes half of a surrogate pair, which is not a character"
    if isinstance(exc, RecursionError):
        return "it calls itself without end"
    if isinstance(exc, MemoryError):
        return "it needs more memory than there is"
    if isinstance(exc, LimitError):
        return str(exc)
    said = printable(str(exc)[: 2 * _SHOWN], _SHOWN) or "no reason given"
    return said if isinstance(exc, TemplateError) else f"{type(exc).__name__}: {said}"


def _plain(value: Any) -> Any:
    return [str(one) for one in value] if isinstance(value, list | tuple) else str(value)
