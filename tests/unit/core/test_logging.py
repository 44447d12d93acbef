"""The logger ``facetrm``: silent until a program asks; lines of text, JSON lines, and a bar that reads no markup."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from contextlib import redirect_stderr

import pytest

from facetrm.core.progress import log, progress, shown_logs

FOREIGN = "[/INST] [bold] \x1b[31mred\n行 \ud83d"


class Terminal(io.StringIO):
    """A standard error that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_library_says_nothing_unless_it_is_asked() -> None:
    program = "from facetrm.core.progress import log, progress\nlog('a', warning='b')\n"
    program += "with progress('c', 1) as meter: meter.advance(1)\n{}log('stage', n=1)"
    for asked, expected in (
        ("", ""),
        ("import logging; logging.basicConfig(level='INFO', format='%(name)s %(message)s')\n", "facetrm stage  n=1\n"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", program.format(asked)], capture_output=True, text=True, timeout=60, check=True
        )
        assert (done.stdout, done.stderr) == ("", expected)


def test_lines_of_text_hold_no_control_character() -> None:
    with redirect_stderr(io.StringIO()) as err, shown_logs():
        log("read", path=FOREIGN, rows=2)
    assert err.getvalue() == "read  path=[/INST] [bold] \\x1b[31mred\\n行 \\ud83d  rows=2\n"


def test_json_lines_hold_the_facts_as_they_are() -> None:
    with redirect_stderr(io.StringIO()) as err, shown_logs(json_lines=True):
        log("read", path=FOREIGN, rows=2)
    assert json.loads(err.getvalue()) == {"event": "read", "path": FOREIGN, "rows": 2}
    assert err.getvalue().isascii()


def test_what_was_shown_before_is_shown_after() -> None:
    with redirect_stderr(io.StringIO()) as err, shown_logs(json_lines=True):
        with shown_logs():
            log("inside")
        log("after")
    assert err.getvalue().splitlines() == ["inside", '{"event": "after"}']


def test_a_warning_is_logged_as_one(caplog: pytest.LogCaptureFixture) -> None:
    log("fine-tune", warning="small updates are lost")
    log("stage")
    assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.INFO]


def test_a_bar_on_a_terminal_reads_no_markup_and_json_lines_draw_none() -> None:
    for json_lines in (False, True):
        with redirect_stderr(Terminal()) as err, shown_logs(json_lines=json_lines), progress("[/INST]", 2) as meter:
            meter.advance(1, note="[/b] ok")
            log("between", path="[/INST]")
        if json_lines:
            assert json.loads(err.getvalue()) == {"event": "between", "path": "[/INST]"}
        else:
            assert "[/INST]" in err.getvalue()
            assert "between  path=[/INST]" in err.getvalue()
