"""A strict reader of one HTTP/1.1 response from a stream, with limits on the size of headers and body."""

from __future__ import annotations

import asyncio
import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, final

LARGEST_HEAD: Final = 64 * 1024
_STATUS: Final = re.compile(rb"HTTP/1\.[01] (\d{3})(?:[ \t].*)?")
_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?")
_BODILESS: Final = frozenset({204, 304})


class WireError(Exception):
    """The reply is not a valid HTTP response, or it is too large."""


@final
@dataclass(frozen=True)
class HttpReply:
    """A response.

    Attributes:
        status: HTTP status code.
        headers: Header values by lower-case name; the last one if a name is repeated.
        body: Complete, decompressed body.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    def text(self, limit: int = 2000) -> str:
        """Return the first ``limit`` bytes of the body as text on one line."""
        return " ".join(self.body[:limit].decode("utf-8", "replace").split())

    def json(self) -> Any:
        """Return the JSON value of the body.

        Raises:
            ValueError: The body is not JSON, or is nested too deeply.
        """
        try:
            return json.loads(self.body)
        except RecursionError:
            raise ValueError("it is nested too deeply") from None


async def read_reply(reader: asyncio.StreamReader, *, largest: int) -> HttpReply:
    """Read one response from ``reader``.

    Args:
        reader: stream whose buffer limit is at least LARGEST_HEAD.
        largest: maximum size of the body in bytes, before and after decompression.

    Raises:
        WireError: The response is not HTTP/1, contradicts itself, or is too large.
        asyncio.IncompleteReadError: The stream ends too early.
    """
    left = [LARGEST_HEAD]
    status, headers = await read_head(reader, left)
    while 100 <= status < 200:
        if status == 101:
            raise WireError("it switches protocols without being asked (HTTP 101)")
        status, headers = await read_head(reader, left)
    body = b"" if status in _BODILESS else await _read_body(reader, headers, largest)
    return HttpReply(status, headers, _decompressed(body, headers, largest))


async def read_head(reader: asyncio.StreamReader, left: list[int]) -> tuple[int, dict[str, str]]:
    """Read the next status line and headers.

    Args:
        reader: stream to read from.
        left: list of one number, the header bytes that may still be read; it is updated in place.

    Raises:
        WireError: The header is not HTTP/1, or is too long.
        asyncio.IncompleteReadError: The stream ends too early.
    """
    first = _STATUS.fullmatch(await _line(reader, left, "the head"))
    if first is None:
        raise WireError("it does not speak HTTP/1")
    headers: dict[str, str] = {}
    while line := await _line(reader, left, "the head"):
        name, colon, value = line.decode("latin-1").partition(":")
        if not colon or not name.strip():
            raise WireError("a header line has no name")
        known, value = name.strip().lower(), value.strip()
        if known == "content-length" and headers.get(known, value) != value:
            raise WireError("it declares two content lengths")
        headers[known] = value
    return int(first[1]), headers


async def _line(reader: asyncio.StreamReader, left: list[int], what: str) -> bytes:
    try:
        line = await reader.readuntil(b"\n")
    except asyncio.LimitOverrunError:
        raise WireError(f"{what} is longer than {LARGEST_HEAD:,} bytes") from None
    left[0] -= len(line)
    if left[0] < 0:
        raise WireError(f"{what} is longer than {LARGEST_HEAD:,} bytes")
    return line.rstrip(b"\r\n")


async def _read_body(reader: asyncio.StreamReader, headers: Mapping[str, str], largest: int) -> bytes:
    coding = headers.get("transfer-encoding", "").lower()
    if coding not in ("", "identity"):
        if coding != "chunked":
            raise WireError("the transfer encoding of the body was not requested")
        return await _read_chunks(reader, largest)
    length = headers.get("content-length")
    if length is not None:
        if not re.fullmatch(r"[0-9]{1,18}", length):
            raise WireError("its content length is not a number")
        if int(length) > largest:
            raise _too_large(largest)
        return await reader.readexactly(int(length))
    body = bytearray()
    while part := await reader.read(64 * 1024):
        body += part
        if len(body) > largest:
            raise _too_large(largest)
    return bytes(body)


async def _read_chunks(reader: asyncio.StreamReader, largest: int) -> bytes:
    body, left = bytearray(), [LARGEST_HEAD + largest]
    while True:
        size = _SIZE.fullmatch(await _line(reader, left, "the frame of a chunk"))
        if size is None:
            raise WireError("the size of a chunk is not a number")
        length = int(size[1], 16)
        if len(body) + length > largest:
            raise _too_large(largest)
        if length == 0:
            break
        body += await reader.readexactly(length)
        if await _line(reader, left, "the frame of a chunk"):
            raise WireError("a chunk is longer than its size says")
    left = [LARGEST_HEAD]
    while await _line(reader, left, "the trailer"):
        pass
    return bytes(body)


def _decompressed(body: bytes, headers: Mapping[str, str], largest: int) -> bytes:
    coding = headers.get("content-encoding", "").lower()
    if coding in ("", "identity") or not body:
        return body
    if coding not in ("gzip", "x-gzip", "deflate"):
        raise WireError("the compression of the body was not requested")
    try:
        whole = zlib.decompressobj(wbits=47).decompress(body, largest + 1)
    except zlib.error:
        raise WireError(f"the body is not {coding}, as the headers say") from None
    if len(whole) > largest:
        raise _too_large(largest)
    return whole


def _too_large(largest: int) -> WireError:
    return WireError(f"the body is larger than {largest / 2**20:g} MiB")
