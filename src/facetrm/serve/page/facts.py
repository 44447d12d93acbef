"""``GET /v1/page``: what the page has to know to re-weigh objectives by itself.

A gated sum is given whole, so that anyone can compute the reward under other weights from the scores of an answer:

    weight_k      = factor_k * share_k           share: the gate's weights, renormalised over what is not dropped
    coefficient_j = sum_k weight_k * matrix_kj * (1 if k == j else factor_j)
    reward        = sum_j coefficient_j * score_j

Shapes: K experts.
"""

from __future__ import annotations

from typing import Final

import torch
from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from facetrm.model.aggregate import GatedSum
from facetrm.model.mixture import Mixture
from facetrm.model.validity import validity_of
from facetrm.serve.served import REFUSED, Served, service_of

facts_router: Final = APIRouter(tags=["page"])


class SumBody(BaseModel):
    """How a gated sum makes the reward of one task."""

    matrix: list[list[float]] = Field(description="Reward per weight (row) and score (column), without any edit.")
    reference: list[float] = Field(description="Scores of the reference answer.")
    factors: list[float] = Field(description="Factors of the served model's own edit.")
    dropped: list[str] = Field(description="Objectives that the served model's own edit drops.")


class MixtureBody(BaseModel):
    """The rewards of one task."""

    task: str
    names: list[str] = Field(description="Objectives, in the order of the model.")
    per_unit: list[float] = Field(description="Change of each rating when its score goes from 0 to 1.")
    unproven: list[str] = Field(description="Objectives that are known not to be predicted on held-out prompts.")
    sum: SumBody | None = Field(description="Null if the reward is no weighted sum, or an edit pins weights.")


class ExampleBody(BaseModel):
    """The example that the page opens with."""

    prompt: str
    answers: list[str]


class PageBody(BaseModel):
    """What the page has to know."""

    mixtures: list[MixtureBody]
    example: ExampleBody
    saves: bool = Field(description="Whether edited models can be saved.")
    browses: bool = Field(description="Whether there is an evaluation or a run to browse.")


@facts_router.get("/v1/page", responses={status: REFUSED[status] for status in (401, 421, 429, 503)})
async def tell_page(request: Request) -> PageBody:
    """Tell how each task's reward is summed, and what the server lets the page do."""
    served: Served = request.app.state.served
    model = service_of(request).model
    validity = validity_of(model.provenance)
    unproven = {name for name, one in validity.items() if not one.measurable}
    return PageBody(
        mixtures=[mixture_body(task, mixture, unproven) for task, mixture in model.mixtures.items()],
        example=ExampleBody(prompt=served.page.prompt, answers=list(served.page.answers)),
        saves=served.page.save_folder is not None,
        browses=bool(served.page.browsed),
    )


def mixture_body(task: str, mixture: Mixture, unproven: set[str]) -> MixtureBody:
    """Return how the rewards of a task come about.

    Args:
        task: name of the task.
        mixture: its mixture.
        unproven: names of objectives that are known not to be predicted.
    """
    return MixtureBody(
        task=task,
        names=list(mixture.names),
        per_unit=[one.from_unit(1.0) - one.from_unit(0.0) for one in mixture.objectives],
        unproven=[name for name in mixture.names if name in unproven],
        sum=_sum_body(mixture),
    )


def _sum_body(mixture: Mixture) -> SumBody | None:
    total = mixture.aggregator
    if not isinstance(total, GatedSum) or total.edit.pin or any(factor == 0 for _, factor in total.edit.scale):
        return None  # pinned weights, and a share that a factor of 0 hides, cannot be read from the weights
    plain_KK = total.with_edit(None).coefficients_KK
    dropped = {mixture.names[k] for k in total.edit.drop}
    factor_K = torch.ones(total.size)
    for k, factor in total.edit.scale:
        factor_K[k] *= factor
    return SumBody(
        matrix=plain_KK.tolist(),
        reference=total.reference_K.tolist(),
        factors=factor_K.tolist(),
        dropped=sorted(dropped),
    )
