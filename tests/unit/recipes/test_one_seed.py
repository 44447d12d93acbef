"""The seed of a recipe is that of every section inside it that does not set its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from facetrm.core.config import Section, dump_yaml
from facetrm.fit.finetune.config import FineTuneConfig
from facetrm.fit.finetune.fit import _seeded
from facetrm.recipes.armorm.config import ArmormConfig
from facetrm.recipes.dmoerm.config import DmoermConfig
from facetrm.recipes.finetune.config import FineTuneRecipe
from facetrm.recipes.run import read_recipe
from tiny_runs import write_recipe

TINY: dict[str, Any] = {"tiny": {}}
SEEDED = {
    ArmormConfig: {
        "data.world",
        "experts.ridge",
        "gate.settings",
        "router.settings",
        "compare.linear",
    },
    DmoermConfig: {
        "data.world",
        "data.judge",
        "router.settings",
        "split",
        "linear",
        "base.training",
        "experts.training",
        "aggregator.concat",
        "aggregator.gate",
    },
    FineTuneRecipe: {"data.world", "frozen.ridge", "frozen.linear", "finetune"},
}
KINDS = list(SEEDED)


def seeds(section: Section, path: str = "") -> Iterator[tuple[str, int]]:
    """Yield the path and the seed of every section that has one."""
    for name, value in section:
        if isinstance(value, Section):
            yield from seeds(value, f"{path}.{name}".lstrip("."))
        elif name == "seed" and value is not None:
            yield path, value


def settings(kind: type[Section], **given: Any) -> Section:
    with_router = {"router": {}} if kind is ArmormConfig else {}
    return kind.model_validate({**TINY, **with_router, **given})


@pytest.mark.parametrize("kind", KINDS)
def test_every_section_has_the_seed_of_the_recipe(kind: type[Section]) -> None:
    assert dict(seeds(settings(kind, seed=7))) == dict.fromkeys({"", *SEEDED[kind]}, 7)
    assert dict(seeds(settings(kind))) == dict.fromkeys({"", *SEEDED[kind]}, 0)
    assert dict(seeds(kind(seed=7, **TINY))).keys() <= {"", *SEEDED[kind]}, "defaults are not changed for others"
    assert set(dict(seeds(settings(kind))).values()) == {0}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("own", [0, 3])
def test_a_seed_that_is_given_stays(kind: type[Section], own: int) -> None:
    found = dict(seeds(settings(kind, seed=7, data={"kind": "world", "world": {"seed": own}})))
    assert found.pop("data.world") == own
    assert set(found.values()) == {7}


@pytest.mark.parametrize("kind", KINDS)
def test_the_settings_that_a_run_writes_give_the_same_run(kind: type[Section]) -> None:
    config = settings(kind, seed=7, data={"kind": "world", "world": {"seed": 2}})
    assert kind.model_validate(yaml.safe_load(dump_yaml(config))) == config


def test_a_seed_on_the_command_line_reaches_the_sections(tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "r.yaml")
    config = read_recipe(path, ["seed=5", "gate.settings.seed=2"])
    assert (config.data.world.seed, config.experts.ridge.seed, config.gate.settings.seed) == (5, 5, 2)


def test_the_trainer_of_a_finetuning_follows_its_seed() -> None:
    assert [_seeded(FineTuneConfig(seed=seed)).model_dump()["seed"] for seed in (0, 1)] == [42, 43]
    assert _seeded(FineTuneConfig(seed=2**32 - 1)).model_dump()["seed"] < 2**32
    given = FineTuneConfig.model_validate({"seed": 1, "trainer": {"seed": 9}})
    assert _seeded(given).model_dump()["seed"] == 9
