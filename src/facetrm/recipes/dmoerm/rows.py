"""The ``data`` section of a recipe with a router: overall preferences with tasks, preferences about capabilities.

Each prompt belongs to one part, so the phases of an inner mixture share none:

    base      overall preferences of phase 1: the task's own adapter
    experts   preferences about one capability: phase 2
    mix       overall preferences of phase 3: the aggregator
    test      overall preferences that nothing learns from

A prompt that has labels of one kind only goes where that kind is used; shares decide the others.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, Self

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
from facetrm.data.views import part_of, ratings_to_preferences, set_aside, split_as_given, split_by_prompt
from facetrm.data.world import TASKS, World, WorldConfig
from facetrm.label.simulated import NoisyJudge, label_world, world_rubric
from facetrm.recipes.armorm.rows import SkippingRows, check_sources
from facetrm.recipes.cleaned import RowCleaner
from facetrm.recipes.reading import Reading


class WorldTasks(Section):
    """The embedded world: its annotators' pairs, and a simulated judge's verdicts about latents on other prompts.

    Attributes:
        world: its settings.
        tasks: which of its tasks.
        preferences: labelled pairs, of all tasks.
        labelled: pairs that the judge compares in every capability.
        test: pairs of the test part.
        judge: who errs.
        least: the smallest true weight that makes a latent a capability.
        most: the largest number of capabilities per task.
    """

    kind: Literal["world"] = "world"
    world: WorldConfig = WorldConfig()
    tasks: tuple[str, ...] = TASKS
    preferences: int = Field(default=3000, ge=10)
    labelled: int = Field(default=2000, ge=10)
    test: int = Field(default=1000, ge=10)
    judge: NoisyJudge = NoisyJudge()
    least: float = Field(default=0.1, ge=0.0, lt=1.0)
    most: int = Field(default=4, ge=1)

    @model_validator(mode="after")
    def _known_tasks(self) -> Self:
        unknown = [task for task in self.tasks if task not in TASKS]
        if unknown or not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise ValueError(f"tasks: name each of some of {', '.join(TASKS)} once")
        return self


class FileTasks(SkippingRows):
    """Files: overall preferences, preferences about capabilities (``facetrm label`` writes them), and their rubric.

    Attributes:
        preferences: files of overall preferences.
        capabilities: files of preferences about capabilities; may be empty if no experts are wanted.
        rubric: a shipped rubric's name, or a YAML file: its tasks are the router's.
        test_share: of the prompts is held out; but where a row says ``split: test``, the rows' own splits hold. Rows of
            ``split: validation`` and their prompts are never trained on; their number is logged.
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

    A row whose task the rubric does not have counts as unlabelled: the router names it.

    Attributes:
        preferences: names of sources, from the Hub or from ``folder/NAME`` in the same schema; ``limit`` rows of each.
        capabilities: as of :class:`FileTasks`.
        rubric: as of :class:`FileTasks`.
        test_share: of the prompts is held out.
    """

    kind: Literal["sources"] = "sources"
    preferences: tuple[str, ...] = Field(min_length=1)
    capabilities: tuple[str, ...] = ()
    rubric: str
    folder: str | None = None
    limit: int | None = Field(default=None, ge=1)
    test_share: float = Field(default=0.1, gt=0.0, lt=1.0)


class PackTasks(SkippingRows):
    """A pack's preferences by ``category``; capabilities are attributes that its ratings tell answers apart by.

    Attributes:
        folder: see :class:`facetrm.recipes.armorm.rows.PackData`.
        tasks: task to the attributes that are its capabilities, perhaps none. A category that is not named is routed;
            ratings of such a category count for every task, those of a named one for that task alone.
        limit: preferences about one capability at most.
    """

    kind: Literal["pack"] = "pack"
    folder: str
    tasks: dict[str, tuple[str, ...]] = Field(min_length=1)
    limit: int = Field(default=1000, ge=1)


TaskSection = Annotated[WorldTasks | FileTasks | SourceTasks | PackTasks, Field(discriminator="kind")]


class SplitSection(Section):
    """Shares of the prompts that have labels of both kinds, scaled to sum to 1; ``mix`` and ``base`` share the others'.

    The published code takes 0.6 for phase 1 and 0.4 for phase 3, and lets phase 2 read all prompts.
    """

    base: float = Field(default=0.4, gt=0.0)
    experts: float = Field(default=0.3, gt=0.0)
    mix: float = Field(default=0.3, gt=0.0)
    seed: Seed = 0


@dataclass(frozen=True)
class DmoermRows:
    """What a run with a router learns from and is judged on.

    Attributes:
        objectives: task to its capabilities as objectives, in the router's order.
        overall: training preferences, with the task where the row has one.
        capabilities: training preferences about one capability: their aspect is an objective's name.
        test: overall preferences on other prompts.
        world: where the truth is known.
        counts: rows left out, by reason.
        reading: what the backbone reads of the rows; None before it has read them.
    """

    objectives: dict[str, tuple[Objective, ...]]
    overall: list[Preference]
    capabilities: list[Preference]
    test: list[Preference]
    world: World | None
    counts: dict[str, int]
    reading: Reading | None = None

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks, in the router's order."""
        return tuple(self.objectives)

    @property
    def hash(self) -> str:
        """Fingerprint of every row and objective."""
        named = {task: [o.model_dump() for o in found] for task, found in self.objectives.items()}
        parts = (self.overall, self.capabilities, self.test)
        return fingerprint([named, [fingerprint_of_all(r.model_dump() for r in part) for part in parts]])


