"""The Llama recipe and ``GateConfig.published`` say the same of ArmoRM's gate."""

from __future__ import annotations

from pathlib import Path

from facetrm.fit.gate.fit import GateConfig
from facetrm.recipes.run import read_recipe

RECIPES = Path(__file__).parents[3] / "recipes"


def test_the_llama_recipe_has_the_published_gate() -> None:
    settings = read_recipe(RECIPES / "armorm-llama3-8b.yaml").gate.settings
    assert settings == GateConfig.published(batch_size=settings.batch_size)
    assert settings.batch_size == 1024
