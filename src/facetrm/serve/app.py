"""The application: the routes, and the errors in one form."""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from facetrm.core.errors import printable
from facetrm.core.version import __version__
from facetrm.serve.document import complete_document
from facetrm.serve.formats.llama_factory import llama_factory_router
from facetrm.serve.formats.remote_reward import remote_reward_router
from facetrm.serve.formats.slime import slime_router
from facetrm.serve.formats.text_inference import text_inference_router
from facetrm.serve.formats.vllm_classify import vllm_classify_router
from facetrm.serve.formats.vllm_pooling import vllm_pooling_router
from facetrm.serve.formats.vllm_rerank import vllm_rerank_router
from facetrm.serve.guard import refusal_parts
from facetrm.serve.page.browsing import browsing_router
from facetrm.serve.page.facts import facts_router
from facetrm.serve.page.saved import saved_router
from facetrm.serve.page.screen import screen_router
from facetrm.serve.refusals import RefusalError
from facetrm.serve.routes.explained import explained_router
from facetrm.serve.routes.listed import listed_router
from facetrm.serve.routes.ranked import ranked_router
from facetrm.serve.routes.rewards import rewards_router
from facetrm.serve.routes.states import states_router
from facetrm.serve.served import Served, request_id

ROUTERS: Final = (
    rewards_router,
    explained_router,
    ranked_router,
    listed_router,
    states_router,
    vllm_classify_router,
    vllm_pooling_router,
    vllm_rerank_router,
    remote_reward_router,
    llama_factory_router,
    slime_router,
    text_inference_router,
    screen_router,
    facts_router,
    saved_router,
    browsing_router,
)


def make_app(served: Served, *, keyed: bool = False) -> FastAPI:
    """Return the application; there is no page that loads scripts from elsewhere, and no CORS.

    Args:
        served: state of the server.
        keyed: whether a request needs a key, which the OpenAPI document says.
    """
    app = FastAPI(
        title="facetrm",
        version=__version__,
        description="Rewards that are exact sums of named contributions.",
        docs_url=None,
        redoc_url=None,
    )
    app.state.served = served
    for router in ROUTERS:
        app.include_router(router)
    app.add_exception_handler(RefusalError, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _missing)
    routes_alone = app.openapi

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            complete_document(routes_alone(), keyed=keyed)
        return routes_alone()

    app.openapi = document  # type: ignore[method-assign]  # the way that FastAPI documents
    return app


async def _refused(request: Request, error: Exception) -> Response:
    if not isinstance(error, RefusalError):
        raise error
    served: Served = request.app.state.served
    served.counters.rejected(error.code)
    body, headers = refusal_parts(error, request_id(request))
    return Response(body, status_code=error.status, headers=headers, media_type="application/json")


async def _invalid(request: Request, error: Exception) -> Response:
    """Say which field is wrong; its value stays out of the answer and of the log."""
    details = error.errors() if isinstance(error, RequestValidationError) else []
    first = details[0] if details else {"type": "", "loc": (), "msg": "malformed"}
    if str(first["type"]).startswith("json_invalid"):
        return await _refused(request, RefusalError(400, "the body is not JSON", fix="send JSON"))
    parts = [
        str(part)[:60] for part in first["loc"] if not str(part).startswith(("function-", "list[", "constrained-"))
    ]
    place = printable(".".join(parts), 300)
    reason = printable(f"{place}: {str(first['msg']).removeprefix('Value error, ')}", 600)
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    return await _refused(request, RefusalError(422, reason + more, code="invalid_body", fix="see /openapi.json"))


async def _missing(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    reasons = {
        404: "there is no such route",
        405: "the route has other methods",
        400: "the body cannot be read as JSON",
    }
    response = await _refused(request, RefusalError(status, reasons.get(status, "the request is malformed")))
    if isinstance(error, HTTPException) and error.headers:
        response.headers.update(error.headers)
    return response