@dataclass(frozen=True)
class Phases:
    """One task's rows: ``base``, ``capabilities`` by objective, and ``mix``."""

    base: list[Preference]
    capabilities: dict[str, list[Preference]]
    mix: list[Preference]

    def counts(self) -> dict[str, int]:
        """Return rows by phase and capability."""
        experts = {name: len(rows) for name, rows in self.capabilities.items()}
        return {"base": len(self.base), **experts, "mix": len(self.mix)}


def load_tasks(section: WorldTasks | FileTasks | SourceTasks | PackTasks, *, seed: int) -> DmoermRows:
    """Read or generate the rows that ``section`` names.

    Args:
        section: the recipe's ``data``.
        seed: of the split, where the data has none of its own.

    Raises:
        DataError: a missing file, a bad row, or an empty part.
        ConfigError: an unknown rubric, source, task or attribute.
    """
    if isinstance(section, WorldTasks):
        rows = _world_rows(section)
    elif isinstance(section, PackTasks):
        rows = _pack_rows(section)
    else:
        rows = _rubric_rows(section, seed)
    if not isinstance(section, WorldTasks):
        clean = RowCleaner(section)
        overall, about = clean(rows.overall, "preferences"), clean(rows.capabilities, "capabilities")
        rows = replace(rows, overall=overall, capabilities=about, counts={**rows.counts, **clean.counts})
    for name in ("overall", "test"):
        if not getattr(rows, name):
            raise DataError(f"no row for part '{name}'", place=f"data ({section.kind})", fix="give more data")
    sizes = {name: len(getattr(rows, name)) for name in ("overall", "capabilities", "test")}
    log("data", tasks=len(rows.objectives), **sizes, **rows.counts)
    return rows


def cut_phases(rows: DmoermRows, tasks: Sequence[str], section: SplitSection) -> dict[str, Phases]:
    """Return the rows of each task by phase; no prompt stands in two phases.

    Args:
        rows: of the run.
        tasks: the task of each of ``rows.overall``, given or routed.
        section: shares.
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
    # Salted: unsalted, it is the number by which split_by_prompt took the test part, and the last phase would go short.
    u = int.from_bytes(hashlib.sha256(f"phase\x1f{seed}\x1f{key}".encode()).digest()[:8], "big") / 2.0**64
    u *= sum(open_parts.values())
    for name, share in open_parts.items():
        if u < share:
            return name
        u -= share
    return list(open_parts)[-1]


def _world_rows(section: WorldTasks) -> DmoermRows:
    world = World(section.world)
    rubric = world_rubric(least=section.least, most=section.most, tasks=section.tasks)
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
            raise DataError(f"aspect '{p.aspect}' is no capability", place=place, fix=did_you_mean(p.aspect, known))
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
    """Return the sources' preferences, and how many had a task that is none of ``tasks``: these have none now."""
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
    """Return the rows without those of training that have a test or validation prompt, which are counted."""
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
                fix=f"{did_you_mean(row.task, tasks)}; or take the task out: the router names it then",
            )
