"""A client of reward servers, for the probes: one conversation a request, in the dialect that the server speaks.

POST /v1/rewards   {"conversations": [[{role, content}, ...]]} -> {"scores": [{"reward": 1.2}]}       facetrm
POST /classify     {"messages": [...], "use_activation": false} -> {"data": [{"probs": [1.2]}]}       vLLM
POST /get_reward   {"query": ["rendered text"]} -> {"rewards": [1.2]}                                 OpenRLHF
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, final

from facetrm.core.errors import ModelError, short
from facetrm.core.web.address import Address, read_address, shown_address
from facetrm.core.web.client import HttpClient, RequestError, run_request, warn_of_plain_http
from facetrm.core.web.key import ServerKey
from facetrm.core.web.wire import HttpReply
from facetrm.data.records import Conversation
from facetrm.doctor.equal import RenderConversation

Dialect = Literal["facetrm", "vLLM", "OpenRLHF"]

PATHS: Final[Mapping[Dialect, str]] = {"facetrm": "/v1/rewards", "vLLM": "/classify", "OpenRLHF": "/get_reward"}
AT_ONCE: Final = 8
_ABSENT: Final = frozenset({404, 405, 501})
_FIX: Final = {
    "unreachable": "check the address, and that the server is up",
    "untrusted": "give a server whose certificate is valid; SSL_CERT_FILE names further certificates to trust",
    "silent": "check that the server is up; a slow one needs --timeout SECONDS",
    "broken": "check the address, and that it is a reward server",
}


@dataclass(frozen=True)
class ServedAnswer:
    """What a server said to one conversation.

    Attributes:
        reward: None where it refused.
        numbers: how many it gave.
        truncated: whether it says that it cut something.
        status: of HTTP.
        problem: what it said when it refused, or what is wrong with its answer.
    """

    reward: float | None
    numbers: int = 1
    truncated: bool = False
    status: int = 200
    problem: str = ""


@final
class RewardServer:
    """A server that gives rewards.

    Args:
        address: without the path of an endpoint.
        dialect: what it speaks.
        render: a conversation to text, for OpenRLHF, whose clients render.
        timeout: seconds for one request, from the connection to the last byte of the answer.
        model: the name that vLLM serves the model under.
        key: sent with each request.
    """

    def __init__(
        self,
        address: Address,
        *,
        dialect: Dialect,
        render: RenderConversation | None = None,
        timeout: float = 60.0,
        model: str | None = None,
        key: ServerKey | None = None,
    ) -> None:
        self.address, self.dialect = address, dialect
        self._render, self._model = render, model
        self._client = HttpClient(address, key=key, timeout=timeout)

    def ask(self, messages: Conversation) -> ServedAnswer:
        """Return what the server says to one conversation.

        Raises:
            ModelError: it cannot be reached, does not answer in time, or answers with what is not JSON.
        """
        return run_request(self._ask(messages))

    def ask_all(self, conversations: Sequence[Conversation], *, at_once: int = 1) -> list[ServedAnswer]:
        """Return the answers in the order of the ``conversations``, asked ``at_once`` many at a time.

        Raises:
            ModelError: see :meth:`ask`; the first such error ends all.
        """

        async def all_of_them() -> list[ServedAnswer]:
            free = asyncio.Semaphore(at_once)

            async def one(messages: Conversation) -> ServedAnswer:
                async with free:
                    return await self._ask(messages)

            return await asyncio.gather(*map(one, conversations))

        return run_request(all_of_them())

    async def _ask(self, messages: Conversation) -> ServedAnswer:
        turns = [{"role": m.role, "content": m.content} for m in messages]
        body: dict[str, Any]
        if self.dialect == "facetrm":
            body = {"conversations": [turns]}
        elif self.dialect == "vLLM":
            named = {} if self._model is None else {"model": self._model}
            body = {**named, "messages": turns, "add_generation_prompt": False, "use_activation": False}
        else:
            body = {"query": ["" if self._render is None else self._render(messages)]}
        reply = await _send(self._client, PATHS[self.dialect], body)
        if reply.status != 200:
            return ServedAnswer(None, status=reply.status, problem=_refusal(reply, self._client))
        answer = _answer(_value(reply, self._client), self.dialect)
        return replace(answer, problem=self._client.clean(answer.problem))


def connect(
    url: str,
    sample: Conversation,
    *,
    render: RenderConversation | None = None,
    timeout: float = 60.0,
    key: ServerKey | None = None,
) -> RewardServer:
    """Return the server at ``url``, which speaks the first dialect that answers.

    Args:
        url: its address, or that of one endpoint.
        sample: a conversation to ask.
        render: a conversation to text, for OpenRLHF.
        timeout: seconds for one request.
        key: API key of the server.

    Raises:
        ModelError: the address is not one or holds a secret, nothing is there, it speaks no dialect that is known, or
            it refuses the sample.
    """
    base = url.rstrip("/")
    named = [dialect for dialect, path in PATHS.items() if base.endswith(path)]
    address = server_address(base.removesuffix(PATHS[named[0]]) if named else base)
    warn_of_plain_http(address, key)
    client = HttpClient(address, key=key, timeout=timeout)
    for dialect in named or PATHS:
        empty = run_request(_send(client, PATHS[dialect], {}))
        if empty.status in _ABSENT:
            continue
        if empty.status in (401, 403) or 300 <= empty.status < 400:
            raise ModelError(_refusal(empty, client), place=address, fix=_unlock(empty, key))
        if dialect == "OpenRLHF" and render is None:
            raise ModelError(
                "the server speaks OpenRLHF's /get_reward, which takes rendered text",
                place=address,
                fix="give --against MODEL, whose chat template then renders the conversations",
            )
        model = run_request(_served_name(client)) if dialect == "vLLM" else None
        server = RewardServer(address, dialect=dialect, render=render, timeout=timeout, model=model, key=key)
        first = server.ask(sample)
        if first.reward is None:
            raise ModelError(
                f"{PATHS[dialect]} does not score the first conversation ({first.problem})",
                place=address,
                fix="see the server's log; check that it serves a reward model",
            )
        return server
    raise ModelError(
        f"none of {', '.join(PATHS.values())} is there",
        place=address,
        fix="give the address of a server of facetrm, vLLM (task classify) or OpenRLHF, without further path",
    )


def server_address(url: str) -> Address:
    """Return the address that ``url`` is.

    Raises:
        ModelError: it is not an http address, or holds a user, a password or a query. It is shown without these.
    """
    return read_address(url, place=shown_address(url), error=ModelError)


def _answer(value: Any, dialect: Dialect) -> ServedAnswer:
    try:
        if dialect == "facetrm":
            row = value["scores"][0]
            found, cut = [row["reward"]], bool(row.get("truncated", False))
        else:
            cut = False
            rewards = value["data"][0]["probs"] if dialect == "vLLM" else value["rewards"]
            found = list(rewards) if isinstance(rewards, list) else [rewards]
        if isinstance(found[0], bool) or not isinstance(found[0], int | float):
            raise TypeError
        reward = float(found[0])
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError):
        return ServedAnswer(None, problem=f"an answer of another shape: {_start(value)}")
    if not math.isfinite(reward):
        return ServedAnswer(None, numbers=len(found), problem=f"a reward of {reward}")
    return ServedAnswer(reward, numbers=len(found), truncated=cut)


async def _served_name(client: HttpClient) -> str | None:
    try:
        name = (await client.send("/v1/models")).json()["data"][0]["id"]
    except (RequestError, ValueError, KeyError, IndexError, TypeError):
        return None  # the name is optional: a server of one model needs none
    return name if isinstance(name, str) else None


async def _send(client: HttpClient, path: str, body: Mapping[str, Any]) -> HttpReply:
    try:
        return await client.send(path, body)
    except RequestError as exc:
        raise ModelError(exc.reason, place=f"{client.address}{path}", fix=_FIX[exc.kind]) from None


def _value(reply: HttpReply, client: HttpClient) -> Any:
    try:
        return reply.json()
    except ValueError:
        shown = client.clean(short(reply.text(80)))
        fix = "give the address of a reward server"
        raise ModelError(f"the answer is not JSON ({shown})", place=client.address, fix=fix) from None


def _refusal(reply: HttpReply, client: HttpClient) -> str:
    if 300 <= reply.status < 400:
        to = shown_address(reply.headers.get("location", ""))
        return client.clean(f"HTTP {reply.status}: it sends on to '{to}', and conversations are not sent on")
    return client.clean(f"HTTP {reply.status}: {reply.text(400)}")


def _unlock(reply: HttpReply, key: ServerKey | None) -> str:
    if 300 <= reply.status < 400:
        return "if that address is the right one, give it"
    return "give its key: --key-env NAME, the name of an environment variable" if key is None else "check the key"


def _start(value: Any) -> str:
    """Return the start of a JSON value, without a walk through the whole of it."""
    try:
        return short(value, 160)
    except RecursionError:
        return f"a deeply nested {type(value).__name__}"
