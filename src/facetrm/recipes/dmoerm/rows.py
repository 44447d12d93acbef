"""The ``data`` section of a DMoERM recipe: overall preferences with tasks, and preferences about capabilities.

Each prompt belongs to one part, so the phases of a task's mixture share no prompts:

    base      overall preferences of phase 1: the task's own adapter
    experts   preferences about one capability: phase 2
    mix       overall preferences of phase 3: the aggregator
    test      overall preferences that nothing is trained on

A prompt with labels of only one kind goes to a part that uses this kind; the shares decide between the parts.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from facetrm.core.config import Section, Seed
from facetrm.core.errors import ConfigError, DataError, did_you_mean
from facetrm.core.fingerprint import fingerprint, fingerprint_of_all
from facetrm.core.progress import log
from facetrm.data.objectives import Objective
from facetrm.data.pack import read_pack
from facetrm.data.read.files import read_preferences
from facetrm.data.records import Preference, Rating
from facetrm.data.rubric import Rubric, read_rubric
from facetrm.data.sources import load_source
from facetrm.data.synthetic.known import KnownTruth
from facetrm.data.views import part_of, ratings_to_preferences, set_aside, split_as_given, split_by_prompt
from facetrm.label.simulated import label_world, world_rubric
from facetrm.recipes.armorm.rows import SkippingRows, check_sources
from facetrm.recipes.cleaned import RowCleaner
from facetrm.recipes.dmoerm.generated import DeskTasks, GeneratedTasks, WorldTasks
from facetrm.recipes.reading import Reading


class FileTasks(SkippingRows):
    """Files: overall preferences, preferences about capabilities (``facetrm label`` writes them), and their rubric.

    If any row has ``split: test``, the rows' own splits are used; otherwise prompts are split at random. Rows with
    ``split: validation``, and their prompts, are never trained on; their number is logged.

    Attributes:
        preferences: Files of overall preferences.
        capabilities: Files of preferences about capabilities; may be empty if no experts are wanted.
        rubric: Name of a built-in rubric, or a YAML file; its tasks are those of the router.
        test_share: Share of the prompts that is held out if the rows have no splits.
    """

    kind: Literal["files"] = "files"
    preferences: tuple[str, ...] = Field(min_length=1)
    capabilities: tuple[str, ...] = ()
    rubric: str
    test_share: float = Field(default=0.1, gt=0.0, lt=1.0)

    @model_validator(mode="after")
    def _one_side_file_each(self) -> Self:
        self.check_side_files((*self.preferences, *self.capabilities))
        return self


class SourceTasks(SkippingRows):
    """Registered preference sources whose rows name their tasks, such as ``mtmc-rlhf``.

    If the rubric does not have the task of a row, the router chooses one.

    Attributes:
        preferences: Names of the sources.
        capabilities: Files of preferences about capabilities; may be empty if no experts are wanted.
        rubric: Name of a built-in rubric, or a YAML file; its tasks are those of the router.
        folder: Folder of local copies (``folder/NAME``, same schema); None to download from the Hub.
        limit: Maximum number of rows per source; None for all.
        test_share: Share of the prompts that is held out.
    """

    kind: Literal["sources"] = "sources"
    preferences: tuple[str, ...] = Field(min_length=1)
    capabilities: tuple[str, ...] = ()
    rubric: str
    folder: str | None = None
    limit: int | None = Field(default=None, ge=1)
    test_share: float = Field(default=0.1, gt=0.0, lt=1.0)


class PackTasks(SkippingRows):
    """The preferences of a pack, with their ``category`` as the task and rated attributes as capabilities.

    Attributes:
        folder: Folder of ``sources.json``, ``rated.jsonl.gz`` and ``preferences.jsonl.gz``.
        tasks: Attributes that are capabilities (perhaps none), by task. Preferences of other categories are routed.
            Ratings of other categories count for every task; those of a task count only for that task.
        limit: Maximum number of preferences per capability.
    """

    kind: Literal["pack"] = "pack"
    folder: str
    tasks: dict[str, tuple[str, ...]] = Field(min_length=1)
    limit: int = Field(default=1000, ge=1)


TaskSection = Annotated[WorldTasks | DeskTasks | FileTasks | SourceTasks | PackTasks, Field(discriminator="kind")]


class SplitSection(Section):
    """Shares of the prompts for each phase, scaled to sum to 1, and the random seed of the split.

    Prompts with labels of both kinds are split between all three parts, those with only overall labels between ``base``
    and ``mix``. The published code uses 0.6 for phase 1 and 0.4 for phase 3, and all prompts for phase 2.
    """

    base: float = Field(default=0.4, gt=0.0)
    experts: float = Field(default=0.3, gt=0.0)
    mix: float = Field(default=0.3, gt=0.0)
    seed: Seed = 0


@dataclass(frozen=True)
class DmoermRows:
    """Training and test data of a DMoERM run.

    Attributes:
        objectives: Capabilities by task, as objectives, in the router's order.
        overall: Overall training preferences; some have a task.
        capabilities: Training preferences about one capability; their aspect is the name of an objective.
        test: Overall preferences on other prompts.
        world: The generator of the rows, if the truth is known; else None.
        counts: Number of rows left out, by reason; for a generator, number of judgements.
        reading: Counts of truncated conversations and of pairs that read the same; None before tokenisation.
    """

    objectives: dict[str, tuple[Objective, ...]]
    overall: list[Preference]
    capabilities: list[Preference]
    test: list[Preference]
    world: KnownTruth[Any] | None
    counts: dict[str, int]
    reading: Reading | None = None

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks, in the router's order."""
        return tuple(self.objectives)

    @property
    def hash(self) -> str:
        """Fingerprint of all rows and objectives."""
        named = {task: [o.model_dump() for o in found] for task, found in self.objectives.items()}
        parts = (self.overall, self.capabilities, self.test)
        return fingerprint([named, [fingerprint_of_all(r.model_dump() for r in part) for part in parts]])


