"""Turns messages into token ids and positions, in the same way for training, evaluation and serving.

For decoders, the chat template renders the messages. Positions are derived from the message boundaries:

    prompt_end       the last non-whitespace token of the prompt rendered alone, which closes the turn
    response_start   the first token that depends on the response's text
    last token       the last token of the rendered conversation, including the end-of-turn token and the line break
                     that some templates write after it, as published reward models expect

Encoders read plain text: a single user turn is just its text, a longer prompt has one ``role: text`` line per turn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Protocol, cast, final

from transformers import BatchEncoding, PreTrainedTokenizerBase

from facetrm.backbone.text.guarded import GuardedTemplate
from facetrm.backbone.text.neutral import Neutraliser
from facetrm.backbone.text.rendered import check_rendered, cuts_earlier_thoughts, never_rendered
from facetrm.backbone.text.truncate import TemplateTurns, Truncation, drop_oldest
from facetrm.core.errors import BackboneError, TooLongError
from facetrm.core.fingerprint import fingerprint
from facetrm.core.progress import log
from facetrm.data.records import Message

Ids = tuple[int, ...]

TOKENS_FORMAT: Final = 1  # increase it whenever the same text would give different ids
PLAIN_TEMPLATE: Final = (
    "{{ bos_token }}{% for message in messages %}{{ message.role }}: {{ message.content }}{{ eos_token }}\n"
    "{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)


@dataclass(frozen=True)
class Tokenized:
    """A tokenised conversation.

    Attributes:
        ids: Token ids of the conversation.
        prompt_end: Index of the token that closes the prompt.
        response_start: Index of the first token of the response's text.
        length: Number of response tokens, including the end-of-turn token (decoders) or only the text (encoders).
        truncated: Whether part of the conversation was cut.
        unknown: Fraction of ``ids`` that are the unknown token, 0 to 1.
        types: Segment ids, for encoders that use them; otherwise empty.
        prompt_ids: Token ids of the prompt alone, for encoders; otherwise empty.
        prompt_types: Segment ids of the prompt alone, for encoders that use them; otherwise empty.
    """

    ids: Ids
    prompt_end: int
    response_start: int
    length: int
    truncated: bool = False
    types: Ids = ()
    prompt_ids: Ids = ()
    prompt_types: Ids = ()
    unknown: float = 0.0


class ChatFormat(Protocol):
    """Interface for turning a conversation into a :class:`Tokenized`."""

    @property
    def template_hash(self) -> str:
        """The hash of everything that determines the rendering: template, date and format version."""

    def tokenize(self, messages: Sequence[Message], *, row: int) -> Tokenized:
        """Return the token ids and positions of a conversation.

        Args:
            messages: prompt, followed by the response.
            row: index of the conversation, for error messages.
        """


@dataclass(frozen=True)
class Limit:
    """The maximum number of tokens per conversation, and the policy for longer ones."""

    tokens: int
    truncation: Truncation = "error"

    def cut(
        self, turns: TemplateTurns, *, measure: Callable[[TemplateTurns], int], place: str, answered: bool = True
    ) -> TemplateTurns:
        """Return the turns cut to the limit, as :func:`facetrm.backbone.text.truncate.drop_oldest` does.

        Args:
            turns: messages, oldest first.
            measure: function that returns the token count of rendered turns.
            place: location of the conversation, for error messages.
            answered: whether the last turn is the response.

        Raises:
            TooLongError: The policy is ``error``.
            BackboneError: The limit leaves no room for any text.
        """
        if self.truncation == "error":
            raise TooLongError(
                f"{measure(turns)} tokens, above the limit of {self.tokens}",
                place=place,
                fix="set backbone.truncation=drop_oldest (score: --truncation drop_oldest), drop the row (score: "
                "--on-error skip), or raise backbone.max_tokens if the model reads more",
            )
        kept = drop_oldest(turns, measure=measure, limit=self.tokens, answered=answered)
        if kept is None:
            raise BackboneError(
                f"max_tokens {self.tokens} leaves no room for even one character of each required turn",
                place=place,
                fix="raise backbone.max_tokens",
            )
        return kept


@dataclass(frozen=True)
class _Plain:
    """What a template does with a sequence of roles: its number of control tokens, and the turns it never renders."""

    controls: int
    never: frozenset[int]


@final
class DecoderChat:
    """Renders conversations with a chat template and derives positions.

    Args:
        tokenizer: tokenizer of the backbone; it is not changed.
        template: source of the chat template.
        limit: maximum tokens, and the policy for longer conversations.
        date: fixed date for templates that print today's date, so that features do not depend on the day.

    Raises:
        BackboneError: The template does not render a user turn.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, template: str, limit: Limit, date: str) -> None:
        self._tokenizer, self._limit, self._date = tokenizer, limit, date
        macro = "{%- macro strftime_now(format='') -%}" + date + "{%- endmacro -%}"
        self._template = template
        self._source = macro + template if "strftime_now" in template else template
        self._guarded = GuardedTemplate(self._source)
        self._bos: int | None = tokenizer.bos_token_id
        self._adds_bos = self._bos is not None and _ids(tokenizer, "a", special=True)[:1] == (self._bos,)
        self._prefix_ids = lru_cache(maxsize=256)(self._with_bos)
        probe = [{"role": "user", "content": "a"}]
        structural = self._with_bos(self._render(probe, place="chat template"))
        self._neutral = Neutraliser(tokenizer, structural=structural)
        self._known: dict[tuple[str, ...], _Plain] = {}
        if cuts_earlier_thoughts(self.render):
            log("the chat template leaves out the reasoning of earlier answers", keeps="that of the last")

    @property
    def template_hash(self) -> str:
        """The sha256 of the template, date and format version."""
        return fingerprint(
            {"template": self._template, "date": self._date if self.dated else "", "format": TOKENS_FORMAT}
        )

    @property
    def dated(self) -> bool:
        """Whether the template uses the date; it then gets the fixed one."""
        return "strftime_now" in self._template or "date_string" in self._template

    @property
    def portable_template(self) -> str:
        """The template for other programs, with a fixed date and with the BOS token that the tokenizer would add.

        Programs that render with it and tokenise without adding special tokens get the same ids as :meth:`tokenize`,
        except for text with control strings, which only :meth:`tokenize` breaks up.
        """
        dated = "date_string" in self._template and "set date_string" in self._template
        source = "{%- set date_string = '" + self._date + "' -%}" + self._source if dated else self._source
        probe = self._render([{"role": "user", "content": "a"}], place="chat template")
        written = _ids(self._tokenizer, probe)[:1] == (self._bos,)
        return "{{- bos_token -}}" + source if self._adds_bos and not written else source

    def tokenize(self, messages: Sequence[Message], *, row: int) -> Tokenized:
        """Return the token ids and positions of a conversation.

        Args:
            messages: prompt, followed by the response.
            row: index of the conversation, for error messages.

        Raises:
            BackboneError: The conversation has no response or prompt, is too long, is rejected by the template or
                rendered without all of its text, or its rendered prompt is not a prefix of it.
        """
        place = check_ending(messages, row=row)
        turns = [{"role": m.role, "content": self._neutral.soften(m.content, place=place)} for m in messages]
        ids = self._read(turns, place)
        if self._neutral.count(ids) != self._plain(turns, place).controls:
            turns = [{**t, "content": self._neutral.soften_by_tokens(t["content"], place=place)} for t in turns]
            ids = self._read(turns, place)
        truncated = len(ids) > self._limit.tokens
        if truncated:
            turns = self._limit.cut(turns, measure=lambda t: len(self._read(t, place)), place=place)
            ids = self._read(turns, place)
        text = self._render(turns, place=place)
        check_rendered(turns, text, never=self._plain(turns, place).never, place=place)
        end = self._prompt_end(turns, ids, place)
        start = self._response_start(turns, text, ids, place, after=end)
        share = unknown_share(self._tokenizer, ids)
        return Tokenized(ids, end, start, len(ids) - start, truncated, unknown=share)

    def render(self, turns: TemplateTurns) -> str:
        """Return the text of ``turns``, as the template renders it.

        Raises:
            BackboneError: The template rejects the turns.
        """
        return self._render(turns, place="chat template")

    def is_control(self, token: int) -> bool:
        """Return whether ``token`` is a control token, which the text of a message can never produce."""
        return self._neutral.count((token,)) == 1

    def _prompt_end(self, turns: TemplateTurns, ids: Ids, place: str) -> int:
        text = self._render(turns[:-1], place=place).rstrip()
        prompt_ids = self._prefix_ids(text)
        if not text or ids[: len(prompt_ids)] != prompt_ids:
            raise BackboneError(
                f"the chat template renders the prompt alone ({text[-40:]!r}) differently than before a response, "
                "so the end of the prompt cannot be found",
                place=place,
                fix="give a template (backbone.template) that renders a turn without looking at the later ones",
            )
        if len(ids) == len(prompt_ids):
            raise BackboneError(
                "the tokenizer reads no token in the response", place=place, fix="drop the row, or fix its text"
            )
        return len(prompt_ids) - 1

    def _response_start(self, turns: TemplateTurns, text: str, ids: Ids, place: str, *, after: int) -> int:
        # Render a response with a different first character: the common prefix of the two texts is the header.
        other = "1" if turns[-1]["content"].strip()[:1] == "0" else "0"
        probe = self._render([*turns[:-1], {"role": "assistant", "content": other}], place=place)
        header = self._prefix_ids(text[: _shared(text, probe)])
        return min(max(_shared(ids, header), after + 1), len(ids) - 1)

    def _plain(self, turns: TemplateTurns, place: str) -> _Plain:
        """Return what the template does with any conversation that has these roles (cached)."""
        roles = tuple(turn["role"] for turn in turns)
        if roles not in self._known:
            never = never_rendered(lambda plain: self._render(plain, place=place), roles)
            plain = [{"role": role, "content": "a"} for role in roles]
            self._known[roles] = _Plain(self._neutral.count(self._read(plain, place)), never)
        return self._known[roles]

    def _read(self, turns: TemplateTurns, place: str) -> Ids:
        return self._with_bos(self._render(turns, place=place))

    def _with_bos(self, text: str) -> Ids:
        """Return the ids of a rendered text, with exactly one BOS if the template or the tokenizer adds any."""
        ids = _ids(self._tokenizer, text)
        if self._adds_bos and ids[:1] != (self._bos,):
            return (cast(int, self._bos), *ids)
        while self._bos is not None and ids[:2] == (self._bos, self._bos):
            ids = ids[1:]
        return ids

    def _render(self, turns: TemplateTurns, *, place: str) -> str:
        return self._guarded.render(self._tokenizer, turns, date=self._date, place=place)


