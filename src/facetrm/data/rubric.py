"""Rubrics: tasks and their capabilities in plain words, read from YAML. Each capability becomes an objective.

::

    name: mine
    language: en                  # or zh: the language of the words below, and of the question to a judge
    tasks:
      - name: chat
        description: Everyday conversation.
        capabilities:
          - name: empathy
            description: how well the reply notices the user's feelings
            better: takes the feeling seriously before it advises

Shipped in ``data/rubrics/``: ``dmoerm`` (five tasks, 27 capability points), ``dmoerm-zh`` (the same
in Chinese), ``general`` (chat, reasoning, code, safety, writing).
Reference: DMoERM (arXiv 2403.01197), whose capability points are those of the first two.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from facetrm.core.config import Section, load_yaml, parse_config, yaml_line
from facetrm.core.errors import ConfigError, did_you_mean, short
from facetrm.data.objectives import Objective

Language = Literal["en", "zh"]
RUBRIC_SUFFIXES = (".yaml", ".yml")


def _words(text: str) -> str:
    if not text.strip():
        raise ValueError("write what it means in plain words")
    return " ".join(text.split())


def _name(text: str) -> str:
    if not text or text != " ".join(text.split()) or not text.isprintable() or "/" in text:
        raise ValueError("give a name in one line, without '/' and without surrounding spaces")
    return text


Name = Annotated[str, AfterValidator(_name)]
Words = Annotated[str, AfterValidator(_words)]


class Capability(Section):
    """One quality by which the replies to a task are compared.

    Attributes:
        name: Name, unique within the task.
        description: Description of the capability.
        better: What makes one reply better than another.
    """

    name: Name
    description: Words
    better: Words


class RubricTask(Section):
    """A kind of conversation, and the ``capabilities`` that matter for it."""

    name: Name
    description: Words
    capabilities: Annotated[tuple[Capability, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _unique(self) -> RubricTask:
        _check_unique([capability.name for capability in self.capabilities], f"task '{self.name}'")
        return self


class Rubric(Section):
    """Tasks with their capabilities, in one ``language``; ``name`` is the source of its objectives."""

    name: Name
    language: Language = "en"
    tasks: Annotated[tuple[RubricTask, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _unique(self) -> Rubric:
        _check_unique([task.name for task in self.tasks], f"rubric '{self.name}'")
        return self

    def task(self, name: str) -> RubricTask:
        """Return the task of this ``name``.

        Raises:
            ConfigError: The rubric has no such task.
        """
        found = next((task for task in self.tasks if task.name == name), None)
        if found is None:
            fix = did_you_mean(name, [task.name for task in self.tasks])
            raise ConfigError(f"unknown task '{name}'", place=f"rubric '{self.name}'", fix=fix)
        return found

    def objectives(self, task: str | None = None) -> tuple[Objective, ...]:
        """Return the capabilities of ``task`` (None for all tasks) as objectives named ``task/capability``.

        Higher is better for all of them. Capabilities are judged by comparison, so ratings have no source scale and are
        read on [0, 1].

        Raises:
            ConfigError: The rubric has no such task.
        """
        tasks = self.tasks if task is None else (self.task(task),)
        return tuple(
            Objective(
                name=capability_name(one, capability),
                low=0.0,
                high=1.0,
                kind="continuous",
                direction="higher",
                meaning=f"{capability.description}; better: {capability.better}",
                rater="pairwise judge",
                source=self.name,
            )
            for one in tasks
            for capability in one.capabilities
        )


def capability_name(task: RubricTask, capability: Capability) -> str:
    """Return ``task/capability``, which is unique even if several tasks use the same capability name."""
    return f"{task.name}/{capability.name}"


def shipped_rubrics() -> list[str]:
    """Return the names of the rubrics that are installed with the package."""
    folder = files("facetrm.data").joinpath("rubrics")
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def read_rubric(name: str | Path) -> Rubric:
    """Read a shipped rubric by name, or your own rubric from a ``.yaml`` file.

    Args:
        name: name of a shipped rubric, or path of a ``.yaml`` or ``.yml`` file.

    Raises:
        ConfigError: There is no such rubric, or its file is wrong (the message gives file, line, key, value and fix).
    """
    if str(name).endswith(RUBRIC_SUFFIXES):
        return _read(Path(name))
    known = shipped_rubrics()
    if str(name) not in known:
        fix = f"{did_you_mean(str(name), known)} Else give the path of a .yaml file"
        raise ConfigError(f"unknown rubric '{name}'", fix=fix)
    with as_file(files("facetrm.data").joinpath("rubrics", f"{name}.yaml")) as path:
        return _read(path)


def _read(path: Path) -> Rubric:
    value = load_yaml(path, ConfigError, what="a rubric, a YAML file")
    if not isinstance(value, dict):
        raise ConfigError(f"{short(value)} is not a rubric", place=path, fix="write 'name:', 'language:' and 'tasks:'")
    text = path.read_text(encoding="utf-8")
    return parse_config(Rubric, value, place=path, locate=lambda keys: f"{path}:{yaml_line(text, keys)}")


def _check_unique(names: Sequence[str], place: str) -> None:
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise ValueError(f"{place} has '{name}' {count} times; give each its own name")