@dataclass(frozen=True)
class Phases:
    """One task's rows of phase 1 (``base``), of phase 2 (``capabilities``, by objective) and of phase 3 (``mix``)."""

    base: list[Preference]
    capabilities: dict[str, list[Preference]]
    mix: list[Preference]

    def counts(self) -> dict[str, int]:
        """Return the number of rows by phase and capability."""
        experts = {name: len(rows) for name, rows in self.capabilities.items()}
        return {"base": len(self.base), **experts, "mix": len(self.mix)}


def load_tasks(section: WorldTasks | DeskTasks | FileTasks | SourceTasks | PackTasks, *, seed: int) -> DmoermRows:
    """Read or generate the rows of a run.

    Args:
        section: The recipe's ``data`` section.
        seed: Random seed of the split, if the rows have no splits of their own.

    Raises:
        DataError: A file is missing, a row is malformed, or a part is empty.
        ConfigError: A rubric, source, task or attribute is unknown.
    """
    if isinstance(section, GeneratedTasks):
        rows = _known_rows(section)
    elif isinstance(section, PackTasks):
        rows = _pack_rows(section)
    else:
        rows = _rubric_rows(section, seed)
    if not isinstance(section, GeneratedTasks):
        clean = RowCleaner(section)
        overall, about = clean(rows.overall, "preferences"), clean(rows.capabilities, "capabilities")
        rows = replace(rows, overall=overall, capabilities=about, counts={**rows.counts, **clean.counts})
    for name in ("overall", "test"):
        if not getattr(rows, name):
            raise DataError(f"no rows for part '{name}'", place=f"data ({section.kind})", fix="give more data")
    sizes = {name: len(getattr(rows, name)) for name in ("overall", "capabilities", "test")}
    log("data", tasks=len(rows.objectives), **sizes, **rows.counts)
    return rows


