"""Checker of code: whether it parses, and whether it passes its tests in a process of its own."""

from __future__ import annotations

import ast
import atexit
import json
import os
import re
import subprocess
import sys
import threading
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Final

from facetrm.data.desk.checks import interpreter
from facetrm.data.desk.forms import Request
from facetrm.data.desk.tasks.code import exercise_of

SECONDS_PER_ANSWER: Final = 10.0
LONGEST_CODE: Final = 4000
_FENCED: Final = re.compile(r"```[ \t]*\w*[ \t]*\n(.*?)(?:\n[ \t]*```|\Z)", re.DOTALL)


def check_program(request: Request, text: str) -> float:
    """Return 2 if the code passes its tests, 1 if it only parses, 0 if it does not parse or there is none.

    Code that imports something, or uses a name or an attribute that is not on the white list, is not run: it is at 1.
    """
    exercise = exercise_of(request)
    name = request["name"]
    best = 0.0
    for code in _candidates(text, name):
        found = _parse(code)
        if found is None:
            continue
        functions = [node.name for node in found.body if isinstance(node, ast.FunctionDef)]
        if not functions:
            continue
        best = max(best, 1.0)
        if name in functions:
            renamed = re.sub(rf"\b{re.escape(name)}\b", "asked_function", code)
            tests = json.dumps(exercise.tests)
            if _outcome(renamed, tests) == "passed":
                return 2.0
    return best


def _candidates(text: str, name: str) -> list[str]:
    """Return the pieces of a text that may be the code: fenced blocks, else the lines from the first ``def`` on."""
    fenced = [block for block in _FENCED.findall(text) if "def " in block or name in block]
    if fenced:
        return [*fenced, "\n".join(fenced)] if len(fenced) > 1 else fenced
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith("def ")), None)
    if start is None:
        return []
    end = start + 1
    while end < len(lines) and (not lines[end].strip() or lines[end][0] in " \t"):
        end += 1
    return ["\n".join(lines[start:end])]


def _parse(code: str) -> ast.Module | None:
    if len(code) > LONGEST_CODE:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


class _Worker:
    """The process that runs code; it is started when first asked, and again if it has ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._owner = 0

    def ask(self, line: str) -> str:
        """Return the outcome of one line; "stopped" if the process gave none."""
        with self._lock:
            process = self._started()
            stopper = threading.Timer(SECONDS_PER_ANSWER, process.kill)
            stopper.start()
            try:
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write(line + "\n")
                process.stdin.flush()
                return process.stdout.readline().strip() or "stopped"
            except OSError:
                return "stopped"
            finally:
                stopper.cancel()

    def _started(self) -> subprocess.Popen[str]:
        if (
            self._process is None
            or self._owner != os.getpid()
            or self._process.poll() is not None
            or os.name != "posix"
        ):
            command = [sys.executable, "-I", "-S", str(Path(interpreter.__file__))]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            self._owner = os.getpid()
            atexit.register(_close, self._process)
        return self._process


def _close(process: subprocess.Popen[str]) -> None:
    """End a worker without waiting for what it is doing."""
    process.kill()
    process.communicate()


_WORKER: Final = _Worker()


@lru_cache(maxsize=4096)
def _outcome(code: str, tests: str) -> str:
    """Run ``asked_function`` against its tests in a process of its own."""
    return _WORKER.ask(json.dumps({"code": code, "name": "asked_function", "tests": json.loads(tests)}))
