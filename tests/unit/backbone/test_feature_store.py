from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from facetrm.backbone import store as store_module
from facetrm.backbone.encoder import Features
from facetrm.backbone.shards import locked
from facetrm.backbone.store import FeatureStore, encode
from facetrm.backbone.transformer import BackboneConfig, load_encoder
from facetrm.core import files
from facetrm.core.errors import StoreError
from facetrm.data.records import conversation_key
from fakes import HashEncoder, chat, tiny_decoder

ROWS = [chat(f"question {i % 5}", f"answer {i}") for i in range(11)]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def same(one: Features, other: Features) -> bool:
    tensors = [name for name, value in vars(one).items() if isinstance(value, torch.Tensor)]
    return one.layers == other.layers and all(torch.equal(getattr(one, n), getattr(other, n)) for n in tensors)


def test_features_come_back_in_the_order_asked(tmp_path):
    encoder = HashEncoder(8, adapters=2)
    stored = encode(encoder, ROWS, tmp_path / "f", shard_rows=4)
    asked = [ROWS[i] for i in (10, 0, 3, 3, 9, 4)]
    assert same(stored.features(asked), encoder.encode(asked))
    assert same(FeatureStore(tmp_path / "f", encoder=encoder).features(ROWS), encoder.encode(ROWS))
    assert stored.features(asked).response_NAD.shape == (6, 2, 8)
    assert len(stored) == 11
    assert stored.hidden_size == 8
    assert ROWS[4] in stored
    assert chat("other", "text") not in stored


def test_streams(tmp_path):
    encoder = HashEncoder()
    stored = encode(encoder, ROWS, tmp_path / "f", shard_rows=4)
    parts = list(stored.stream(iter(ROWS[::-1]), rows=3))
    assert [len(part) for part in parts] == [3, 3, 3, 2]
    assert same(Features.concat(parts), encoder.encode(ROWS[::-1]))
    shards = list(stored.shards())
    assert [key for keys, _ in shards for key in keys] == [conversation_key(row) for row in ROWS]
    assert same(Features.concat([features for _, features in shards]), encoder.encode(ROWS))


def test_a_second_run_encodes_nothing_and_changes_nothing(tmp_path):
    encode(HashEncoder(), ROWS, tmp_path / "f", shard_rows=4)
    before = contents(tmp_path / "f")
    counter = HashEncoder()
    encode(counter, iter(ROWS[::-1]), tmp_path / "f", shard_rows=3)
    assert (counter.calls, counter.rows) == (0, 0)
    assert contents(tmp_path / "f") == before


def test_duplicates_are_encoded_once_and_new_rows_are_added(tmp_path):
    counter = HashEncoder()
    encode(counter, ROWS[:6] * 3, tmp_path / "f", shard_rows=4)
    assert counter.rows == 6
    first = contents(tmp_path / "f")
    stored = encode(counter, ROWS, tmp_path / "f", shard_rows=4)
    assert (counter.rows, len(stored)) == (11, 11)
    after = contents(tmp_path / "f")
    assert all(after[name] == data for name, data in first.items() if name.startswith("shard"))
    assert [shard.rows for shard in stored.manifest.shards] == [4, 2, 4, 1]


def test_conversations_are_streamed(tmp_path):
    encoder, ahead = HashEncoder(), []

    def source():
        for n, row in enumerate(ROWS):
            ahead.append(n - encoder.rows)
            yield row

    encode(encoder, source(), tmp_path / "f", shard_rows=2)
    assert max(ahead) <= 2


def test_nothing_to_encode(tmp_path):
    stored = encode(HashEncoder(8), [], tmp_path / "f")
    assert len(stored) == 0
    assert stored.features([]).prompt_ND.shape == (0, 8)


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.02), ("float16", 0.002)])
def test_half_precision_on_disk(tmp_path, dtype, tolerance):
    encoder = HashEncoder()
    stored = encode(encoder, ROWS, tmp_path / "half", dtype=dtype)
    got, exact = stored.features(ROWS), encoder.encode(ROWS)
    assert got.prompt_ND.dtype == torch.float32
    assert 0 < (got.response_NAD - exact.response_NAD).abs().max() < tolerance
    assert torch.equal(got.length_N, exact.length_N)
    with pytest.raises(StoreError, match=f"stored as {dtype}, not float32"):
        encode(encoder, ROWS, tmp_path / "half")


class Crash(BaseException):
    """The process dies here."""


def test_a_crash_at_every_step_of_writing_leaves_the_same_bytes(tmp_path, monkeypatch):
    encode(HashEncoder(), ROWS, tmp_path / "whole", shard_rows=3)
    whole, steps = contents(tmp_path / "whole"), 0
    for crash_at in range(1000):
        folder, left = tmp_path / f"crash-{crash_at}", crash_at

        def step(call):
            def dying(*args, **kwargs):
                nonlocal left
                if left == 0:
                    raise Crash
                left -= 1
                return call(*args, **kwargs)

            return dying

        with monkeypatch.context() as patch:
            patch.setattr(files.os, "replace", step(os.replace))
            patch.setattr(files.os, "fsync", step(os.fsync))
            try:
                encode(HashEncoder(), ROWS, folder, shard_rows=3)
                break
            except Crash:
                steps += 1
        counter = HashEncoder()
        encode(counter, iter(ROWS), folder, shard_rows=3)
        assert contents(folder) == whole
        assert counter.rows <= len(ROWS)
    assert steps == 3 * (1 + 2 * 4)  # file, name and folder of a first manifest, then of 4 shards and a manifest each


