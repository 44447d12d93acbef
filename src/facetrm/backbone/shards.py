"""The files of a feature folder: shards, their manifest, and the lock that admits one writer at a time."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Final, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from facetrm.backbone.encoder import Features, Layer, in_order, is_layer
from facetrm.backbone.read_with import ReadWith
from facetrm.core.errors import StoreError
from facetrm.core.files import read_json, why_unread, write_bytes, write_json
from facetrm.core.locks import try_lock

StorageType = Literal["float32", "bfloat16", "float16"]

DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_VERSION: Final = 1
STORE_MANIFEST: Final = "manifest.json"
_SHARD: Final = re.compile(r"(?:shard-\d{5,}|open-\d{5,}-\d+-\d+)\.safetensors")
OURS: Final = re.compile(rf"manifest\.json|lock|{_SHARD.pattern}|\..+\.tmp")
_AGAIN: Final = "encode again: the same rows into this folder; undamaged shards are kept"
_MISSING: Final = "a shard that the manifest names is missing"


@dataclass(frozen=True)
class Shard:
    """One file of features.

    Attributes:
        file: File name within the feature folder.
        rows: Number of conversations in it.
        size: File size in bytes.
        sha256: SHA-256 of the file, as hex.
    """

    file: str
    rows: int
    size: int
    sha256: str

    @property
    def number(self) -> int:
        """The index of the shard in the store."""
        return int(self.file.split("-")[1].split(".")[0])

    @property
    def room(self) -> int | None:
        """The target row count of an unfinished shard, or None for a finished one."""
        return int(self.file.split("-")[2]) if self.file.startswith("open-") else None


@dataclass(frozen=True)
class Manifest:
    """Manifest of a feature folder.

    Attributes:
        encoder: Fingerprint of the model that encoded the prompts (and the responses, if there are no adapters).
        template: Hash of the chat template.
        hidden_size: Width D of the feature vectors.
        dtype: Dtype of the stored features.
        shards: Shard files, by number.
        adapters: Name and fingerprint of each adapter that encoded the responses, in the order of the vectors; empty
            if the encoder has no adapters.
        layers: Layer of each response vector, in order; empty if each is the last layer.
        warnings: What is doubtful about the encoder, one sentence each.
    """

    encoder: str
    template: str
    hidden_size: int
    dtype: StorageType
    shards: tuple[Shard, ...] = ()
    adapters: tuple[tuple[str, str], ...] = ()
    layers: tuple[Layer, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def read_with(self) -> ReadWith:
        """What the features were read with."""
        return ReadWith(self.encoder, self.adapters, self.layers)

    def write(self, folder: Path) -> None:
        """Write the manifest to ``folder`` atomically."""
        value = {**vars(self), "shards": [vars(s) for s in self.shards], "version": _VERSION}
        for name in ("adapters", "layers", "warnings"):
            if not value[name]:
                del value[name]
        write_json(folder / STORE_MANIFEST, value)

    @staticmethod
    def read(folder: Path) -> Manifest:
        """Read and check the manifest of ``folder``.

        Raises:
            StoreError: There is no manifest, or it is not a valid manifest of a feature folder.
        """
        value = read_json(folder / STORE_MANIFEST, StoreError, fix="give a folder that 'encode' wrote")
        try:
            if value.pop("version") != _VERSION or value["dtype"] not in DTYPES:
                raise ValueError
            shards = tuple(Shard(**shard) for shard in value.pop("shards"))
            if not all(_SHARD.fullmatch(shard.file) for shard in shards):
                raise ValueError
            adapters = tuple((str(name), str(known)) for name, known in value.pop("adapters", ()))
            layers = tuple(value.pop("layers", ()))
            if not all(is_layer(layer) for layer in layers) or in_order(layers) != layers:
                raise ValueError
            warnings = tuple(map(str, value.pop("warnings", ())))
            return Manifest(**value, shards=shards, adapters=adapters, layers=layers, warnings=warnings)
        except (AttributeError, KeyError, TypeError, ValueError):
            raise StoreError(
                f"not the manifest of a feature folder of version {_VERSION}",
                place=folder / STORE_MANIFEST,
                fix="delete the folder and encode again",
            ) from None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the write lock of ``folder``; the operating system releases it if the process dies.

    Raises:
        StoreError: Another process holds the lock, or the folder contains files that are not features.
    """
    _check_ours(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "ab") as handle:
        if try_lock(handle.fileno()) is False:
            raise StoreError(
                "another process is writing to it", place=folder, fix="wait for it to end, or give another folder"
            )
        yield


