"""What the routes share: the served model, its state, and the way from a request to the scores."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar, final

from starlette.requests import Request

from facetrm.core.errors import BackboneError
from facetrm.data.records import Conversation
from facetrm.model.output import Score
from facetrm.model.reward_model import RewardModel
from facetrm.serve.counters import Counters
from facetrm.serve.limits import ServeConfig
from facetrm.serve.page.setup import PageSetup
from facetrm.serve.refusals import RefusalError, refusal_of
from facetrm.serve.schema.asked import Asked, EditedBody
from facetrm.serve.schema.given import EditBody, ErrorBody, ErrorDetail, Provenance, RowScore
from facetrm.serve.service import RewardService
from facetrm.serve.variants import AskedEdit

T = TypeVar("T")

TIMEOUT_HEADER: Final = "X-Timeout-Seconds"
_LATER: Final = {
    "headers": {"Retry-After": {"description": "Seconds after which to try again.", "schema": {"type": "integer"}}}
}
_HEADERS: Final = {
    401: {"headers": {"WWW-Authenticate": {"description": "Always Bearer.", "schema": {"type": "string"}}}},
    429: _LATER,
    503: _LATER,
}
REFUSED: Final[dict[int | str, dict[str, Any]]] = {
    status: {"model": ErrorBody, "description": text, **_HEADERS.get(status, {})}
    for status, text in (
        (400, "The body is not JSON, or a header is malformed."),
        (401, "The key is missing or unknown, on a server with keys."),
        (404, "The model has another name."),
        (408, "The body did not arrive in time."),
        (413, "The body is too large, or there are too many conversations."),
        (415, "The body is not declared as JSON."),
        (421, "The Host header names another host."),
        (422, "The body has another form, a conversation cannot be read, or an objective is unknown."),
        (429, "The queue is full, or the key's rate is exceeded: try again after Retry-After."),
        (500, "The scores are not finite, or an internal error."),
        (503, "The model is not loaded, or the server is shutting down."),
        (504, "Not answered in time."),
    )
}


@final
@dataclass
class Served:
    """The state of a server.

    Attributes:
        config: settings of the service.
        counters: what is counted.
        service: the loaded model; None until it is loaded.
        stopping: whether the server is shutting down.
        page: what the page is given.
    """

    config: ServeConfig
    counters: Counters = field(default_factory=Counters)
    service: RewardService | None = None
    stopping: bool = False
    page: PageSetup = field(default_factory=PageSetup)

    @property
    def ready(self) -> bool:
        """Whether requests are accepted."""
        return self.service is not None and not self.stopping

    def begin(self, service: RewardService) -> None:
        """Accept requests.

        Args:
            service: the loaded model.
        """
        self.service = service
        self.counters.watch(lambda: float(service.batcher.waiting))
        self.counters.ready(True)

    def stop(self) -> None:
        """Accept no requests any more; those that were accepted are finished."""
        self.stopping = True
        self.counters.ready(False)


def service_of(request: Request) -> RewardService:
    """Return the loaded model. A request that got it once keeps it, even if the server is told to stop.

    Args:
        request: the request.

    Raises:
        RefusalError: it is not loaded, or the server is shutting down.
    """
    admitted = request.scope.get("facetrm_service")
    if isinstance(admitted, RewardService):
        return admitted
    served: Served = request.app.state.served
    if served.stopping:
        raise RefusalError(503, "the server is shutting down", code="shutting_down", retry_after=5)
    if served.service is None:
        raise RefusalError(503, "the model is being loaded", code="loading", retry_after=5)
    request.scope["facetrm_service"] = served.service
    return served.service


def request_id(request: Request) -> str:
    """Return the id of a request, which the client gave or the server made.

    Args:
        request: the request.
    """
    return str(request.scope.get("facetrm_id", ""))


def check_name(service: RewardService, name: str | None) -> None:
    """Check that a request asks for the served model.

    Args:
        service: the served model.
        name: name in the request; None asks for whatever is served.

    Raises:
        RefusalError: the name is another one.
    """
    if name not in (None, service.name, service.hash):
        fix = f"leave it out, or give '{service.name}'"
        raise RefusalError(404, "the server has no model of this name", code="model_not_found", fix=fix)


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of ``work``, which is cancelled if the client goes away.

    Args:
        request: the request, whose body was read.
        work: what to do.

    Raises:
        RefusalError: the client has gone; nobody sees it but the log.
    """

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            await asyncio.sleep(0)

    task, watch = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise RefusalError(499, "the client has gone")
        return task.result()
    finally:
        task.cancel()
        watch.cancel()


