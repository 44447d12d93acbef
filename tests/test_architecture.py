"""The law of the house: floors, sizes, names, docstrings, the public surface. Change it on purpose, by itself."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
import yaml

import facetrm
from architecture import (
    Sources,
    banned_imports,
    import_cycles,
    imports_by_name,
    inner_imports,
    unknown_parts,
    untrue_exports,
    upward_imports,
)
from facetrm.core.config import dump_yaml, parse_config, read_yaml
from facetrm.core.errors import ConfigError
from source_style import (
    MAX_EXAMPLE_LINES,
    bad_names,
    forbidden_words,
    long_files,
    long_functions,
    names_of_two_modules,
    stubs,
    undocumented,
)

ROOT = Path(__file__).parents[1]
VERBS = [
    "demo",
    "doctor",
    "encode",
    "eval",
    "explain",
    "export",
    "init",
    "label",
    "recipes",
    "report",
    "run",
    "score",
    "serve",
    "train",
]
FOLDERS = ("src", "tests", "benchmarks", "examples")
SOURCES = Sources(ROOT / "src" / "facetrm")
TEXT_SUFFIXES = {".py", ".md", ".yaml", ".yml", ".toml", ".txt", ".cff", ".json", ".jsonl", ".html", ".svg", ".css"}
PYTHON = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
TEXTS = [
    *PYTHON,
    *(path for folder in ("docs", "recipes", "src") for path in sorted((ROOT / folder).rglob("*"))),
    *sorted(ROOT.iterdir()),
    ROOT / ".ci" / "run",
]
TEXTS = [p for p in dict.fromkeys(TEXTS) if p.suffix in TEXT_SUFFIXES or p.name in {"Makefile", "LICENSE", "run"}]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))

CHECKS: list[Callable[[Sources], list[str]]] = [
    unknown_parts,
    upward_imports,
    inner_imports,
    imports_by_name,
    untrue_exports,
    banned_imports,
    import_cycles,
    long_functions,
    names_of_two_modules,
    stubs,
    undocumented,
]

# The character classes keep these patterns from matching themselves.
WORDS = [
    r"\bTOD[O]\b",
    r"\bFIXM[E]\b",
    r"\bXX[X]\b",
    r"NotImplemented[E]rror",
    r"(?i:\bfuture [w]ork\b)",
    r"(?i:\bcoming [s]oon\b)",
    r"(?i:\bnot yet [i]mplemented\b)",
    r"(?i:\blorem [i]psum\b)",
]

HOSTS = [
    "aclanthology.org",
    "apache.org",
    "arxiv.org",
    "doi.org",
    "example.com",
    "example.org",
    "github.com",
    "huggingface.co",
    "keepachangelog.com",
    "localhost",
    "openai.com",
    "semver.org",
    "w3.org",
    "127.0.0.1",
]


def private_places(root: Path) -> list[str]:
    """Return patterns for places that mean nothing to anybody else: where this checkout lies, and people's homes."""
    shared = {
        Path(name) for name in ("/", "/tmp", "/home", "/root", "/opt", "/srv", "/usr/src", "/Users", "/private/tmp")
    }
    own = [place for place in (root, root.parent) if place not in shared]
    return [rf"{place}(?![\w.-])" for place in own] + [r"(?<![\w./:])/(?:home|root|Users|mnt)/\w"]


def foreign_hosts() -> str:
    """Return the pattern of a URL whose host is none of HOSTS, nor below one of them."""
    return rf"https?://(?!(?:[\w-]+\.)*(?:{'|'.join(map(re.escape, HOSTS))})(?![\w.-]))[^\s/)>\"']+"


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_package(check: Callable[[Sources], list[str]]) -> None:
    assert SOURCES.modules, "no source was found"
    found = check(SOURCES)
    assert not found, "\n".join(["", *found])


def test_files_are_short_and_named_after_what_they_hold() -> None:
    assert long_files(PYTHON) == []
    assert bad_names(PYTHON) == []


