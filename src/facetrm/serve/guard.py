"""The door of the service: everything that is checked before a request reaches a route, and noted after it.

    id  ->  host  ->  key  ->  rate  ->  size of the body  ->  route  ->  log and counters

The body is read here, so that it is limited whatever it says about its length, and a slow one is given up.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, TypeAlias, final

from facetrm.core.progress import log
from facetrm.serve.keys import KeyRing, KnownKey
from facetrm.serve.refusals import RefusalError, error_place
from facetrm.serve.served import Served

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN_PATHS: Final = frozenset({"/", "/health", "/ready"})
QUIET_PATHS: Final = frozenset({"/health", "/ready", "/metrics"})
OPEN_FOLDER: Final = "/page/"
_ID: Final = re.compile(r"[\w.:-]{1,128}")
_JSON: Final = re.compile(r"application/([\w.+-]+\+)?json\s*(;|$)", re.IGNORECASE)
_OWN_NAMES: Final = ("localhost", "127.0.0.1", "[::1]", "::1")
_BODY_SECONDS: Final = 30.0
_DRAINED: Final = 4  # times the limit; a client that is cut off while it sends would not read the answer
_SHOWN: Final = 2000  # characters of a body in the log, if it is asked for


@final
class Guard:
    """An ASGI application around the service.

    Args:
        app: the service.
        served: state of the server.
        keys: the known keys.
        local: whether only this machine can reach the server.
    """

    def __init__(self, app: App, served: Served, *, keys: KeyRing, local: bool) -> None:
        self._app, self._served, self._keys = app, served, keys
        names = {*_OWN_NAMES, *served.config.hosts}
        self._hosts = {name.lower() for name in names} if local and not keys.required else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        given = headers.get("x-request-id", "")
        scope["facetrm_id"] = given if _ID.fullmatch(given) else uuid.uuid4().hex
        start, status, key = time.monotonic(), [0], None

        async def answer(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                status[0] = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", scope["facetrm_id"].encode())]
            await send(message)

        try:
            key = self._admitted(scope, headers)
            body = await self._body(headers, receive)
            if body and not _JSON.match(headers.get("content-type", "")):
                raise RefusalError(415, "the body is not declared as JSON", fix="send Content-Type: application/json")
            if self._served.config.log_text and body:
                log("body", id=scope["facetrm_id"], text=body[:_SHOWN].decode("utf-8", "replace"))
            await self._app(scope, _replayed(body, receive), answer)
        except RefusalError as exc:
            await self.refuse(scope, exc, answer)
        except Exception as exc:
            log(
                "error",
                warning="a request failed",
                id=scope["facetrm_id"],
                error=type(exc).__name__,
                at=error_place(exc),
            )
            if not status[0]:
                await self.refuse(scope, RefusalError(500, "an internal error; the server's log says more"), answer)
        finally:
            self._note(scope, status[0], time.monotonic() - start, key)

    async def refuse(self, scope: Scope, refusal: RefusalError, send: Send) -> None:
        """Send an error.

        Args:
            scope: the request.
            refusal: what is wrong.
            send: sends the parts of the answer.
        """
        self._served.counters.rejected(refusal.code)
        body, headers = refusal_parts(refusal, scope["facetrm_id"])
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        raw += [(b"content-length", str(len(body)).encode()), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": refusal.status, "headers": raw})
        await send({"type": "http.response.body", "body": body})

    def _admitted(self, scope: Scope, headers: dict[str, str]) -> KnownKey | None:
        """Return the key of a request that may go on; None if it needs none."""
        if self._hosts is not None:
            host = headers.get("host", "")
            name = re.sub(r":\d*$", "", host).lower()
            if name not in self._hosts:
                raise RefusalError(
                    421,
                    "the Host header does not name this machine",
                    fix="use http://127.0.0.1, or start the server with serve.hosts",
                )
        path = str(scope["path"])
        if path in OPEN_PATHS or path.startswith(OPEN_FOLDER):
            return None
        key = self._keys.holder(headers.get("authorization", ""))
        if self._keys.required and key is None:
            raise RefusalError(401, "the key is missing or unknown", fix="send the header Authorization: Bearer KEY")
        seconds = math.ceil(self._keys.wait(key))
        if seconds:
            raise RefusalError(429, f"too many requests; try again in {seconds} s", code="rate", retry_after=seconds)
        return key

    async def _body(self, headers: dict[str, str], receive: Receive) -> bytes:
        most = self._served.config.max_body_bytes
        length, parts, size = headers.get("content-length", "0"), list[bytes](), 0
        declared = int(length[:20]) if length.isdecimal() else 0
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise RefusalError(499, "the client has gone")
                    part = message.get("body", b"")
                    size += len(part)
                    if max(size, declared) <= most:
                        parts.append(part)
                    ended = not message.get("more_body", False)
                    if max(size, declared) > most and (ended or size > _DRAINED * most or declared > _DRAINED * most):
                        raise RefusalError(
                            413,
                            f"the body is larger than {most} bytes",
                            code="body_too_large",
                            fix="send several requests",
                        )
                    if ended:
                        return b"".join(parts)
        except TimeoutError:
            raise RefusalError(408, f"the body did not arrive within {_BODY_SECONDS:g} s") from None

    def _note(self, scope: Scope, status: int, seconds: float, key: KnownKey | None) -> None:
        route = getattr(scope.get("route"), "path", "none")
        self._served.counters.request(route, status or 499, seconds)
        if scope["path"] in QUIET_PATHS:
            return
        log(
            "request",
            id=scope["facetrm_id"],
            method=scope["method"],
            route=route,
            status=status or 499,
            milliseconds=round(1000 * seconds, 1),
            **scope.get("facetrm_read", {}),
            **({} if key is None else {"key": key.name}),
        )


def refusal_parts(refusal: RefusalError, request: str) -> tuple[bytes, dict[str, str]]:
    """Return the body and the headers of an error.

    Args:
        refusal: what is wrong.
        request: id of the request.
    """
    headers = {} if refusal.retry_after is None else {"retry-after": str(refusal.retry_after)}
    if refusal.status == 401:
        headers["www-authenticate"] = "Bearer"
    body = json.dumps({"error": refusal.to_dict(), "request_id": request})
    return body.encode("ascii"), headers


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Return a function that gives the body once, and then waits for the client to go."""
    given = False

    async def replay() -> MutableMapping[str, Any]:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