def test_bytes_do_not_depend_on_the_run(tmp_path):
    for name in ("one", "two"):
        encode(HashEncoder(), ROWS, tmp_path / name, shard_rows=4)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    with safe_open(tmp_path / "one" / "shard-00000.safetensors", framework="pt") as handle:
        assert list(handle.metadata()) == ["facetrm"]


def test_a_shard_of_a_decoder_depends_on_its_own_rows_alone(tmp_path):
    encoder = load_encoder(BackboneConfig(path=str(tiny_decoder(tmp_path / "b")), device="cpu"))
    rows = [chat(f"question {i // 3} {'why ' * (i // 3)}", f"answer {'x' * i}") for i in range(24)]
    encode(encoder, rows, tmp_path / "all", shard_rows=8)
    shards = [name for name in contents(tmp_path / "all") if name.endswith(".safetensors")]
    for number, name in enumerate(shards):
        alone = tmp_path / f"alone {number}"
        encode(encoder, rows[8 * number : 8 * number + 8], alone, shard_rows=8)
        (only,) = (data for file, data in contents(alone).items() if file.endswith(".safetensors"))
        assert only == (tmp_path / "all" / name).read_bytes(), "prompt 2 and 5 lie in two shards, and are read in both"
    assert len(shards) == 3


def test_traces_of_a_crash_are_removed_and_other_files_are_not(tmp_path):
    encode(HashEncoder(), ROWS, tmp_path, shard_rows=4)
    for name in (".manifest.json.tmp", ".shard-00003.safetensors.tmp", "shard-00003.safetensors", "notes.txt"):
        (tmp_path / name).write_text("x")
    encode(HashEncoder(), ROWS, tmp_path, shard_rows=4)
    assert sorted(contents(tmp_path)) == [
        "lock",
        "manifest.json",
        "notes.txt",
        *(f"shard-0000{i}.safetensors" for i in range(3)),
    ]


def test_features_of_another_encoder_are_refused(tmp_path):
    encode(HashEncoder(seed=0), ROWS, tmp_path / "f")
    other = HashEncoder(seed=1)
    with pytest.raises(StoreError, match=HashEncoder(seed=0).fingerprint[:12]) as caught:
        FeatureStore(tmp_path / "f", encoder=other)
    assert other.fingerprint[:12] in str(caught.value)
    assert "another folder" in caught.value.fix


def test_another_encoder_writes_below_and_touches_nothing(tmp_path):
    one, other = HashEncoder(seed=0), HashEncoder(seed=1)
    encode(one, ROWS, tmp_path / "f")
    before = contents(tmp_path / "f")
    stored = encode(other, ROWS[:5], tmp_path / "f")
    assert stored.folder.parent == tmp_path / "f"
    assert same(stored.features(ROWS[:5]), other.encode(ROWS[:5]))
    assert {name: data for name, data in contents(tmp_path / "f").items() if name in before} == before
    for encoder, rows in ((one, ROWS), (other, ROWS[:5])):
        assert same(FeatureStore(tmp_path / "f", encoder=encoder).features(rows), encoder.encode(rows))
    with pytest.raises(StoreError, match=r"features of 2 encoders.*encoder-"):
        FeatureStore(tmp_path / "f")
    counter = HashEncoder(seed=1)
    encode(counter, ROWS[:5], tmp_path / "f")
    assert counter.rows == 0


def test_an_empty_store_takes_any_encoder_and_type(tmp_path):
    encode(HashEncoder(seed=0), [], tmp_path / "f")
    stored = encode(HashEncoder(seed=1), ROWS, tmp_path / "f", dtype="bfloat16")
    assert stored.folder == tmp_path / "f"
    assert (stored.fingerprint, stored.manifest.dtype) == (HashEncoder(seed=1).fingerprint, "bfloat16")
    assert sorted(contents(tmp_path / "f")) == ["lock", "manifest.json", "shard-00000.safetensors"]


def test_an_unknown_conversation_is_named(tmp_path):
    stored = encode(HashEncoder(), ROWS, tmp_path / "f")
    with pytest.raises(StoreError, match=r"f: conversation 1 \('never seen'.*encode it"):
        stored.features([ROWS[0], chat("never seen", "x")])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("spoil", ["flipped", "cut", "gone"])
def test_a_damaged_shard_is_an_error(tmp_path, spoil):
    stored = encode(HashEncoder(), ROWS, tmp_path, shard_rows=4)
    path = tmp_path / "shard-00001.safetensors"
    if spoil == "flipped":
        flip(path)
    elif spoil == "cut":
        path.write_bytes(path.read_bytes()[:-8])
    else:
        path.unlink()
    stored.features(ROWS[:4])  # in another shard
    for attempt in (stored.verify, lambda: stored.features(ROWS), lambda: list(stored.shards())):
        with pytest.raises(StoreError, match=r"shard-00001.safetensors: .*(damaged|missing).*encode again"):
            attempt()
    if spoil != "flipped":
        with pytest.raises(StoreError, match=r"shard-00001.safetensors: .*(bytes, not|missing)"):
            FeatureStore(tmp_path)


