"""The key is sent to the server and stands nowhere else: no file, no message, no log."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from command_line import assert_refused, command
from facetrm.core.errors import ConfigError, LabelError
from facetrm.data.read.files import write_records
from facetrm.label.run import label_pairs
from label_samples import plan, preference
from label_server import KEY, LabelServer, label_server


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[LabelServer]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with label_server() as running:
        yield running


def everything(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("status", [400, 401, 500])
def test_a_server_that_repeats_the_key_does_not_spread_it(
    server: LabelServer,
    status: int,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    server.fault = lambda content, n: (
        f"{status}:Incorrect API key {KEY} or Bearer {KEY} or sk-a-key****6789" if n < 2 else None
    )
    message = ""
    try:
        label_pairs(plan(server.url, tries=2), tmp_path)
    except LabelError as exc:
        message = str(exc)
    assert server.keys == {KEY}
    said = capsys.readouterr()
    files = everything(tmp_path)
    assert b"Incorrect API key ***" in files
    for text in (message, caplog.text, said.out, said.err, files.decode("utf-8", errors="replace")):
        assert KEY not in text
        assert "sk-a-key" not in text


def test_a_reply_that_repeats_the_key_is_stored_without_it(
    server: LabelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("label_server.judge", lambda messages: {"content": None, "refusal": f"not with {KEY}"})
    assert label_pairs(plan(server.url), tmp_path, quiet=True).report["all"]["outcomes"]["cannot_say"] == 12
    assert b"not with ***" in everything(tmp_path)
    assert KEY.encode() not in everything(tmp_path)


@pytest.mark.parametrize(
    ("settings", "key", "problem"),
    [
        ({"api_key_env": "sk-secret-in-the-wrong-place"}, KEY, "api_key_env: not the name of an environment variable"),
        ({"api_key_env": "deadbeefdeadbeef"}, KEY, "api_key_env: not the name of an environment variable"),
        (
            {"base_url": "https://me:secret@example.com/v1"},
            KEY,
            "base_url: the address contains a user, a password or a query",
        ),
        (
            {"base_url": "https://example.com/v1?key=secret"},
            KEY,
            "base_url: the address contains a user, a password or a query",
        ),
        ({"base_url": "secret"}, KEY, "base_url: not an http address"),
        ({"base_url": "http://[secret/v1"}, KEY, "base_url: not an http address"),
        ({"base_url": "https://example.com/v1"}, "", "the environment variable OPENAI_API_KEY is not set"),
        ({"base_url": "https://example.com/v1"}, "secret with blanks", "contains characters that cannot be in a key"),
        ({"base_url": "https://example.com/v1"}, "secret\u2026", "contains characters that cannot be in a key"),
    ],
)
def test_misplaced_secrets_are_refused_without_being_shown(
    settings: dict[str, Any], key: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(ConfigError) as caught:
        label_pairs(plan(**settings), tmp_path, quiet=True)
    assert problem in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "deadbeef" not in str(caught.value)


def test_a_key_in_the_settings_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_records(path, [preference(0, 1, 2, task="chat")])
    said = command(
        "label", "--data", path, "--rubric", "general", "--model", "m", "--out", tmp_path / "out",
        "--set", f"api_key={KEY}",
    )  # fmt: skip
    assert_refused(said, "unknown setting 'api_key'; did you mean 'api_key_env'?")
    assert KEY not in said.err + said.out


def test_a_server_on_this_machine_needs_no_key(
    server: LabelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    assert len(label_pairs(plan(server.url), tmp_path, quiet=True).preferences) == 12
    assert server.keys == {""}
