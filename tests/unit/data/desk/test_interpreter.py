"""The restricted interpreter: what it never runs, and that nothing in it can run for long or take the checker down."""

from __future__ import annotations

import ast
import json
import time

import pytest

from facetrm.data.desk.checks.code import _outcome
from facetrm.data.desk.checks.interpreter import forbidden

ONE = json.dumps([[[1], 1]])


def outcome(body: str) -> str:
    return _outcome(f"def asked_function(n):\n    {body}", ONE)


@pytest.mark.parametrize(
    "code",
    [
        "import os",
        "from os import system",
        "def f(n):\n    import os",
        "x = ().__class__",
        "x = f.__globals__",
        "x = [].append.__self__",
        "x = _private",
        "__builtins__ = 1",
        "x = '{0.a}'.format(1)",
        "x = 'a'.format_map({})",
        "class A: pass",
        "async def f(): pass",
        "def f():\n    yield 1",
        "global x",
        "with x: pass",
        "@property\ndef f(): pass",
        "x = a.mro",
        "x = g.gi_frame",
        "f(__import__=1)",
        "match x:\n    case 1: pass",
        "def f(_hidden): pass",
        "del x.y",
    ],
)
def test_what_is_not_on_the_white_list_is_forbidden(code: str) -> None:
    assert forbidden(ast.parse(code))
    assert _outcome(code, ONE) == "forbidden"


def test_ordinary_code_is_allowed() -> None:
    code = "def f(n: int = 2) -> list:\n    return sorted({str(x).upper(): x for x in range(n) if x}.items())[::-1]"
    assert forbidden(ast.parse(code)) == ""
    assert outcome("return n") == "passed"
    assert outcome("return n + 1") == "failed"
    assert outcome("return True") == "failed", "True is not 1"


@pytest.mark.parametrize(
    "body",
    [
        "while True: n += 1",
        "return [x for x in iter(int, 1)]",
        "return asked_function(n)",
        "return 10 ** 10 ** 10",
        "return sum(range(10 ** 14))",
        "return [0] * 10 ** 12",
        "return 'x' * 10 ** 12",
        "return f'{n:>999999999999}'",
        "return open('x')",
        "return eval('1')",
        "return getattr(n, 'real')",
        "raise ValueError",
        "return 1 / 0",
    ],
)
def test_code_that_misbehaves_fails_in_bounded_time(body: str) -> None:
    begun = time.monotonic()
    assert outcome(body) in {"failed", "stopped"}
    assert time.monotonic() - begun < 60
    assert outcome("return n") == "passed", "and the next answer is run"


def test_what_the_code_writes_is_not_an_outcome() -> None:
    assert outcome("print('passed')\n    return 2") == "failed"
    assert _outcome("print('passed')", ONE) == "failed"
