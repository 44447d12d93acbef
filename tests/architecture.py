"""The floors of the house as functions: each reads a tree of sources and returns its violations, one line each.

``test_architecture.py`` calls them on this repository (no violation) and on small planted trees (each one is found).
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

PACKAGE = "facetrm"
FLOORS: Mapping[str, int] = {
    "core": 0,
    "data": 1,
    "backbone": 2,
    "label": 2,
    "model": 3,
    "fit": 4,
    "hub": 4,
    "baselines": 4,
    "evaluate": 5,
    "doctor": 5,
    "explain": 5,
    "policy": 5,
    "serve": 5,
    "report": 5,
    "recipes": 6,
    "cli": 7,
    "__main__": 8,
    "": 8,  # the package itself: the curated names
}
# Who may look sideways, and at whom; everything else on one floor is apart.
SIDEWAYS = {
    ("baselines", "fit"),
    ("baselines", "hub"),
    ("report", "evaluate"),
    ("report", "explain"),
    ("serve", "explain"),
    ("serve", "policy"),
}
# What floor 3 may know of floor 2: the protocol and the dataclass.
SEAM = f"{PACKAGE}.backbone.encoder"
LOADER = f"{PACKAGE}.core.lazy"
HUGGING_FACE = frozenset({"transformers", "peft", "trl"})
BANNED = {
    0: HUGGING_FACE | {"torch", "datasets"},
    1: HUGGING_FACE | {"torch"},
    3: HUGGING_FACE | {"datasets"},
}


@dataclass(frozen=True)
class Import:
    """One import of one module: ``target`` is absolute.

    ``inner`` when it stands inside a function; ``typing`` when type checkers alone see it, so that it never runs.
    """

    target: str
    line: int
    inner: bool
    typing: bool = False


@dataclass(frozen=True)
class Module:
    """One source file of the package."""

    name: str
    path: Path
    source: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.source, filename=str(self.path))

    @property
    def part(self) -> str:
        """The first name below the package: what has a floor."""
        return ([*self.name.split("."), ""])[1]

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"


class Sources:
    """The modules of the package in ``folder`` (the one that holds ``__init__.py``)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.modules: dict[str, Module] = {}
        for path in sorted(folder.rglob("*.py")):
            parts = [PACKAGE, *path.relative_to(folder).with_suffix("").parts]
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            self.modules[name] = Module(name, path, path.read_text(encoding="utf-8"))

    def imports(self, module: Module) -> list[Import]:
        """Return what ``module`` imports, wherever in the file, dynamic imports of a literal name included."""
        found: list[Import] = []
        unseen = {id(node) for block in _typing_blocks(module.tree) for node in ast.walk(block)}
        for node, inner in _walk(module.tree):
            typing = id(node) in unseen
            if isinstance(node, ast.Import):
                found += [Import(alias.name, node.lineno, inner, typing) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = _absolute(module, node)
                for alias in node.names:
                    child = f"{base}.{alias.name}"
                    found.append(Import(child if child in self.modules else base, node.lineno, inner, typing))
            elif isinstance(node, ast.Call) and (target := _dynamic_import(node)):
                found.append(Import(target, node.lineno, inner))
        return found

    def own_imports(self, module: Module) -> list[Import]:
        """Return the imports of this package's own modules."""
        return [found for found in self.imports(module) if found.target.split(".")[0] == PACKAGE]


def _walk(tree: ast.AST, inner: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    """Yield every node below ``tree`` and whether it stands inside a function."""
    for child in ast.iter_child_nodes(tree):
        yield child, inner
        yield from _walk(child, inner or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))


def _typing_blocks(tree: ast.AST) -> Iterator[ast.stmt]:
    """Yield the statements below ``if TYPE_CHECKING:``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
            yield from node.body


def _absolute(module: Module, node: ast.ImportFrom) -> str:
    if node.level == 0:
        return node.module or ""
    parts = module.name.split(".")
    kept = parts[: len(parts) - node.level + (1 if module.is_package else 0)]
    return ".".join([*kept, *([node.module] if node.module else [])])


def _dynamic_import(node: ast.Call) -> str | None:
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if name not in {"import_module", "__import__"} or not node.args:
        return None
    argument = node.args[0]
    return argument.value if isinstance(argument, ast.Constant) and isinstance(argument.value, str) else None


def unknown_parts(sources: Sources) -> list[str]:
    """Every module belongs to a part that has a floor."""
    return [f"{m.name}: '{m.part}' has no floor" for m in sources.modules.values() if m.part not in FLOORS]


def upward_imports(sources: Sources) -> list[str]:
    """Imports go down only; on one floor, parts are apart but for the named exceptions; floor 3 sees only the seam."""
    wrong = []
    for module in sources.modules.values():
        for found in sources.own_imports(module):
            part = ([*found.target.split("."), ""])[1]
            if part == module.part:
                continue
            above, here = FLOORS.get(part, 99), FLOORS.get(module.part, 99)
            if above > here:
                wrong.append(f"{module.name}:{found.line} imports {found.target}: floor {above} from floor {here}")
            elif above == here and (module.part, part) not in SIDEWAYS:
                wrong.append(f"{module.name}:{found.line} imports {found.target}: its neighbour on floor {here}")
            elif here == 3 and above == 2 and found.target != SEAM:
                wrong.append(f"{module.name}:{found.line} imports {found.target}: floor 3 knows {SEAM} alone")
    return wrong


def inner_imports(sources: Sources) -> list[str]:
    """No import of our own code inside a function."""
    return [
        f"{module.name}:{found.line} imports {found.target} inside a function"
        for module in sources.modules.values()
        for found in sources.own_imports(module)
        if found.inner
    ]


def imports_by_name(sources: Sources) -> list[str]:
    """One module imports by a name that is computed; the others say what they import where a reader sees it."""
    wrong = []
    for module in sources.modules.values():
        for node in ast.walk(module.tree):
            if not isinstance(node, ast.Call) or module.name == LOADER:
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in {"import_module", "__import__"} and _dynamic_import(node) is None:
                wrong.append(f"{module.name}:{node.lineno} imports by a computed name: {LOADER} alone does")
    return wrong


def untrue_exports(sources: Sources) -> list[str]:
    """A package that exports lazily says the same three times: ``__all__``, what type checkers see, and the table.

    No name is that of a module beside it: importing that module would put it in the name's place.
    """
    wrong = []
    for module in sources.modules.values():
        table = _lazy_table(module.tree)
        if table is None:
            continue
        listed, seen = _listed(module.tree), {}
        for block in _typing_blocks(module.tree):
            if isinstance(block, ast.ImportFrom):
                seen |= {alias.asname or alias.name: _absolute(module, block) for alias in block.names}
        wrong += [
            f"{module.name}: '{name}' is not the same in __all__, for type checkers and in the table"
            for name in sorted({*listed, *seen, *table})
            if name not in listed or seen.get(name) != table.get(name)
        ]
        wrong += [
            f"{module.name}: '{name}' is also a module in it"
            for name in listed
            if f"{module.name}.{name}" in sources.modules
        ]
    return wrong


def _listed(tree: ast.Module) -> list[str]:
    """Return ``__all__`` as written, empty where there is none."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return [str(name) for name in ast.literal_eval(node.value)]
    return []


def _lazy_table(tree: ast.Module) -> dict[str, str] | None:
    """Return the names that a package exports lazily, with their modules; None where it does not."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "lazy":
            homes = ast.literal_eval(node.args[1])
            return {name: home for home, names in homes.items() for name in names}
    return None


def banned_imports(sources: Sources) -> list[str]:
    """The floors of BANNED never import what stands there, neither themselves nor through a module they import."""
    wrong = []
    for module in sources.modules.values():
        banned = BANNED.get(FLOORS.get(module.part, 99), frozenset())
        seen, waiting = {module.name}, [module.name]
        while banned and waiting:
            reached = sources.modules[waiting.pop()]
            through = "" if reached is module else f" through {reached.name}"
            for found in sources.imports(reached):
                if found.typing and reached is not module:
                    continue
                root = found.target.split(".")[0]
                # torch and datasets are banned from the floor's own files; Hugging Face's models from what it reaches.
                if root in (banned if reached is module else banned & HUGGING_FACE):
                    wrong.append(f"{module.name}:{found.line} imports {root}{through}")
                for name in _with_packages(found.target):
                    if name in sources.modules and name != PACKAGE and name not in seen:
                        seen.add(name)
                        waiting.append(name)
    return wrong


def _with_packages(name: str) -> list[str]:
    """Return ``name`` and the packages around it: importing a module runs them too."""
    parts = name.split(".")
    return [".".join(parts[:stop]) for stop in range(1, len(parts) + 1)]


def import_cycles(sources: Sources) -> list[str]:
    """No module reaches itself through imports (the first cycle found is named)."""
    graph = {
        name: sorted({i.target for i in sources.own_imports(module) if i.target in sources.modules})
        for name, module in sources.modules.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as exc:
        return [f"cycle: {' -> '.join(exc.args[1])}"]
    return []


def third_party(trees: Iterable[ast.AST]) -> set[str]:
    """Return the top-level names that the trees import from outside the standard library and this package."""
    roots: set[str] = set()
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                roots.update(alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                roots.add(node.module.split(".")[0])
            elif isinstance(node, ast.Call) and (target := _dynamic_import(node)):
                roots.add(target.split(".")[0])
    return {root for root in roots if root not in sys.stdlib_module_names and root != PACKAGE}
