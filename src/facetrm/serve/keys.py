"""Bearer keys: a file of hashes, so that nobody who reads it can use a key.

    # name     sha256 of the key                                                   requests per minute (optional)
    trainer    sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08   600

A key is 256 random bits, so a plain hash of it cannot be guessed. Keys are compared by their hashes in constant time.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Final, final

from facetrm.core.errors import ConfigError, short

_NAME: Final = re.compile(r"[\w.@-]{1,64}")
_HASH: Final = re.compile(r"sha256:([0-9a-f]{64})")


@final
@dataclass(frozen=True)
class KnownKey:
    """One line of the file.

    Attributes:
        name: who has the key; it stands in the log.
        digest: sha256 of the key, in hex.
        rate: requests per minute; None for the limit of the service.
    """

    name: str
    digest: str
    rate: int | None = None


def read_known_keys(path: Path) -> list[KnownKey]:
    """Return the keys of a file.

    Args:
        path: file with one key per line; lines that start with # are comments.

    Raises:
        ConfigError: the file cannot be read, holds no key, or a line is malformed. The message never shows a line,
            because somebody may have written the key itself.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as exc:
        raise ConfigError(f"cannot be read ({type(exc).__name__})", place=path, fix="give a file of keys") from None
    found = []
    for number, line in enumerate(lines, start=1):
        parts = line.split()
        if not parts or parts[0].startswith("#"):
            continue
        digest = _HASH.fullmatch(parts[1]) if len(parts) in (2, 3) else None
        rate = int(parts[2]) if len(parts) == 3 and re.fullmatch(r"[1-9]\d{0,8}", parts[2]) else None
        if digest is None or not _NAME.fullmatch(parts[0]) or (len(parts) == 3 and rate is None):
            raise ConfigError(
                "the line is not: name sha256:HASH [requests per minute]",
                place=f"{path}:{number}",
                fix="write a new line with facetrm serve --keys FILE --new-key NAME",
            )
        found.append(KnownKey(parts[0], digest[1], rate))
    if not found:
        raise ConfigError("no key in the file", place=path, fix="facetrm serve --keys FILE --new-key NAME writes one")
    if len({key.name for key in found}) < len(found):
        raise ConfigError("two keys have one name", place=path, fix="give each key its own name")
    return found


def write_key(path: Path, name: str) -> str:
    """Add a new key to a file, which only its owner can read, and return the key.

    Args:
        path: file of keys; it is made if there is none.
        name: who gets the key.

    Raises:
        ConfigError: the name is malformed or taken.
    """
    if not _NAME.fullmatch(name):
        fix = "use up to 64 letters, digits and . _ @ -"
        raise ConfigError(f"{short(name)} cannot be the name of a key", place="--new-key", fix=fix)
    if path.exists() and path.read_text(encoding="utf-8").strip():
        if any(key.name == name for key in read_known_keys(path)):
            fix = "give another name, or remove its line"
            raise ConfigError(f"there is a key named '{name}'", place=path, fix=fix)
    else:
        path.touch(mode=0o600)
    key = f"facetrm-{secrets.token_urlsafe(32)}"
    text = path.read_text(encoding="utf-8")
    with path.open("a", encoding="utf-8") as file:
        file.write(("\n" if text and not text.endswith("\n") else "") + f"{name} sha256:{key_digest(key)}\n")
    return key


def key_digest(key: str) -> str:
    """Return the sha256 of a key, in hex.

    Args:
        key: the key.
    """
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


@final
class KeyRing:
    """Checks keys and their rates.

    Args:
        keys: the known keys; none lets everybody in, under one rate.
        rate: requests per minute of a key without its own limit; 0 sets none.
        clock: seconds that never go back.
    """

    def __init__(self, keys: Sequence[KnownKey], *, rate: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._keys, self._rate, self._clock = list(keys), rate, clock
        self._left: dict[str, tuple[float, float]] = {}
        self._lock = Lock()

    @property
    def required(self) -> bool:
        """Whether a request needs a key."""
        return bool(self._keys)

    def holder(self, authorization: str) -> KnownKey | None:
        """Return the key of a request; None if it is missing or unknown.

        Args:
            authorization: the header ``Authorization``.
        """
        scheme, _, given = authorization.partition(" ")
        digest = key_digest(given.strip()) if scheme.lower() == "bearer" else ""
        found = None
        for key in self._keys:  # all of them, so that the time says nothing
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found

    def wait(self, key: KnownKey | None) -> float:
        """Count a request, and return the seconds until it is allowed: 0 if it is allowed now.

        Each key has a bucket with room for one minute's requests, which fills up evenly.

        Args:
            key: the key of the request; None if no key is needed.
        """
        rate = self._rate if key is None or key.rate is None else key.rate
        if not rate:
            return 0.0
        name, now = "" if key is None else key.name, self._clock()
        with self._lock:
            left, since = self._left.get(name, (float(rate), now))
            left = min(float(rate), left + (now - since) * rate / 60.0)
            allowed = left >= 1.0
            self._left[name] = (left - 1.0 if allowed else left, now)
        return 0.0 if allowed else (1.0 - left) * 60.0 / rate
