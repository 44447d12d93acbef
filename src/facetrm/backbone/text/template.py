"""Which chat template a backbone's conversations are rendered with."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedTokenizerBase

from facetrm.backbone.config import BackboneConfig
from facetrm.backbone.text.chat import PLAIN_TEMPLATE
from facetrm.core.errors import BackboneError


def chat_template(tokenizer: PreTrainedTokenizerBase, config: BackboneConfig) -> str:
    """Return the chat template's text: the file that ``config`` gives, ``plain`` by name, else the tokenizer's own.

    Raises:
        BackboneError: there is none.
    """
    if config.template == "plain":
        return PLAIN_TEMPLATE
    if config.template is not None:
        try:
            return Path(config.template).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            raise BackboneError(
                "no such template", place=config.template, fix="give a Jinja file, or the name plain"
            ) from None
    own = tokenizer.chat_template
    text = own.get("default") if isinstance(own, dict) else own
    if not text:
        raise BackboneError(
            "the tokenizer has no chat template",
            place=config.path,
            fix="set backbone.template to a Jinja file, or to plain for 'role: text' lines",
        )
    return str(text)
