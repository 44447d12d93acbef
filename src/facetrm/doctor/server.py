"""A client of reward servers, for the probes: one conversation a request, in the dialect that the server speaks.

POST /v1/rewards   {"conversations": [[{role, content}, ...]]} -> {"scores": [{"reward": 1.2}]}       facetrm
POST /classify     {"messages": [...], "use_activation": false} -> {"data": [{"probs": [1.2]}]}       vLLM
POST /get_reward   {"query": ["rendered text"]} -> {"rewards": [1.2]}                                 OpenRLHF
"""

from __future__ import annotations

import ipaddress
import json
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any, Final, Literal, final
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import OpenerDirector, ProxyHandler, Request, build_opener

from facetrm.core.errors import ModelError, short
from facetrm.data.records import Conversation

Dialect = Literal["facetrm", "vLLM", "OpenRLHF"]
Render = Callable[[Conversation], str]

PATHS: Final[Mapping[Dialect, str]] = {"facetrm": "/v1/rewards", "vLLM": "/classify", "OpenRLHF": "/get_reward"}
AT_ONCE: Final = 8
_ABSENT: Final = frozenset({404, 405, 501})
_FIX: Final = "check the address, and that the server is up"


@dataclass(frozen=True)
class ServedAnswer:
    """What a server said to one conversation.

    Attributes:
        reward: None where it refused. numbers: how many it gave.
        truncated: whether it says that it cut something.
        status: of HTTP. problem: what it said when it refused, or what is wrong with its answer.
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
        base: its address, without the path of an endpoint.
        dialect: what it speaks.
        render: a conversation to text, for OpenRLHF, whose clients render.
        timeout: seconds to wait for one answer.
        model: the name that vLLM serves the model under.
    """

    def __init__(
        self,
        base: str,
        *,
        dialect: Dialect,
        render: Render | None = None,
        timeout: float = 60.0,
        model: str | None = None,
    ) -> None:
        self.base, self.dialect, self.timeout = base, dialect, timeout
        self._render, self._model = render, model
        self._opener = _opener(base)

    def ask(self, messages: Conversation) -> ServedAnswer:
        """Return what the server says to one conversation.

        Raises:
            ModelError: it cannot be reached, does not answer in time, or answers with what is no JSON.
        """
        turns = [{"role": m.role, "content": m.content} for m in messages]
        body: dict[str, Any]
        if self.dialect == "facetrm":
            body = {"conversations": [turns]}
        elif self.dialect == "vLLM":
            named = {} if self._model is None else {"model": self._model}
            body = {**named, "messages": turns, "add_generation_prompt": False, "use_activation": False}
        else:
            body = {"query": ["" if self._render is None else self._render(messages)]}
        status, value = _post(self._opener, self.base + PATHS[self.dialect], body, timeout=self.timeout)
        if status >= 400:
            return ServedAnswer(None, status=status, problem=f"HTTP {status}: {short(value, 160)}")
        return _answer(value, self.dialect)

    def ask_all(self, conversations: Sequence[Conversation], *, at_once: int = 1) -> list[ServedAnswer]:
        """Return the answers in the order of the ``conversations``, asked ``at_once`` many at a time."""
        if at_once == 1:
            return [self.ask(messages) for messages in conversations]
        with ThreadPoolExecutor(max_workers=at_once) as pool:
            return list(pool.map(self.ask, conversations))


