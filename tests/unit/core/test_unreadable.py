"""What cannot be read is not called missing or damaged, and nobody is told to delete it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest

from facetrm.backbone.config import BackboneConfig
from facetrm.backbone.store import FeatureStore, encode
from facetrm.backbone.text.template import chat_template
from facetrm.core.errors import FacetrmError
from facetrm.core.files import write_text
from facetrm.data.read.conversations import read_conversations
from facetrm.model.reward_model import RewardModel
from fakes import HashEncoder, chat
from reward_models import model
from tiny_runs import GOOD, write_rows

NUMBERS = [errno.EACCES, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EIO]


def weights(folder: Path) -> tuple[Path, Callable[[], object]]:
    model().save(folder / "model")
    return folder / "model" / "mixture-0.safetensors", lambda: RewardModel.load(
        folder / "model", load_encoder=lambda spec: HashEncoder(16)
    )


def shard(folder: Path) -> tuple[Path, Callable[[], object]]:
    rows = [chat("why", "so")]
    encode(HashEncoder(), rows, folder / "store", quiet=True)
    return folder / "store" / "shard-00000.safetensors", lambda: FeatureStore(folder / "store").features(rows)


def template(folder: Path) -> tuple[Path, Callable[[], object]]:
    path = folder / "chat.jinja"
    write_text(path, "{{ messages }}")
    return path, lambda: chat_template(mock.Mock(), BackboneConfig(path="x", template=str(path)))


def lines(folder: Path) -> tuple[Path, Callable[[], object]]:
    path = write_rows(folder / "rows.jsonl", [GOOD])
    return path, lambda: read_conversations(path)


@pytest.mark.parametrize("number", NUMBERS, ids=[errno.errorcode[n] for n in NUMBERS])
@pytest.mark.parametrize("make", [weights, shard, template, lines])
def test_unreadable_is_not_missing(
    make: Callable[[Path], tuple[Path, Callable[[], object]]],
    number: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, read = make(tmp_path)
    read()
    usual = open

    def opened(file: object, *arguments: object, **settings: object) -> object:
        if str(file) == str(path):
            raise OSError(number, os.strerror(number), str(file))
        return usual(file, *arguments, **settings)  # type: ignore[call-overload]

    plain = os.open

    def opened_low(file: object, *arguments: object, **settings: object) -> int:
        if str(file) == str(path):
            raise OSError(number, os.strerror(number), str(file))
        return plain(file, *arguments, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr("os.open", opened_low)
    monkeypatch.setattr("builtins.open", opened)
    monkeypatch.setattr("io.open", opened)
    with pytest.raises(FacetrmError) as caught:
        read()
    said = str(caught.value).replace(str(tmp_path), "")
    assert os.strerror(number) in said
    assert path.name in said
    assert not any(word in said for word in ("missing", "no such", "damaged", "delete", "fetch", "encode again")), said
