"""One writer of a folder at a time: the second is told who writes, and a dead one holds nobody up."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

from facetrm.core.errors import StoreError
from facetrm.core.locks import sole_writer


def test_the_second_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    with sole_writer(tmp_path):
        with pytest.raises(StoreError) as caught, sole_writer(tmp_path):
            pytest.fail("two at once")
        said = str(caught.value)
        assert f"process {os.getpid()} on {platform.node()}, since 20" in said
        assert str(tmp_path) in said
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"
    with sole_writer(tmp_path):
        pass


def test_a_dead_holder_is_no_obstacle(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        with sole_writer(tmp_path):
            os._exit(9)
    os.waitpid(child, 0)
    assert (tmp_path / ".lock").exists(), "it could tidy nothing up"
    with sole_writer(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_child_that_outlives_its_parent_does_not_hold_the_folder(tmp_path: Path) -> None:
    read, write = os.pipe()
    parent = os.fork()
    if parent == 0:
        with sole_writer(tmp_path):
            if os.fork() == 0:  # a worker, such as one that loads data
                os.close(write)
                os.read(read, 1)  # until the test ends
                os._exit(0)
            os._exit(9)
    os.waitpid(parent, 0)
    with sole_writer(tmp_path):
        pass
    os.close(write)
    os.close(read)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x"}', "\x00" * 2000])
def test_a_lock_file_that_says_nothing(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with sole_writer(tmp_path):
        (tmp_path / ".lock").write_text(text, encoding="utf-8")
        with pytest.raises(StoreError, match="another process is writing to it; wait"), sole_writer(tmp_path):
            pass


def test_a_planted_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious", encoding="utf-8")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / ".lock").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match=r"\.lock"), sole_writer(tmp_path / "folder"):
        pass
    assert (tmp_path / "victim").read_text(encoding="utf-8") == "precious"