def all_readable(conversations: Sequence[Asked]) -> list[Conversation]:
    """Return the conversations of a request that is refused as a whole if one of them cannot be read.

    Args:
        conversations: the conversations, or why one cannot be read.

    Raises:
        RefusalError: one of them cannot be read.
    """
    for one in conversations:
        if isinstance(one, RefusalError):
            raise one
    return [one for one in conversations if not isinstance(one, RefusalError)]


async def score_all(
    request: Request, conversations: Sequence[Conversation], *, model: RewardModel | None = None
) -> list[Score]:
    """Return the scores of all conversations, in order.

    Args:
        request: the request.
        conversations: the conversations.
        model: the variant that scores them; None for the served model.

    Raises:
        RefusalError: one of them cannot be scored, or none in time.
    """
    found = await score_each(request, conversations, model=model)
    for n, one in enumerate(found):
        if isinstance(one, Exception):
            raise refusal_of(one, row=n)
    return [one for one in found if isinstance(one, Score)]


async def score_each(
    request: Request, conversations: Sequence[Asked], *, model: RewardModel | None = None
) -> list[Score | Exception]:
    """Return the score of each conversation, or why it has none, in order.

    Args:
        request: the request.
        conversations: the conversations, or why one cannot be read.
        model: the variant that scores them; None for the served model.

    Raises:
        RefusalError: the queue is full, the time is over, or the client has gone.
    """
    service = service_of(request)
    service.check_number(len(conversations))
    readable = [one for one in conversations if not isinstance(one, RefusalError)]
    found = iter(await score_by(request, readable, [model or service.model]))
    rows = [one if isinstance(one, RefusalError) else next(found) for one in conversations]
    return [_numbered(one, n) if isinstance(one, Exception) else one[0] for n, one in enumerate(rows)]


def _numbered(error: Exception, row: int) -> Exception:
    """Return an error with the number that its conversation has in the request, among those that cannot be read too."""
    return error.at(f"conversation {row}", row=row) if isinstance(error, BackboneError) else error


async def score_by(
    request: Request, conversations: Sequence[Conversation], models: Sequence[RewardModel]
) -> list[list[Score] | Exception]:
    """Return the scores of each conversation, one per variant, or why it has none, in order.

    Args:
        request: the request.
        conversations: the conversations.
        models: the variants that score each of them; the backbone reads it once for all.

    Raises:
        RefusalError: the queue is full, the time is over, or the client has gone.
    """
    work = service_of(request).score(conversations, models=models, timeout=asked_seconds(request))
    try:
        found = await unless_gone(request, work)
    except Exception as exc:
        raise refusal_of(exc) from None
    tokens = sum(one[0].tokens for one in found if isinstance(one, list))
    request.scope["facetrm_read"] = {"conversations": len(found), "tokens": tokens}
    return found


async def edited(request: Request, body: EditedBody) -> tuple[AskedEdit, RewardModel]:
    """Return the edit that a request asks for, and the model with it.

    Args:
        request: the request.
        body: its body.

    Raises:
        RefusalError: the model has another name, or the edit is not possible.
    """
    service = service_of(request)
    check_name(service, body.model)
    return await service.variant(body.objective_weights, body.mask)


def asked_seconds(request: Request) -> float | None:
    """Return the time limit that a client sets in ``X-Timeout-Seconds``; None if it sets none.

    Args:
        request: the request.

    Raises:
        RefusalError: it is not a positive number.
    """
    text = request.headers.get(TIMEOUT_HEADER)
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds > 0):
        raise RefusalError(400, f"{TIMEOUT_HEADER} is not a positive number", fix="give seconds, such as 2.5")
    return seconds


def provenance(service: RewardService, model: RewardModel) -> Provenance:
    """Return what the scores of a variant depend on.

    Args:
        service: the served model.
        model: the variant.
    """
    return Provenance(
        model=service.name,
        model_hash=model.hash,
        template_hash=model.encoder.template_hash,
        mode=model.encoder.mode,
        dtype=service.dtype,
    )


def edit_record(service: RewardService, asked: AskedEdit) -> EditBody | None:
    """Return the record of an edit; None without one.

    Args:
        service: the served model.
        asked: the edit.
    """
    return EditBody(**asked.to_dict(), unedited_model_hash=service.hash) if asked else None


def row_score(index: int, score: Score | Exception) -> RowScore:
    """Return the row of a response.

    Args:
        index: index of the conversation.
        score: its score, or why it has none.
    """
    if isinstance(score, Exception):
        error = refusal_of(score, row=index, skipped=True)
        return RowScore(index=index, reward=None, error=ErrorDetail(**error.to_dict()))
    known: Mapping[str, Any] = score.to_dict()
    return RowScore(index=index, **{key: known[key] for key in known if key in RowScore.model_fields})
