"""Shards while they are filled: what is encoded reaches the disk every now and then, and the bytes do not tell when.

Rows are encoded in blocks, cut where the rows say so and nothing else, and a shard is its blocks one behind the other.
A shard that is not full yet is written as ``open-NUMBER-ROOM-ROWS`` and goes on from its last block after any end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Final, final

from facetrm.backbone.encoder import Encoder, Features
from facetrm.backbone.shards import Manifest, Shard, put_shard, read_shard, split_keys, stored_tensors, to_features
from facetrm.data.records import Conversation, conversation_key

_BLOCK: Final = 2**15  # characters read at a time: seconds of a small model on a processor


@dataclass
class _Slot:
    """A shard to be: its number, the rows it is to hold, and the blocks it has."""

    number: int
    room: int
    keys: list[bytes] = field(default_factory=list)
    blocks: list[Features] = field(default_factory=list)


@final
class Filling:
    """Takes blocks of features and writes shards; damaged ones are filled first, then the one that was left open.

    Args:
        folder: of the features.
        manifest: of the shards on disk, the damaged ones included.
        damaged: those whose rows have to be read again.
        shard_rows: rows of a new shard.
        flush_seconds: after how long a shard is written that is not full yet.
        clock: seconds, from any beginning.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        *,
        damaged: Sequence[Shard],
        shard_rows: int,
        flush_seconds: float,
        clock: Callable[[], float],
    ) -> None:
        self._folder, self._every, self._clock = folder, flush_seconds, clock
        self.manifest = replace(manifest, shards=tuple(s for s in manifest.shards if s not in damaged))
        self._slots = self._to_fill(damaged, shard_rows)
        self._slot = next(self._slots)
        self._last, self._unsaved = clock(), False

    def _to_fill(self, damaged: Sequence[Shard], shard_rows: int) -> Iterator[_Slot]:
        slots = [_Slot(shard.number, shard.room or shard.rows) for shard in damaged]
        for shard in self.manifest.shards:
            if shard.room is not None:
                tensors = read_shard(self._folder, shard)
                slots.append(_Slot(shard.number, shard.room, split_keys(tensors["key"]), [to_features(tensors)]))
        yield from sorted(slots, key=lambda slot: slot.number)
        done = {shard.number for shard in self.manifest.shards} | {slot.number for slot in slots}
        yield from (_Slot(number, shard_rows) for number in count() if number not in done)

    @property
    def room(self) -> int:
        """The rows that the shard being filled still takes."""
        return self._slot.room - len(self._slot.keys)

    def add(self, keys: Sequence[bytes], features: Features) -> None:
        """Add a block of at most :attr:`room` rows, and write the shard when it is full or when it is time to.

        Args:
            keys: of the conversations of the block.
            features: of these conversations.

        Raises:
            StoreError: features that cannot be stored; the blocks before it are safe.
        """
        slot = self._slot
        grown = _Slot(slot.number, slot.room, [*slot.keys, *keys], [*slot.blocks, features])
        if len(grown.keys) >= grown.room:
            self._write(grown, full=True)
            self._slot = next(self._slots)
        else:
            stored_tensors(self._folder, self.manifest, keys, features)
            self._slot, self._unsaved = grown, True
            if self._clock() - self._last >= self._every:
                self.save()

    def save(self) -> None:
        """Write the blocks that are not on disk yet."""
        if self._unsaved:
            self._write(self._slot, full=False)

    def finish(self) -> None:
        """Write what is left as it is: no more rows come."""
        opened = {shard.number for shard in self.manifest.shards if shard.room is not None}
        while self._slot.keys or opened - {self._slot.number}:
            if self._slot.keys:
                self._write(self._slot, full=True)
            opened.discard(self._slot.number)
            self._slot = next(self._slots)

    def _write(self, slot: _Slot, *, full: bool) -> None:
        features = Features.concat(slot.blocks)
        self.manifest = put_shard(
            self._folder,
            self.manifest,
            slot.keys,
            features,
            number=slot.number,
            room=None if full else slot.room,
        )
        self._last, self._unsaved = self._clock(), False


def block_of(encoder: Encoder) -> int:
    """Return how many characters are read at a time: what ends a block must not depend on the time."""
    return int(getattr(encoder, "block_characters", _BLOCK))


def blocks(
    conversations: Iterable[Conversation], known: set[bytes], filling: Filling, *, characters: int
) -> Iterator[tuple[int, dict[bytes, Conversation], list[int]]]:
    """Yield (rows read since the last time, the new ones among them, their numbers) for each block to be.

    A block ends with ``characters`` characters, or where its shard is full.

    Args:
        conversations: a stream or a list.
        known: keys of those that are on disk; it grows.
        filling: tells how many rows the shard still takes.
        characters: of a block.
    """
    rows: dict[bytes, Conversation] = {}
    numbers: list[int] = []
    seen = size = 0
    for number, conversation in enumerate(conversations):
        seen += 1
        key = bytes.fromhex(conversation_key(conversation))
        if key not in known:
            known.add(key)
            rows[key] = conversation
            numbers.append(number)
            size += sum(len(message.content) for message in conversation)
        if rows and (len(rows) == filling.room or size >= characters):
            yield seen, rows, numbers
            rows, numbers, seen, size = {}, [], 0, 0
    yield seen, rows, numbers
