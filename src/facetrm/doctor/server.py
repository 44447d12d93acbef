"""A client of reward servers: one conversation per request, in the API that the server speaks.

POST /v1/rewards   {"conversations": [[{role, content}, ...]]} -> {"scores": [{"reward": 1.2}]}       facetrm
POST /classify     {"messages": [...], "use_activation": false} -> {"data": [{"probs": [1.2]}]}       vLLM
POST /get_reward   {"query": ["rendered text"]} -> {"rewards": [1.2]}                                 OpenRLHF
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, final, get_args

from facetrm.backbone.config import Mode
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
    "unreachable": "check the address, and check that the server is running",
    "untrusted": "use a server with a valid certificate, or set SSL_CERT_FILE to a file of certificates to trust",
    "silent": "check that the server is running; for a slow server, raise --timeout SECONDS",
    "broken": "check the address, and check that it belongs to a reward server",
}


@dataclass(frozen=True)
class ServedAnswer:
    """A server's response to one conversation.

    Attributes:
        reward: the reward, or None if the server gave none.
        numbers: how many numbers the server returned.
        truncated: whether the server reports that it truncated the conversation.
        status: the HTTP status.
        problem: the server's error message, or what is wrong with its response.
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
        address: the address of the server, without the path of an endpoint.
        dialect: the API that the server speaks.
        render: renders a conversation as text. OpenRLHF needs it, because its clients send rendered text.
        timeout: the seconds allowed for one request, from the connection to the last byte of the response.
        model: the name under which vLLM serves the model.
        key: the API key, sent with each request.
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
        """Score one conversation.

        Raises:
            ModelError: the server cannot be reached, does not answer in time, or does not answer with JSON.
        """
        return run_request(self._ask(messages))

    def ask_all(self, conversations: Sequence[Conversation], *, at_once: int = 1) -> list[ServedAnswer]:
        """Score several conversations, one per request, and return the answers in order.

        Args:
            conversations: the conversations to score.
            at_once: the number of concurrent requests.

        Raises:
            ModelError: the server cannot be reached, does not answer in time, or does not answer with JSON.
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
    """Connect to the server at ``url``, using the first known API that it answers.

    Args:
        url: the address of the server or of one endpoint.
        sample: a conversation to test the server with.
        render: renders a conversation as text, for OpenRLHF.
        timeout: the seconds allowed for one request.
        key: the API key of the server.

    Raises:
        ModelError: the address is invalid or contains a secret, the server cannot be reached or speaks no known API,
            or it does not score the sample.
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
                fix="give --against MODEL, so that its chat template renders the conversations",
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
        f"the server has none of the endpoints {', '.join(PATHS.values())}",
        place=address,
        fix="give the address of a facetrm, vLLM (task classify) or OpenRLHF server, without a path",
    )


def server_address(url: str) -> Address:
    """Parse the address of a server.

    Raises:
        ModelError: it is not an http address, or holds a user, a password or a query, which the message leaves out.
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
        return ServedAnswer(None, problem=f"the response has another format: {_start(value)}")
    if not math.isfinite(reward):
        return ServedAnswer(None, numbers=len(found), problem=f"the reward is {reward}")
    return ServedAnswer(reward, numbers=len(found), truncated=cut)


def served_mode(url: str, *, timeout: float = 60.0, key: ServerKey | None = None) -> Mode | None:
    """Return the mode, ``fast`` or ``exact``, in which a server of facetrm reads; None if it does not say.

    Args:
        url: the address of the server or of one endpoint.
        timeout: the seconds allowed for the request.
        key: the API key of the server.

    Raises:
        ModelError: the address is invalid or contains a secret.
    """
    base = url.rstrip("/")
    for path in PATHS.values():
        base = base.removesuffix(path)
    mode = run_request(_listed(HttpClient(server_address(base), key=key, timeout=timeout), "mode"))
    return next((known for known in get_args(Mode) if known == mode), None)


async def _served_name(client: HttpClient) -> str | None:
    return await _listed(client, "id")  # the name is optional if the server has only one model


async def _listed(client: HttpClient, key: str) -> str | None:
    try:
        value = (await client.send("/v1/models")).json()["data"][0][key]
    except (RequestError, ValueError, KeyError, IndexError, TypeError):
        return None
    return value if isinstance(value, str) else None


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
        raise ModelError(f"the response is not JSON ({shown})", place=client.address, fix=fix) from None


def _refusal(reply: HttpReply, client: HttpClient) -> str:
    if 300 <= reply.status < 400:
        to = shown_address(reply.headers.get("location", ""))
        return client.clean(f"HTTP {reply.status}: the server redirects to '{to}', and redirects are not followed")
    return client.clean(f"HTTP {reply.status}: {reply.text(400)}")


def _unlock(reply: HttpReply, key: ServerKey | None) -> str:
    if 300 <= reply.status < 400:
        return "if that address is the right one, give it"
    return "give its key: --key-env NAME, the name of an environment variable" if key is None else "check the key"


def _start(value: Any) -> str:
    """Return the start of a JSON value without formatting all of it."""
    try:
        return short(value, 160)
    except RecursionError:
        return f"a deeply nested {type(value).__name__}"
