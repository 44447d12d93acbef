"""The manners of the house as functions: sizes, names, docstrings, words; each returns its violations, one line each.

``test_architecture.py`` calls them on this repository (no violation) and on small planted trees (each one is found).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeGuard

from architecture import Sources

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 80
MAX_EXAMPLE_LINES = 40


def long_files(paths: Iterable[Path], *, limit: int = MAX_FILE_LINES) -> list[str]:
    """No file is longer than ``limit`` lines."""
    counts = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in paths}
    return [f"{path}: {count} lines, more than {limit}" for path, count in counts.items() if count > limit]


def long_functions(sources: Sources, *, limit: int = MAX_FUNCTION_LINES) -> list[str]:
    """No function is longer than ``limit`` lines, its docstring included."""
    wrong = []
    for module in sources.modules.values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > limit:
                    wrong.append(f"{module.name}:{node.lineno} {node.name} has {lines} lines, more than {limit}")
    return wrong


def bad_names(paths: Iterable[Path]) -> list[str]:
    """A file is named after what it holds: no utils, common, helpers or misc, and no numbered part of another file."""
    pattern = re.compile(r"^_?(utils?|common|helpers?|misc|stuff)$|_part_?\d+$")
    return [f"{path}: name it after what it holds" for path in paths if pattern.search(path.stem)]


def stubs(sources: Sources) -> list[str]:
    """Every function does something: a body of nothing is for protocols, overloads and abstract methods."""
    wrong = []
    for module in sources.modules.values():
        for owner in ast.walk(module.tree):
            if not isinstance(owner, ast.Module | ast.ClassDef) or _is_protocol(owner):
                continue
            for node in owner.body:
                if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    continue
                marks = " ".join(ast.unparse(mark) for mark in node.decorator_list)
                body = [s for s in node.body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))]
                empty = all(isinstance(statement, ast.Pass) for statement in body)
                if empty and not re.search(r"abstractmethod|overload", marks):
                    wrong.append(f"{module.name}:{node.lineno} {node.name} does nothing")
    return wrong


def undocumented(sources: Sources) -> list[str]:
    """A public function or method has a docstring; ruff's D417 checks that ``Args:`` explains every parameter."""
    wrong = []
    for module in sources.modules.values():
        if any(part.startswith("_") and part != "__main__" for part in module.name.split(".")):
            continue
        for owner, node in _public_callables(module.tree):
            if ast.get_docstring(node) is None:
                owned = "" if isinstance(owner, ast.Module) else f"{owner.name}."
                wrong.append(f"{module.name}:{node.lineno} {owned}{node.name} has no docstring")
    return wrong


def _public_callables(
    tree: ast.Module,
) -> Iterator[tuple[ast.Module | ast.ClassDef, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Yield the public functions of a module and of its public classes, with their owner; a protocol has one text."""
    owners = [node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    for owner in [tree, *(node for node in owners if not _is_protocol(node))]:
        for node in owner.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
                yield owner, node


def _is_protocol(node: ast.AST) -> bool:
    return isinstance(node, ast.ClassDef) and any("Protocol" in ast.unparse(base) for base in node.bases)


def names_of_two_modules(sources: Sources) -> list[str]:
    """A public name is defined in one module; whoever reads it anywhere knows what it is.

    Exempt are type variables, the table ``OBJECTIVES`` that every source of data has, and a verb of the command line,
    which is named after what it calls.
    """
    homes: dict[str, list[str]] = {}
    for module in sources.modules.values():
        exempt = {"OBJECTIVES"} if module.name.startswith("facetrm.data.sources.") else set()
        for name in dict.fromkeys(_defined(module.tree, verbs=module.part != "cli")):
            if not name.startswith("_") and name not in exempt:
                homes.setdefault(name, []).append(module.name)
    return [f"'{name}' is defined in {' and '.join(found)}" for name, found in homes.items() if len(found) > 1]


def _defined(tree: ast.Module, *, verbs: bool) -> Iterator[str]:
    """Yield the names that a module defines at its top level, but for type variables and, unless asked, verbs."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if verbs or not _is_verb(node):
                yield node.name
        elif isinstance(node, ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            value = node.value.func if isinstance(node.value, ast.Call) else None
            if value is None or not re.search(r"\b(TypeVar|ParamSpec|TypeVarTuple)$", ast.unparse(value)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                yield from (part.id for t in targets for part in ast.walk(t) if _is_target(part))


def _is_verb(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether a function is a verb of the command line: a parameter is annotated with an option or an argument."""
    annotations = [ast.unparse(a.annotation) for a in (*node.args.args, *node.args.kwonlyargs) if a.annotation]
    return any("typer." in text for text in annotations)


def _is_target(node: ast.AST) -> TypeGuard[ast.Name]:
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)


def forbidden_words(paths: Iterable[Path], words: Sequence[str]) -> list[str]:
    """No line holds one of ``words`` (regular expressions)."""
    pattern = re.compile("|".join(words))
    wrong = []
    for path in paths:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if match := pattern.search(line):
                wrong.append(f"{path}:{number} holds '{match.group()}'")
    return wrong


def untrue_tree(readme: str, package: Path) -> list[str]:
    """The tree in the README names every folder of the package, and no folder, room or file that is not there.

    Args:
        readme: its text; the tree is the indented block under "## The tree".
        package: the folder ``src/facetrm``.
    """
    block = readme.partition("## The tree")[2].partition("\n## ")[0]
    below = block.partition("src/facetrm/\n")[2]
    lines = re.findall(r"^ {6}(\w+)/ +(.*)$", below, re.MULTILINE)
    rooms = {folder: re.findall(r"(\w+)/", meaning) for folder, meaning in lines}
    real = {p.name for p in package.iterdir() if p.is_dir() and (p / "__init__.py").is_file()}
    return [
        *(f"the tree lacks {name}/" for name in sorted(real - rooms.keys())),
        *(f"the tree names {name}/, which is not there" for name in sorted(rooms.keys() - real)),
        *(
            f"the tree names {folder}/{room}/, which is not there"
            for folder, named in rooms.items()
            for room in named
            if folder in real and not (package / folder / room).is_dir()
        ),
    ]