def _check_ours(folder: Path) -> None:
    if not folder.exists() or (folder / STORE_MANIFEST).is_file():
        return
    if not folder.is_dir():
        raise StoreError("a file, not a folder", place=folder, fix="give a folder")
    for path in sorted(folder.iterdir()):
        if not OURS.fullmatch(path.name) or path.suffix == ".safetensors":
            raise StoreError(
                f"holds '{path.name}' but no {STORE_MANIFEST}", place=folder, fix="give a new folder or a store"
            )


def stored_tensors(folder: Path, manifest: Manifest, keys: Sequence[bytes], features: Features) -> dict[str, Tensor]:
    """Return the tensors of a shard with the given rows; tensors that share memory are copied.

    Args:
        folder: feature folder, for error messages.
        manifest: manifest that gives the stored dtype.
        keys: 32-byte keys of N conversations.
        features: features of these conversations.

    Raises:
        StoreError: Features are not finite in the stored dtype, or their number differs from the number of keys.
    """
    stored = DTYPES[manifest.dtype]
    tensors = {
        "key": torch.frombuffer(bytearray(b"".join(keys)), dtype=torch.uint8).reshape(len(keys), 32),
        "prompt": features.prompt_ND.to(stored).contiguous(),
        "response": features.response_NAD.to(stored).contiguous(),
        "length": features.length_N.to(torch.int64),
        "tokens": features.tokens_N.to(torch.int64),
        "truncated": features.truncated_N.to(torch.bool),
        "unknown": features.unknown_N.to(torch.float32),
    }
    seen: set[int] = set()
    # safetensors refuses tensors that share memory, such as when the encoder returns one tensor for both vectors.
    for name, tensor in tensors.items():
        if (memory := tensor.untyped_storage().data_ptr()) in seen:
            tensors[name] = tensor.clone()
        seen.add(memory)
    if len(features) != len(keys):
        raise StoreError(
            f"the encoder gave {len(features)} rows for {len(keys)} conversations", place=folder, fix="fix the encoder"
        )
    for name in ("prompt", "response"):
        if not torch.isfinite(tensors[name]).all():
            row = int((~torch.isfinite(tensors[name])).reshape(len(keys), -1).any(dim=1).nonzero()[0, 0])
            raise StoreError(
                f"the {name} vector of key {keys[row].hex()[:12]} is not finite as {manifest.dtype}",
                place=folder,
                fix="store float32, or run the backbone in float32 or bfloat16",
            )
    return tensors


def put_shard(
    folder: Path,
    manifest: Manifest,
    keys: Sequence[bytes],
    features: Features,
    *,
    number: int,
    room: int | None = None,
) -> Manifest:
    """Write a shard, replacing any shard with the same number, and update the manifest on disk.

    Args:
        folder: feature folder.
        manifest: manifest of the existing shards.
        keys: 32-byte keys of N conversations.
        features: features of these conversations.
        number: number of the shard.
        room: target row count of an unfinished shard; None for a finished one.

    Returns:
        The new manifest.

    Raises:
        StoreError: Features are not finite in the stored dtype, or their number differs from the number of keys.
    """
    tensors = stored_tensors(folder, manifest, keys, features)
    # Use a single metadata key, because safetensors writes several in no fixed order.
    about = json.dumps({"encoder": manifest.encoder, "version": _VERSION}, sort_keys=True)
    data = save_tensors(tensors, metadata={"facetrm": about})
    name = f"shard-{number:05d}" if room is None else f"open-{number:05d}-{room}-{len(keys)}"
    shard = Shard(f"{name}.safetensors", len(keys), len(data), sha256(data).hexdigest())
    write_bytes(folder / shard.file, data)
    kept = [other for other in manifest.shards if other.number != number]
    before = [other for other in manifest.shards if other.number == number and other.file != shard.file]
    manifest = replace(manifest, shards=tuple(sorted([*kept, shard], key=lambda s: s.number)))
    manifest.write(folder)
    for other in before:
        (folder / other.file).unlink(missing_ok=True)
    return manifest


