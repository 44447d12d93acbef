"""Server addresses: parsing them, showing them without secrets, and telling local from public ones."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, final
from urllib.parse import urlsplit

from facetrm.core.errors import FacetrmError

Zone = Literal["loopback", "private", "public"]
_PORTS: Final = {"http": 80, "https": 443}
_LONGEST_SHOWN: Final = 200
_BLANKS: Final = re.compile(r"[\x00-\x20\x7f-\xa0\ud800-\udfff]")


@final
@dataclass(frozen=True)
class Address:
    """The address of a server, without user, password, query or fragment.

    Attributes:
        scheme: ``http`` or ``https``.
        host: Host name or IP address; IPv6 without brackets.
        port: TCP port.
        path: Path after the host, without a trailing slash.
    """

    scheme: str
    host: str
    port: int
    path: str = ""

    @property
    def authority(self) -> str:
        """Host and port, as in the ``Host`` header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"


def read_address(text: str, *, place: object, error: type[FacetrmError]) -> Address:
    """Parse a server address.

    Args:
        text: address, such as ``http://localhost:8000/v1``.
        place: where the address was written, for the error message.
        error: error class to raise.

    Raises:
        FacetrmError: An ``error`` if the text is not an HTTP address, or has a user, password, query or fragment. The
            message does not show the text, which may contain a secret.
    """
    if "@" in text or "?" in text or "#" in text:
        fix = "give the bare address; a key comes from the environment"
        raise error("the address contains a user, a password or a query", place=place, fix=fix)
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
        host.encode("idna")
        sound = parts.scheme in _PORTS and bool(host) and port != 0 and not _BLANKS.search(text) and text.isascii()
    except ValueError:
        sound = False
    if not sound:
        raise error("not an http address", place=place, fix="write one such as http://localhost:8000/v1")
    return Address(parts.scheme, host, port or _PORTS[parts.scheme], parts.path.rstrip("/"))


def shown_address(text: str) -> str:
    """Return a short form of an address for messages, without user, password, query and control characters."""
    if "@" in text:
        # The last @ ends the password, which may contain any character, even a slash.
        before, slashes, _ = text.partition("//")
        text = f"{before if slashes else ''}{slashes}***@{text.rpartition('@')[2]}"
    bare = _BLANKS.sub(" ", re.split(r"[?#]", text, maxsplit=1)[0])
    return bare if len(bare) <= _LONGEST_SHOWN else bare[: _LONGEST_SHOWN - 1] + "…"


def zone_of(host: str) -> Zone:
    """Return whether ``host`` is this machine, private or public. Unresolvable names count as ``public``."""
    number = _number(host)
    if number is not None:
        return _zone([number])
    if _is_localhost(host):
        return "loopback"
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, ValueError):
        return "public"
    return _zone(number for entry in found if (number := _number(str(entry[4][0]))) is not None)


def _zone(numbers: Iterable[ipaddress.IPv4Address | ipaddress.IPv6Address]) -> Zone:
    """Return the most distant zone among the IP addresses ``numbers``."""
    known = list(numbers)
    if not known or any(number.is_global for number in known):
        return "public"
    return "loopback" if all(number.is_loopback or number.is_unspecified for number in known) else "private"


def _number(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        number = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = number.ipv4_mapped if isinstance(number, ipaddress.IPv6Address) else None
    return mapped or number


def _is_localhost(host: str) -> bool:
    name = host.rstrip(".").lower()
    return name == "localhost" or name.endswith(".localhost")
