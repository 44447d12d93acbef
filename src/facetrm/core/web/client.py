"""The HTTP client: one connection per request, with a time limit.

It follows no redirects, so nothing is sent to a server that the user did not name. Requests to this machine and to
private networks bypass any proxy in the environment. Certificates are always checked.
"""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import ssl
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Literal, TypeVar, final
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from facetrm.core.progress import log
from facetrm.core.web.address import Address, shown_address, zone_of
from facetrm.core.web.key import ServerKey, hide_secrets
from facetrm.core.web.wire import LARGEST_HEAD, HttpReply, WireError, read_head, read_reply

T = TypeVar("T")
LARGEST_BODY: Final = 4 * 2**20
LONGEST_TEXT: Final = 300


class RequestError(Exception):
    """A request that got no response.

    Args:
        kind: ``unreachable`` (connection refused or unknown host), ``untrusted`` (bad certificate), ``silent``
            (timeout) or ``broken`` (the reply is not an HTTP response).
        reason: human-readable reason, without secrets.
    """

    def __init__(self, kind: Literal["unreachable", "untrusted", "silent", "broken"], reason: str) -> None:
        self.kind, self.reason = kind, reason
        super().__init__(reason)


@final
class HttpClient:
    """Sends JSON to one server.

    Args:
        address: server address; request paths are appended to its path.
        key: API key; it is sent only to this server.
        timeout: time limit of a request in seconds, from the DNS lookup to the last byte of the response.
        largest: maximum size of a response body in bytes.
    """

    def __init__(
        self, address: Address, *, key: ServerKey | None = None, timeout: float, largest: int = LARGEST_BODY
    ) -> None:
        self.address, self.timeout = address, timeout
        self._key, self._largest = key, largest
        self._proxy: list[str | None] = []
        self._trust = ssl.create_default_context() if address.scheme == "https" else None

    async def send(self, path: str, value: Any = None) -> HttpReply:
        """Send a POST with ``value`` as JSON, or a GET if ``value`` is None, and return the response.

        Args:
            path: path below the address, starting with a slash.
            value: JSON value to send, or None.

        Raises:
            RequestError: The request got no valid response.
        """
        body = b"" if value is None else json.dumps(value, allow_nan=False).encode("ascii")
        try:
            async with asyncio.timeout(self.timeout) as limit:
                return await self._exchange("GET" if value is None else "POST", path, body)
        except WireError as exc:
            raise RequestError("broken", f"the answer cannot be read: {exc}") from None
        except TimeoutError:
            if not limit.expired():
                raise RequestError("unreachable", "the connection failed (no answer to the call)") from None
            raise RequestError("silent", f"no whole answer within {self.timeout:g} s") from None
        except ssl.SSLCertVerificationError as exc:
            raise RequestError("untrusted", f"its certificate is not trusted ({exc.verify_message})") from None
        except asyncio.IncompleteReadError:
            raise RequestError("broken", "the connection failed (the server hung up before its answer ended)") from None
        except ssl.SSLError as exc:
            raise RequestError("broken", f"the connection failed ({exc.reason or type(exc).__name__})") from None
        except socket.gaierror as exc:
            raise RequestError("unreachable", f"no such host ({exc.strerror})") from None
        except ConnectionRefusedError:
            raise RequestError("unreachable", "the connection failed (connection refused)") from None
        except ConnectionError as exc:
            raise RequestError("broken", f"the connection failed ({exc.strerror or type(exc).__name__})") from None
        except (OSError, UnicodeError) as exc:
            raise RequestError("unreachable", self.clean(f"the connection failed ({exc})")) from None

    def clean(self, text: str, *, cut: bool = True) -> str:
        """Return ``text`` with the API key removed.

        Args:
            text: any text, such as a response body.
            cut: whether to reduce the text to one short line.
        """
        text = hide_secrets(text, self._key)
        if not cut:
            return text
        line = "".join(c if c.isprintable() else "�" for c in " ".join(text[: 20 * LONGEST_TEXT].split()))
        return line if len(line) <= LONGEST_TEXT else line[: LONGEST_TEXT - 1] + "…"

    async def _exchange(self, method: str, path: str, body: bytes) -> HttpReply:
        if not self._proxy:
            self._proxy = [await asyncio.get_running_loop().run_in_executor(None, proxy_for, self.address)]
        proxy = self._proxy[0]
        reader, writer = await self._connect(proxy)
        try:
            writer.write(self._head(method, path, len(body), proxy) + body)
            return await read_reply(reader, largest=self._largest)
        finally:
            writer.transport.abort()

    def _head(self, method: str, path: str, length: int, proxy: str | None) -> bytes:
        target = self.address.path + path
        lines = [f"Host: {self.address.authority}", "User-Agent: facetrm", "Accept: application/json"]
        if length:
            lines += ["Content-Type: application/json", f"Content-Length: {length}"]
        lines += ["Accept-Encoding: identity", "Connection: close"]
        if self._key is not None:
            lines.append(f"Authorization: {self._key.header()}")
        if proxy is not None and self.address.scheme == "http":
            target = f"{self.address}{path}"
            lines += _authorised(proxy)
        return "\r\n".join([f"{method} {target} HTTP/1.1", *lines, "", ""]).encode("ascii")

    async def _connect(self, proxy: str | None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        address = self.address
        if proxy is None:
            return await asyncio.open_connection(address.host, address.port, ssl=self._trust, limit=LARGEST_HEAD)
        parts = urlsplit(proxy, scheme="http")
        try:
            trust = ssl.create_default_context() if parts.scheme == "https" else None
            reader, writer = await asyncio.open_connection(
                parts.hostname, parts.port or (443 if trust else 80), ssl=trust, limit=LARGEST_HEAD
            )
        except OSError as exc:
            shown = shown_address(proxy)
            raise RequestError("unreachable", f"the proxy {shown} of the environment cannot be reached") from exc
        if self._trust is not None:
            host = f"{f'[{address.host}]' if ':' in address.host else address.host}:{address.port}"
            lines = [f"CONNECT {host} HTTP/1.1", f"Host: {host}", *_authorised(proxy), "", ""]
            writer.write("\r\n".join(lines).encode("ascii"))
            status, _ = await read_head(reader, [LARGEST_HEAD])
            if status != 200:
                writer.close()
                raise RequestError("unreachable", f"the proxy {shown_address(proxy)} refuses (HTTP {status})")
            await writer.start_tls(self._trust, server_hostname=address.host)
        return reader, writer


def proxy_for(address: Address) -> str | None:
    """Return the proxy that the environment sets for ``address``; None if there is none or the server is not public.

    Raises:
        RequestError: The proxy is not an HTTP proxy.
    """
    named = getproxies()
    proxy = named.get(address.scheme) or named.get("all")
    if not proxy or proxy_bypass(f"{address.host}:{address.port}") or zone_of(address.host) != "public":
        return None
    proxy = proxy if "//" in proxy else f"//{proxy}"
    try:
        parts = urlsplit(proxy, scheme="http")
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if not sound:
        problem = f"the proxy {shown_address(proxy)} of the environment is not an http proxy"
        raise RequestError("unreachable", f"{problem}: set NO_PROXY={address.host}, or name an http proxy")
    return proxy


def warn_of_plain_http(address: Address, key: ServerKey | None) -> None:
    """Log a warning if ``key`` would be sent over a network in clear text."""
    if key is not None and address.scheme == "http" and zone_of(address.host) != "loopback":
        log("warning", problem=f"the key is sent to {address} in clear text", fix="use https")


def run_request(request: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine and return its result, even if an event loop is already running, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(request)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, request).result()


def _authorised(proxy: str) -> list[str]:
    parts = urlsplit(proxy, scheme="http")
    if parts.username is None:
        return []
    user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return [f"Proxy-Authorization: Basic {base64.b64encode(user.encode()).decode()}"]