def test_nothing_is_left_undone_and_no_private_place_is_named() -> None:
    assert len(TEXTS) > len(PYTHON)
    assert forbidden_words(TEXTS, WORDS + private_places(ROOT)) == []


def test_only_public_hosts_are_named() -> None:
    published = [path for path in TEXTS if (ROOT / "tests") not in path.parents]
    assert forbidden_words(published, [foreign_hosts()]) == []


def test_every_public_name_is_there_and_documented() -> None:
    for module in SOURCES.modules.values():
        if module.is_package:
            package = importlib.import_module(module.name)
            for name in getattr(package, "__all__", ()):
                assert name in dir(package), f"{module.name} does not list {name}"
                value = getattr(package, name)
                assert not callable(value) or inspect.getdoc(value), f"{module.name}.{name} has no docstring"
    with pytest.raises(AttributeError, match="module 'facetrm' has no attribute 'no_such_name'"):
        _ = facetrm.no_such_name


def test_verbs_are_frozen() -> None:
    command = typer.main.get_command(importlib.import_module("facetrm.cli.app").app)
    assert sorted(command.commands) == VERBS
    for name, verb in command.commands.items():
        assert verb.help, f"facetrm {name} has no help"
        for parameter in verb.params:
            assert parameter.help, f"facetrm {name}: {parameter.name} has no help"


def test_there_are_recipes_and_examples() -> None:
    assert "quickstart" in {path.stem for path in RECIPES}
    assert EXAMPLES


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_opens_with_its_command(path: Path) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("#")
    assert f"facetrm run recipes/{path.name}" in first


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_fits_its_settings(path: Path) -> None:
    value = read_yaml(path)
    kind = importlib.import_module("facetrm.recipes").RECIPES[value["recipe"]]
    config = parse_config(kind.config, value, place=path)
    assert yaml.safe_load(dump_yaml(config))["recipe"] == value["recipe"]
    with pytest.raises(ConfigError, match="unknown setting 'no_such_setting'"):
        parse_config(kind.config, {**value, "no_such_setting": 1}, place=path)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MAX_EXAMPLE_LINES
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out.strip(), "an example prints what it shows"


LAZY = """
__all__ = ['f']
if TYPE_CHECKING:
    from facetrm.fit.a import f
else:
    __getattr__, __dir__ = lazy(__name__, {'facetrm.fit.a': ['f']})
"""

