from __future__ import annotations

from pathlib import Path

import pytest

from facetrm.core.config import read_yaml
from facetrm.core.errors import ConfigError, DataError
from facetrm.data.pack import read_objectives


def test_a_key_that_stands_twice_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("recipe: armorm\ngate:\n  settings: {steps: 1}\nseed: 0\ngate:\n  strength: true\n")
    with pytest.raises(ConfigError, match=r"recipe\.yaml:5:1: not YAML \(the key 'gate' appears twice\)"):
        read_yaml(path)
    path.write_text("- name: mine-good\n  low: 0\n  high: 4\n  low: 1\n")
    with pytest.raises(DataError, match=r"recipe\.yaml:4:3: not YAML \(the key 'low' appears twice\)"):
        read_objectives(path)


def test_equal_keys_of_different_mappings_anchors_and_merges_are_read(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("a: &shared {x: 1, y: 2}\nb: {<<: *shared, x: 3}\nc: [{x: 1}, {x: 2}]\n")
    assert read_yaml(path) == {"a": {"x": 1, "y": 2}, "b": {"x": 3, "y": 2}, "c": [{"x": 1}, {"x": 2}]}
