"""Tiny GGUF files: a random Llama of two layers and a byte-level vocabulary, as llama.cpp converts them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter, quantize
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

HIDDEN, LAYERS, HEADS, KV_HEADS, INNER, CONTEXT = 32, 2, 4, 2, 64, 512
CONTROLS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
DIGITS = r"\p{N}"
TEXT = [
    "the house on the hill and the tree by the river, with 12 windows and 3456 stones",
    "    def f(x):\n        return  x + 1\n\n\n    # two  spaces,   three spaces,    four",
    "it's what we've said: they'll do it, I'd think; you're late, I'm not",
    "user assistant system yes no why so because über café naïve 北京 данные",
] * 3


@lru_cache
def vocabulary(
    *, controls: tuple[str, ...] = CONTROLS, cut: str = DIGITS, size: int = 420
) -> tuple[list[str], list[str]]:
    """Return tokens and merges of a small byte-level vocabulary, with the control tokens first."""
    tokenizer = Tokenizer(models.BPE())
    splits = [pre_tokenizers.Split(Regex(cut), "isolated")] if cut else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(controls), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return tokens, [" ".join(merge) for merge in merges]


def sentencepiece() -> tuple[list[str], dict[str, Any]]:
    """Return the tokens of a vocabulary of the kind ``llama``, and the settings of a file that holds it."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words += ["▁", *"hiok", "hi", "ok", "▁hi", "▁ok"]
    return words, {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": None,
        "tokenizer.ggml.merges": None,
        "tokenizer.ggml.tokens": words,
        "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 256, *[1] * (len(words) - 259)],
        "tokenizer.ggml.scores": [0.0] * 259 + [-1000.0] * 5 + [-1.0, -2.0, -3.0, -4.0],
        "tokenizer.ggml.padding_token_id": None,
        "tokenizer.ggml.add_bos_token": None,
        "tokenizer.chat_template": "{% for m in messages %}{{ m.content }}</s>{% endfor %}",
        "llama.vocab_size": None,
    }


def llama(tokens: int, *, seed: int = 0, tied: bool = True) -> LlamaForCausalLM:
    """Return the random model whose tensors the files hold."""
    config = LlamaConfig(
        vocab_size=tokens,
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        intermediate_size=INNER,
        max_position_embeddings=CONTEXT,
        rope_theta=10000.0,
        rms_norm_eps=1e-5,
        tie_word_embeddings=tied,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(0.2 * torch.randn_like(parameter) + ("norm" in name))
    return model


def stored(model: LlamaForCausalLM) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the tensors under their names in a GGUF file; the rows of q and k are permuted, as llama.cpp wants them."""
    names = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v"}
    names |= {"self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up"}
    names |= {"mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    outer = {"embed_tokens": "token_embd", "norm": "output_norm"}
    for name, tensor in model.model.state_dict().items():
        array = tensor.numpy()
        part = name.removesuffix(".weight")
        if part in outer:
            yield f"{outer[part]}.weight", array
            continue
        _, layer, inner = part.split(".", 2)
        if names[inner] in ("attn_q", "attn_k"):
            heads = HEADS if names[inner] == "attn_q" else KV_HEADS
            halves = array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:])
            array = halves.swapaxes(1, 2).reshape(array.shape)
        yield f"blk.{layer}.{names[inner]}.weight", np.ascontiguousarray(array)
    if not model.config.tie_word_embeddings:
        yield "output.weight", model.lm_head.weight.detach().numpy()


def write_gguf(
    path: Path,
    *,
    kind: str = "F32",
    architecture: str = "llama",
    controls: tuple[str, ...] = CONTROLS,
    cut: str = DIGITS,
    tied: bool = True,
    settings: Mapping[str, Any] | None = None,
    without: Collection[str] = (),
    extra: Mapping[str, np.ndarray] | None = None,
    tokens: int | None = None,
    seed: int = 0,
) -> Path:
    """Write a file and return its path.

    Args:
        path: path of the file.
        kind: type that the matrices are quantised to.
        architecture: name of the architecture.
        controls: control tokens: unknown, BOS, and EOS and padding.
        cut: regular expression that the vocabulary is trained with, before GPT-2's cuts.
        tied: whether the output matrix is that of the embedding.
        settings: settings by key that replace or add to the usual ones; None leaves one out.
        without: tensors to leave out.
        extra: tensors to add or replace.
        tokens: number of rows of the embedding; None for one per token.
        seed: random seed of the weights.
    """
    words, merges = vocabulary(controls=controls, cut=cut)
    writer = GGUFWriter(path, architecture)
    values: dict[str, Any] = {
        "general.name": "Tiny",
        f"{architecture}.block_count": LAYERS,
        f"{architecture}.context_length": CONTEXT,
        f"{architecture}.embedding_length": HIDDEN,
        f"{architecture}.feed_forward_length": INNER,
        f"{architecture}.attention.head_count": HEADS,
        f"{architecture}.attention.head_count_kv": KV_HEADS,
        f"{architecture}.attention.layer_norm_rms_epsilon": 1e-5,
        f"{architecture}.rope.freq_base": 10000.0,
        f"{architecture}.rope.dimension_count": HIDDEN // HEADS,
        f"{architecture}.vocab_size": len(words),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": words,
        "tokenizer.ggml.token_type": [3 if word in controls else 1 for word in words],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": TEMPLATE,
        **(settings or {}),
    }
    for key, value in values.items():
        if value is not None:
            _add(writer, key, value)
    tensors = dict(stored(llama(tokens or len(words), seed=seed, tied=tied))) | dict(extra or {})
    for name, array in tensors.items():
        if name not in without:
            held = GGMLQuantizationType[kind if array.ndim == 2 and name not in (extra or {}) else "F32"]
            writer.add_tensor(name, quantize(array, held), raw_dtype=held)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        kinds = {str: GGUFValueType.STRING, float: GGUFValueType.FLOAT32}
        kind = kinds.get(type(value[0]), GGUFValueType.INT32)
        writer.add_key_value(key, list(value), GGUFValueType.ARRAY, sub_type=kind)
