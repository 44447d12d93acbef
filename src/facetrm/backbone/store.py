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
from itertools import islice
from pathlib import Path
from typing import cast

import torch

from facetrm.backbone.encoder import AdapterEncoder, Encoder, Features, encoder_warnings
from facetrm.backbone.filling import Filling, block_of, blocks
from facetrm.backbone.memory import give_back
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
from facetrm.core.fingerprint import fingerprint
from facetrm.core.progress import Meter, log, progress
from facetrm.data.records import Conversation, conversation_key


def encode(
    encoder: Encoder,
    conversations: Iterable[Conversation],
    folder: Path | str,
    *,
    adapters: Sequence[str] | None = None,
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
    different weights, settings or adapters) go to a subfolder ``encoder-...``, where :class:`FeatureStore` finds them.

    Args:
        encoder: encoder that computes the features.
        conversations: stream or list of conversations; duplicates are encoded once.
        folder: new folder or existing feature folder.
        adapters: names of A adapters. Each encodes the responses; the bare trunk encodes the prompts. With None, the
            encoder itself encodes both.
        shard_rows: number of rows per shard.
        dtype: dtype of the stored features; they are read back as float32.
        quiet: whether to hide the progress bar.
        flush_seconds: seconds after which an incomplete shard is written; a crash loses at most this much work.
            Ctrl-C and errors lose only the current block, because finished blocks are written first.
        clock: function that returns the current time in seconds.

    Raises:
        StoreError: The folder contains other files or features of another ``dtype``, or another process writes to it.
        BackboneError: An adapter is unknown, or a conversation cannot be read (the message gives its index).

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
    _check_asked(folder, encoder, dtype, adapters)
    asked = [] if adapters is None else list(adapters)
    with locked(folder):
        if _is_foreign(folder, encoder, asked):
            place = folder / _own_name(encoder, asked)
            log("the folder holds features of another encoder", folder=str(folder), writes_to=str(place))
            with locked(place):
                _encode(encoder, conversations, place, adapters, shard_rows, dtype, quiet, flush_seconds, clock)
        else:
            _encode(encoder, conversations, folder, adapters, shard_rows, dtype, quiet, flush_seconds, clock)
    return FeatureStore(folder, encoder=encoder, adapters=asked)


def _encode(
    encoder: Encoder,
    conversations: Iterable[Conversation],
    folder: Path,
    adapters: Sequence[str] | None,
    shard_rows: int,
    dtype: StorageType,
    quiet: bool,
    flush_seconds: float,
    clock: Callable[[], float],
) -> None:
    """Encode into ``folder``, which belongs to this encoder and is locked."""
    manifest = _opened(folder, encoder, dtype, [] if adapters is None else list(adapters))
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
                    features = _read_block(encoder, rows, numbers, adapters, meter)
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
    adapters: Sequence[str] | None,
    meter: Meter,
) -> Features:
    """Return the features of ``rows``; errors refer to rows by their indices in all conversations, ``numbers``."""
    read = list(rows.values())

    def told(rows: int, tokens: int) -> None:
        meter.advance(rows, tokens=tokens)

    try:
        if adapters is None:
            return encoder.encode(read, on_batch=told)
        return cast(AdapterEncoder, encoder).encode(read, adapters=adapters, on_batch=told)
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
        self, folder: Path | str, *, encoder: Encoder | None = None, adapters: Sequence[str] | None = None
    ) -> None:
        self.folder = _found(Path(folder), encoder, adapters)
        self.manifest = Manifest.read(self.folder)
        if encoder is not None:
            known = encoder.adapters if isinstance(encoder, AdapterEncoder) else ()
            _check_encoder(self.folder, self.manifest, encoder, [n for n in self.adapters if n in known])
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
            return Features.empty(self.hidden_size, len(self.adapters) or 1)
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
            self._cache[number] = (split_keys(tensors["key"]), to_features(tensors))
            while len(self._cache) > 2:
                self._cache.popitem(last=False)
        self._cache.move_to_end(number)
        return self._cache[number]


def _check_asked(folder: Path, encoder: Encoder, dtype: StorageType, adapters: Sequence[str] | None) -> None:
    if adapters is not None and not isinstance(encoder, AdapterEncoder):
        raise StoreError(f"a {type(encoder).__name__} has no adapters", place=folder, fix="leave adapters out")
    if dtype not in DTYPES:
        raise StoreError(f"dtype is '{dtype}'", place=folder, fix=f"give one of {', '.join(DTYPES)}")


