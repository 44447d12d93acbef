"""Check what the chat template and the tokenizer do to a conversation: dates, thinking blocks, history, BOS, end."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator, Sequence
from typing import Final

from transformers import PreTrainedTokenizerBase

from facetrm.backbone.text.rendered import UnrenderedTurn, unrendered_turns
from facetrm.backbone.text.truncate import TemplateTurns
from facetrm.core.errors import ModelError, short
from facetrm.doctor.artefact import Artefact
from facetrm.doctor.findings import Finding

_U1: Final = {"role": "user", "content": "first question"}
_A1: Final = {"role": "assistant", "content": "first answer"}
_U2: Final = {"role": "user", "content": "second question"}
_A2: Final = {"role": "assistant", "content": "second answer"}
_ONE: Final = [_U1, _A1]
_TWO: Final = [_U1, _A1, _U2, _A2]
_THINK: Final = re.compile(r"<\W?(?:think|thinking|reasoning|thought)\W?>", re.IGNORECASE)
_SHOWN: Final = 60


def check_template(artefact: Artefact) -> Iterator[Finding]:
    """Yield findings about the tokenizer and its chat template."""
    tokenizer = artefact.tokenizer
    if tokenizer is None:
        yield Finding(
            "tokenizer-missing",
            "error",
            "the tokenizer cannot be loaded",
            f"tokenizer_config.json: {'present' if artefact.tokenizer_config else 'missing'}; "
            f"tokenizer.json: {'present' if (artefact.folder / 'tokenizer.json').is_file() else 'missing'}",
            "it was not saved with the model, or the copy is broken",
            "save the tokenizer that the model was trained with into the folder",
        )
        return
    if not tokenizer.chat_template:
        yield Finding(
            "template-missing",
            "error",
            "the tokenizer has no chat template",
            "every caller then renders conversations differently",
            "it was not saved with the model",
            "save the chat template of training as chat_template.jinja next to tokenizer.json",
        )
        return

    try:
        text = artefact.render(_ONE)
    except ModelError as exc:
        yield Finding(
            "template-fails",
            "error",
            "the chat template raises an error on a user turn and an answer",
            exc.problem,
            "the template needs variables or roles that callers do not give",
            "fix the template: it must render user and assistant turns without further arguments",
        )
        return
    yield from _dropped(artefact)
    yield from _date(tokenizer, text)
    yield from _thinking(text, artefact)
    yield from _history(artefact)
    yield from _beginning(tokenizer, text)
    yield from _end(tokenizer, text)


def _dropped(artefact: Artefact) -> list[Finding]:
    def render(turns: TemplateTurns) -> str:
        try:
            return artefact.render(turns)
        except ModelError as exc:
            raise ValueError(exc.problem) from None  # unrendered_turns skips a probe that cannot be rendered

    return dropped_turns(unrendered_turns(render))


def dropped_turns(turns: Sequence[UnrenderedTurn]) -> list[Finding]:
    """Return a finding if the template leaves out text of some turns, since no score can depend on that text.

    Args:
        turns: the result of ``unrendered_turns``.
    """
    if not turns:
        return []
    said = [turn for turn in turns if turn.role != "system" and not turn.missing.startswith("the reasoning")]
    shown = "; ".join(f"turn {turn.turn + 1} ({turn.role}): {turn.missing}" for turn in (said or turns)[:3])
    return [
        Finding(
            "template-drops",
            "error" if said else "warning",
            "the chat template leaves out the content of a turn: answers that differ only there get the same score"
            if said
            else "the chat template leaves out an answer's reasoning, or a system turn: no score can depend on it",
            f"missing in the rendering of a test conversation: {shown}",
            "a template for multi-part content (images, tools) or for other roles, or one that truncates texts"
            if said
            else "a template made for generation, which hides these parts from later turns",
            "use a template that writes the content of each turn unchanged",
        )
    ]


def _date(tokenizer: PreTrainedTokenizerBase, text: str) -> Iterator[Finding]:
    source = _source(tokenizer)
    today = datetime.date.today()
    written = [today.strftime(f) for f in ("%d %b %Y", "%Y-%m-%d", "%d %B %Y", "%B %d, %Y", "%b %d, %Y")]
    shown = next((date for date in written if date in text), None)
    if "strftime_now" in source or shown is not None:
        yield Finding(
            "template-date",
            "warning",
            "the chat template writes today's date",
            f"rendered today: {short(shown)}" if shown is not None else "it calls strftime_now",
            "a template made for chat: the same conversation gets another score tomorrow",
            "write a fixed date into the template, or pass one (facetrm always renders with a fixed date)",
        )


def _thinking(text: str, artefact: Artefact) -> Iterator[Finding]:
    in_text = _THINK.search(text)
    try:
        opened = None if in_text else _THINK.search(artefact.render([_U1], opened=True))
    except ModelError:
        return  # the template has no generation prompt
    if in_text or opened:
        yield Finding(
            "template-think",
            "warning",
            "the chat template adds a thinking block that is not in the conversation",
            f"{'in a rendered answer' if in_text else 'in the generation prompt'}: "
            f"{short(str((in_text or opened).group()))}",  # type: ignore[union-attr]
            "a template made for generation: answers are scored after an empty block, or without the block that they "
            "were generated with",
            "score with a template that writes the turns unchanged",
        )


def _history(artefact: Artefact) -> Iterator[Finding]:
    try:
        short_text, long_text = artefact.render(_ONE).rstrip(), artefact.render(_TWO)
    except ModelError:
        return
    if not long_text.startswith(short_text):
        at = next(i for i, (a, b) in enumerate(zip(short_text, long_text + "\0", strict=False)) if a != b)
        yield Finding(
            "template-rewrites",
            "warning",
            "the chat template renders a turn differently when later turns follow",
            f"alone {short(short_text[at:], _SHOWN)}, later {short(long_text[at : at + _SHOWN], _SHOWN)}",
            "the template drops or changes earlier turns",
            "use a template that renders each turn independently of later ones",
        )


def _beginning(tokenizer: PreTrainedTokenizerBase, text: str) -> Iterator[Finding]:
    bos = tokenizer.bos_token_id
    if bos is None or bos == tokenizer.eos_token_id:
        return
    plain = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    special = tokenizer(text, verbose=False)["input_ids"]
    in_template, in_both = _leading(plain, bos), _leading(special, bos)
    if in_both >= 2:
        always = in_template >= 2
        yield Finding(
            "double-bos",
            "error" if always else "warning",
            "the beginning-of-text token is written twice",
            f"{in_both} x {tokenizer.bos_token!r} at the start of a rendered text "
            f"{'in every way of tokenising it' if always else 'that is tokenised with special tokens'}",
            "the template writes it" + (" twice" if always else ", and the tokenizer adds it again"),
            "remove one of them from the template"
            if always
            else "remove it from the template or the tokenizer; callers: add_special_tokens=False for rendered text "
            "(vLLM: send messages, or add_special_tokens: false)",
        )
    elif in_template == 0 and in_both == 0:
        yield Finding(
            "no-bos",
            "warning",
            f"{tokenizer.bos_token!r} is the beginning-of-text token, but it is never written",
            f"a rendered text begins with {tokenizer.convert_ids_to_tokens(special[:2])!r}",
            "neither the template nor the tokenizer writes it",
            "write {{ bos_token }} into the template if the model was trained with it; otherwise set bos_token to null",
        )


def _end(tokenizer: PreTrainedTokenizerBase, text: str) -> Iterator[Finding]:
    ids = tokenizer(text.rstrip(), add_special_tokens=False, verbose=False)["input_ids"]
    special = {*tokenizer.all_special_ids, *(i for i, t in tokenizer.added_tokens_decoder.items() if t.special)}
    if not ids or ids[-1] not in special:
        yield Finding(
            "no-end-of-turn",
            "warning",
            "no end-of-turn token follows the last answer",
            f"a rendered conversation ends with {short(text[-30:])}",
            "the template writes no end-of-turn token after the assistant's turn",
            "write the end token after each assistant turn: the reward is read there, and a cut-off answer then shows",
        )


def _leading(ids: list[int], token: int) -> int:
    return next((n for n, found in enumerate(ids) if found != token), len(ids))


def _source(tokenizer: PreTrainedTokenizerBase) -> str:
    template = tokenizer.chat_template
    return "\n".join(map(str, template.values())) if isinstance(template, dict) else str(template)
