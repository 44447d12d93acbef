"""An exam for adapters: what they must learn, what they must not claim, and what plain PEFT reaches on the same budget.

    python benchmarks/adapters.py                       # three seeds
    python benchmarks/adapters.py --seeds 0 --steps 200 --pairs 400

Rankings with a planted rule on a random decoder (hidden 64, two layers) that was never taught it; see
tests/exam_rows.py. There are 2,000 training pairs and 1,000 test pairs. All sides use LoRA of rank 8 in every linear
layer, batches of 16 pairs, a learning rate of 1e-3 with cosine decay, and the same number of steps:

    linear         Bradley-Terry head on the frozen vectors
    from probe     fit_adapter, started from that head
    from random    fit_adapter, started from a random head; must beat the linear head as well
    plain PEFT     a loop of 20 lines with peft and torch.nn.Linear, last state

Rules: xor and parity (a linear head cannot learn them), two tasks with one rule each (an adapter per task must learn
its own rule and not the other), word (a linear head learns it), lot (labels are random, so the start must be kept).
Prints a table and writes benchmarks/results/adapters.json.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.nn.functional import softplus

from facetrm.backbone.lora.adapters import LoraSettings
from facetrm.backbone.passes.batching import pad_right
from facetrm.backbone.transformer import TransformerEncoder
from facetrm.core.files import write_json
from facetrm.data.records import Preference
from facetrm.fit.bradley_terry import BradleyTerryConfig
from facetrm.fit.experts.adapters import ExpertFit, fit_adapter
from facetrm.fit.experts.config import ExpertConfig
from facetrm.fit.experts.held_out import ranked_accuracy
from facetrm.recipes.dmoerm.inner import encode_pairs, head_rewards, linear_head, pair_shares
from provenance import provenance

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from exam_rows import exam_encoder, exam_rows  # noqa: E402

RATE, RANK, BATCH = 1e-3, 8, 16
RULES = ("xor", "parity", "word", "lot")


def probe(encoder: TransformerEncoder, rows: Sequence[Preference]) -> Tensor:
    """Return a Bradley-Terry head on the frozen vectors, [D]."""
    head_D = linear_head(encode_pairs(encoder, rows), BradleyTerryConfig(), weights=pair_shares(rows))
    assert head_D is not None
    return head_D


def linear_accuracy(encoder: TransformerEncoder, rows: Sequence[Preference], test: Sequence[Preference]) -> float:
    """Return the test accuracy of that head."""
    better_N, worse_N = head_rewards(encode_pairs(encoder, test), probe(encoder, rows))
    return float((better_N > worse_N).mean())


def settings(steps: int, seed: int) -> ExpertConfig:
    """Return the settings of one adapter."""
    trainer = {"max_steps": steps, "learning_rate": RATE, "per_device_train_batch_size": BATCH}
    return ExpertConfig.model_validate({"seed": seed, "patience": 0, "trainer": trainer})


def ours(
    encoder: TransformerEncoder, rows: Sequence[Preference], name: str, *, steps: int, seed: int, random_start: bool
) -> ExpertFit:
    """Train one adapter with its head."""
    with tempfile.TemporaryDirectory() as folder:
        return fit_adapter(
            encoder,
            rows,
            name=name,
            head=lambda training: probe(encoder, training),
            lora=LoraSettings(rank=RANK, alpha=2 * RANK),
            config=settings(steps, seed),
            folder=Path(folder) / "t",
            random_start=random_start,
        )


def plain_peft(rows: Sequence[Preference], test: Sequence[Preference], *, steps: int, seed: int) -> float:
    """Return the test accuracy of an adapter trained by a plain loop."""
    encoder = exam_encoder(seed=seed)
    torch.manual_seed(seed)
    lora = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear")
    trunk, head = get_peft_model(encoder.model, lora), torch.nn.Linear(encoder.hidden_size, 1)  # type: ignore[arg-type]
    learned = [p for p in (*trunk.parameters(), *head.parameters()) if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=RATE, weight_decay=0.0)

    def rewards(pairs: Sequence[Preference], side: int) -> Tensor:
        ids = [encoder.tokenize((*p.prompt, p.responses[side])).ids for p in pairs]
        ids_NL, mask_NL = pad_right(ids, pad=0)
        hidden_NLD = trunk(input_ids=ids_NL, attention_mask=mask_NL).last_hidden_state
        last_ND = hidden_NLD[torch.arange(len(ids)), torch.tensor([len(row) - 1 for row in ids])]
        return head(last_ND).squeeze(-1)  # type: ignore[no-any-return]

    draw, order = np.random.default_rng(seed), np.array([], dtype=np.int64)
    for step in range(steps):
        if len(order) < BATCH:
            order = draw.permutation(len(rows))
        batch, order = [rows[n] for n in order[:BATCH]], order[BATCH:]
        for part in optimizer.param_groups:
            part["lr"] = RATE * 0.5 * (1.0 + math.cos(math.pi * step / steps))
        optimizer.zero_grad()
        softplus(rewards(batch, 1) - rewards(batch, 0)).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        return float((rewards(test, 0) > rewards(test, 1)).double().mean())


def of_rule(rule: str, *, pairs: int, steps: int, seed: int) -> dict[str, Any]:
    """Return the test accuracy of every side on one rule."""
    rows, test = exam_rows(rule, pairs, seed=seed), exam_rows(rule, 1000, seed=1000 + seed)
    found: dict[str, Any] = {"linear": linear_accuracy(exam_encoder(seed=seed), rows, test)}
    for name, random_start in (("from probe", False), ("from random", True)):
        encoder, start = exam_encoder(seed=seed), time.monotonic()
        fit = ours(encoder, rows, "own", steps=steps, seed=seed, random_start=random_start)
        seconds = time.monotonic() - start
        found[name] = ranked_accuracy(encoder, test, name="own", head_D=fit.head_D)
        found[f"{name}: fit"] = {**fit.to_dict(), "seconds": seconds}
    start = time.monotonic()
    found["plain PEFT"] = plain_peft(rows, test, steps=steps, seed=seed)
    return {**found, "plain PEFT: seconds": time.monotonic() - start}


def of_two_tasks(*, pairs: int, steps: int, seed: int) -> dict[str, float]:
    """Return the test accuracy of one adapter per task on its own task and on the other's."""
    encoder, found = exam_encoder(seed=seed), {}
    fits = {
        rule: ours(encoder, exam_rows(rule, pairs, seed=seed), rule, steps=steps, seed=seed, random_start=True)
        for rule in ("xor", "other_xor")
    }
    for rule, fit in fits.items():
        for of in fits:
            test = exam_rows(of, 1000, seed=1000 + seed)
            found[f"{rule} on {of}"] = ranked_accuracy(encoder, test, name=rule, head_D=fit.head_D)
    return found


def main() -> None:
    """Run the exam, print the tables, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "adapters.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    asked = {"pairs": options.pairs, "steps": options.steps}
    rules = {rule: [of_rule(rule, seed=seed, **asked) for seed in options.seeds] for rule in RULES}
    tasks = [of_two_tasks(seed=seed, **asked) for seed in options.seeds]
    sides = ("linear", "from probe", "from random", "plain PEFT")
    print(f"{'test accuracy, %':18}" + "".join(f"{side:>22}" for side in sides))
    for rule, found in rules.items():
        cells = (" ".join(f"{100 * one[side]:.1f}" for one in found) for side in sides)
        print(f"{rule:18}" + "".join(f"{cell:>22}" for cell in cells))
    for name in tasks[0]:
        print(f"{name:30}" + " ".join(f"{100 * one[name]:.1f}" for one in tasks))
    results = {**provenance(), **asked, "rate": RATE, "rank": RANK, "batch": BATCH, "seeds": options.seeds}
    write_json(options.out, {**results, "rules": rules, "tasks": tasks})


if __name__ == "__main__":
    main()