def damaged_shards(folder: Path, manifest: Manifest) -> dict[Shard, str]:
    """Return the missing or damaged shards, each with a description of the problem.

    Raises:
        StoreError: A shard cannot be read, for example without permission, so it cannot be checked.
    """
    found: dict[Shard, str] = {}
    for shard in manifest.shards:
        data = _bytes_of(folder, shard)
        if data is None:
            found[shard] = "it is missing"
        elif len(data) != shard.size:
            found[shard] = f"it has {len(data)} bytes, not the {shard.size} written"
        elif sha256(data).hexdigest() != shard.sha256:
            found[shard] = "its bytes differ from those written"
    return found


def _bytes_of(folder: Path, shard: Shard) -> bytes | None:
    """Return the bytes of a shard, or None if the file does not exist."""
    try:
        return (folder / shard.file).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise StoreError(
            f"cannot be read ({exc.strerror})", place=folder / shard.file, fix="make the file readable"
        ) from None


def read_keys(folder: Path, shard: Shard) -> list[bytes]:
    """Return the conversation keys of a shard, after checking its file size.

    Raises:
        StoreError: The file is missing, unreadable or damaged.
    """
    path = folder / shard.file
    if not path.is_file():
        raise StoreError(_MISSING, place=path, fix=_AGAIN)
    if path.stat().st_size != shard.size:
        raise StoreError(f"{path.stat().st_size} bytes, not the {shard.size} written", place=path, fix=_AGAIN)
    try:
        with safe_open(path, framework="pt") as handle:
            return split_keys(handle.get_tensor("key"))
    except OSError as exc:
        problem, fix = why_unread(exc, missing=_MISSING, fix=_AGAIN)
        raise StoreError(problem, place=path, fix=fix) from None
    except SafetensorError as exc:
        raise StoreError(f"damaged ({exc})", place=path, fix=_AGAIN) from None


def read_shard(folder: Path, shard: Shard) -> dict[str, Tensor]:
    """Return the tensors of a shard, after checking its sha256.

    Raises:
        StoreError: The file is missing, unreadable or damaged.
    """
    path, data = folder / shard.file, _bytes_of(folder, shard)
    if data is None:
        raise StoreError(_MISSING, place=path, fix=_AGAIN)
    found = sha256(data).hexdigest()
    if found != shard.sha256:
        raise StoreError(f"damaged: its sha256 is {found[:12]}, not {shard.sha256[:12]}", place=path, fix=_AGAIN)
    tensors: dict[str, Tensor] = load_tensors(data)
    return tensors


def split_keys(key_N32: Tensor) -> list[bytes]:
    """Return the rows of ``key_N32`` (uint8, [N, 32]) as bytes."""
    data = key_N32.numpy().tobytes()
    return [data[i : i + 32] for i in range(0, len(data), 32)]


def to_features(tensors: dict[str, Tensor], *, layers: tuple[Layer, ...] = ()) -> Features:
    """Return the features in the tensors of a shard, as float32.

    Args:
        tensors: tensors of the shard.
        layers: layer of each response vector; empty if each is the last layer.
    """
    return Features(
        prompt_ND=tensors["prompt"].float(),
        response_NAD=tensors["response"].float(),
        length_N=tensors["length"],
        tokens_N=tensors["tokens"],
        truncated_N=tensors["truncated"],
        unknown_N=tensors.get("unknown", torch.zeros(len(tensors["length"]), dtype=torch.float32)),
        layers=layers,
    )
