"""Filling shards: features are written to disk regularly, and the final bytes do not depend on when.

Rows are encoded in blocks whose boundaries depend only on the rows, and a shard is a sequence of blocks. An incomplete
shard is written as ``open-NUMBER-ROOM-ROWS`` and continues after its last block when encoding resumes.
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

_BLOCK: Final = 2**15  # characters per block: takes a small model a few seconds on a CPU


@dataclass
class _Slot:
    """A shard being filled: its number, target row count, and the keys and blocks so far."""

    number: int
    room: int
    keys: list[bytes] = field(default_factory=list)
    blocks: list[Features] = field(default_factory=list)


@final
class Filling:
    """Collects blocks of features and writes them as shards. Damaged and incomplete shards are filled first.

    Args:
        folder: feature folder.
        manifest: manifest of the shards on disk, including the damaged ones.
        damaged: shards whose rows must be encoded again.
        shard_rows: number of rows per new shard.
        flush_seconds: seconds after which an incomplete shard is written.
        clock: function that returns a time in seconds; its origin does not matter.
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
                slots.append(
                    _Slot(
                        shard.number,
                        shard.room,
                        split_keys(tensors["key"]),
                        [to_features(tensors, layers=self.manifest.layers)],
                    )
                )
        yield from sorted(slots, key=lambda slot: slot.number)
        done = {shard.number for shard in self.manifest.shards} | {slot.number for slot in slots}
        yield from (_Slot(number, shard_rows) for number in count() if number not in done)

    @property
    def room(self) -> int:
        """The number of rows that still fit into the current shard."""
        return self._slot.room - len(self._slot.keys)

    def add(self, keys: Sequence[bytes], features: Features) -> None:
        """Add a block of at most :attr:`room` rows. Write the shard if it is full or ``flush_seconds`` have passed.

        Args:
            keys: 32-byte keys of the block's conversations.
            features: features of these conversations.

        Raises:
            StoreError: The features cannot be stored. Earlier blocks are not affected.
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
        """Write all incomplete shards as finished ones, because no more rows will follow."""
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
    """Return the block size in characters. It is not a time, because block boundaries must be reproducible."""
    return int(getattr(encoder, "block_characters", _BLOCK))


def blocks(
    conversations: Iterable[Conversation], known: set[bytes], filling: Filling, *, characters: int
) -> Iterator[tuple[int, dict[bytes, Conversation], list[int]]]:
    """Split the conversations that are not stored yet into blocks.

    A block ends once it has ``characters`` characters, or when its shard is full.

    Args:
        conversations: stream or list of conversations.
        known: keys of the stored conversations; new keys are added to it.
        filling: provides the number of rows that still fit into the current shard.
        characters: size of a block in characters.

    Yields:
        For each block, the number of conversations consumed since the last block, the new conversations by key, and
        their indices in ``conversations``.
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
