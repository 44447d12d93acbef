"""A small gated sum with debiasing, and score rows from it: what the explain and report tests read."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from facetrm.data.objectives import Objective
from facetrm.data.records import Conversation, Message
from facetrm.model.aggregate import GatedSum
from facetrm.model.gate import Gate, GateShape
from facetrm.model.output import RewardOutput, Score

HIDDEN = 6

OBJECTIVES = (
    Objective(name="helpsteer-helpfulness", low=0, high=4, meaning="how helpful", source="helpsteer"),
    Objective(name="helpsteer-correctness", low=0, high=4, meaning="whether it is right", source="helpsteer"),
    Objective(name="helpsteer-verbosity", low=0, high=4, meaning="how long-winded", source="helpsteer"),
    Objective(name="beavertails-is_safe", low=0, high=1, kind="boolean", source="beavertails"),
    Objective(name="judge-errors", low=1, high=10, direction="lower", meaning="errors found", source="judge"),
)
NAMES = tuple(objective.name for objective in OBJECTIVES)
VERBOSITY = 2
LAMBDAS = (0.5, 0.3, 1.0, 0.1, 0.2)


def aggregator(seed: int = 0, *, debias: bool = True) -> GatedSum:
    """A random gate, the verbosity column removed (unless told not to), a reference that is not zero."""
    torch.manual_seed(seed)
    gate = Gate(GateShape(HIDDEN, len(NAMES), hidden=8))
    matrix = torch.eye(len(NAMES))
    if debias:
        matrix[VERBOSITY] -= torch.tensor(LAMBDAS)
    return GatedSum(gate, matrix, reference_K=torch.tensor([0.6, 0.55, 0.5, 0.8, 0.45]))


@torch.no_grad()
def rows(
    output: RewardOutput, *, tokens: Sequence[int] = (), truncated: bool = False, model: str = "m" * 64
) -> list[Score]:
    """Score rows of an output, as a reward model would give them."""

    def named(tensor: Tensor) -> dict[str, float]:
        return dict(zip(NAMES, tensor.detach().tolist(), strict=True))

    lengths = tokens or [40 + 10 * n for n in range(len(output.reward_N))]
    return [
        Score(
            reward=output.reward_N[n].item(),
            base=output.base_N[n].item(),
            contributions=named(output.contributions_NK[n]),
            scores=named(output.scores_NK[n]),
            ratings={o.name: o.from_unit(output.scores_NK[n, k].item()) for k, o in enumerate(OBJECTIVES)},
            weights=named(output.weights_NK[n]),
            coefficients=named(output.coefficients_NK[n]),
            task="all",
            routed="all",
            confidence=1.0,
            tokens=lengths[n] + 30,
            length=lengths[n],
            truncated=truncated,
            model=model,
            template="t" * 64,
            mode="exact",
        )
        for n in range(len(output.reward_N))
    ]


def pair(seed: int = 0, *, same_prompt: bool = True, debias: bool = True) -> tuple[Score, Score, GatedSum]:
    """Two answers, to one prompt or to two, and the gated sum that scored them."""
    total = aggregator(seed, debias=debias)
    generator = torch.Generator().manual_seed(seed + 1)
    prompt = torch.randn(1 if same_prompt else 2, HIDDEN, generator=generator).expand(2, -1)
    a, b = rows(total(prompt, torch.rand(2, len(NAMES), generator=generator)))
    return a, b, total


def talk(prompt: str, answer: str) -> Conversation:
    """A conversation of one turn."""
    return (Message(role="user", content=prompt), Message(role="assistant", content=answer))