def cut_phases(rows: DmoermRows, tasks: Sequence[str], section: SplitSection) -> dict[str, Phases]:
    """Return the rows of each task by phase. No prompt occurs in two phases.

    Args:
        rows: Data of the run.
        tasks: Task of each of ``rows.overall``, given or routed.
        section: Shares of the phases.
    """
    kinds = [{p.prompt_key for p in part} for part in (rows.overall, rows.capabilities)]
    shares = {"base": section.base, "experts": section.experts, "mix": section.mix}
    part_of = {key: _part(key, shares, kinds, seed=section.seed) for key in kinds[0] | kinds[1]}
    base: dict[str, list[Preference]] = defaultdict(list)
    mix: dict[str, list[Preference]] = defaultdict(list)
    for preference, task in zip(rows.overall, tasks, strict=True):
        part = part_of[preference.prompt_key]
        if part != "experts":
            (base if part == "base" else mix)[task].append(preference)
    about: dict[str, list[Preference]] = defaultdict(list)
    for preference in rows.capabilities:
        if part_of[preference.prompt_key] == "experts":
            about[preference.aspect].append(preference)
    return {
        task: Phases(base[task], {o.name: about[o.name] for o in objectives}, mix[task])
        for task, objectives in rows.objectives.items()
    }


def _part(key: str, shares: dict[str, float], kinds: Sequence[set[str]], *, seed: int) -> str:
    overall, labelled = (key in kind for kind in kinds)
    open_parts = {name: share for name, share in shares.items() if (labelled if name == "experts" else overall)}
    # The salt makes this number independent of the one by which split_by_prompt took the test part.
    u = int.from_bytes(hashlib.sha256(f"phase\x1f{seed}\x1f{key}".encode()).digest()[:8], "big") / 2.0**64
    u *= sum(open_parts.values())
    for name, share in open_parts.items():
        if u < share:
            return name
        u -= share
    return list(open_parts)[-1]


def _known_rows(section: GeneratedTasks) -> DmoermRows:
    world = section.generator()
    rubric = world_rubric(least=section.least, most=section.most, tasks=section.tasks, world=section.source)
    labelled = label_world(world, section.labelled, judge=section.judge, rubric=rubric, part="heads")
    return DmoermRows(
        _by_task(rubric),
        list(world.preferences_of(section.tasks, section.preferences, part="gate")),
        labelled.preferences,
        list(world.preferences_of(section.tasks, section.test, part="test")),
        world,
        {"judgements": labelled.report["all"]["judgements"], "judgements_kept": labelled.report["all"]["kept"]},
    )


def _rubric_rows(section: FileTasks | SourceTasks, seed: int) -> DmoermRows:
    objectives = _by_task(read_rubric(section.rubric))
    if isinstance(section, SourceTasks):
        read, strange = _of_sources(section, objectives)
    else:
        read = [_blank_is_none(p) for f in section.preferences for p in read_preferences(f, **section.skipping)]
        strange = 0
        _check_tasks(read, tuple(objectives))
    about = [p for f in section.capabilities for p in read_preferences(f, **section.skipping)]
    known = {o.name for found in objectives.values() for o in found}
    for number, p in enumerate(about):
        if p.aspect not in known:
            place = f"capabilities, row '{p.id or number}'"
            raise DataError(f"unknown capability '{p.aspect}'", place=place, fix=did_you_mean(p.aspect, known))
    overall = [p for p in read if p.aspect == "overall"]
    counts = {"preferences_about_another_aspect": len(read) - len(overall), "preferences_with_another_task": strange}
    overall, validation = set_aside(overall, "validation")
    about, about_validation = set_aside(about, "validation")
    counts |= {"validation_preferences": len(validation), "validation_capabilities": len(about_validation)}
    if any(part_of(p) == "test" for p in overall):
        about, tested = set_aside(about, "test")
        counts["capabilities_of_the_test_split"] = len(tested)
        training, test = set_aside(overall, "test")
    else:
        parts = split_by_prompt(overall, {"train": 1.0 - section.test_share, "test": section.test_share}, seed=seed)
        training, test = parts["train"], parts["test"]
    return _disjoint(objectives, training, about, test, counts, validation=[*validation, *about_validation])


