"""Fakes and tiny models that the tests share: no file is read, no network is used."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, BertTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from facetrm.backbone.checkpoint import quiet_transformers
from facetrm.backbone.encoder import Features
from facetrm.core.fingerprint import fingerprint
from facetrm.data.records import Conversation, Message


class HashEncoder:
    """An Encoder without a model: features are functions of the text alone, so that heads can be learned on them.

    A word is a fixed Gaussian vector (seeded by its hash). The prompt vector is the sum over the prompt's words over
    the square root of their number; the response vector is the same over the response's words plus half the prompt
    vector; each adapter turns it by a sign pattern of its own, a named one by that of its name. A little noise seeded
    by the whole text keeps different texts apart. ``rows`` counts the conversations encoded so far, ``calls`` the calls
    of :meth:`encode`, ``asked`` holds the adapters of each call.
    """

    def __init__(self, hidden_size: int = 16, *, adapters: int = 1, seed: int = 0, noise: float = 0.01) -> None:
        self._hidden_size, self._adapters, self._seed, self._noise = hidden_size, adapters, seed, noise
        self._words: dict[str, np.ndarray] = {}
        self.rows = self.calls = 0
        self.asked: list[tuple[str, ...]] = []

    @property
    def hidden_size(self) -> int:
        return self._hidden_size

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.spec())

    @property
    def mode(self) -> str:
        return "exact"

    @property
    def template_hash(self) -> str:
        return fingerprint("hash encoder")

    def spec(self) -> dict[str, object]:
        return {
            "kind": "hash",
            "hidden_size": self._hidden_size,
            "adapters": self._adapters,
            "seed": self._seed,
            "noise": self._noise,
        }

    def encode(
        self,
        conversations: Sequence[Conversation],
        *,
        adapters: Sequence[str] | None = None,
        on_batch: Callable[[int, int], None] | None = None,
    ) -> Features:
        self.calls += 1
        self.rows += len(conversations)
        self.asked.append(tuple(adapters or ()))
        patterns: list[int | str] = list(adapters or range(self._adapters))
        if not conversations:
            return Features.empty(self._hidden_size, len(patterns))
        prompts, responses, lengths, tokens = [], [], [], []
        for messages in conversations:
            asked, answered, prompt = self._prompt(messages)
            response = self._text(answered) + 0.5 * prompt + self._noise * self._vector(f"{asked}\x1f{answered}")
            signs = [np.sign(self._vector(f"\x1fadapter {a}")) if a else 1.0 for a in patterns]
            prompts.append(prompt)
            responses.append(np.stack([response * sign for sign in signs]))
            lengths.append(len(answered.split()))
            tokens.append(len(asked.split()) + lengths[-1])
        if on_batch is not None:
            on_batch(len(conversations), sum(tokens))
        return Features(
            torch.tensor(np.stack(prompts), dtype=torch.float32),
            torch.tensor(np.stack(responses), dtype=torch.float32),
            torch.tensor(lengths),
            torch.tensor(tokens),
            torch.zeros(len(tokens), dtype=torch.bool),
        )

    def prompts(self, conversations: Sequence[Conversation]) -> torch.Tensor:
        vectors = [self._prompt(messages)[2] for messages in conversations]
        return torch.tensor(np.array(vectors).reshape(-1, self._hidden_size), dtype=torch.float32)

    def _prompt(self, messages: Conversation) -> tuple[str, str, np.ndarray]:
        asked = " ".join(m.content for m in messages[:-1])
        return asked, messages[-1].content, self._text(asked)

    def _text(self, text: str) -> np.ndarray:
        words = text.split()
        total = np.zeros(self._hidden_size)
        for word in words:
            if word not in self._words:
                self._words[word] = self._vector(word)
            total = total + self._words[word]
        return total / np.sqrt(max(len(words), 1)) + self._noise * self._vector(text)

    def _vector(self, text: str) -> np.ndarray:
        digest = hashlib.sha256(f"{self._seed}\x1f{text}".encode()).digest()
        return np.random.default_rng(int.from_bytes(digest[:8], "big")).standard_normal(self._hidden_size)


class NamedHashEncoder(HashEncoder):
    """A hash encoder with named adapters: an :class:`~facetrm.backbone.encoder.AdapterEncoder`."""

    def __init__(self, hidden_size: int = 16, *, named: Sequence[str], seed: int = 0) -> None:
        super().__init__(hidden_size, seed=seed)
        self.adapters = tuple(sorted(named))

    @property
    def trunk_fingerprint(self) -> str:
        return fingerprint(super().spec())

    def adapter_fingerprint(self, name: str) -> str:
        return fingerprint(name)

    def spec(self) -> dict[str, object]:
        return {**super().spec(), "named": list(self.adapters)}


def chat(*turns: str, system: str | None = None) -> Conversation:
    """Return a conversation from texts that alternate user, assistant, user, ..."""
    head = () if system is None else (Message(role="system", content=system),)
    return head + tuple(Message(role=("user", "assistant")[i % 2], content=text) for i, text in enumerate(turns))


LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message.role }}<|end_header_id|>\n\n"
    "{{ message.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "<start_of_turn>{{ 'model' if message.role == 'assistant' else message.role }}\n"
    "{{ message.content | trim }}<end_of_turn>\n{% endfor %}"
)
# bos, eos, other special tokens, template, whether the tokenizer adds BOS by itself
STYLES: dict[str, tuple[str | None, str, tuple[str, ...], str, bool]] = {
    "llama3": ("<|begin_of_text|>", "<|eot_id|>", ("<|start_header_id|>", "<|end_header_id|>"), LLAMA3, True),
    "chatml": (None, "<|im_end|>", ("<|im_start|>",), CHATML, False),
    "gemma": ("<bos>", "<eos>", ("<start_of_turn>", "<end_of_turn>"), GEMMA, True),
}


def tiny_tokenizer(style: str = "llama3", *, pad: str | None = None, max_tokens: int = 512) -> PreTrainedTokenizerFast:
    """Return a tokenizer of bytes with the special tokens and the chat template of ``style``.

    ``merging`` is ``chatml`` where two line breaks are one token.
    """
    bos, eos, others, template, adds_bos = STYLES["chatml" if style == "merging" else style]
    letters = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = []
    if style == "merging":
        line = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str("\n")[0][0]
        letters[line + line] = len(letters)
        merges.append((line, line))
    tokenizer = Tokenizer(models.BPE(vocab=letters, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [text for text in (bos, eos, *others) if text is not None]
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    if bos is not None and adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=bos, eos_token=eos, pad_token=pad, model_max_length=max_tokens
    )
    fast.chat_template = template
    return fast


def tiny_decoder(
    folder: Path, *, style: str = "llama3", pad: str | None = None, max_tokens: int = 512, hidden_size: int = 32
) -> Path:
    """Write a random Llama of two layers with a byte tokenizer to ``folder`` and return it.

    ``pad`` names the padding token, such as the end-of-turn token itself; there is none by default.
    """
    tokenizer = tiny_tokenizer(style, pad=pad, max_tokens=max_tokens)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=max_tokens,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.2,
    )
    return _save(LlamaForCausalLM, config, tokenizer, folder)


def tiny_encoder(folder: Path, *, max_tokens: int = 128, hidden_size: int = 32) -> Path:
    """Write a random BERT of two layers with a WordPiece tokenizer of single letters to ``folder`` and return it."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
    vocabulary = [*special, *letters, *(f"##{letter}" for letter in letters)]
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(vocabulary)}, model_max_length=max_tokens)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=max_tokens,
        initializer_range=0.2,
    )
    return _save(BertModel, config, tokenizer, folder)


def _save(kind: Any, config: Any, tokenizer: Any, folder: Path) -> Path:
    with torch.random.fork_rng(devices=[]), quiet_transformers():
        torch.manual_seed(0)
        kind(config).eval().save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder
