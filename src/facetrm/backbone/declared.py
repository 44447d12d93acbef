"""Checks of a model folder's configuration against its tensor headers, before anything is built from it.

A configuration is untrusted: it may declare ten million layers, a device as a weight file, or an index that points
elsewhere. Only regular files inside the folder are opened, header sizes are bounded, and every declared size must fit
the tensors in the files.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoModel, PretrainedConfig

from facetrm.core.errors import FacetrmError, short
from facetrm.core.files import read_json

INDEX_SUFFIX: Final = ".safetensors.index.json"
_LONGEST_HEADER: Final = 16 << 20  # bytes; the header of an 8B-parameter model has about 40,000
_FETCH: Final = "fetch or save the whole folder again"
_COUNTS: Final = re.compile(r"(^|_)(n_?layers?|layers|n_hidden|depth|blocks|n_blocks)($|_)")
_NO_SIZE: Final = re.compile(r"token|position|window|max_|length|seed|ctx|chunk|theta|seq|_id$|_ids$|beta|version|tile")
_ANY_MODEL: Final = 1 << 16  # sizes up to this are accepted for tensors of any size
_ATTENTION: Final = (None, "eager", "sdpa", "flash_attention_2", "flex_attention")
_TRUST: Final = "read what it runs, then give trust_remote_code=True"
_SLACK: Final = 16  # packed weights store up to this many numbers in one element


def check_files(folder: Path, error: type[FacetrmError]) -> None:
    """Refuse a folder that contains anything except folders and regular files, or a link that leads out of it.

    The Hub's cache stores each file as a link into the ``blobs`` folder next to its snapshots; such links are allowed.

    Args:
        folder: model folder.
        error: error class to raise.

    Raises:
        FacetrmError: an ``error`` that names the file.
    """
    home = folder.resolve()
    homes = [home, home.parent.parent / "blobs"] if home.parent.name == "snapshots" else [home]
    for path in sorted(folder.iterdir()):
        target = path.resolve()
        if path.is_symlink() and not any(target.is_relative_to(place) for place in homes):
            raise error(f"'{path.name}' is a link that leads out of the folder", place=folder, fix="copy the file here")
        try:
            mode = target.stat().st_mode
        except OSError as exc:
            raise error(f"'{path.name}' cannot be read ({exc.strerror})", place=folder, fix=_FETCH) from None
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise error(f"'{path.name}' is a device or a pipe, not a file", place=folder, fix=_FETCH)


def tensor_shapes(folder: Path, error: type[FacetrmError]) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor in a folder, by name, from the headers of its safetensors files.

    Args:
        folder: model folder that passed :func:`check_files`.
        error: error class to raise.

    Raises:
        FacetrmError: An ``error`` if a header is broken or too long, or an index names a file outside the folder.
    """
    for index in sorted(folder.glob(f"*{INDEX_SUFFIX}")):
        _check_index(index, error)
    shapes: dict[str, tuple[int, ...]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            shapes.update(_header(path))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, struct.error) as exc:
            raise error(f"not a whole safetensors file ({exc})", place=path, fix="copy it again") from None
        except OSError as exc:
            raise error(f"cannot be read ({exc.strerror})", place=path, fix="check its rights") from None
    return shapes


def check_sizes(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], error: type[FacetrmError]) -> None:
    """Check every size in a ``config.json`` against the tensors: at most as many layers, and as wide, as they allow.

    Args:
        config: parsed ``config.json``.
        shapes: shapes of the tensors by name; if empty, nothing is checked.
        error: error class to raise.

    Raises:
        FacetrmError: An ``error`` that names the key and the value.
    """
    if not shapes:
        return
    widest = max((max(shape, default=1) for shape in shapes.values()), default=1)
    for key, value in _integers(config, depth=0):
        name = key.rpartition(".")[2]
        counts = _COUNTS.search(name) is not None
        if _NO_SIZE.search(name) and not counts:
            continue
        bound = max(len(shapes), 64) if counts else max(widest, len(shapes), _ANY_MODEL)
        if abs(value) > bound:
            held = f"{len(shapes)} tensors, the longest of {widest:,} rows"
            raise error(
                f"'{key}' is {short(value)}, but the weights hold {held}",
                place="config.json",
                fix="give the config.json that belongs to these weights",
            )