def _of_sources(section: SourceTasks, tasks: Container[str]) -> tuple[list[Preference], int]:
    """Return the sources' preferences, without tasks that are not in ``tasks``, and the number of tasks removed."""
    check_sources(section.preferences, kind="preference")
    found: list[Preference] = []
    strange = 0
    for name in section.preferences:
        path = None if section.folder is None else Path(section.folder) / name
        for row in load_source(name, path=path, limit=section.limit, **section.skipping):
            if isinstance(row, Preference):
                known = row.task is None or row.task in tasks
                found.append(row if known else row.model_copy(update={"task": None}))
                strange += not known
    return found, strange


def _pack_rows(section: PackTasks) -> DmoermRows:
    pack = read_pack(section.folder, **section.skipping)
    by_name = {o.name: o for o in pack.objectives}
    objectives: dict[str, tuple[Objective, ...]] = {}
    about: list[Preference] = []
    rated, rated_validation = set_aside(pack.ratings, "validation")
    rated, _ = split_as_given(rated, place=section.folder)
    for task, names in section.tasks.items():
        found = []
        ratings = [r for r in rated if r.task == task or r.task not in section.tasks]
        for name in names:
            if name not in by_name:
                raise ConfigError(f"unknown attribute '{name}'", place="data.tasks", fix=did_you_mean(name, by_name))
            aspect = f"{task}/{name}"
            pairs = ratings_to_preferences(ratings, by_name[name], aspect=aspect)
            about += sorted(pairs, key=lambda p: fingerprint([p.prompt_key, p.id]))[: section.limit]
            found.append(_capability(aspect, by_name[name]))
        objectives[task] = tuple(found)
    overall = [
        p if p.task in objectives else p.model_copy(update={"task": None})
        for p in pack.preferences
        if p.aspect == "overall"
    ]
    overall, validation = set_aside(overall, "validation")
    training, test = split_as_given(overall, place=section.folder)
    counts = {"validation_preferences": len(validation), "validation_ratings": len(rated_validation)}
    return _disjoint(objectives, training, about, test, counts, validation=[*validation, *rated_validation])


def _capability(name: str, attribute: Objective) -> Objective:
    same = {key: getattr(attribute, key) for key in ("meaning", "rater", "source")}
    return Objective(name=name, low=0.0, high=1.0, kind="continuous", **same)


def _disjoint(
    objectives: dict[str, tuple[Objective, ...]],
    training: list[Preference],
    about: list[Preference],
    test: list[Preference],
    counts: dict[str, int],
    *,
    validation: Sequence[Preference | Rating],
) -> DmoermRows:
    """Remove training rows whose prompt is a test or validation prompt, and count them."""
    held = {p.prompt_key for p in test}
    aside = {p.prompt_key for p in validation} - held
    found = Counter(counts)
    kept = []
    for name, rows in (("preferences", training), ("capabilities", about)):
        kept.append([p for p in rows if p.prompt_key not in held and p.prompt_key not in aside])
        found[f"training_{name}_with_a_test_prompt"] = sum(p.prompt_key in held for p in rows)
        found[f"training_{name}_with_a_validation_prompt"] = sum(p.prompt_key in aside for p in rows)
    return DmoermRows(objectives, kept[0], kept[1], test, None, {why: n for why, n in found.items() if n})


def _by_task(rubric: Rubric) -> dict[str, tuple[Objective, ...]]:
    return {task.name: tuple(rubric.objectives(task.name)) for task in rubric.tasks}


def _blank_is_none(row: Preference) -> Preference:
    return row if row.task is None or row.task.strip() else row.model_copy(update={"task": None})


def _check_tasks(rows: Sequence[Preference], tasks: Sequence[str]) -> None:
    for number, row in enumerate(rows):
        if row.task is not None and row.task not in tasks:
            raise DataError(
                f"unknown task '{row.task}'",
                place=f"preferences, row '{row.id or number}'",
                fix=f"{did_you_mean(row.task, tasks)}; or remove the task, and the router chooses one",
            )
