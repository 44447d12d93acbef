"""Selects the chat template that renders a backbone's conversations."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from transformers import PreTrainedTokenizerBase

from facetrm.backbone.config import BackboneConfig
from facetrm.backbone.text.chat import PLAIN_TEMPLATE
from facetrm.core.errors import BackboneError
from facetrm.core.files import read_regular, why_unread

_LONGEST_TEMPLATE: Final = 1 << 20  # bytes


def chat_template(tokenizer: PreTrainedTokenizerBase, config: BackboneConfig) -> str:
    """Return the source of the chat template: the one set in ``config``, or else the tokenizer's own.

    Args:
        tokenizer: tokenizer of the backbone.
        config: settings, whose ``template`` is a path, ``plain``, or None for the tokenizer's own template.

    Raises:
        BackboneError: There is no template, or its file cannot be read.
    """
    if config.template == "plain":
        return PLAIN_TEMPLATE
    if config.template is not None:
        try:
            return read_regular(Path(config.template).expanduser(), limit=_LONGEST_TEMPLATE).decode("utf-8")
        except OSError as exc:
            problem, fix = why_unread(exc, missing="no such template", fix="give a Jinja file, or the name plain")
            raise BackboneError(problem, place=config.template, fix=fix) from None
        except UnicodeDecodeError as exc:
            raise BackboneError(
                f"not UTF-8 (byte {exc.start})", place=config.template, fix="save the template as UTF-8"
            ) from None
        except ValueError as exc:
            problem, fix = f"no such template ({exc})", "give a Jinja file, or the name plain"
            raise BackboneError(problem, place=config.template, fix=fix) from None
    own = tokenizer.chat_template
    text = own.get("default") if isinstance(own, dict) else own
    if not text:
        raise BackboneError(
            "the tokenizer has no chat template",
            place=config.path,
            fix="set backbone.template to a Jinja file, or to plain for 'role: text' lines",
        )
    return str(text)
