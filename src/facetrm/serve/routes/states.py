"""``GET /health``, ``/ready`` and ``/metrics``: for whoever runs the server."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from facetrm.serve.schema.given import State
from facetrm.serve.served import REFUSED, Served, service_of

states_router: Final = APIRouter(tags=["state"])


@states_router.get("/health", responses={421: REFUSED[421]})
async def tell_health() -> State:
    """Say that the server is alive, even if its model is not loaded yet."""
    return State(status="alive")


@states_router.get("/ready", responses={status: REFUSED[status] for status in (421, 503)})
async def tell_ready(request: Request) -> State:
    """Say whether requests are accepted: status 503 until the model is loaded, and while shutting down."""
    service_of(request)
    return State(status="ready")


@states_router.get(
    "/metrics",
    responses={200: {"content": {"text/plain": {}}}, **{status: REFUSED[status] for status in (401, 421, 429)}},
    response_class=Response,
)
async def tell_metrics(request: Request) -> Response:
    """Return all figures in Prometheus's text format."""
    served: Served = request.app.state.served
    return Response(served.counters.text(), headers={"content-type": CONTENT_TYPE_LATEST})
