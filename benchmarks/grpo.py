"""GRPO with TRL on SmolLM2, with the shipped model as the reward: three steps for each kind of reward column.

    python benchmarks/grpo.py                     # 3 steps, 4 answers of at most 24 tokens to each of 2 prompts
    python benchmarks/grpo.py --steps 1 --tokens 8 --out small.json

Counts the calls of the reward model and the passes of its trunk. A pass for k objectives is the claim; the trainer is
no measure of learning here. Prints a table and writes benchmarks/results/grpo.json.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import trl
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer

from facetrm.backbone.checkpoint import find_checkpoint
from facetrm.core.files import write_json
from facetrm.data.desk.desk import Desk
from facetrm.data.records import Conversation
from facetrm.hub.load import load_model
from facetrm.model.output import Score
from facetrm.model.reward_model import RewardModel
from facetrm.policy.bridges.trl import TrlColumn, trl_advantages, trl_reward, trl_rewards
from provenance import provenance

RESULTS: Final = Path(__file__).parent / "results" / "grpo.json"
GENERATIONS, PROMPTS = 4, 2


class Counted:
    """The reward model, with its calls and the passes of its trunk counted."""

    def __init__(self, model: RewardModel) -> None:
        self.model, self.objectives = model, model.mixture().names
        self.calls = self.rows = self.passes = 0
        self.seconds = 0.0
        model.encoder.model.register_forward_hook(self._pass)

    def _pass(self, *_: object) -> None:
        self.passes += 1

    def score(self, conversations: Sequence[Conversation]) -> list[Score]:
        """Return the scores, and count."""
        start, self.calls, self.rows = time.perf_counter(), self.calls + 1, self.rows + len(conversations)
        scores = self.model.score(conversations)
        self.seconds += time.perf_counter() - start
        return scores


def train(rewards: list[TrlColumn], policy: str, *, steps: int, tokens: int, **settings: Any) -> dict[str, Any]:
    """Train a LoRA of the policy for a few steps, and return what the trainer logged."""
    desk = Desk()
    prompts = [[m.model_dump() for m in pair.prompt] for pair in desk.preferences(PROMPTS * steps, part="backbone")]
    tokenizer = AutoTokenizer.from_pretrained(policy)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    with tempfile.TemporaryDirectory() as folder:
        trainer = trl.GRPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(policy),
            processing_class=tokenizer,
            reward_funcs=rewards,
            train_dataset=Dataset.from_dict({"prompt": prompts}),
            peft_config=LoraConfig(r=8, task_type="CAUSAL_LM"),
            args=trl.GRPOConfig(
                output_dir=folder,
                max_steps=steps,
                per_device_train_batch_size=GENERATIONS * PROMPTS,
                num_generations=GENERATIONS,
                max_completion_length=tokens,
                learning_rate=1e-4,
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                use_cpu=True,
                bf16=False,
                disable_tqdm=True,
                **settings,
            ),
        )
        trainer.train()
    logs = [log for log in trainer.state.log_history if "loss" in log]
    return {key: [log[key] for log in logs] for key in ("loss", "reward", "grad_norm", "frac_reward_zero_std")}


def measure(steps: int, tokens: int) -> dict[str, Any]:
    model = load_model("desk", device="cpu")
    model.score([next(Desk().preferences(1)).chosen])  # the first call also checks that packs are read right
    scorer = Counted(model)
    named = {"objectives": scorer.objectives}
    kinds: dict[str, tuple[list[TrlColumn], dict[str, Any]]] = {
        "combined": ([trl_reward(scorer, **named)], {}),
        "GDPO": (trl_rewards(scorer, **named), {"multi_objective_aggregation": "normalize_then_sum"}),
        "gate kept": ([trl_advantages(scorer, **named)], {"scale_rewards": "none"}),
    }
    policy, _ = find_checkpoint("smollm2-135m", revision=None, trusted=False)
    found: dict[str, Any] = {}
    for kind, (rewards, settings) in kinds.items():
        scorer.calls = scorer.rows = scorer.passes = 0
        scorer.seconds, start = 0.0, time.perf_counter()
        logs = train(rewards, policy, steps=steps, tokens=tokens, **settings)
        found[kind] = {
            "columns": len(rewards),
            "reward_calls": scorer.calls,
            "answers": scorer.rows,
            "trunk_passes": scorer.passes,
            "reward_seconds": round(scorer.seconds, 2),
            "seconds": round(time.perf_counter() - start, 1),
            **logs,
        }
    return {
        **provenance(),
        "trl": trl.__version__,
        "steps": steps,
        "objectives": len(scorer.objectives),
        "kinds": found,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3, help="steps of the trainer")
    parser.add_argument("--tokens", type=int, default=24, help="most tokens of an answer")
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON file")
    given = parser.parse_args()
    results = measure(given.steps, given.tokens)
    write_json(given.out, results)
    print(f"{'':<12}{'columns':>9}{'calls':>7}{'answers':>9}{'passes':>8}{'seconds':>9}{'of them, reward':>17}")
    for kind, row in results["kinds"].items():
        counts = f"{row['columns']:>9}{row['reward_calls']:>7}{row['answers']:>9}{row['trunk_passes']:>8}"
        print(f"{kind:<12}{counts}{row['seconds']:>9.1f}{row['reward_seconds']:>17.1f}")
