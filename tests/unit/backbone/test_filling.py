"""What was encoded is not lost: damage is found and read again, and a shard that is not full reaches the disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from facetrm.backbone import filling
from facetrm.backbone.encoder import Features
from facetrm.backbone.store import FeatureStore, encode
from facetrm.core import files
from facetrm.core.errors import BackboneError, StoreError
from facetrm.data.records import Conversation
from fakes import HashEncoder, chat

ROWS = [chat(f"question {i % 5}", f"answer {i}") for i in range(22)]


class Blocks(HashEncoder):
    """Reads two rows at a time, and does ``then`` before it reads block ``at``."""

    block_characters = 2 * len("question 0answer 0")

    def __init__(self, at: int = -1, then: Callable[[], None] | None = None) -> None:
        super().__init__(8)
        self.at, self.then = at, then

    def encode(
        self,
        conversations: Sequence[Conversation],
        *,
        adapters: Sequence[str] | None = None,
        on_batch: Callable[[int, int], None] | None = None,
    ) -> Features:
        if self.calls == self.at and self.then is not None:
            self.then()
        return super().encode(conversations, adapters=adapters, on_batch=on_batch)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def raising(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


@pytest.fixture
def whole(tmp_path: Path) -> dict[str, bytes]:
    encode(Blocks(), ROWS, tmp_path / "whole", shard_rows=8, quiet=True)
    found = contents(tmp_path / "whole")
    assert sorted(found) == ["lock", "manifest.json", *(f"shard-0000{n}.safetensors" for n in range(3))]
    return found


@pytest.mark.parametrize("spoil", ["flipped", "cut", "longer", "gone", "all but one"])
def test_a_damaged_shard_is_named_and_read_again(
    tmp_path: Path, whole: dict[str, bytes], spoil: str, capsys: pytest.CaptureFixture[str]
):
    folder = tmp_path / "f"
    encode(Blocks(), ROWS, folder, shard_rows=8, quiet=True)
    spoiled = (
        ["shard-00000.safetensors", "shard-00001.safetensors"]
        if spoil == "all but one"
        else ["shard-00001.safetensors"]
    )
    for name in spoiled:
        data = bytearray((folder / name).read_bytes())
        if spoil in ("flipped", "all but one"):
            data[len(data) // 2] ^= 1
        elif spoil == "cut":
            del data[-9:]
        elif spoil == "longer":
            data += b"x"
        (folder / name).unlink() if spoil == "gone" else (folder / name).write_bytes(bytes(data))
    counter = Blocks()
    encode(counter, iter(ROWS), folder, shard_rows=8, quiet=True)
    said = capsys.readouterr().err
    assert all(name in said for name in spoiled)
    assert said.count("a shard is damaged") == len(spoiled)
    assert counter.rows == 8 * len(spoiled)
    assert contents(folder) == whole


def test_damage_while_a_shard_is_open(tmp_path: Path, whole: dict[str, bytes]):
    folder = tmp_path / "f"
    with pytest.raises(KeyboardInterrupt):
        encode(Blocks(9, raising(KeyboardInterrupt())), ROWS, folder, shard_rows=8, quiet=True)
    assert (folder / "open-00002-8-2.safetensors").is_file()
    (folder / "shard-00000.safetensors").write_bytes(b"")
    encode(Blocks(), ROWS, folder, shard_rows=8, quiet=True)
    assert contents(folder) == whole


def test_a_damaged_shard_whose_rows_are_not_given_again_leaves_the_others(tmp_path: Path):
    folder = tmp_path / "f"
    encode(Blocks(), ROWS, folder, shard_rows=8, quiet=True)
    (folder / "shard-00000.safetensors").write_bytes(b"")
    stored = encode(Blocks(), ROWS[8:], folder, shard_rows=8, quiet=True)
    assert len(stored) == 14
    assert ROWS[0] not in stored
    assert len(encode(Blocks(), ROWS, folder, shard_rows=8, quiet=True)) == 22
    assert len(FeatureStore(folder).features(ROWS)) == 22


def test_a_shard_that_cannot_be_read_is_not_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    encode(Blocks(), ROWS, tmp_path, shard_rows=8, quiet=True)
    real = Path.read_bytes

    def denied(path: Path) -> bytes:
        if path.name == "shard-00001.safetensors":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(StoreError, match=r"shard-00001.safetensors: cannot be read \(Permission denied\)"):
        encode(Blocks(), ROWS, tmp_path, shard_rows=8, quiet=True)
    assert (tmp_path / "shard-00001.safetensors").is_file()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), BackboneError("made up"), MemoryError()])
@pytest.mark.parametrize("at", range(1, 11))
def test_what_was_read_before_any_end_is_kept(tmp_path: Path, whole: dict[str, bytes], at: int, error: BaseException):
    folder, encoder = tmp_path / "f", Blocks(at, raising(error))
    with pytest.raises(type(error)):
        encode(encoder, ROWS, folder, shard_rows=8, quiet=True)
    assert len(FeatureStore(folder)) == 2 * at
    counter = Blocks()
    encode(counter, ROWS, folder, shard_rows=8, quiet=True)
    assert counter.rows == len(ROWS) - 2 * at
    assert contents(folder) == whole


def test_every_thirty_seconds_what_was_read_goes_to_disk(tmp_path: Path, whole: dict[str, bytes]):
    folder, now, seen = tmp_path / "f", 0.0, []

    class Watching(Blocks):
        """Each block takes 16 seconds: a kill before it would leave what the folder holds now."""

        def encode(self, *args, **kwargs):
            nonlocal now
            now += 16
            seen.append(len(FeatureStore(folder)))
            return super().encode(*args, **kwargs)

    encode(Watching(), ROWS, folder, shard_rows=8, quiet=True, clock=lambda: now)
    assert seen == [0, 0, 4, 4, 8, 8, 12, 12, 16, 16, 20]
    assert contents(folder) == whole
    again = tmp_path / "g"
    encode(Blocks(), ROWS, again, shard_rows=8, quiet=True, flush_seconds=0)
    assert contents(again) == whole


def test_a_shard_left_open_keeps_its_size(tmp_path: Path, whole: dict[str, bytes]):
    with pytest.raises(KeyboardInterrupt):
        encode(Blocks(2, raising(KeyboardInterrupt())), ROWS, tmp_path / "f", shard_rows=8, quiet=True)
    stored = encode(Blocks(), ROWS, tmp_path / "f", shard_rows=100, quiet=True)
    assert [shard.rows for shard in stored.manifest.shards] == [8, 14]


def test_a_shard_left_open_is_finished_though_no_row_is_new(tmp_path: Path):
    with pytest.raises(KeyboardInterrupt):
        encode(Blocks(2, raising(KeyboardInterrupt())), ROWS, tmp_path / "f", shard_rows=8, quiet=True)
    encode(Blocks(), ROWS[:4], tmp_path / "f", shard_rows=8, quiet=True)
    encode(Blocks(), ROWS[:4], tmp_path / "g", shard_rows=8, quiet=True)
    assert contents(tmp_path / "f") == contents(tmp_path / "g")


def test_blocks_are_cut_by_rows_alone(tmp_path: Path):
    encoder = HashEncoder(8)
    long = chat("x" * filling._BLOCK, "y")
    encode(encoder, [*ROWS[:3], long, *ROWS[3:]], tmp_path / "f", quiet=True)
    assert encoder.calls == 2


class Killed(BaseException):
    """The process dies here: nothing more reaches the disk."""


def test_a_kill_at_every_step_of_writing_open_shards_leaves_the_same_bytes(
    tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
):
    for kill_at in range(1000):
        folder, left = tmp_path / f"kill-{kill_at}", kill_at

        def step(call: Callable[..., object]) -> Callable[..., object]:
            def dying(*args: object, **_: object) -> object:
                nonlocal left
                left -= 1
                if left < 0:
                    raise Killed
                return call(*args)

            return dying

        with monkeypatch.context() as patch:
            for name in ("replace", "fsync"):
                patch.setattr(files.os, name, step(getattr(os, name)))
            patch.setattr(Path, "unlink", step(lambda path: os.unlink(path)))
            try:
                encode(Blocks(), ROWS, folder, shard_rows=8, quiet=True, flush_seconds=0)
                break
            except Killed:
                pass
        encode(Blocks(), ROWS, folder, shard_rows=8, quiet=True)
        assert contents(folder) == whole
    assert kill_at > 40
