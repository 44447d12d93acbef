"""A run report with every section filled: what the report tests read, and nothing that was measured."""

from __future__ import annotations

import math

from explain_samples import NAMES, OBJECTIVES, pair, talk
from facetrm.core.statistics import Interval
from facetrm.explain.ablation import Ablation, AblationTable
from facetrm.explain.flip import flip_pair
from facetrm.explain.local import explain_scores_pair
from facetrm.explain.overall import Decided, GroupView, OverallExplanation
from facetrm.report.run_report import (
    SYSTEM_TITLES,
    DebiasTableRow,
    ExplainedPair,
    LengthAudit,
    ListedPair,
    ObjectiveRow,
    Recovery,
    RecoveryPoint,
    RunReport,
    Training,
    TrainingPoint,
)
from facetrm.report.task_parts import Accuracy

TASKS = ("role play", "chat", "subjective QA", "objective QA", "text creation", "code", "safety")


def accuracies(shift: float = 0.0) -> dict[str, Accuracy]:
    """One accuracy for each known system, all different."""
    return {
        system: Accuracy(
            value=0.76 + shift - 0.03 * n, low=0.74 + shift - 0.03 * n, high=0.78 + shift - 0.03 * n, pairs=800
        )
        for n, system in enumerate(SYSTEM_TITLES)
    }


def group(turn: int) -> GroupView:
    """A view whose weights sum to 1 and depend on ``turn``."""
    raw = [math.exp(math.sin(2.0 * turn + 1.3 * k)) for k in range(len(NAMES))]
    weights = [value / sum(raw) for value in raw]
    return GroupView(
        120 + turn,
        dict(zip(NAMES, weights, strict=True)),
        dict(zip(NAMES, [0.1 * weight for weight in weights], strict=True)),
    )


def explained(prompt: str = "What is 17 + 25? Answer briefly.", answer: str = "The sum is 42.") -> ExplainedPair:
    """A pair of answers with its texts and flips."""
    a, b, total = pair(3)
    explanation = explain_scores_pair(a, b, objectives=OBJECTIVES, beta=20.0)
    longer = "That is a great question! " + "Let me think about it step by step, so that nothing is missed. " * 14
    texts = (talk(prompt, answer), talk(prompt, f"{longer}It is 41."))
    return ExplainedPair(explanation=explanation, conversations=texts, flip=flip_pair(explanation, aggregator=total))


def listed(word: str, margin: float) -> tuple[ListedPair, ...]:
    """Three pairs of one kind."""
    return tuple(
        ListedPair(
            prompt=f"{word} prompt {n}",
            chosen=f"{word} chosen {n}",
            rejected=f"{word} rejected {n}",
            margin=margin,
            probability=0.5 + margin + 0.01 * n,
            largest=((NAMES[0], -0.3), (NAMES[1], 0.1), (NAMES[2], -0.05)),
            source="helpsteer",
        )
        for n in range(3)
    )


def run_report() -> RunReport:
    """A report with every section."""
    return RunReport(
        model="ArmoRM: 5 linear experts and one gate on tiny",
        data="1,200 rated answers and 4,000 pairs for training; 800 held-out pairs of 700 prompts",
        title="Quickstart: a readable reward model of a small world",
        description="A tiny decoder trained from scratch, one linear expert per objective, a gate on the prompt.",
        config="seed: 0\ngate:\n  steps: 500\n",
        seconds={"world": 1.5, "backbone": 120.25, "encode": 30.0, "experts": 0.8, "gate": 12.0},
        objectives=tuple(
            ObjectiveRow(
                name=name,
                n=1200 + k,
                alpha=10.0**k,
                mse=0.02 + 0.001 * k,
                mse_mean=0.05,
                pearson=0.7 - 0.1 * k,
                spearman=0.68 - 0.1 * k,
                low=0.62 - 0.1 * k,
                high=0.74 - 0.1 * k,
                measurable=k != 4,
            )
            for k, name in enumerate(NAMES)
        ),
        debias=tuple(
            DebiasTableRow(
                objective=name,
                lam=0.1 * k,
                before=0.4 - 0.12 * k,
                after=0.001 * k,
                held_out_before=0.38 - 0.1 * k,
                held_out_after=0.01 * k,
                reached=k != 1,
            )
            for k, name in enumerate(NAMES)
        ),
        length=LengthAudit(before=0.31, after=0.02, accuracy_before=0.71, accuracy_after=0.705),
        pair_accuracy={"noisy": accuracies(-0.1), "true": accuracies()},
        by_source={
            "helpsteer": accuracies(0.02),
            "rm_bench": {"gate": Accuracy(value=0.6), "longer": Accuracy(value=0.5)},
        },
        recovery=Recovery(
            spearman=0.86,
            points=tuple(
                RecoveryPoint(task=task, objective=name, true=0.1 * k, learned=0.09 * k + 0.02 * math.sin(7 * n + k))
                for n, task in enumerate(TASKS)
                for k, name in enumerate(NAMES)
            ),
        ),
        overall=OverallExplanation(
            everyone=group(0),
            by_task={task: group(n) for n, task in enumerate(TASKS)},
            by_source={"helpsteer": group(9), "rm_bench": group(11)},
            length={name: None if k == 3 else 0.3 - 0.1 * k for k, name in enumerate(NAMES)},
            reward_length=0.04,
            decided=Decided(400, Interval(0.31, 0.27, 0.35), dict.fromkeys(NAMES, 0.06)),
            length_interval={name: Interval(0.3 - 0.1 * k, 0.21 - 0.1 * k, 0.37) for k, name in enumerate(NAMES)},
            reward_length_interval=Interval(0.04, -0.05, 0.13),
            prompts=380,
        ),
        ablation=AblationTable(
            pairs=400,
            accuracy=Interval(0.71, 0.68, 0.74),
            lines=tuple(
                Ablation(name, Interval(-0.0321, -0.04, -0.02), Interval(0.1, 0.0, 0.2), 0.64, drop, 0.127)
                for name, drop in zip(NAMES[1:], [Interval(-0.073, -0.09, -0.05)] * len(NAMES), strict=False)
            ),
            needed=NAMES[:1],
        ),
        training=Training(
            points=tuple(
                TrainingPoint(
                    step=50 * n,
                    train_loss=0.69 * 0.9**n,
                    valid_loss=0.69 * 0.93**n + 0.004 * n,
                    train_accuracy=1 - 0.5 * 0.9**n,
                    valid_accuracy=0.8 - 0.3 * 0.8**n,
                )
                for n in range(12)
            ),
            best_step=400,
        ),
        pair=explained(),
        errors=listed("wrong", -0.4),
        wrong=212,
        ties=listed("tied", 0.001),
        seeds={"world": 0, "gate": 1},
        versions={"facetrm": "0.1.0", "torch": "2.13"},
        hashes={"model": "m" * 64, "data": "d" * 64},
        notes=("Numbers of a small run.",),
    )
