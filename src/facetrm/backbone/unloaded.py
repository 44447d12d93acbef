"""A backbone's tokenizer and sizes, read without its weights: for estimates before a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, final

from transformers import AutoConfig, AutoTokenizer

from facetrm.backbone.checkpoint import find_checkpoint, model_kind, quiet_transformers
from facetrm.backbone.config import BackboneConfig
from facetrm.backbone.text.chat import ChatFormat
from facetrm.backbone.text.template import chat_template
from facetrm.backbone.wiring import made_chat
from facetrm.core.errors import BackboneError, FacetrmError
from facetrm.data.records import Message

_NO_LIMIT: Final = 10**9


@final
@dataclass(frozen=True)
class UnloadedBackbone:
    """What is known of a backbone without its weights.

    Attributes:
        chat: Its chat format, without a limit of tokens.
        max_tokens: Most tokens that it reads; None if it does not say.
        parameters: Number of its parameters; None if its tensors are not on this machine.
    """

    chat: ChatFormat
    max_tokens: int | None
    parameters: int | None

    def count(self, messages: Sequence[Message]) -> int:
        """Return the number of tokens of a conversation.

        Args:
            messages: The conversation, ending with an answer.

        Raises:
            BackboneError: The chat template refuses it.
        """
        return len(self.chat.tokenize(messages, row=0).ids)


def read_unloaded(config: BackboneConfig) -> UnloadedBackbone:
    """Read the tokenizer and the sizes of a backbone. A GGUF file is dequantised into the cache, as for a run.

    Args:
        config: Settings of the backbone.

    Raises:
        BackboneError: The backbone is not there, or its tokenizer or template cannot be read.
    """
    config = config.with_full_paths()
    options: Any = {"trust_remote_code": config.trust_remote_code, "revision": config.revision}
    try:
        name, shapes = find_checkpoint(config.path, revision=config.revision, trusted=config.trust_remote_code)
        with quiet_transformers():
            known = AutoConfig.from_pretrained(name, **options)
            tokenizer = AutoTokenizer.from_pretrained(name, **options)
        kind = model_kind(known, place=config.path) if config.kind == "auto" else config.kind
        template = chat_template(tokenizer, config) if kind == "decoder" else None
        chat = made_chat(tokenizer, config, template=template, tokens=_NO_LIMIT)
    except FacetrmError:
        raise
    except Exception as exc:  # Transformers raises whatever it meets
        said = " ".join(str(exc).split())[:200]
        raise BackboneError(f"cannot be read ({type(exc).__name__}: {said})", place=config.path) from exc
    stated = [tokenizer.model_max_length, getattr(known, "max_position_embeddings", None)]
    limits = [int(n) for n in stated if isinstance(n, int | float) and 0 < n < _NO_LIMIT]
    parameters = sum(math.prod(shape) for shape in shapes.values())
    return UnloadedBackbone(chat, min(limits, default=None), parameters or None)