@final
class EncoderChat:
    """Tokenises plain text for a bidirectional encoder: the prompt alone, and the prompt-response pair.

    Args:
        tokenizer: tokenizer of the backbone; it is not changed.
        limit: maximum tokens of the prompt and of the pair, and the policy for longer ones.

    Raises:
        BackboneError: The tokenizer cannot tell which tokens belong to the response.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, limit: Limit) -> None:
        if not tokenizer.is_fast:
            raise BackboneError(
                f"'{type(tokenizer).__name__}' does not tell the response's tokens from the prompt's",
                place=tokenizer.name_or_path,
                fix="save a tokenizer.json beside the backbone",
            )
        self._tokenizer, self._limit = tokenizer, limit
        self._neutral = Neutraliser(tokenizer)
        self._controls = self._neutral.count(self._pair("a", "a")["input_ids"])

    @property
    def template_hash(self) -> str:
        """The sha256 of the name and version of the plain-text rendering."""
        return fingerprint({"template": "plain text pair", "format": TOKENS_FORMAT})

    def tokenize(self, messages: Sequence[Message], *, row: int) -> Tokenized:
        """Return the token ids of the pair and of the prompt alone, each truncated separately.

        Args:
            messages: prompt, followed by the response.
            row: index of the conversation, for error messages.

        Raises:
            BackboneError: The conversation has no response or prompt, is too long, or its response has no tokens.
        """
        place = check_ending(messages, row=row)
        turns = [{"role": m.role, "content": self._neutral.soften(m.content, place=place)} for m in messages]
        if self._neutral.count(self._joint(turns)["input_ids"]) != self._controls:
            turns = [{**t, "content": self._neutral.soften_by_tokens(t["content"], place=place)} for t in turns]
        alone, asked = self._fit(turns[:-1], answered=False, place=place)
        joint, answered = self._fit(turns, answered=True, place=place)
        sides = joint.sequence_ids(0)
        length = sides.count(1)
        if not length or 0 not in sides:
            raise BackboneError(
                f"the tokenizer reads no token in the {'response' if not length else 'prompt'}",
                place=place,
                fix="drop the row, or fix its text",
            )
        return Tokenized(
            ids=tuple(joint["input_ids"]),
            prompt_end=len(sides) - 1 - sides[::-1].index(0),
            response_start=sides.index(1),
            length=length,
            truncated=asked or answered,
            types=tuple(joint.get("token_type_ids", ())),
            prompt_ids=tuple(alone["input_ids"]),
            prompt_types=tuple(alone.get("token_type_ids", ())),
            unknown=unknown_share(self._tokenizer, joint["input_ids"]),
        )

    def _fit(self, turns: TemplateTurns, *, answered: bool, place: str) -> tuple[BatchEncoding, bool]:
        read = self._joint if answered else self._alone
        encoded = read(turns)
        if len(encoded["input_ids"]) <= self._limit.tokens:
            return encoded, False
        kept = self._limit.cut(turns, measure=lambda t: len(read(t)["input_ids"]), place=place, answered=answered)
        return read(kept), True

    def _joint(self, turns: TemplateTurns) -> BatchEncoding:
        return self._pair(plain_prompt(turns[:-1]), turns[-1]["content"])

    def _alone(self, turns: TemplateTurns) -> BatchEncoding:
        return cast(BatchEncoding, self._tokenizer(plain_prompt(turns), verbose=False))

    def _pair(self, prompt: str, response: str) -> BatchEncoding:
        return cast(BatchEncoding, self._tokenizer(prompt, response, verbose=False))


def unknown_share(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> float:
    """Return the fraction of ``ids`` that are the unknown token, 0 to 1.

    Some byte-level tokenizers declare their BOS or EOS token as unknown, although no text produces it; return 0 then.
    """
    unknown = tokenizer.unk_token_id
    if unknown is None or unknown in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        return 0.0
    return float(sum(i == unknown for i in ids) / max(len(ids), 1))


def plain_prompt(turns: TemplateTurns) -> str:
    """Return the prompt text for an encoder: the text of a single user turn, or one ``role: text`` line per turn."""
    if len(turns) == 1 and turns[0]["role"] == "user":
        return turns[0]["content"]
    return "\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)


def check_ending(messages: Sequence[Message], *, row: int) -> str:
    """Check that a conversation has a prompt and ends with a response; return its name for error messages.

    Args:
        messages: conversation to check.
        row: index of the conversation, which is part of its name.

    Raises:
        BackboneError: It does not have a prompt followed by an assistant message.
    """
    opening = repr(messages[0].content[:30]) if messages else "empty"
    place = f"conversation {row} ({opening})"
    if not messages or messages[-1].role != "assistant":
        last = f"it ends with '{messages[-1].role}'" if messages else "it has no message"
        raise BackboneError(last, place=place, fix="end with the assistant message to score")
    if len(messages) < 2:
        raise BackboneError("it has no prompt", place=place, fix="give the user message before the response")
    return place


def _ids(tokenizer: PreTrainedTokenizerBase, text: str, *, special: bool = False) -> Ids:
    return tuple(tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])


def _shared(one: Sequence[object], other: Sequence[object]) -> int:
    """Return the length of the common prefix."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