# Every check is shown to find what it looks for: a tree with one planted fault, and what the finding says.
PLANTED: list[tuple[Callable[[Sources], list[str]], dict[str, str], str]] = [
    (unknown_parts, {"magic/spell.py": ""}, "'magic' has no floor"),
    (upward_imports, {"data/a.py": "from facetrm.fit import ridge", "fit/heads/ridge.py": ""}, "floor 4 from floor 1"),
    (upward_imports, {"data/a.py": "from ..fit.ridge import x", "fit/heads/ridge.py": "x = 1"}, "floor 4 from floor 1"),
    (
        upward_imports,
        {"core/a.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n  import facetrm.cli"},
        "floor 7",
    ),
    (upward_imports, {"explain/a.py": "import facetrm.report.build", "report/build.py": ""}, "neighbour on floor 5"),
    (upward_imports, {"fit/a.py": "import facetrm.baselines.b", "baselines/b.py": ""}, "neighbour on floor 4"),
    (upward_imports, {"model/a.py": "from facetrm.backbone import chat", "backbone/text/chat.py": ""}, "alone"),
    (upward_imports, {"fit/a.py": "import facetrm"}, "floor 8 from floor 4"),
    (inner_imports, {"fit/a.py": "def f():\n    from facetrm.core import errors"}, "inside a function"),
    (inner_imports, {"fit/a.py": "class A:\n    async def f(self):\n        import facetrm.core"}, "inside a function"),
    (
        imports_by_name,
        {"fit/a.py": "from importlib import import_module\nx = import_module('a' + 'b')"},
        "computed name",
    ),
    (
        untrue_exports,
        {"fit/__init__.py": LAZY.replace("a': ['f']", "a': []"), "fit/a.py": "def f(): ..."},
        "'f' is not the same",
    ),
    (untrue_exports, {"fit/__init__.py": LAZY.replace("fit.a", "fit.b", 1), "fit/a.py": ""}, "'f' is not the same"),
    (untrue_exports, {"fit/__init__.py": LAZY, "fit/a.py": "", "fit/f.py": ""}, "'f' is also a module in it"),
    (banned_imports, {"model/a.py": "import transformers.models.llama"}, "imports transformers"),
    (banned_imports, {"core/a.py": "def f():\n    import torch"}, "imports torch"),
    (banned_imports, {"data/a.py": "from torch import Tensor"}, "imports torch"),
    (banned_imports, {"data/a.py": "import importlib\nx = importlib.import_module('trl.core')"}, "imports trl"),
    (
        banned_imports,
        {
            "model/a.py": "from facetrm.backbone.encoder import E",
            "backbone/__init__.py": "import peft",
            "backbone/encoder.py": "",
        },
        "imports peft through facetrm.backbone",
    ),
    (
        import_cycles,
        {"fit/a.py": "import facetrm.fit.b", "fit/b.py": "from . import c", "fit/c.py": "from .a import x"},
        "->",
    ),
    (import_cycles, {"fit/a.py": "from facetrm.fit import a"}, "facetrm.fit.a -> facetrm.fit.a"),
    (long_functions, {"fit/a.py": "def f():\n" + "    x = 1\n" * 80}, "f has 81 lines"),
    *(
        (names_of_two_modules, {"fit/a.py": one, "data/b.py": other}, "'F' is defined in facetrm.data.b and")
        for one, other in (
            ("def F(): return 1", "class F: x = 1"),
            ("F = list[int]", "F: int = 1"),
            ("E, F = 1, 2", "async def F(): return 1"),
        )
    ),
    (
        names_of_two_modules,
        {"cli/a.py": "def f(): return 1", "fit/b.py": "def f(): return 1"},
        "'f' is defined in facetrm.cli.a and facetrm.fit.b",
    ),
    (
        names_of_two_modules,
        {"data/world/a.py": "OBJECTIVES = ()", "data/sources/b.py": "", "fit/c.py": "OBJECTIVES = ()"},
        "'OBJECTIVES' is defined in",
    ),
    (stubs, {"fit/a.py": "def f():\n    '''Do it.'''"}, "f does nothing"),
    (stubs, {"fit/a.py": "class A:\n    def f(self): ..."}, "f does nothing"),
    (undocumented, {"fit/a.py": "class A:\n    def f(self):\n        return 1"}, "A.f has no docstring"),
    (undocumented, {"fit/a.py": "def f(x):\n    return x"}, "f has no docstring"),
]
ALLOWED: list[tuple[Callable[[Sources], list[str]], dict[str, str]]] = [
    (upward_imports, {"report/a.py": "import facetrm.explain.b", "explain/b.py": ""}),
    (
        upward_imports,
        {"model/a.py": "from facetrm.backbone.encoder import Features", "backbone/encoder.py": "Features = 1"},
    ),
    (upward_imports, {"cli.py": "from facetrm.core import errors", "core/errors.py": ""}),
    (inner_imports, {"fit/a.py": "from facetrm.core import errors\ndef f():\n    import json"}),
    (banned_imports, {"fit/a.py": "import transformers", "model/b.py": "import torch"}),
    (
        banned_imports,
        {"core/__init__.py": "", "__init__.py": "import transformers", "core/a.py": "import facetrm.core"},
    ),
    (untrue_exports, {"fit/__init__.py": LAZY, "fit/a.py": "def f(): ..."}),
    (imports_by_name, {"core/lazy.py": "from importlib import import_module\nx = import_module('a' + 'b')"}),
    (
        banned_imports,
        {
            "model/a.py": "from facetrm.backbone.encoder import E",
            "backbone/__init__.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n  import peft",
            "backbone/encoder.py": "",
        },
    ),
    (import_cycles, {"fit/a.py": "from . import b", "fit/b.py": "from . import c", "fit/c.py": ""}),
    (
        names_of_two_modules,
        {
            "data/sources/a.py": "OBJECTIVES = ()\ndef _f(): return 1\n_X, T, P = 1, 2, 3",
            "data/sources/b.py": "OBJECTIVES = ()\ndef _f(): return 1\n_X = 1",
            "fit/c.py": "T2 = TypeVar('T2')\nP2 = typing.ParamSpec('P2')\nfrom facetrm.data.sources.a import T",
            "fit/d.py": "T2 = TypeVar('T2')\nP2 = typing.ParamSpec('P2')\ndef g():\n    T = 1\n    return T",
            "fit/e.py": "def score(): return 1\n@overload\ndef h(): ...\ndef h(): return 1",
            "cli/f.py": "def score(x: typer.Argument()): return 1",
        },
    ),
    (long_functions, {"fit/a.py": "def f():\n" + "    x = 1\n" * 79}),
    (
        stubs,
        {"fit/a.py": "class P(Protocol):\n    def f(self): ...\nclass A:\n    @abstractmethod\n    def g(self): ..."},
    ),
    (
        undocumented,
        {"fit/a.py": "def _f(x, y):\n    return x\ndef g(x, y):\n    '''Add.\n\n    Args:\n        x: one.\n    '''"},
    ),
]


