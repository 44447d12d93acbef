"""A restricted interpreter for short functions, run as a script of its own: it imports the standard library alone.

Each line of standard input is a JSON object with ``code``, ``name`` and ``tests`` (pairs of arguments and result), and
each line of standard output one word: ``passed``, ``failed``, ``forbidden`` or ``stopped``. Every answer runs in a
process of its own: a fork of this one where the system can fork, else this one, which then ends. Only a syntax tree
whose every node, attribute and name is on a white list is run, with a small set of built-in functions, and with limits
on steps, time, processor time and memory.
"""

import ast
import json
import os
import signal
import sys
from types import FrameType
from typing import Any

STEPS = 200_000
SECONDS_EACH = 2
MEMORY = 512 * 1024 * 1024

_NODES = (
    *(
        ast.Module,
        ast.FunctionDef,
        ast.arguments,
        ast.arg,
        ast.Return,
        ast.Assign,
        ast.AugAssign,
        ast.AnnAssign,
        ast.For,
    ),
    *(ast.While, ast.If, ast.Break, ast.Continue, ast.Pass, ast.Expr, ast.BoolOp, ast.BinOp, ast.UnaryOp, ast.Compare),
    *(ast.Call, ast.keyword, ast.IfExp, ast.Lambda, ast.List, ast.Tuple, ast.Set, ast.Dict, ast.ListComp, ast.SetComp),
    *(
        ast.DictComp,
        ast.GeneratorExp,
        ast.comprehension,
        ast.Subscript,
        ast.Slice,
        ast.Name,
        ast.Constant,
        ast.Attribute,
    ),
    *(ast.Starred, ast.JoinedStr, ast.FormattedValue, ast.Try, ast.ExceptHandler, ast.Raise, ast.Assert, ast.Delete),
    *(ast.NamedExpr, ast.operator, ast.boolop, ast.cmpop, ast.unaryop, ast.expr_context),
)
_ATTRIBUTES = frozenset(
    [
        "append",
        "extend",
        "insert",
        "remove",
        "pop",
        "clear",
        "index",
        "count",
        "sort",
        "reverse",
        "copy",
        "get",
        "items",
        "keys",
        "values",
        "update",
        "setdefault",
        "fromkeys",
        "add",
        "discard",
        "union",
        "intersection",
        "difference",
        "issubset",
        "issuperset",
        "lower",
        "upper",
        "title",
        "capitalize",
        "strip",
        "lstrip",
        "rstrip",
        "split",
        "rsplit",
        "splitlines",
        "join",
        "replace",
        "startswith",
        "endswith",
        "find",
        "rfind",
        "isdigit",
        "isalpha",
        "isalnum",
        "isupper",
        "islower",
        "isspace",
        "swapcase",
        "casefold",
        "zfill",
        "partition",
        "rpartition",
        "is_integer",
    ]
)
_BUILT_IN = (
    *(
        abs,
        all,
        any,
        bool,
        chr,
        dict,
        divmod,
        enumerate,
        filter,
        float,
        frozenset,
        int,
        isinstance,
        iter,
        len,
        list,
        map,
    ),
    *(max, min, next, ord, pow, range, repr, reversed, round, set, sorted, str, sum, tuple, zip),
    *(ValueError, TypeError, IndexError, KeyError, ZeroDivisionError, StopIteration, Exception),
)


def forbidden(tree: ast.AST) -> str:
    """Return the first thing in a syntax tree that is not on the white list; an empty string where there is none.

    Args:
        tree: Syntax tree of the code.
    """
    for node in ast.walk(tree):
        if not isinstance(node, _NODES):
            return type(node).__name__
        names = [getattr(node, field, None) for field in ("id", "name", "arg", "attr")]
        for name in names:
            if isinstance(name, str) and name.startswith("_") and name not in {"_", "__name__"}:
                return name
        if isinstance(node, ast.Attribute) and node.attr not in _ATTRIBUTES:
            return f".{node.attr}"
        if isinstance(node, ast.FunctionDef) and node.decorator_list:
            return "decorator"
    return ""


def _end(word: str) -> None:
    """Write the outcome and leave at once, whatever the code is doing."""
    os.write(1, f"{word}\n".encode())
    os._exit(0)


def _limit() -> None:
    """Limit time, memory and processor time where the system can, and the number of steps everywhere."""
    if hasattr(signal, "alarm"):
        signal.alarm(2 * SECONDS_EACH)  # nothing handles it: it ends the process, even inside a built-in function
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS_EACH, SECONDS_EACH))
    except (ImportError, OSError, ValueError):
        pass  # The caller's time limit still holds.
    left = STEPS

    def count(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal left
        frame.f_trace_opcodes = True
        left -= 1
        if left < 0:
            _end("stopped")
        return count

    sys.settrace(count)


def _same(found: object, wanted: object) -> bool:
    if isinstance(wanted, bool) or isinstance(found, bool):
        return found is wanted
    if isinstance(wanted, float) or isinstance(found, float):
        return isinstance(found, int | float) and isinstance(wanted, int | float) and abs(found - wanted) < 1e-9
    return type(found) is type(wanted) and found == wanted


def run(code: str, name: str, tests: list[list[Any]]) -> str:
    """Run checked code against its tests, and return ``passed``, ``failed`` or ``forbidden``.

    Args:
        code: Source text.
        name: Name of the function to call.
        tests: Pairs of arguments and result.
    """
    tree = ast.parse(code)
    if forbidden(tree):
        return "forbidden"
    space: dict[str, Any] = {
        "__builtins__": {f.__name__: f for f in _BUILT_IN} | {"print": lambda *a, **k: None},
        "__name__": "answer",
    }
    compiled = compile(tree, "answer", "exec")
    _limit()
    try:
        exec(compiled, space)  # every node of the tree is on the white list
        passed = all(_same(space[name](*arguments), wanted) for arguments, wanted in tests)
    except BaseException:
        passed = False
    sys.settrace(None)
    return "passed" if passed else "failed"


def _answer(line: str) -> None:
    try:
        asked = json.loads(line)
        _end(run(asked["code"], asked["name"], asked["tests"]))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        _end("failed")


def serve() -> None:
    """Answer every line of standard input."""
    for line in sys.stdin:
        if not hasattr(os, "fork"):
            _answer(line)
        child = os.fork()
        if child == 0:
            _answer(line)
        _, status = os.waitpid(child, 0)
        if status:
            os.write(1, b"stopped\n")


if __name__ == "__main__":
    serve()
