"""Random decoders, random conversations, and plain Transformers code to read them: the baseline of the engine."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from facetrm.backbone.passes.engine import DecoderEngine
from facetrm.backbone.text.chat import Tokenized

INPUTS = frozenset({"position_ids", "use_cache", "input_ids", "attention_mask"})


def llama(
    *,
    hidden: int,
    layers: int,
    heads: int,
    kv: int,
    dtype: torch.dtype,
    words: int = 8192,
    inner: int | None = None,
    device: str = "cpu",
    theta: float = 10_000.0,
) -> LlamaForCausalLM:
    """Return a randomly initialised decoder; ``inner`` is the width of its feed-forward layers, 8/3 by default."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=words,
        hidden_size=hidden,
        intermediate_size=inner or hidden * 8 // 3 // 64 * 64,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv,
        max_position_embeddings=32768,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
        dtype=dtype,
    )
    with torch.device(device):
        model = LlamaForCausalLM._from_config(config)
    return model.eval()


def engine_of(model: LlamaForCausalLM, *, mode: str = "fast", token_budget: int = 8192) -> DecoderEngine:
    """Return the engine over the trunk of ``model``."""
    return DecoderEngine(model.model, mode=mode, token_budget=token_budget, pad=0, inputs=INPUTS)  # type: ignore[arg-type]


def linear_weights(model: LlamaForCausalLM) -> int:
    """Return the number of weights that multiply every token: two operations each."""
    return sum(m.weight.numel() for m in model.model.modules() if isinstance(m, torch.nn.Linear))


def operations(model: LlamaForCausalLM, lengths: Sequence[int]) -> float:
    """Return the operations of reading conversations of ``lengths`` tokens: linear layers, and causal attention."""
    config = model.config
    attention = 2 * config.num_hidden_layers * config.hidden_size * sum(n * (n + 1) for n in lengths)
    return 2.0 * linear_weights(model) * sum(lengths) + attention


def ids(length: int, seed: int) -> tuple[int, ...]:
    """Return random ids."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(10, 8000, (length,), generator=generator).tolist())


def row(prompt: tuple[int, ...], response: tuple[int, ...]) -> Tokenized:
    """Return a conversation whose prompt is the first part."""
    return Tokenized(prompt + response, len(prompt) - 1, len(prompt), len(response))


def padded(model: LlamaForCausalLM, rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """Return the last states of one batch of ids padded on the right, as plain Transformers gives them."""
    width = max(map(len, rows))
    batch = torch.zeros(len(rows), width, dtype=torch.int64)
    mask = torch.zeros_like(batch)
    for n, tokens in enumerate(rows):
        batch[n, : len(tokens)], mask[n, : len(tokens)] = torch.tensor(tokens), 1
    device = model.device
    hidden = model.model(input_ids=batch.to(device), attention_mask=mask.to(device), use_cache=False).last_hidden_state
    return hidden[torch.arange(len(rows)), torch.tensor([len(tokens) - 1 for tokens in rows])]


def alone(model: LlamaForCausalLM, tokens: Sequence[int]) -> torch.Tensor:
    """Return the last state of one conversation read by itself with plain Transformers, without padding or mask."""
    batch = torch.tensor([tokens], device=model.device)
    return model.model(input_ids=batch, use_cache=False).last_hidden_state[0, -1]