def plant(folder: Path, files: dict[str, str]) -> Sources:
    for name, source in {"__init__.py": "", "core/__init__.py": "", **files}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    return Sources(folder)


@pytest.mark.parametrize(("check", "files", "finding"), PLANTED)
def test_planted_fault_is_found(
    check: Callable[[Sources], list[str]], files: dict[str, str], finding: str, tmp_path: Path
) -> None:
    found = check(plant(tmp_path, files))
    assert len(found) == 1
    assert finding in found[0]


@pytest.mark.parametrize(("check", "files"), ALLOWED)
def test_what_is_allowed_is_not_found(
    check: Callable[[Sources], list[str]], files: dict[str, str], tmp_path: Path
) -> None:
    assert check(plant(tmp_path, files)) == []


def test_planted_files_are_found(tmp_path: Path) -> None:
    long, short = tmp_path / "long.py", tmp_path / "short.py"
    long.write_text("x = 1\n" * 401, encoding="utf-8")
    short.write_text("x = 1\n" * 400, encoding="utf-8")
    assert [line.split(":")[0] for line in long_files([long, short])] == [str(long)]
    names = [
        Path(name) for name in ("utils.py", "common.py", "ridge_part2.py", "a/_helpers.py", "partition.py", "ridge.py")
    ]
    assert [line.split(":")[0] for line in bad_names(names)] == [str(name) for name in names[:4]]


@pytest.mark.parametrize("line", ["# TO" + "DO: later", "raise NotImplemented" + "Error", "Left for Future " + "Work."])
def test_planted_word_is_found(line: str, tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text(f"x = 1\n{line}\n", encoding="utf-8")
    assert [found.split(" holds")[0] for found in forbidden_words([path], WORDS)] == [f"{path}:2"]


def test_planted_place_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.md"
    path.write_text(
        f"see {os.sep}home{os.sep}ann/data\nsee {tmp_path}/b\nsee https://x.org/home/ann and ../home/x\n",
        encoding="utf-8",
    )
    found = forbidden_words([path], private_places(tmp_path))
    assert [line.split(" holds")[0] for line in found] == [f"{path}:1", f"{path}:2"]


def test_planted_host_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.md"
    public = "https://arxiv.org/abs/1 http://www.apache.org/licenses/ <https://example.org>"
    path.write_text(f"{public}\nhttps://arxiv.org.evil.net/x\nhttp://mirror:8080/simple\n", encoding="utf-8")
    assert [line.split(" holds")[0] for line in forbidden_words([path], [foreign_hosts()])] == [
        f"{path}:2",
        f"{path}:3",
    ]
