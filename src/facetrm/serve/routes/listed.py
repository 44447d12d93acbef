"""``GET /v1/models``: what is served, and its objectives with their scales."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Request

from facetrm.model.aggregate import GatedSum
from facetrm.model.mixture import Mixture
from facetrm.serve.schema.given import ModelBody, ModelList, ObjectiveBody, TaskBody
from facetrm.serve.served import REFUSED, service_of

listed_router: Final = APIRouter(tags=["models"])


@listed_router.get("/v1/models", responses={status: REFUSED[status] for status in (401, 421, 429, 503)})
async def list_models(request: Request) -> ModelList:
    """List the served model, with its tasks, objectives and limits."""
    service = service_of(request)
    model = service.model
    return ModelList(
        data=[
            ModelBody(
                id=service.name,
                created=service.created,
                hash=service.hash,
                template_hash=model.encoder.template_hash,
                mode=model.encoder.mode,
                dtype=service.dtype,
                max_tokens=service.max_tokens,
                max_answers=service.config.max_answers,
                tasks=[_task(name, mixture) for name, mixture in model.mixtures.items()],
            )
        ]
    )


def _task(name: str, mixture: Mixture) -> TaskBody:
    fields = ("name", "low", "high", "direction", "meaning", "source", "rater")
    return TaskBody(
        name=name,
        aggregator=mixture.aggregator.kind,
        beta=mixture.beta,
        editable=["objective_weights", "mask"] if isinstance(mixture.aggregator, GatedSum) else ["mask"],
        objectives=[ObjectiveBody(**{key: getattr(one, key) for key in fields}) for one in mixture.objectives],
    )
