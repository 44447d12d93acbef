"""Export a backbone's tokenizer for programs without facetrm, and check that it gives the same token ids."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from facetrm.backbone.checkpoint import quiet_transformers
from facetrm.backbone.encoder import Portable
from facetrm.backbone.text.chat import DecoderChat, Ids, Tokenized
from facetrm.backbone.text.guarded import GuardedTemplate
from facetrm.core.errors import BackboneError
from facetrm.data.records import Conversation, Message

_ANSWERS: Final = ("Yes.", "no", "7 is prime", "(perhaps)", "\u00dcber alles")
_ODD: Final = ("\nYes", "\n\nYes", " Yes", "Yes\n\n", "] [1] see")  # the first token may merge with the header


def write_tokenizer(tokenizer: PreTrainedTokenizerBase, chat: DecoderChat, folder: Path) -> Portable:
    """Write the tokenizer to ``folder``, with a template that gives the same ids, and a dedicated padding token.

    Args:
        tokenizer: tokenizer of the backbone; it is not changed.
        chat: chat format that the exported tokenizer must reproduce.
        folder: destination folder.

    Returns:
        Token ids that other programs need to read conversations.

    Raises:
        BackboneError: Another program would read different ids, or could not tell where a prompt ends.
    """
    probes = [probe for probe in _probes() if _accepted(chat, probe)]
    rows = [chat.tokenize(probe, row=n) for n, probe in enumerate(probes)]
    header = _header(rows[: len(_ANSWERS)], place=tokenizer.name_or_path)
    pattern = _pattern(header, rows, chat, place=tokenizer.name_or_path)
    openings = {row.ids[0] for row in rows}
    opening = openings.pop() if len(openings) == 1 else None
    pad = _padding(tokenizer, rows, opening=opening)
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(chat.portable_template, encoding="utf-8")
    _settle(folder, str(tokenizer.convert_ids_to_tokens(pad)))
    with quiet_transformers():
        written = AutoTokenizer.from_pretrained(folder)
    template = GuardedTemplate(str(written.chat_template))
    for probe, row in zip(probes, rows, strict=True):
        messages = [m.model_dump(include={"role", "content"}) for m in probe]
        text = template.render(written, messages, date=None, place="chat template")
        theirs = tuple(written(text, add_special_tokens=False).input_ids)
        if theirs != row.ids:
            raise BackboneError(
                f"a plain tokenizer reads {theirs[:8]}... where facetrm reads {row.ids[:8]}...",
                place=tokenizer.name_or_path,
                fix="give a chat template (backbone.template) that writes the BOS token itself and no date",
            )
    return Portable(pad, tokenizer.bos_token_id, tokenizer.eos_token_id, opening, header, pattern)


def _probes() -> list[Conversation]:
    def turns(*texts: str) -> Conversation:
        return tuple(Message(role=("user", "assistant")[n % 2], content=text) for n, text in enumerate(texts))

    system = Message(role="system", content="Be brief.")
    single = [turns("Is it 7?", answer) for answer in (*_ANSWERS, *_ODD)]
    several = [turns("a", "b", "Why so?\nTell me", answer) for answer in ("Because.", *_ODD)]
    return [*single, *several, (system, *single[0])]


def _accepted(chat: DecoderChat, probe: Conversation) -> bool:
    """Return whether the template accepts the conversation; some templates refuse system turns."""
    if probe[0].role != "system":
        return True
    try:
        chat.tokenize(probe, row=0)
    except BackboneError:
        return False
    return True


def _header(rows: Sequence[Tokenized], *, place: str) -> Ids:
    found = {row.ids[row.prompt_end : row.response_start] for row in rows}
    if len(found) != 1:
        raise BackboneError(
            f"the ids between prompt and response are not always the same ({sorted(found)[:2]})",
            place=place,
            fix="give a chat template (backbone.template) that opens the response with a token of its own",
        )
    return found.pop()


def _pattern(header: Ids, rows: Sequence[Tokenized], chat: DecoderChat, *, place: str) -> Ids:
    """Return the part of ``header`` up to its last control token, which marks the end of the prompt."""
    controls = [i for i, token in enumerate(header) if chat.is_control(token)]
    if not controls:
        raise BackboneError(
            f"only ordinary text ({list(header)}) is between prompt and response, and an answer may contain it",
            place=place,
            fix="give a chat template (backbone.template) that opens the response with a special token",
        )
    pattern = header[: controls[-1] + 1]
    for row in rows:
        found = max((i for i in range(len(row.ids)) if row.ids[i : i + len(pattern)] == pattern), default=-1)
        if found != row.prompt_end:
            raise BackboneError(
                f"the ids {list(pattern)} do not mark the end of every prompt",
                place=place,
                fix="give a chat template (backbone.template) that opens every response in the same way",
            )
    return pattern


def _padding(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Tokenized], *, opening: int | None) -> int:
    """Return the padding token id: the tokenizer's own, or another control token, preferably one that is not used.

    It must never end a conversation. It may open every conversation; then the last of the leading ones is real.
    """
    used, lasts = {i for row in rows for i in row.ids}, {row.ids[-1] for row in rows}
    controls = sorted(i for i, token in tokenizer.added_tokens_decoder.items() if token.special)
    unused = [i for i in controls if i not in used and i != tokenizer.unk_token_id]
    for pad in (tokenizer.pad_token_id, *unused, tokenizer.unk_token_id, opening):
        if pad is not None and pad != tokenizer.eos_token_id and pad not in lasts:
            return int(pad)
    raise BackboneError(
        "no token is free for padding: every control token closes conversations",
        place=tokenizer.name_or_path,
        fix="add a padding token to the tokenizer and a row to the model's embeddings",
    )


def _settle(folder: Path, token: str) -> None:
    """Set ``token`` as the padding token of the tokenizer in ``folder``, in terms that Transformers 4 knows too."""
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["pad_token"] = token
    if settings.get("tokenizer_class") == "TokenizersBackend":  # only Transformers 5 knows this name
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(settings.get("extra_special_tokens"), list):  # Transformers 4 expects a mapping under this name
        settings["additional_special_tokens"] = settings.pop("extra_special_tokens")
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    special = folder / "special_tokens_map.json"
    if special.exists():
        known = json.loads(special.read_text(encoding="utf-8")) | {"pad_token": token}
        special.write_text(json.dumps(known, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