def _is_foreign(folder: Path, encoder: Encoder, asked: Sequence[str]) -> bool:
    """Return whether ``folder`` contains features of another encoder; an empty store belongs to no encoder."""
    if not (folder / STORE_MANIFEST).exists():
        return False
    manifest = Manifest.read(folder)
    return bool(manifest.shards) and (manifest.encoder, manifest.adapters) != _fingerprints(encoder, asked)


def _own_name(encoder: Encoder, asked: Sequence[str]) -> str:
    """Return the name of the subfolder for ``encoder`` in a feature folder of another encoder."""
    return f"encoder-{fingerprint(_fingerprints(encoder, asked))[:12]}"


def _opened(folder: Path, encoder: Encoder, dtype: StorageType, asked: Sequence[str]) -> Manifest:
    """Return the manifest of a folder that is new, empty, or belongs to this encoder."""
    trunk, known = _fingerprints(encoder, asked)
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
    told = encoder_warnings(encoder)
    manifest = Manifest(trunk, encoder.template_hash, encoder.hidden_size, dtype, adapters=known, warnings=told)
    manifest.write(folder)
    return manifest


def _clean(folder: Path, manifest: Manifest) -> None:
    """Remove damaged shards and files left over from a crash."""
    named = {shard.file for shard in manifest.shards} | {STORE_MANIFEST, "lock"}
    for path in folder.iterdir():
        if path.name not in named and OURS.fullmatch(path.name):
            path.unlink()


def _found(folder: Path, encoder: Encoder | None, adapters: Sequence[str] | None) -> Path:
    """Return the folder that contains the requested features: ``folder`` or one of its ``encoder-*`` subfolders."""
    below = [path for path in sorted(folder.glob("encoder-*")) if (path / STORE_MANIFEST).is_file()]
    if not below:
        return folder
    known = encoder.adapters if isinstance(encoder, AdapterEncoder) else ()
    found = []
    for place in (folder, *below):
        manifest = Manifest.read(place)
        names = [name for name, _ in manifest.adapters]
        if adapters is not None and names != list(adapters):
            continue
        mine = [name for name in names if name in known]
        if encoder is None or (manifest.encoder, manifest.adapters) == _fingerprints(encoder, mine):
            found.append(place)
    if len(found) > 1:
        raise StoreError(
            f"holds features of {len(below) + 1} encoders, and {len(found)} of them match the request",
            place=folder,
            fix=f"name the encoder and its adapters, or give one folder, such as {found[-1]}",
        )
    return found[0] if found else folder


def _fingerprints(encoder: Encoder, names: Sequence[str]) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Return the fingerprint of the encoder or bare trunk, and the name and fingerprint of each adapter."""
    if not isinstance(encoder, AdapterEncoder):
        return encoder.fingerprint, ()
    return encoder.trunk_fingerprint, tuple((name, encoder.adapter_fingerprint(name)) for name in names)


def _check_encoder(folder: Path, manifest: Manifest, encoder: Encoder, names: Sequence[str]) -> None:
    """Check that the features are those of ``encoder`` with the adapters ``names``."""
    fix = "give another folder, or the encoder that wrote this one"
    trunk, adapters = _fingerprints(encoder, names)
    if manifest.encoder != trunk:
        raise StoreError(
            f"its features come from encoder {manifest.encoder[:12]}, not {trunk[:12]} "
            "(weights, tokenizer, template or settings differ)",
            place=folder,
            fix=fix,
        )
    if [name for name, _ in manifest.adapters] != list(names):
        stored = ", ".join(name for name, _ in manifest.adapters) or "the bare trunk"
        asked = ", ".join(names) or "the bare trunk"
        raise StoreError(f"its responses were encoded by {stored}, not by {asked}", place=folder, fix=fix)
    for (name, stored), (_, found) in zip(manifest.adapters, adapters, strict=True):
        if stored != found:
            raise StoreError(
                f"its adapter '{name}' is a different one: {stored[:12]}, not {found[:12]}", place=folder, fix=fix
            )


def _keys_on_disk(folder: Path, manifest: Manifest) -> set[bytes]:
    return {key for shard in manifest.shards for key in read_keys(folder, shard)}
