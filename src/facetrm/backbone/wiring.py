"""Builds the parts of a :class:`~facetrm.backbone.transformer.TransformerEncoder` from its configuration."""

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
    """Return the maximum tokens of a conversation, from ``config`` or else from model and tokenizer.

    Args:
        model: trunk.
        tokenizer: tokenizer of the trunk.
        config: settings of the backbone.

    Raises:
        BackboneError: No limit is stated, or the model has fewer positions.
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
    """Return the chat format, which turns conversations into tokens.

    Args:
        tokenizer: tokenizer of the backbone.
        config: settings of the backbone.
        template: text of the chat template; None for an encoder, which reads plain text.
        tokens: maximum number of tokens of a conversation.

    Raises:
        BackboneError: The template cannot be used, or a template is given for an encoder.
    """
    limit = Limit(tokens, config.truncation)
    if template is None:
        if config.template is not None:
            raise BackboneError(
                f"template '{config.template}' is given, but an encoder reads plain text",
                place=config.path,
                fix="remove backbone.template",
            )
        return EncoderChat(tokenizer, limit=limit)
    reader = DecoderChat(tokenizer, template=template, limit=limit, date=config.date)
    if reader.dated:
        log("the chat template prints today's date", instead=config.date, setting="backbone.date")
    return reader


def made_engine(
    model: PreTrainedModel, config: BackboneConfig, *, kind: TrunkKind, pad: int
) -> DecoderEngine | MeanPooling:
    """Return the engine that runs the forward passes of ``model``.

    Args:
        model: trunk.
        config: settings of the backbone.
        kind: decoder or encoder.
        pad: any valid token id, used to pad batches.
    """
    inputs = frozenset(inspect.signature(model.forward).parameters)
    compiles = config.compile and kind == "decoder" and config.mode == "fast"
    if config.compile and not compiles:
        log("compile is off", reason="it is used only for a decoder in fast mode")
    mode, budget = config.mode, config.token_budget
    if kind == "encoder":
        return MeanPooling(model, mode=mode, token_budget=budget, pad=pad, inputs=inputs)
    compiled = torch.compile(model, dynamic=True) if compiles else None
    return DecoderEngine(model, mode=mode, token_budget=budget, pad=pad, inputs=inputs, compiled=compiled)
