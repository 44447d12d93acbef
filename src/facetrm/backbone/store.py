"""Features on disk: each conversation is encoded once, and a crash neither loses finished work nor changes the bytes.

    folder/
      manifest.json                fingerprints of the encoder and adapters; rows, size and sha256 of each shard
      shard-00000.safetensors      key [n, 32] uint8, prompt [n, D], response [n, A, D], length, tokens, truncated [n]
      open-00001-1024-192...       an unfinished shard: its number, its target row count, its current row count
      lock                         held while a process writes
      encoder-0123456789ab/        the store of another encoder

A shard is written completely before it is listed in the manifest. A shard file that is not listed is left over from a
crash and is removed. Shards are encoded separately, in blocks whose boundaries depend only on the rows, so the bytes of
a shard depend only on its rows.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch

from facetrm.backbone.encoder import LAST, AdapterEncoder, Encoder, Features, Layer, encoder_warnings, labels
from facetrm.backbone.filling import Filling, block_of, blocks
from facetrm.backbone.memory import give_back
from facetrm.backbone.read_with import ReadWith
from facetrm.backbone.shards import (
    DTYPES,
    OURS,
    STORE_MANIFEST,
    Manifest,
    StorageType,
    damaged_shards,
    locked,
    read_keys,
    read_shard,
    split_keys,
    to_features,
)
from facetrm.core.errors import BackboneError, StoreError
from facetrm.core.progress import Meter, log, progress
from facetrm.data.records import Conversation, conversation_key


def encode(
    encoder: Encoder,
    conversations: Iterable[Conversation],
    folder: Path | str,
    *,
    adapters: Sequence[str] | None = None,
    layers: Sequence[Layer] | None = None,
    shard_rows: int = 1024,
    dtype: StorageType = "float32",
    quiet: bool = False,
    flush_seconds: float = 30.0,
    clock: Callable[[], float] = time.monotonic,
) -> FeatureStore:
    """Encode the conversations that are not in ``folder`` yet, and return the store.

    Run it again after a crash to resume. If all rows are already stored, the encoder is not called. Every shard is
    checked first, and the rows of damaged shards are encoded again. Only the keys and one shard are held in memory.

    An empty store accepts any encoder. A store with rows belongs to its encoder: features of another encoder (with
    different weights, settings, adapters or layers) go to a subfolder ``encoder-...``, where :class:`FeatureStore`
    finds them. A store with more layers than are asked for is used as it is.

    Args:
        encoder: encoder that computes the features.
        conversations: stream or list of conversations; duplicates are encoded once.
        folder: new folder or existing feature folder.
        adapters: names of A adapters. Each encodes the responses; the bare trunk encodes the prompts. With None, the
            encoder itself encodes both.
        layers: layers of the bare trunk at which the responses are read, in one pass. With None, the last.
        shard_rows: number of rows per shard.
        dtype: dtype of the stored features; they are read back as float32.
        quiet: whether to hide the progress bar.
        flush_seconds: seconds after which an incomplete shard is written; a crash loses at most this much work.
            Ctrl-C and errors lose only the current block, because finished blocks are written first.
        clock: function that returns the current time in seconds.

    Raises:
        StoreError: The folder contains other files or features of another ``dtype``, or another process writes to it.
        BackboneError: An adapter or layer is unknown, or a conversation cannot be read (the message gives its index).

    Example:
        >>> from tempfile import mkdtemp
        >>> from facetrm import World, encode, toy_model
        >>> rated = [rating.messages for rating in World().ratings(4)]
        >>> store = encode(toy_model().encoder, rated, mkdtemp(), quiet=True)
        >>> tuple(store.features(rated).prompt_ND.shape)
        (4, 32)
    """
    folder = Path(folder)
    if shard_rows < 1:
        raise StoreError(f"shard_rows is {shard_rows}", place=folder, fix="give 1 or more")
    if dtype not in DTYPES:
        raise StoreError(f"dtype is '{dtype}'", place=folder, fix=f"give one of {', '.join(DTYPES)}")
    if adapters is not None and not isinstance(encoder, AdapterEncoder):
        raise StoreError(f"a {type(encoder).__name__} has no adapters", place=folder, fix="leave adapters out")
    asked = ReadWith.of(encoder, adapters, layers)
    with locked(folder):
        if _is_foreign(folder, asked):
            place = folder / asked.folder
            log("the folder holds features of another encoder", folder=str(folder), writes_to=str(place))
            with locked(place):
                _encode(encoder, conversations, place, asked, shard_rows, dtype, quiet, flush_seconds, clock)
        else:
            _encode(encoder, conversations, folder, asked, shard_rows, dtype, quiet, flush_seconds, clock)
    return FeatureStore(folder, encoder=encoder, adapters=asked.names, layers=asked.layers or (LAST,))


def _encode(
    encoder: Encoder,
    conversations: Iterable[Conversation],
    folder: Path,
    asked: ReadWith,
    shard_rows: int,
    dtype: StorageType,
    quiet: bool,
    flush_seconds: float,
    clock: Callable[[], float],
) -> None:
    """Encode into ``folder``, which belongs to this encoder and is locked."""
    manifest = _opened(folder, encoder, dtype, asked)
    damaged = damaged_shards(folder, manifest)
    for shard, problem in damaged.items():
        log("a shard is damaged and is read again", shard=str(folder / shard.file), problem=problem, rows=shard.rows)
    filling = Filling(
        folder, manifest, damaged=[*damaged], shard_rows=shard_rows, flush_seconds=flush_seconds, clock=clock
    )
    if damaged:
        filling.manifest.write(folder)
    _clean(folder, filling.manifest)
    known = _keys_on_disk(folder, filling.manifest)
    total = len(conversations) if isinstance(conversations, Sized) else None
    with progress(f"encode {folder.name}", total, quiet=quiet) as meter:
        try:
            for seen, rows, numbers in blocks(conversations, known, filling, characters=block_of(encoder)):
                meter.skip(seen - len(rows))
                if rows:
                    features = _read_block(encoder, rows, numbers, manifest.read_with, meter)
                    filling.add(list(rows), features)
                    give_back()
            filling.finish()
        except BaseException:
            filling.save()  # so that Ctrl-C or a bad row loses only the current block
            raise


def _read_block(
    encoder: Encoder,
    rows: dict[bytes, Conversation],
    numbers: Sequence[int],
    asked: ReadWith,
    meter: Meter,
) -> Features:
    """Return the features of ``rows``; errors refer to rows by their indices in all conversations, ``numbers``."""
    read = list(rows.values())

    def told(rows: int, tokens: int) -> None:
        meter.advance(rows, tokens=tokens)

    try:
        return asked.read(encoder, read, told)
    except BackboneError as exc:
        if exc.row is None:
            raise
        number = numbers[exc.row]
        place = f"conversation {number} ({read[exc.row][0].content[:30]!r})"
        raise exc.at(place, row=number) from None


class FeatureStore:
    """Reader of the features that :func:`encode` wrote.

    Args:
        folder: feature folder.
        encoder: encoder that must have written the features, with its adapters. Optional unless the folder contains
            features of several encoders.
        adapters: names of the adapters that encoded the responses, in order; an empty list means the bare trunk.
            Optional unless ``folder`` contains features of several adapter sets.
        layers: layers whose vectors are returned, in order; None for all that are stored.

    Raises:
        StoreError: The folder is not a feature folder, belongs to another encoder, has a missing file or one of the
            wrong size, or contains features of several encoders that the arguments do not distinguish.

    Example:
        >>> from tempfile import mkdtemp
        >>> from facetrm import FeatureStore, World, encode, toy_model
        >>> rated = [rating.messages for rating in World().ratings(4)]
        >>> folder = mkdtemp()
        >>> written = encode(toy_model().encoder, rated, folder, quiet=True)
        >>> len(FeatureStore(folder))
        4
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        encoder: Encoder | None = None,
        adapters: Sequence[str] | None = None,
        layers: Sequence[Layer] | None = None,
    ) -> None:
        self.folder = _found(Path(folder), encoder, adapters, layers)
        self.manifest = Manifest.read(self.folder)
        stored = self.manifest.read_with
        wanted = stored if encoder is None else ReadWith.of(encoder, _mine(stored, encoder))
        stored.check(replace(wanted, layers=stored.layers if layers is None else labels(layers)), self.folder)
        self.layers = stored.layers if layers is None else labels(layers)
        self._cache: OrderedDict[int, tuple[list[bytes], Features]] = OrderedDict()
        self._where: dict[bytes, tuple[int, int]] = {}
        for number, shard in enumerate(self.manifest.shards):
            for row, key in enumerate(read_keys(self.folder, shard)):
                self._where[key] = (number, row)

    def __len__(self) -> int:
        return len(self._where)

    def __contains__(self, conversation: Conversation) -> bool:
        return bytes.fromhex(conversation_key(conversation)) in self._where

    @property
    def hidden_size(self) -> int:
        """Width D of the feature vectors."""
        return self.manifest.hidden_size

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the encoder that computed the features (with adapters, of its bare trunk)."""
        return self.manifest.encoder

    @property
    def adapters(self) -> tuple[str, ...]:
        """The names of the adapters that encoded the responses, in the order of their vectors; empty if none did."""
        return tuple(name for name, _ in self.manifest.adapters)

    def features(self, conversations: Sequence[Conversation]) -> Features:
        """Return the features of N conversations as float32, in the given order.

        Raises:
            StoreError: A conversation is not in the store, or a shard is damaged.
        """
        if not conversations:
            return Features.empty(self.hidden_size, len(self.adapters) or 1, layers=self.layers)
        found = [self._find(conversation, n) for n, conversation in enumerate(conversations)]
        asked: dict[int, list[int]] = {}
        for n, (shard, _) in enumerate(found):
            asked.setdefault(shard, []).append(n)
        parts, order = [], []
        for shard, places in sorted(asked.items()):
            parts.append(self._shard(shard)[1].select(torch.tensor([found[n][1] for n in places])))
            order.extend(places)
        back = torch.empty(len(order), dtype=torch.int64)
        back[torch.tensor(order)] = torch.arange(len(order))
        return Features.concat(parts).select(back)

    def stream(self, conversations: Iterable[Conversation], *, rows: int = 1024) -> Iterator[Features]:
        """Yield the features of ``conversations`` in order, for up to ``rows`` conversations at a time."""
        source = iter(conversations)
        while part := list(islice(source, rows)):
            yield self.features(part)

    def shards(self) -> Iterator[tuple[list[str], Features]]:
        """Yield the conversation keys and the features of each shard, in shard order."""
        for number in range(len(self.manifest.shards)):
            keys, features = self._shard(number)
            yield [key.hex() for key in keys], features

    def verify(self) -> None:
        """Check the sha256 of every shard.

        Raises:
            StoreError: A shard is missing or damaged.
        """
        for shard in self.manifest.shards:
            read_shard(self.folder, shard)

    def _find(self, conversation: Conversation, n: int) -> tuple[int, int]:
        key = conversation_key(conversation)
        try:
            return self._where[bytes.fromhex(key)]
        except KeyError:
            opening = conversation[0].content[:30] if conversation else ""
            raise StoreError(
                f"conversation {n} ({opening!r}, key {key[:12]}) is not in it",
                place=self.folder,
                fix="encode it into this folder first",
            ) from None

    def _shard(self, number: int) -> tuple[list[bytes], Features]:
        if number not in self._cache:
            shard = self.manifest.shards[number]
            tensors = read_shard(self.folder, shard)
            found = to_features(tensors, layers=self.manifest.layers)
            found = found if self.layers == found.layers else found.only(self.layers or (LAST,))
            self._cache[number] = (split_keys(tensors["key"]), found)
            while len(self._cache) > 2:
                self._cache.popitem(last=False)
        self._cache.move_to_end(number)
        return self._cache[number]


def _is_foreign(folder: Path, asked: ReadWith) -> bool:
    """Return whether ``folder`` contains features of another encoder; an empty store belongs to no encoder."""
    if not (folder / STORE_MANIFEST).exists():
        return False
    manifest = Manifest.read(folder)
    return bool(manifest.shards) and not manifest.read_with.serves(asked)


def _opened(folder: Path, encoder: Encoder, dtype: StorageType, asked: ReadWith) -> Manifest:
    """Return the manifest of a folder that is new, empty, or belongs to this encoder."""
    if (folder / STORE_MANIFEST).exists():
        manifest = Manifest.read(folder)
        if manifest.shards and manifest.dtype != dtype:
            raise StoreError(
                f"features are stored as {manifest.dtype}, not {dtype}",
                place=folder,
                fix=f"ask for {manifest.dtype}, or give another folder",
            )
        if manifest.shards:
            return manifest
    manifest = Manifest(
        asked.encoder,
        encoder.template_hash,
        encoder.hidden_size,
        dtype,
        adapters=asked.adapters,
        layers=asked.layers,
        warnings=encoder_warnings(encoder),
    )
    manifest.write(folder)
    return manifest


def _clean(folder: Path, manifest: Manifest) -> None:
    """Remove damaged shards and files left over from a crash."""
    named = {shard.file for shard in manifest.shards} | {STORE_MANIFEST, "lock"}
    for path in folder.iterdir():
        if path.name not in named and OURS.fullmatch(path.name):
            path.unlink()


def _found(
    folder: Path, encoder: Encoder | None, adapters: Sequence[str] | None, layers: Sequence[Layer] | None
) -> Path:
    """Return the folder that contains the requested features: ``folder`` or one of its ``encoder-*`` subfolders."""
    below = [path for path in sorted(folder.glob("encoder-*")) if (path / STORE_MANIFEST).is_file()]
    if not below:
        return folder
    found: list[tuple[Path, ReadWith]] = []
    for place in (folder, *below):
        stored = Manifest.read(place).read_with
        if adapters is not None and stored.names != tuple(adapters):
            continue
        if layers is not None and not stored.holds(labels(layers)):
            continue
        if encoder is None or stored.serves(ReadWith.of(encoder, _mine(stored, encoder), stored.layers)):
            found.append((place, stored))
    if layers is not None:  # of several stores with these layers, the one without others, else the first
        exact = [one for one in found if one[1].layers == labels(layers)]
        found = exact or ([one for one in found if one[1].encoder == found[0][1].encoder][:1] if encoder else found)
    if len(found) > 1:
        raise StoreError(
            f"holds features of {len(below) + 1} encoders, and {len(found)} of them match the request",
            place=folder,
            fix=f"name the encoder, its adapters and layers, or give one folder, such as {found[-1][0]}",
        )
    return found[0][0] if found else folder


def _mine(stored: ReadWith, encoder: Encoder) -> list[str]:
    """Return the names of those adapters of the stored features that ``encoder`` has."""
    known = encoder.adapters if isinstance(encoder, AdapterEncoder) else ()
    return [name for name in stored.names if name in known]


def _keys_on_disk(folder: Path, manifest: Manifest) -> set[bytes]:
    return {key for shard in manifest.shards for key in read_keys(folder, shard)}
