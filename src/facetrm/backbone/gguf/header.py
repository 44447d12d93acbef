"""Reads the header of a GGUF file: its settings and the place of every tensor, all checked against the file's size.

    magic "GGUF"   version   number of tensors   number of settings
    settings       (key, type, value) ...                 values may be arrays, such as the vocabulary
    tensors        (name, dimensions, type, offset) ...   the numbers follow, aligned

The file is untrusted: every length is checked before it is used, so that a broken file gives an error and never a loop.
"""

from __future__ import annotations

import math
import mmap
import os
import stat
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, final

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from facetrm.core.errors import BackboneError, short
from facetrm.core.files import regular_target, why_unread
from facetrm.core.folders import link_tree

_MAGIC: Final = b"GGUF"
_VERSIONS: Final = (2, 3)
_STRING, _ARRAY, _BOOL = 8, 9, 7
_NUMBERS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", _BOOL: "?", 10: "Q", 11: "q", 12: "d"}
_MOST: Final = 1 << 16  # settings or tensors; a model of 671B parameters has about 1,100 tensors
_DIMENSIONS: Final = 4
_AGAIN: Final = "download the file again, and give a whole GGUF file"


@dataclass(frozen=True)
class Stored:
    """A tensor of the file.

    Attributes:
        shape: Shape, in PyTorch's order.
        kind: Name of the type that its numbers are stored in, such as ``Q4_1``.
        start: Byte at which its numbers start.
        size: Number of bytes.
    """

    shape: tuple[int, ...]
    kind: str
    start: int
    size: int

    @property
    def numbers(self) -> int:
        """How many numbers the tensor holds."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """The header of a GGUF file.

    Attributes:
        path: Path of the file.
        settings: Values by key; an array is a list.
        tensors: Tensors by name.
    """

    path: Path
    settings: Mapping[str, Any]
    tensors: Mapping[str, Stored]

    @property
    def architecture(self) -> str:
        """The architecture that the file names, such as ``llama``."""
        return str(self.text("general.architecture"))

    def text(self, key: str) -> str | None:
        """Return the text of ``key``; None if the file does not state it.

        Raises:
            BackboneError: It is not text.
        """
        value = self.settings.get(key)
        if value is not None and not isinstance(value, str):
            raise self.wrong(f"'{key}' is {short(value)}, not text")
        return value

    def flag(self, key: str, *, default: bool) -> bool:
        """Return the yes or no of ``key``.

        Args:
            key: key of the setting.
            default: value if the file does not state it.

        Raises:
            BackboneError: It is neither.
        """
        value = self.settings.get(key, default)
        if not isinstance(value, bool):
            raise self.wrong(f"'{key}' is {short(value)}, not true or false")
        return value

    def texts(self, key: str) -> list[str] | None:
        """Return the list of texts of ``key``; None if the file does not state it.

        Raises:
            BackboneError: It is not a list of texts.
        """
        value = self.settings.get(key)
        if value is not None and not (isinstance(value, list) and all(isinstance(one, str) for one in value)):
            raise self.wrong(f"'{key}' is {short(value)}, not a list of texts")
        return value

    def wrong(self, problem: str, *, fix: str = _AGAIN) -> BackboneError:
        """Return an error about this file."""
        return BackboneError(problem, place=self.path, fix=fix)


@contextmanager
def alone(path: Path) -> Iterator[tuple[str, str]]:
    """Yield a folder that holds only the file, and its name there: what else lies beside it is never read or run.

    Args:
        path: path of the file.
    """
    with TemporaryDirectory(prefix="facetrm-gguf-") as folder:
        place = Path(folder) / "model.gguf"
        try:
            os.symlink(path.absolute(), place)
        except OSError:  # Windows allows links only to some users
            link_tree(path.resolve(), place)
        yield folder, place.name


def read_header(path: Path) -> Header:
    """Read and check the header of a GGUF file.

    Args:
        path: path of the file.

    Raises:
        BackboneError: The file cannot be read, is not a GGUF file, is cut off, or is one part of several.
    """
    try:
        target = regular_target(path)
        if not stat.S_ISREG(target.stat().st_mode):  # opening a pipe would wait for its writer
            raise ValueError("not a regular file")
        with open(target, "rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
            header = _Parser(data).header(path)
    except OSError as exc:
        problem, fix = why_unread(exc, missing="no such file", fix="give the path of a GGUF file")
        raise BackboneError(problem, place=path, fix=fix) from None
    except (ValueError, struct.error) as exc:
        raise BackboneError(f"not a whole GGUF file ({exc})", place=path, fix=_AGAIN) from None
    if header.text("general.architecture") is None:
        raise header.wrong("the file names no architecture ('general.architecture')")
    parts = header.settings.get("split.count", 0)
    if isinstance(parts, int) and parts > 1:
        raise header.wrong(
            f"one of {parts} parts of a model", fix="join them into one file first: llama-gguf-split --merge FIRST OUT"
        )
    return header


@final
class _Parser:
    """Reads one value after the other; ValueError if the file ends too early."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data, self._at = data, 0

    def header(self, path: Path) -> Header:
        if self._bytes(4) != _MAGIC:
            raise ValueError("it does not start with 'GGUF'")
        version = self._number("I")
        if version not in _VERSIONS:
            swapped = struct.unpack(">I", struct.pack("<I", version))[0] in _VERSIONS
            raise ValueError("it is big-endian" if swapped else f"version {version}, not 2 or 3")
        tensors, settings = self._count("tensors"), self._count("settings")
        found: dict[str, Any] = {}
        for _ in range(settings):
            key = self._text()
            found[key] = self._value(self._number("I"))
        table = [self._tensor() for _ in range(tensors)]
        alignment = found.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 1 <= alignment <= 1 << 20:
            raise ValueError(f"the alignment is {short(alignment)}")
        start = -(-self._at // alignment) * alignment
        stored: dict[str, Stored] = {}
        for name, shape, number, offset in table:
            if name in stored:
                raise ValueError(f"tensor {short(name)} is there twice")
            stored[name] = self._placed(name, shape, number, start + offset)
        return Header(path, found, stored)

    def _placed(self, name: str, shape: tuple[int, ...], number: int, start: int) -> Stored:
        try:
            kind = GGMLQuantizationType(number)
        except ValueError:
            raise ValueError(f"tensor {short(name)} has the unknown type {number}") from None
        block, size = GGML_QUANT_SIZES[kind]
        if shape and shape[-1] % block:
            raise ValueError(f"tensor {short(name)} has rows of {shape[-1]} numbers, no multiple of {block}")
        length = math.prod(shape) // block * size
        if start + length > len(self._data):
            raise ValueError(
                f"tensor {short(name)} ends at byte {start + length:,}, the file at {len(self._data):,}: it was cut off"
            )
        return Stored(shape, kind.name, start, length)

    def _tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        name, dimensions = self._text(), self._number("I")
        if dimensions > _DIMENSIONS:
            raise ValueError(f"tensor {short(name)} has {dimensions} dimensions")
        shape = tuple(reversed([self._number("Q") for _ in range(dimensions)]))
        return name, shape, self._number("I"), self._number("Q")

    def _count(self, what: str) -> int:
        count = int(self._number("Q"))
        if count > _MOST:
            raise ValueError(f"it claims {count:,} {what}")
        return count

    def _value(self, kind: int) -> Any:
        if kind in _NUMBERS:
            return self._number(_NUMBERS[kind])
        if kind == _STRING:
            return self._text()
        if kind != _ARRAY:
            raise ValueError(f"a setting has the unknown type {kind}")
        inner, count = self._number("I"), self._number("Q")
        if inner in _NUMBERS:
            size = struct.calcsize(f"<{_NUMBERS[inner]}")
            return list(struct.unpack(f"<{count}{_NUMBERS[inner]}", self._bytes(count * size)))
        if inner != _STRING:
            raise ValueError(f"a setting is an array of type {inner}")
        return [self._text() for _ in range(count)]  # each takes at least eight bytes of the file

    def _number(self, form: str) -> Any:
        return struct.unpack(f"<{form}", self._bytes(struct.calcsize(f"<{form}")))[0]

    def _text(self) -> str:
        try:
            return self._bytes(self._number("Q")).decode("utf-8")
        except UnicodeDecodeError as exc:
            raise ValueError(f"a text is not UTF-8 (at byte {self._at:,})") from exc

    def _bytes(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._data):
            raise ValueError(
                f"it ends at byte {len(self._data):,}, inside a value that ends at {end:,}: it was cut off"
            )
        self._at, data = end, self._data[self._at : end]
        return data
