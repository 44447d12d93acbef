"""Which advantages follow the true utility of answers: GRPO's, GDPO's, or those that keep the gate.

    python benchmarks/advantages.py                    # 120 prompts of the desk, 8 answers each, the shipped model
    python benchmarks/advantages.py --prompts 20 --out small.json

Two kinds of ratings of the same answers. ``known``: the true levels, with the true weights of the prompt's task as its
gate. ``model``: ratings and weights of the shipped model ``desk``. Correlations are within a prompt, averaged over the
prompts whose answers differ in utility; the intervals are over prompts. ``swapped`` is the correlation of a method's
advantages with those under another prompt's weights: near 1, the method does not listen to the gate.

Prints a table and writes benchmarks/results/advantages.json.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from facetrm.core.files import write_json
from facetrm.core.statistics import bootstrap_mean, pearson, spearman
from facetrm.data.desk.desk import Desk
from facetrm.data.desk.manner import finish
from facetrm.data.desk.qualities import QUALITY_SLOTS, draw_qualities
from facetrm.data.desk.tasks import DESK_TASKS
from facetrm.data.records import Conversation, Message
from facetrm.hub.load import load_model
from facetrm.policy.advantages import FLOOR, gdpo_advantages, grouped_advantages, grpo_advantages
from facetrm.policy.bridges.scored import RewardSource
from provenance import provenance

RESULTS: Final = Path(__file__).parent / "results" / "advantages.json"
Floats = NDArray[np.float64]


def sampled(desk: Desk, prompts: int, answers: int) -> tuple[list[Conversation], Floats]:
    """Return answers to prompts of the test part at drawn levels, and the number of each one's prompt."""
    rows: list[Conversation] = []
    for number, pair in enumerate(desk.preferences(prompts, part="test")):
        request, random = desk.request(pair.prompt), Random(f"advantages {number}")
        for _ in range(answers):
            levels = draw_qualities(random, request)
            draft = DESK_TASKS[request.task].write(random, request, levels)
            text, _ = finish(random, draft, courteous=levels.get("courteous", 1.0), fluent=levels["fluent"])
            rows.append((*pair.prompt, Message(role="assistant", content=text)))
    return rows, np.repeat(np.arange(prompts), answers)


def known(desk: Desk, rows: list[Conversation]) -> tuple[Floats, Floats]:
    """Return the true levels on [0, 1], and the true weights of each answer's prompt."""
    ratings, weights = [], []
    for messages in rows:
        levels, wanted = desk.levels(messages), desk.weights[desk.request(messages[:-1]).task]
        ratings.append([levels[name] / slots for name, slots in QUALITY_SLOTS.items()])
        weights.append([wanted[name] for name in QUALITY_SLOTS])
    return np.array(ratings), np.array(weights)


def methods(ratings: Floats, weights: Floats, groups: Floats, *, gate: Floats | None = None) -> dict[str, Callable]:
    """Return each method as a function of the weights.

    ``gate`` are the weights before debiasing; None if they are the same.
    """
    found = {
        "GRPO on the reward": lambda w: grpo_advantages((w * ratings).sum(axis=1), groups),
        "GDPO on contributions": lambda w: gdpo_advantages(w * ratings, groups),
        "gate kept": lambda w: grouped_advantages(ratings, w / np.abs(w).sum(axis=1, keepdims=True), groups),
    }
    if gate is not None:
        found["gate kept, without penalties"] = lambda _: grouped_advantages(ratings, gate, groups)
    return found


def compare(ratings: Floats, weights: Floats, groups: Floats, utility: Floats, **others: Any) -> dict[str, Any]:
    """Return how the advantages agree with the utility, and with themselves under the weights of another prompt."""
    numbers = [g for g in np.unique(groups) if np.ptp(utility[groups == g]) > 0]
    swapped = np.roll(weights, np.sum(groups == 0), axis=0)
    table: dict[str, Any] = {}
    for name, method in methods(ratings, weights, groups, **others).items():
        values, other = method(weights), method(swapped)
        table[name] = {"swapped": pearson(values, other)} if "without" not in name else {}
        for measure, correlate in (("spearman", spearman), ("pearson", pearson)):
            each = [correlate(values[groups == g], utility[groups == g]) for g in numbers]
            interval = bootstrap_mean(np.nan_to_num(each), numbers, samples=1000, seed=0)
            table[name][measure] = {"value": interval.value, "low": interval.low, "high": interval.high}
    return {"prompts": len(numbers), "methods": table}


def measure(prompts: int, answers: int) -> dict[str, Any]:
    desk = Desk()
    rows, groups = sampled(desk, prompts, answers)
    utility = np.array([desk.utility(messages) for messages in rows])
    start = time.perf_counter()
    scored = RewardSource(load_model("desk", device="cpu")).score(rows)
    seconds = time.perf_counter() - start
    part = {
        name: np.array([[getattr(score, name)[o] for o in scored.objectives] for score in scored.scores])
        for name in ("scores", "coefficients", "weights")
    }
    spread = np.stack([part["scores"][groups == g].std(axis=0, ddof=1) for g in range(prompts)])
    return {
        **provenance(),
        "answers": answers,
        "floor": FLOOR,
        "scoring_seconds": round(seconds, 1),
        "deviation_within_prompts": {
            "median": float(np.median(spread)),
            "share_below_floor": float((spread < FLOOR).mean()),
        },
        "known": compare(*known(desk, rows), groups, utility),
        "model": compare(part["scores"], part["coefficients"], groups, utility, gate=part["weights"]),
    }


def show(found: Mapping[str, Any]) -> None:
    for kind in ("known", "model"):
        print(f"\n{kind}: {found[kind]['prompts']} prompts, {found['answers']} answers each")
        print(f"  {'':<30}{'Spearman with utility':>28}{'Pearson':>10}{'swapped':>10}")
        for name, row in found[kind]["methods"].items():
            rank = row["spearman"]
            shown = f"{rank['value']:.3f} [{rank['low']:.3f}, {rank['high']:.3f}]"
            swapped = f"{row['swapped']:.3f}" if "swapped" in row else "-"
            print(f"  {name:<30}{shown:>28}{row['pearson']['value']:>10.3f}{swapped:>10}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=120, help="number of prompts")
    parser.add_argument("--answers", type=int, default=8, help="answers to each prompt")
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON file")
    given = parser.parse_args()
    results = measure(given.prompts, given.answers)
    write_json(given.out, results)
    show(results)
