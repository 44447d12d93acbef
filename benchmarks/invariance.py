"""Exact mode is the same bit for bit in any grouping and order; fast mode is close. For every tested architecture.

    python benchmarks/invariance.py --threads 1

100 conversations of the world (the answers of 50 pairs) are shuffled 200 times and split into random groups of 1 to 20.
Each group is scored by itself in exact mode, features and heads (a mixture of 5 experts with a gate), and compared bit
for bit with the scores of the first order. Fast mode reads every fourth order; its largest differences are reported.
Architectures are randomly initialised, with hidden size 64, 2 layers, and windows of 16 tokens if they have any. Prints
a table and writes benchmarks/results/invariance.json.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import transformers as tf

from facetrm.backbone.tiny import word_tokenizer
from facetrm.backbone.transformer import BackboneConfig, TransformerEncoder
from facetrm.core.files import write_json
from facetrm.data.records import Conversation
from facetrm.data.world import World, vocabulary
from facetrm.model.reward_model import RewardModel
from mixtures import random_mixture
from provenance import provenance

ROOT = Path(__file__).resolve().parents[1]
SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "pad_token_id": 0,
}
GROUPED = {**SHAPE, "num_key_value_heads": 2}
GEMMA = {**GROUPED, "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 16}
MODELS: dict[str, Callable[[int], tf.PreTrainedModel]] = {
    "llama": lambda words: tf.LlamaModel(tf.LlamaConfig(**GROUPED, vocab_size=words)),
    "qwen3": lambda words: tf.Qwen3Model(tf.Qwen3Config(**GROUPED, head_dim=16, vocab_size=words)),
    "mistral": lambda words: tf.MistralModel(tf.MistralConfig(**GROUPED, sliding_window=16, vocab_size=words)),
    "gemma2": lambda words: tf.Gemma2Model(tf.Gemma2Config(**GEMMA, vocab_size=words)),
    "gemma3": lambda words: tf.Gemma3TextModel(tf.Gemma3TextConfig(**GEMMA, vocab_size=words)),
    "phi": lambda words: tf.PhiModel(tf.PhiConfig(**GROUPED, vocab_size=words)),
    "gpt-neox": lambda words: tf.GPTNeoXModel(tf.GPTNeoXConfig(**SHAPE, vocab_size=words)),
    "bert": lambda words: tf.BertModel(tf.BertConfig(**SHAPE, vocab_size=words)),
    "modernbert": lambda words: tf.ModernBertModel(
        tf.ModernBertConfig(**SHAPE, vocab_size=words, local_attention=16, global_attn_every_n_layers=2)
    ),
}


def scorers(name: str) -> tuple[RewardModel, RewardModel]:
    """Return the exact and the fast reward model of an architecture: one backbone, one mixture."""
    tokenizer = word_tokenizer(vocabulary(), max_tokens=512)
    torch.manual_seed(0)
    trunk = MODELS[name](len(tokenizer)).eval()
    mixture = random_mixture(hidden=SHAPE["hidden_size"], experts=5, gate_hidden=32, gate_layers=1)

    def made(mode: str) -> RewardModel:
        config = BackboneConfig(path="in memory", device="cpu", mode=mode)  # type: ignore[arg-type]
        encoder = TransformerEncoder(trunk, tokenizer, config=config)
        encoder._chat.tokenize = lru_cache(maxsize=None)(encoder._chat.tokenize)  # the same ids 200 times over
        return RewardModel(encoder, {"all": mixture})

    return made("exact"), made("fast")


def regroupings(rows: int, *, times: int, drawn: int, largest: int = 20) -> Iterator[list[list[int]]]:
    """Yield ``times`` random orders of ``drawn`` of ``rows`` numbers, each cut into groups of 1 to ``largest``."""
    draw = random.Random(0)
    for _ in range(times):
        order = draw.sample(range(rows), k=drawn)
        groups = []
        while order:
            size = draw.randint(1, largest)
            groups.append(order[:size])
            order = order[size:]
        yield groups


def measured(name: str, conversations: list[Conversation], *, times: int, drawn: int) -> dict[str, Any]:
    """Return how many regroupings of ``conversations`` give the same bits, and how far fast mode is from them."""
    exact, fast = scorers(name)
    expected = exact.encoder.encode(conversations)
    scores = exact.score_features(expected)
    same_features = same_scores = 0
    vector = reward = 0.0
    for number, groups in enumerate(regroupings(len(conversations), times=times, drawn=drawn)):
        equal_features = equal_scores = True
        for group in groups:
            chosen, at = [conversations[n] for n in group], torch.tensor(group)
            features, wanted = exact.encoder.encode(chosen), expected.select(at)
            equal_features &= torch.equal(features.prompt_ND, wanted.prompt_ND)
            equal_features &= torch.equal(features.response_NAD, wanted.response_NAD)
            equal_scores &= exact.score_features(features) == [scores[n] for n in group]
            if number % 4:
                continue
            quick = fast.encoder.encode(chosen)
            for found, right in ((quick.prompt_ND, wanted.prompt_ND), (quick.response_NAD, wanted.response_NAD)):
                vector = max(vector, float(((found - right).norm(dim=-1) / right.norm(dim=-1)).max()))
            pairs = zip(fast.score_features(quick), group, strict=True)
            reward = max(reward, *(abs(score.reward - scores[n].reward) for score, n in pairs))
        same_features += equal_features
        same_scores += equal_scores
    rewards = torch.tensor([score.reward for score in scores])
    return {
        "regroupings": times,
        "conversations in each": drawn,
        "features bit-equal": same_features,
        "scores bit-equal": same_scores,
        "fast: vectors differ by at most, of their norm": vector,
        "fast: rewards differ by at most": reward,
        "spread of the rewards": float(rewards.std()),
    }


def main() -> None:
    """Measure every architecture, print the table, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--drawn", type=int, default=100, help="conversations of each order, drawn from the 100")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "invariance.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    pairs = World().preferences(50)
    conversations = [row for pair in pairs for row in (pair.chosen, pair.rejected)]
    results: dict[str, Any] = {**provenance(), "threads": options.threads, "conversations": len(conversations)}
    results["architectures"] = {}
    for name in options.only:
        found = results["architectures"][name] = measured(name, conversations, times=options.times, drawn=options.drawn)
        print(f"{name:12} " + "  ".join(f"{key} {value:.4g}" for key, value in found.items()), flush=True)
    write_json(options.out, results)


if __name__ == "__main__":
    main()