def check_code(config: Mapping[str, Any], error: type[FacetrmError], *, place: object) -> None:
    """Refuse a configuration that makes Transformers download and run third-party attention code or kernels.

    Args:
        config: parsed ``config.json``.
        error: error class to raise.
        place: path of the file, for the error message.

    Raises:
        FacetrmError: An ``error`` that names the key.
    """
    for part in (config, *(value for key, value in config.items() if key.endswith("_config"))):
        if not isinstance(part, Mapping):
            continue
        for key in ("attn_implementation", "_attn_implementation", "_attn_implementation_internal"):
            if part.get(key) not in _ATTENTION:
                raise error(f"'{key}' is {short(part[key])}: code of others", place=place, fix=_TRUST)
        for key in ("use_kernels", "kernel_config"):
            if part.get(key):
                raise error(f"'{key}' fetches code of others", place=place, fix=_TRUST)


def check_numbers(
    config: PretrainedConfig, shapes: Mapping[str, tuple[int, ...]], error: type[FacetrmError], *, place: object
) -> None:
    """Refuse a configuration whose trunk has far more parameters than the weight files; nothing is allocated.

    Args:
        config: configuration of a trunk that Transformers supports.
        shapes: shapes of the tensors by name; if empty, nothing is checked.
        error: error class to raise.
        place: model folder, for the error message.

    Raises:
        FacetrmError: An ``error`` that names both numbers.
    """
    if not shapes:
        return
    with torch.device("meta"):
        made = AutoModel.from_config(config, trust_remote_code=False)
    declared = sum(tensor.numel() for tensor in made.parameters())
    held = sum(math.prod(shape) for shape in shapes.values())
    if declared > (_SLACK if getattr(config, "quantization_config", None) else 2) * held + 1_000_000:
        raise error(
            f"config.json declares {declared:,} numbers, the weights hold {held:,}",
            place=place,
            fix="give the config.json that belongs to these weights",
        )


def _check_index(index: Path, error: type[FacetrmError]) -> None:
    found = read_json(index, error, fix=_FETCH)
    files = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(files, dict):
        raise error("no weight_map", place=index, fix=_FETCH)
    for name in sorted({str(file) for file in files.values()}):
        if name in ("", ".", "..") or os.path.basename(name) != name or not (index.parent / name).is_file():
            raise error(f"{short(name)} is not a file in this folder", place=index, fix=_FETCH)


def _header(path: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    size = path.stat().st_size
    with open(path, "rb") as handle:
        (length,) = struct.unpack("<Q", handle.read(8))
        if length > min(size - 8, _LONGEST_HEADER):
            raise ValueError(f"a header of {length:,} bytes in a file of {size:,}")
        header = json.loads(handle.read(length))
    end = 0
    for name, entry in header.items():
        if name != "__metadata__":
            end = max(end, int(entry["data_offsets"][1]))
            yield name, tuple(int(n) for n in entry["shape"])
    if 8 + length + end != size:
        raise ValueError(f"its tensors end at byte {8 + length + end:,}, the file at {size:,}")


def _integers(value: Any, *, depth: int, key: str = "") -> Iterator[tuple[str, int]]:
    if isinstance(value, int) and not isinstance(value, bool):
        yield key, value
    elif isinstance(value, dict) and depth < 4 and not key.endswith(("id2label", "label2id", "task_specific_params")):
        for name, item in value.items():
            yield from _integers(item, depth=depth + 1, key=f"{key}.{name}".lstrip("."))
