"""Files: whole or absent under names of one's own; links, pipes and devices are written to; errors name the file."""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path

import pytest

from facetrm.core import files
from facetrm.core.files import new_file, read_json, remove_leftovers, write_bytes, write_json, write_text
from killing import deaths

root_only = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_the_old_or_the_new_one_wherever_its_writer_dies(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_text(path, "old")
    seen = []
    for _ in deaths(lambda: write_text(path, "new"), start=lambda: path.write_text("old", encoding="utf-8")):
        seen.append(path.read_text(encoding="utf-8"))
        write_text(path, "new")
        assert names(tmp_path) == ["a.json"], "the next writer removes what a killed one left"
    assert set(seen) == {"old"}
    assert path.read_text(encoding="utf-8") == "new"


def test_two_writers_of_one_name_do_not_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "scores.jsonl"
    with new_file(path) as one:
        one.write(b"1" * 100_000)
        one.flush()
        with new_file(path) as other:
            assert Path(other.name) != Path(one.name), "and what the first writes is not taken for a leftover"
            other.write(b"22")
        assert path.read_bytes() == b"22"
    assert path.read_bytes() == b"1" * 100_000
    assert names(tmp_path) == ["scores.jsonl"]


def test_many_threads_leave_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    texts = [str(n) * 50_000 for n in range(8)]
    threads = [threading.Thread(target=write_text, args=(path, text)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text(encoding="utf-8") in texts
    assert names(tmp_path) == ["x"]


def test_a_planted_temporary_name_is_not_written_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious", encoding="utf-8")
    (tmp_path / "out").mkdir()
    path = tmp_path / "out" / "scores.jsonl"
    (tmp_path / "out" / ".scores.jsonl.tmp").symlink_to(victim)
    write_text(path, "scores")
    assert victim.read_text(encoding="utf-8") == "precious"
    (tmp_path / "out" / ".scores.jsonl.000000000000.tmp").symlink_to(victim)
    monkeypatch.setattr("facetrm.core.files.secrets.token_hex", lambda n: "0" * 12)
    with pytest.raises(FileExistsError):
        write_text(path, "scores")
    assert victim.read_text(encoding="utf-8") == "precious"


def test_a_link_is_followed_and_stays(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "far").write_text("old", encoding="utf-8")
    for name, target in (("one", "disk/far"), ("two", "one"), ("dangling", "disk/none yet")):
        (tmp_path / name).symlink_to(target)
        write_text(tmp_path / name, f"by {name}")
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / name).read_text(encoding="utf-8") == f"by {name}"
    assert names(tmp_path / "disk") == ["far", "none yet"]


@root_only
def test_a_link_of_another_user_in_a_shared_folder_is_not_followed(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    (tmp_path / "victim").write_text("precious", encoding="utf-8")
    (shared / "out").symlink_to(tmp_path / "victim")
    os.chown(shared / "out", 12345, 12345, follow_symlinks=False)
    with pytest.raises(PermissionError, match="another user"):
        write_text(shared / "out", "x")
    assert (tmp_path / "victim").read_text(encoding="utf-8") == "precious"


@root_only
def test_a_device_is_written_to_and_never_replaced(tmp_path: Path) -> None:
    device = tmp_path / "null"
    os.mknod(device, 0o666 | stat.S_IFCHR, os.stat("/dev/null").st_rdev)
    write_text(device, "gone")
    assert stat.S_ISCHR(device.lstat().st_mode)
    assert names(tmp_path) == ["null"]


def test_the_null_device_by_a_link(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to(os.devnull)
    write_text(tmp_path / "out", "gone")
    assert stat.S_ISCHR((tmp_path / "out").stat().st_mode)


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(pipe.read_bytes()))
    reader.start()
    write_bytes(pipe, b"through")
    reader.join()
    assert found == [b"through"]
    assert stat.S_ISFIFO(pipe.lstat().st_mode)


@pytest.mark.parametrize("how", ["/dev/stdout", "/dev/fd/1", "link"])
def test_a_stream_goes_on_where_it_is(how: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "link").symlink_to("/dev/stdout")
    os.write(1, b"before ")
    write_text(tmp_path / "link" if how == "link" else Path(how), "written")
    os.write(1, b" after")
    assert capfd.readouterr().out == "before written after"


def test_modes(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_text(tmp_path / "new", "x")
        assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640
        (tmp_path / "new").chmod(0o604)
        write_text(tmp_path / "new", "y")
        assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o604
    finally:
        os.umask(old)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_names_the_file_and_keeps_nothing(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "scores.jsonl"
    write_text(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match=r"scores\.jsonl") as caught:
        write_text(path, "new")
    assert (caught.value.errno, caught.value.filename) == (number, str(path))
    assert names(tmp_path) == ["scores.jsonl"]
    assert path.read_text(encoding="utf-8") == "old"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has none")
def test_the_device_that_is_always_full() -> None:
    with pytest.raises(OSError, match="/dev/full") as caught:
        write_text(Path("/dev/full"), "x" * 100_000)
    assert caught.value.errno == errno.ENOSPC


def test_an_error_of_a_library_that_hides_the_number(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="model") as caught, new_file(tmp_path / "model"):
        raise ValueError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert caught.value.errno == errno.ENOSPC
    assert names(tmp_path) == []


def test_long_names(tmp_path: Path) -> None:
    for name in ("a" * 255, "ü" * 127):
        write_text(tmp_path / name, "x")
        assert (tmp_path / name).read_text(encoding="utf-8") == "x"
    with pytest.raises(OSError, match="aaaa") as caught:
        write_text(tmp_path / ("a" * 256), "x")
    assert caught.value.errno == errno.ENAMETOOLONG


def test_leftovers_below_and_what_is_no_leftover(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for name in (".a.0123456789ab.tmp", "deep/er/.b.0123456789ab.tmp"):
        (tmp_path / name).write_text("half", encoding="utf-8")
    (tmp_path / "deep" / ".model.0123456789ab.tmp").mkdir()
    kept = {".mine.tmp", "a.0123456789ab.tmp", ".a.0123456789AB.tmp", "deep"}
    for name in kept - {"deep"}:
        (tmp_path / name).write_text("mine", encoding="utf-8")
    with new_file(tmp_path / "deep" / "living") as handle:
        remove_leftovers(tmp_path, below=True)
        assert Path(handle.name).exists()
    assert {path.name for path in tmp_path.iterdir()} == kept
    assert names(tmp_path / "deep") == ["er", "living"]
    assert names(tmp_path / "deep" / "er") == []


def test_json_is_read_back(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": [1, "ü"]})
    assert read_json(tmp_path / "a.json", RuntimeError, fix="") == {"b": [1, "ü"]}  # type: ignore[arg-type]
