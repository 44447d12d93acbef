"""Small random decoders of every architecture that is tested, in memory."""

from __future__ import annotations

import torch
import transformers as tf

SHAPE = {
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "pad_token_id": 0,
}
WHOLE_HEADS = {k: v for k, v in SHAPE.items() if k != "num_key_value_heads"}
TWO = {"eos_token_id": 1, "bos_token_id": 2}
GPT2 = {"vocab_size": 100, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128, "initializer_range": 0.3, **TWO}
MODELS = {
    "llama": lambda: tf.LlamaModel(tf.LlamaConfig(**SHAPE)),
    "qwen3": lambda: tf.Qwen3Model(tf.Qwen3Config(**SHAPE, head_dim=8)),
    "mistral, window of 6": lambda: tf.MistralModel(tf.MistralConfig(**SHAPE, sliding_window=6)),
    "gemma2, window of 6, capped": lambda: tf.Gemma2Model(
        tf.Gemma2Config(**SHAPE, head_dim=8, sliding_window=6, query_pre_attn_scalar=8, attn_logit_softcapping=1.0)
    ),
    "gemma3, window of 6": lambda: tf.Gemma3TextModel(
        tf.Gemma3TextConfig(**SHAPE, head_dim=8, sliding_window=6, query_pre_attn_scalar=8)
    ),
    "phi": lambda: tf.PhiModel(tf.PhiConfig(**SHAPE)),
    "gpt-neox": lambda: tf.GPTNeoXModel(tf.GPTNeoXConfig(**WHOLE_HEADS)),
    "gpt2, absolute positions": lambda: tf.GPT2Model(tf.GPT2Config(**GPT2)),
    "mixtral": lambda: tf.MixtralModel(tf.MixtralConfig(**SHAPE, num_local_experts=4)),
}


def made(name: str) -> tf.PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MODELS[name]().eval()


def ids(length: int, seed: int) -> tuple[int, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(3, 100, (length,), generator=generator).tolist())
