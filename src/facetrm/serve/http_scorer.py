"""A client of the service as a scorer: many conversations in few requests, retried while the server is busy."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Final, final

from facetrm.core.errors import BackboneError, ModelError, ServerError
from facetrm.core.progress import log
from facetrm.core.web.address import read_address, shown_address
from facetrm.core.web.client import HttpClient, RequestError, run_request, warn_of_plain_http
from facetrm.core.web.key import ServerKey
from facetrm.core.web.wire import HttpReply
from facetrm.data.records import Conversation
from facetrm.model.output import Score, Uncertainty

_BUSY: Final = frozenset({429, 502, 503})
_CLOSED: Final = _BUSY | {401, 403, 404, 421}  # whatever is asked
_AGAIN: Final = frozenset({"unreachable", "broken"})
_LONGEST_WAIT: Final = 60.0
_LARGEST: Final = 64 * 2**20
_FIX: Final = "check the address and the server's log"


@final
class HttpScorer:
    """Scores conversations with a facetrm server; the scores have the bits that the server computed.

    Args:
        url: address of the server.
        timeout: seconds allowed for one request.
        key: key of the server; None if it needs none.
        rows: most conversations of one request.
        at_once: number of concurrent requests.
        tries: how often a request is sent while the server is busy or cannot be reached.
        objective_weights: factors for the weights of objectives, by name.
        mask: names of objectives to drop.

    Attributes:
        name: address of the server.
        hash: hash of the served model.
        objectives: names of the served model's objectives, of all its tasks.

    Raises:
        ModelError: the address is malformed, or what answers there is no facetrm server.
        ServerError: nothing answers there.

    Example:
        >>> from facetrm.serve import HttpScorer
        >>> try:
        ...     HttpScorer("http://127.0.0.1:9", tries=1)
        ... except Exception as error:
        ...     print(type(error).__name__)
        ServerError
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 60.0,
        key: ServerKey | None = None,
        rows: int = 32,
        at_once: int = 4,
        tries: int = 6,
        objective_weights: Mapping[str, float] | None = None,
        mask: Sequence[str] = (),
    ) -> None:
        address = read_address(url.rstrip("/"), place=shown_address(url), error=ModelError)
        warn_of_plain_http(address, key)
        self._client = HttpClient(address, key=key, timeout=timeout, largest=_LARGEST)
        self._rows, self._at_once, self._tries = rows, at_once, max(1, tries)
        self._edit = {"objective_weights": dict(objective_weights or {}), "mask": list(mask)}
        self.name = str(address)
        try:
            served = self._value(run_request(self._send("/v1/models", None)))["data"][0]
            ours, self.hash = served["owned_by"] == "facetrm", str(served["hash"])
            names = (str(one["name"]) for task in served.get("tasks", ()) for one in task["objectives"])
            self.objectives = tuple(dict.fromkeys(names))
        except (KeyError, IndexError, TypeError):
            ours = False
        if not ours:
            raise ModelError("no facetrm server answers there", place=address, fix=_FIX)

    def score(self, conversations: Sequence[Conversation]) -> list[Score]:
        """Return the score of each conversation, in order.

        Args:
            conversations: the conversations.

        Raises:
            BackboneError: a conversation cannot be scored; ``row`` is its number.
            ServerError: the server cannot be reached, stays busy, or answers nobody.
            ModelError: the server refuses this request, or its answer has another format.
        """
        starts = range(0, len(conversations), self._rows)

        async def all_of_them() -> list[list[Score]]:
            free = asyncio.Semaphore(self._at_once)

            async def one(start: int) -> list[Score]:
                async with free:
                    return await self._part(conversations[start : start + self._rows], start)

            return await asyncio.gather(*map(one, starts))

        return [score for part in run_request(all_of_them()) for score in part]

    async def _part(self, conversations: Sequence[Conversation], start: int) -> list[Score]:
        turns = [[{"role": m.role, "content": m.content} for m in messages] for messages in conversations]
        reply = await self._send("/v1/rewards", {"conversations": turns, **self._edit}, start=start)
        try:
            value = self._value(reply)
            known = value["provenance"]
            scores = [_score(row, known) for row in value["scores"]]
        except (KeyError, TypeError, ValueError):
            raise ModelError("the response has another format", place=self.name, fix=_FIX) from None
        if len(scores) != len(conversations):
            problem = f"{len(scores)} scores for {len(conversations)} conversations"
            raise ModelError(problem, place=self.name, fix=_FIX)
        return scores

    async def _send(self, path: str, body: Any, *, start: int = 0) -> HttpReply:
        """Return a response with status 200; a busy server is asked again when it says so."""
        for attempt in range(self._tries):
            wait = min(_LONGEST_WAIT, 0.5 * 2**attempt) * (0.75 + 0.5 * random.random())
            try:
                reply = await self._client.send(path, body)
            except RequestError as exc:
                if exc.kind not in _AGAIN or attempt + 1 == self._tries:
                    kind = ServerError if exc.kind in _AGAIN else ModelError
                    raise kind(exc.reason, place=f"{self.name}{path}", fix=_FIX) from None
                reason = exc.reason
            else:
                if reply.status == 200:
                    return reply
                if reply.status not in _BUSY or attempt + 1 == self._tries:
                    raise self._refused(reply, start)
                asked = reply.headers.get("retry-after", "")
                wait = min(_LONGEST_WAIT, float(asked)) if asked.isdecimal() else wait
                reason = f"HTTP {reply.status}"
            log("asked again", server=self.name, after_seconds=round(wait, 1), reason=self._client.clean(reason))
            await asyncio.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    def _refused(self, reply: HttpReply, start: int) -> ModelError | BackboneError:
        """Return the error of a refused request; a BackboneError with its number if one conversation is the cause."""
        try:
            error = reply.json()["error"]
            reason, fix, row = str(error["message"]), error.get("fix"), error.get("row")
        except (ValueError, KeyError, TypeError, AttributeError):
            reason, fix, row = reply.text(300), None, None
        problem = self._client.clean(f"HTTP {reply.status}: {reason}")
        clean = self._client.clean(str(fix)) if fix else _FIX
        if isinstance(row, int):
            unread = BackboneError(problem, place=f"{self.name}: conversation {start + row}", fix=clean)
            unread.row = start + row
            return unread
        kind = ServerError if reply.status in _CLOSED else ModelError
        return kind(problem, place=self.name, fix=clean)

    def _value(self, reply: HttpReply) -> Any:
        try:
            return reply.json()
        except ValueError:
            raise ModelError("the response is not JSON", place=self.name, fix=_FIX) from None


_OF_ALL: Final = {"model": "model_hash", "template": "template_hash", "mode": "mode"}


def _score(row: Mapping[str, Any], known: Mapping[str, Any]) -> Score:
    """Return the score in one row of a response; what is the same for all rows stands in ``known``."""
    if not isinstance(row["reward"], float | int) or isinstance(row["reward"], bool):
        raise TypeError
    values = {one.name: known[_OF_ALL[one.name]] if one.name in _OF_ALL else row[one.name] for one in fields(Score)}
    unsure = values["uncertainty"]
    return Score(**{**values, "uncertainty": None if unsure is None else Uncertainty(**{"reward": None, **unsure})})