def connect(url: str, sample: Conversation, *, render: Render | None = None, timeout: float = 60.0) -> RewardServer:
    """Return the server at ``url``, which speaks the first dialect that answers.

    Args:
        url: its address, or that of one endpoint.
        sample: a conversation to ask.
        render: a conversation to text, for OpenRLHF.
        timeout: seconds to wait for one answer.

    Raises:
        ModelError: it cannot be reached, speaks no dialect that is known, or refuses the sample.
    """
    base = url.rstrip("/")
    named = [dialect for dialect, path in PATHS.items() if base.endswith(path)]
    base = base.removesuffix(PATHS[named[0]]) if named else base
    opener = _opener(base)
    for dialect in named or PATHS:
        status, _ = _post(opener, base + PATHS[dialect], {}, timeout=timeout)
        if status in _ABSENT:
            continue
        if dialect == "OpenRLHF" and render is None:
            raise ModelError(
                "the server speaks OpenRLHF's /get_reward, which takes rendered text",
                place=url,
                fix="give --against MODEL, whose chat template then renders the conversations",
            )
        model = _served_name(opener, base, timeout=timeout) if dialect == "vLLM" else None
        server = RewardServer(base, dialect=dialect, render=render, timeout=timeout, model=model)
        first = server.ask(sample)
        if first.reward is None:
            raise ModelError(
                f"{PATHS[dialect]} does not score the first conversation ({first.problem})",
                place=url,
                fix="see the server's log; check that it serves a reward model",
            )
        return server
    raise ModelError(
        f"none of {', '.join(PATHS.values())} is there",
        place=url,
        fix="give the address of a server of facetrm, vLLM (task classify) or OpenRLHF, without further path",
    )


def _answer(value: Any, dialect: Dialect) -> ServedAnswer:
    try:
        if dialect == "facetrm":
            row = value["scores"][0]
            found, cut = [row["reward"]], bool(row.get("truncated", False))
        else:
            cut = False
            rewards = value["data"][0]["probs"] if dialect == "vLLM" else value["rewards"]
            found = list(rewards) if isinstance(rewards, list) else [rewards]
        reward = float(found[0])
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return ServedAnswer(None, problem=f"an answer of another shape: {short(value, 160)}")
    if not math.isfinite(reward):
        return ServedAnswer(None, numbers=len(found), problem=f"a reward of {reward}")
    return ServedAnswer(reward, numbers=len(found), truncated=cut)


def _served_name(opener: OpenerDirector, base: str, *, timeout: float) -> str | None:
    try:
        with opener.open(f"{base}/v1/models", timeout=timeout) as reply:
            return str(json.load(reply)["data"][0]["id"])
    except (OSError, HTTPException, ValueError, KeyError, IndexError, TypeError):
        return None  # the name is optional: a server of one model needs none


def _opener(base: str) -> OpenerDirector:
    """Return what sends requests: through the proxy of the environment, but not to this machine."""
    host = urlsplit(base).hostname or ""
    try:
        own = ipaddress.ip_address(host).is_loopback
    except ValueError:
        own = host == "localhost"
    return build_opener(ProxyHandler({})) if own else build_opener()


def _post(opener: OpenerDirector, url: str, body: Mapping[str, Any], *, timeout: float) -> tuple[int, Any]:
    data = json.dumps(body).encode("utf-8")
    try:
        request = Request(url, data=data, headers={"Content-Type": "application/json"})
        with opener.open(request, timeout=timeout) as reply:
            status, text = int(reply.status), reply.read()
    except HTTPError as exc:
        return exc.code, " ".join(exc.read(2000).decode("utf-8", "replace").split())
    except TimeoutError:
        raise _silent(url, timeout) from None
    except URLError as exc:
        if isinstance(exc.reason, TimeoutError):
            raise _silent(url, timeout) from None
        raise ModelError(f"cannot be reached ({exc.reason})", place=url, fix=_FIX) from None
    except (OSError, HTTPException, ValueError) as exc:
        raise ModelError(f"the connection broke ({type(exc).__name__}: {exc})", place=url, fix=_FIX) from None
    try:
        return status, json.loads(text)
    except ValueError:
        shown = short(text[:80].decode("utf-8", "replace"))
        raise ModelError(
            f"the answer is no JSON ({shown})", place=url, fix="give the address of a reward server"
        ) from None


def _silent(url: str, timeout: float) -> ModelError:
    return ModelError(f"no answer within {timeout:g} s", place=url, fix=_FIX)
