"""The parts of a :class:`~facetrm.backbone.transformer.TransformerEncoder` that its configuration asks for."""

from __future__ import annotations

import inspect

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from facetrm.backbone.checkpoint import TrunkKind, position_limit, token_limit
from facetrm.backbone.config import BackboneConfig
from facetrm.backbone.passes.engine import DecoderEngine
from facetrm.backbone.passes.pooling import MeanPooling
from facetrm.backbone.text.chat import ChatFormat, DecoderChat, EncoderChat, Limit
from facetrm.core.errors import BackboneError
from facetrm.core.progress import log


def most_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: BackboneConfig) -> int:
    """Return the most tokens of a conversation: what ``config`` says, else what model and tokenizer say.

    Raises:
        BackboneError: nobody says, or the model has fewer positions.
    """
    known = token_limit(model, tokenizer)
    tokens = config.max_tokens or known
    if tokens is None:
        raise BackboneError(
            "neither model nor tokenizer says how many tokens it reads",
            place=config.path,
            fix="set backbone.max_tokens",
        )
    positions = position_limit(model)
    if positions is not None and positions < tokens:
        raise BackboneError(
            f"max_tokens {tokens} is above the {positions} positions of the model",
            place=config.path,
            fix=f"set backbone.max_tokens to {known} or less",
        )
    return tokens


def made_chat(
    tokenizer: PreTrainedTokenizerBase, config: BackboneConfig, *, template: str | None, tokens: int
) -> ChatFormat:
    """Return what turns conversations into tokens.

    Args:
        tokenizer: the backbone's own.
        config: how it reads.
        template: the chat template's text; None for an encoder, which reads plain text.
        tokens: the most of a conversation.

    Raises:
        BackboneError: a template that cannot be used, or that an encoder is given.
    """
    limit = Limit(tokens, config.truncation)
    if template is None:
        if config.template is not None:
            raise BackboneError(
                f"template '{config.template}' is given, but an encoder reads plain text",
                place=config.path,
                fix="take backbone.template out",
            )
        return EncoderChat(tokenizer, limit=limit)
    reader = DecoderChat(tokenizer, template=template, limit=limit, date=config.date)
    if reader.dated:
        log("the chat template prints the day's date", instead=config.date, setting="backbone.date")
    return reader


def made_engine(
    model: PreTrainedModel, config: BackboneConfig, *, kind: TrunkKind, pad: int
) -> DecoderEngine | MeanPooling:
    """Return what runs the passes of ``model``.

    Args:
        model: the trunk.
        config: how it reads.
        kind: of the trunk.
        pad: any id that the model has, for batches.
    """
    inputs = frozenset(inspect.signature(model.forward).parameters)
    compiles = config.compile and kind == "decoder" and config.mode == "fast"
    if config.compile and not compiles:
        log("compile is off", reason="it makes passes of a decoder in fast mode only")
    mode, budget = config.mode, config.token_budget
    if kind == "encoder":
        return MeanPooling(model, mode=mode, token_budget=budget, pad=pad, inputs=inputs)
    compiled = torch.compile(model, dynamic=True) if compiles else None
    return DecoderEngine(model, mode=mode, token_budget=budget, pad=pad, inputs=inputs, compiled=compiled)
