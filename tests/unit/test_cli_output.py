"""What a verb prints arrives: in any encoding, before a reader that leaves, with markup in the text."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

import pytest

from facetrm.cli import main
from facetrm.recipes.run import Run
from tiny_runs import write_rows

FOREIGN = "行 🙂 é [/INST] [bold]"
U = {"role": "user", "content": FOREIGN}
PAIRS = [
    {
        "id": FOREIGN,
        "chosen": [U, {"role": "assistant", "content": FOREIGN}],
        "rejected": [U, {"role": "assistant", "content": "b"}],
    }
]


def encoded(encoding: str, *arguments: str | Path) -> str:
    """Run a verb whose standard output and error have an encoding, and return what it printed."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True) for _ in range(2))
    with (
        mock.patch.object(sys, "argv", ["facetrm", *map(str, arguments)]),
        redirect_stdout(out),
        redirect_stderr(err),
        pytest.raises(SystemExit) as left,
    ):
        main()
    said = err.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    assert left.value.code in (0, 3), said
    assert "UnicodeEncodeError" not in said
    return str(out.buffer.getvalue().decode(encoding))  # type: ignore[attr-defined]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.jsonl", PAIRS)


ENCODINGS = ("cp1252", "gbk", "ascii", "utf-8")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_scores_are_json_in_every_encoding(encoding: str, tiny_run: Run, rows: Path) -> None:
    lines = encoded(encoding, "score", tiny_run.folder, "--data", rows).splitlines()
    assert [json.loads(line)["id"] for line in lines] == [FOREIGN, FOREIGN]
    assert ("\\u" in lines[0]) == (encoding in ("cp1252", "gbk", "ascii"))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_view_is_printed_in_every_encoding(encoding: str, tiny_run: Run, rows: Path, tmp_path: Path) -> None:
    for verb in (
        ("explain", "--data", rows),
        ("explain", "--data", rows, "--overall"),
        ("explain", "--data", rows, "--json"),
        ("doctor", "--data", rows),
        ("doctor", "--data", rows, "--json"),
    ):
        said = encoded(encoding, verb[0], tiny_run.folder, *verb[1:])
        assert said.strip()
        if "--json" in verb:
            assert json.loads(said)
    where = ("--data", rows, "--out", tmp_path / "行")
    assert encoded(encoding, "encode", "--backbone", tiny_run.folder / "backbone", *where).startswith("2 conversations")
    judge = (
        "--rubric",
        "general",
        "--model",
        "行",
        "--base-url",
        "http://127.0.0.1:1/v1",
        "--dry-run",
        "--set",
        "task=chat",
    )
    assert encoded(encoding, "label", *judge, "--data", rows, "--out", tmp_path / "labels").strip()


@pytest.mark.parametrize("arguments", [["--help"], ["encode", "--help"], ["explain"]])
def test_a_reader_that_leaves_at_once_hears_no_complaint(arguments: list[str], tiny_run: Run, rows: Path) -> None:
    words = [*arguments, str(tiny_run.folder), "--data", str(rows)] if arguments == ["explain"] else arguments
    program = "import sys; sys.argv[0] = 'facetrm'; from facetrm.cli import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", program, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
    assert "Traceback" not in said
    assert "Exception ignored" not in said
    assert "BrokenPipe" not in said