def test_a_manifest_that_is_not_ours(tmp_path):
    with pytest.raises(StoreError, match=r"no file 'manifest.json'.*'encode' wrote"):
        FeatureStore(tmp_path / "nowhere")
    encode(HashEncoder(), ROWS, tmp_path)
    path = tmp_path / "manifest.json"
    good = json.loads(path.read_text())
    foreign = json.dumps({**good, "shards": [{**good["shards"][0], "file": "../elsewhere"}]})
    for bad in ("{", "[]", "{}", json.dumps({**good, "version": 9}), json.dumps({**good, "shards": [1]}), foreign):
        path.write_text(bad)
        with pytest.raises(StoreError, match=r"manifest\.json"):
            FeatureStore(tmp_path)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(StoreError, match=r"holds 'thesis.txt' but no manifest.json"):
        encode(HashEncoder(), ROWS, tmp_path)
    with pytest.raises(StoreError, match="a file, not a folder"):
        encode(HashEncoder(), ROWS, tmp_path / "thesis.txt")
    assert sorted(contents(tmp_path)) == ["thesis.txt"]
    encode(HashEncoder(), ROWS, tmp_path / "f")
    (tmp_path / "f" / "manifest.json").unlink()
    with pytest.raises(StoreError, match=r"holds 'shard-00000.safetensors' but no manifest.json"):
        encode(HashEncoder(), ROWS, tmp_path / "f")


def test_one_writer_at_a_time(tmp_path):
    with locked(tmp_path / "f"), pytest.raises(StoreError, match="another process is writing"):
        encode(HashEncoder(), ROWS, tmp_path / "f")
    encode(HashEncoder(), ROWS, tmp_path / "f")


@pytest.mark.parametrize(
    ("settings", "problem"), [({"shard_rows": 0}, "shard_rows is 0"), ({"dtype": "int8"}, "'int8'")]
)
def test_wrong_settings(tmp_path, settings, problem):
    with pytest.raises(StoreError, match=problem):
        encode(HashEncoder(), ROWS, tmp_path / "f", **settings)


class Spoiled(HashEncoder):
    def __init__(self, change):
        super().__init__()
        self.change = change

    def encode(self, conversations, *, on_batch=None):
        return self.change(super().encode(conversations, on_batch=on_batch))


def test_features_that_cannot_be_stored(tmp_path):
    def infinite(features):
        features.response_NAD[3, 0, 0] = 1e6
        return features

    with pytest.raises(StoreError, match=f"key {conversation_key(ROWS[3])[:12]} is not finite as float16.*float32"):
        encode(Spoiled(infinite), ROWS, tmp_path / "f", dtype="float16")
    with pytest.raises(StoreError, match="gave 10 rows for 11 conversations"):
        encode(Spoiled(lambda f: f.select(torch.arange(10))), ROWS, tmp_path / "g")


def test_progress_counts_every_row_and_its_tokens(tmp_path, monkeypatch):
    seen = []
    real = store_module.progress

    def spy(title, total, *, quiet):
        seen.append((title, total, quiet))
        meter = real(title, total, quiet=quiet)
        return _Kept(meter, seen)

    monkeypatch.setattr(store_module, "progress", spy)
    encode(HashEncoder(), ROWS + ROWS[:3], tmp_path / "f", shard_rows=4, quiet=True)
    encode(HashEncoder(), iter([*ROWS, chat("a", "b c")]), tmp_path / "f", shard_rows=4, quiet=True)
    assert seen == [("encode f", 14, True), (14, 44), ("encode f", None, True), (12, 3)]


class _Kept:
    def __init__(self, manager, seen):
        self.manager, self.seen = manager, seen

    def __enter__(self):
        self.meter = self.manager.__enter__()
        return self.meter

    def __exit__(self, *exc):
        self.seen.append((self.meter.done, self.meter.tokens))
        return self.manager.__exit__(*exc)


@pytest.mark.parametrize("adapters", [1, 2])
def test_arrays_that_an_encoder_gives_twice_are_stored_twice(tmp_path, adapters):
    class Twice(HashEncoder):
        """Its prompt vector is the answer's, and it counts the tokens of a conversation as those of the answer."""

        def encode(self, conversations, **options):
            made = super().encode(conversations, **options)
            return dataclasses.replace(made, prompt_ND=made.response_NAD[:, 0], length_N=made.tokens_N)

    encoder = Twice(8, adapters=adapters)
    stored = encode(encoder, ROWS, tmp_path / "f", shard_rows=4)
    found = stored.features(ROWS)
    assert torch.equal(found.prompt_ND, found.response_NAD[:, 0])
    assert torch.equal(found.length_N, found.tokens_N)
    assert same(found, encoder.encode(ROWS))
