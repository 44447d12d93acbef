"""A server on loopback that answers with bytes of the test's choice, however wrong, and keeps what it was asked."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

Answer = bytes | Callable[[bytes], AsyncIterator[bytes]]
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class RawServer:
    """What it says, and what it was asked.

    Attributes:
        answer: bytes, or a function from the request to parts that are sent one after the other; then it hangs up.
        trust: of TLS, or None.
        url: its address.
        requests: whole, in the order of their coming.
        tunnel: the port to which CONNECT requests are let through; None lets none.
    """

    answer: Answer = b""
    trust: ssl.SSLContext | None = None
    url: str = ""
    port: int = 0
    requests: list[bytes] = field(default_factory=list)
    tunnel: int | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: (\d+)", head)
            self.requests.append(head + await reader.readexactly(int(length[1]) if length else 0))
            if self.tunnel is not None and head.startswith(b"CONNECT "):
                await self._let_through(reader, writer, self.tunnel)
                return
            if isinstance(self.answer, bytes):
                writer.write(self.answer)
            else:
                async for part in self.answer(self.requests[-1]):
                    writer.write(part)
                    await writer.drain()
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _let_through(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")

        async def copy(source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
            while part := await source.read(4096):
                to.write(part)
                await to.drain()
            to.close()

        await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))


@contextmanager
def listening(serve: Serve, *, trust: ssl.SSLContext | None = None) -> Iterator[int]:
    """Serve connections in a thread of its own, on a free port of this machine; yield the port."""
    loop, ready, stop = asyncio.new_event_loop(), threading.Event(), asyncio.Event()
    ports = list[int]()

    async def main() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=trust)
        ports.append(server.sockets[0].getsockname()[1])
        ready.set()
        await stop.wait()
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    loop.set_exception_handler(lambda *_: None)  # clients that hang up in the middle are what the tests want
    thread = threading.Thread(target=loop.run_until_complete, args=(main(),), daemon=True)
    thread.start()
    assert ready.wait(10.0)
    try:
        yield ports[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10.0)
        loop.close()


@contextmanager
def raw_server(answer: Answer = b"", *, trust: ssl.SSLContext | None = None, **more: int) -> Iterator[RawServer]:
    """Serve what ``answer`` says."""
    state = RawServer(answer, trust, **more)
    with listening(state.serve, trust=trust) as state.port:
        state.url = f"http{'s' if trust else ''}://127.0.0.1:{state.port}"
        yield state


def response(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    """Return a sound response."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def ever(head: bytes, part: bytes, *, every: float = 0.0) -> Callable[[bytes], AsyncIterator[bytes]]:
    """Return an answer that starts with ``head`` and never ends, ``part`` after ``part``, one ``every`` so many s."""

    async def parts(_: bytes) -> AsyncIterator[bytes]:
        yield head
        while True:
            await asyncio.sleep(every)
            yield part

    return parts


OK: Final = b"HTTP/1.1 200 OK\r\n"
CHUNKED: Final = OK + b"Transfer-Encoding: chunked\r\n\r\n"
BOMB: Final = gzip.compress(b"[" + b"0," * 20_000_000 + b"0]", 1)
# What no client can read: with "now and then" or "silence" in the name, because it does not come.
LIES: Final[Mapping[str, Answer]] = {
    "a body without end": ever(OK + b"\r\n", b"x" * 65536),
    "chunks without end": ever(CHUNKED, b"1000\r\n" + b"x" * 4096 + b"\r\n"),
    "a head without end": ever(OK, b"X-A: b\r\n" * 1000),
    "a header without end": ever(OK + b"X-A: ", b"b" * 65536),
    "interim answers without end": ever(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
    "trailers without end": ever(CHUNKED + b"0\r\n", b"X-A: b\r\n" * 1000),
    "a byte now and then": ever(OK + b"\r\n", b"x", every=0.05),
    "a byte of the head now and then": ever(OK + b"X-A: ", b"x", every=0.05),
    "a byte of a chunk now and then": ever(CHUNKED + b"ffff\r\n", b"x", every=0.05),
    "silence": ever(b"", b"", every=0.05),
    "silence after the head": ever(OK + b"Content-Length: 10\r\n\r\n", b"", every=0.05),
    "a header of a megabyte": OK + b"X-A: " + b"b" * 2**20 + b"\r\n\r\n",
    "a length beyond reason": OK + b"Content-Length: 99999999999\r\n\r\n{}",
    "a length that is none": OK + b"Content-Length: -5\r\n\r\n{}",
    "two lengths": OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} ",
    "less than its length": OK + b"Content-Length: 20\r\n\r\n{}",
    "a chunk that is none": CHUNKED + b"zz\r\n{}\r\n0\r\n\r\n",
    "a chunk below nothing": CHUNKED + b"-2\r\n{}\r\n0\r\n\r\n",
    "a chunk longer than it says": CHUNKED + b"1\r\n{}\r\n0\r\n\r\n",
    "a chunk beyond reason": CHUNKED + b"fffffffffffffff\r\n{}",
    "a chunk without an end": CHUNKED + b"2\r\n{}\r\n",
    "a coding nobody asked for": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
    "a gzip bomb": response(BOMB, "Content-Encoding: gzip"),
    "gzip that is none": response(b"{}", "Content-Encoding: gzip"),
    "a compression nobody asked for": response(b"{}", "Content-Encoding: br"),
    "another protocol": b"SSH-2.0-OpenSSH_9.6\r\n",
    "another protocol by order": b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n",
    "an old protocol": b"<html>hello</html>",
    "no header": b"HTTP/1.1 200 OK\r\nno colon here\r\n\r\n{}",
    "nothing": b"",
    "half a status": b"HTTP/1.1 2",
}
# What is a response, and not what was asked for.
JUNK: Final[Mapping[str, Answer]] = {
    "no JSON": response(b"{'a': 1}"),
    "half of JSON": response(b'{"choices": ['),
    "deep JSON": response(b"[" * 100_000),
    "deep JSON that is whole": response(b"[" * 100_000 + b"]" * 100_000),
    "deep JSON that can be read": response(b'{"choices":' + b"[" * 400 + b"]" * 400 + b"}"),
    "a number without end": response(b'{"choices": ' + b"9" * 10_000 + b"}"),
    "not a number": response(b'{"choices": NaN, "scores": [{"reward": NaN}]}'),
    "bytes that are no text": response(b'{"choices": "\xff\xfe\xff"}'),
    "numbers as texts": response(b'{"choices": "0", "scores": [{"reward": "1"}], "usage": "1"}'),
    "an escape sequence": response(b"\x1b[2J\x1b]0;owned\x07"),
    "sent on": response(b"", "Location: http://127.0.0.1:1/elsewhere", status="307 Temporary Redirect"),
    "no body though there is one": b"HTTP/1.1 204 No Content\r\n\r\n{}",
    "a status beyond all": response(b"{}", status="999 Huh"),
}


def completion_of(content: object, **fields: object) -> bytes:
    """Return a chat completion with this content; ``fields`` replace its own."""
    message = {"role": "assistant", "content": content}
    whole = {"model": "m", "choices": [{"message": message, "finish_reason": "stop"}], "usage": {}, **fields}
    return response(json.dumps(whole).encode())
