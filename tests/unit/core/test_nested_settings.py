"""A setting that is written one section too high is named where it stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from facetrm.core.errors import ConfigError
from facetrm.recipes.run import read_recipe

WORLD = Path(__file__).parents[3] / "recipes" / "world.yaml"
MEANT = {
    "gate.steps=5": "unknown setting 'gate.steps'; did you mean 'gate.settings.steps'?",
    "gate.stepz=5": "did you mean 'gate.settings.steps'?",
    "steps=5": "did you mean 'experts.quantile.steps' or 'gate.settings.steps' or 'router.settings.steps'?",
    "seeed=1": "did you mean 'seed'?",
    "backbone.nothing_like_it=1": "known: adapter, adapters,",
}


@pytest.mark.parametrize("item", MEANT)
def test_the_setting_that_was_meant_is_named(item: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_recipe(WORLD, [item])
    assert MEANT[item] in str(caught.value)


def test_what_is_suggested_is_a_setting() -> None:
    assert read_recipe(WORLD, ["gate.settings.steps=5"]).gate.settings.steps == 5
