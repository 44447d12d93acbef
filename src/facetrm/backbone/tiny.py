"""A small untrained decoder with Llama's architecture over a closed vocabulary of words, for the built-in data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from pydantic import Field, model_validator
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from facetrm.backbone.exclusive import making
from facetrm.core.config import Section

_SPECIAL: Final = ("<pad>", "<bos>", "<end>", "<unk>", "<system>", "<user>", "<assistant>")
_TEMPLATE: Final = (
    "{{ bos_token }}{% for message in messages %} <{{ message.role }}> {{ message.content }} <end>{% endfor %}"
    "{% if add_generation_prompt %} <assistant>{% endif %}"
)


class TinyShape(Section):
    """The size of a small decoder: ``hidden`` is the hidden size D, ``inner`` the width of the feed-forward layers.

    Example:
        >>> from facetrm import TinyShape
        >>> TinyShape(hidden=32, layers=2).hidden
        32
    """

    hidden: int = Field(default=128, ge=2)
    layers: int = Field(default=4, ge=1)
    heads: int = Field(default=4, ge=1)
    inner: int = Field(default=384, ge=1)
    max_tokens: int = Field(default=512, ge=2)

    @model_validator(mode="after")
    def _even_heads(self) -> TinyShape:
        if self.hidden % (2 * self.heads):
            raise ValueError(f"hidden {self.hidden} is no even multiple of heads {self.heads}")
        return self


def word_tokenizer(vocabulary: Sequence[str], *, max_tokens: int) -> PreTrainedTokenizerFast:
    """Return a word tokenizer that splits at spaces, with a chat template that renders ``<role> text <end>`` per turn.

    Args:
        vocabulary: known words, in the order of their ids; any other word becomes ``<unk>``.
        max_tokens: maximum number of tokens of a conversation.
    """
    words = {word: i for i, word in enumerate((*_SPECIAL, *vocabulary))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<end>",
        unk_token="<unk>",
        additional_special_tokens=["<system>", "<user>", "<assistant>"],
        model_max_length=max_tokens,
        padding_side="right",
    )
    fast.chat_template = _TEMPLATE
    return fast


def tiny_decoder(
    vocabulary: Sequence[str], *, shape: TinyShape | None = None, seed: int = 0
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Return an untrained decoder and its tokenizer; equal seeds give equal weights.

    Args:
        vocabulary: known words, in the order of their ids.
        shape: size of the decoder; None for the default size.
        seed: random seed of the weights.

    Example:
        >>> from facetrm import TinyShape, tiny_decoder, vocabulary
        >>> decoder, tokenizer = tiny_decoder(vocabulary(), shape=TinyShape(hidden=32, layers=2))
        >>> decoder.config.hidden_size
        32
    """
    shape = shape or TinyShape()
    tokenizer = word_tokenizer(vocabulary, max_tokens=shape.max_tokens)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        intermediate_size=shape.inner,
        max_position_embeddings=shape.max_tokens,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=True,
    )
    with making, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config), tokenizer
