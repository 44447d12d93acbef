"""The tree in the README is the tree of the package."""

from __future__ import annotations

from pathlib import Path

import pytest

from source_style import untrue_tree

ROOT = Path(__file__).parents[1]
TREE = """
## The tree

    src/facetrm/
      fit/    ridge, heads/
      data/   records
    tests/    unit/

## Next
"""


@pytest.mark.parametrize(
    ("readme", "finding"),
    [
        (TREE, ""),
        (TREE.replace("      data/   records\n", ""), "the tree lacks data/"),
        (TREE.replace("data/", "dta/ "), "the tree lacks data/; the tree names dta/, which is not there"),
        (TREE.replace("records", "records, world/"), "the tree names data/world/, which is not there"),
    ],
)
def test_planted_tree_is_found(readme: str, finding: str, tmp_path: Path) -> None:
    for package in ("fit", "fit/heads", "data"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    assert "; ".join(untrue_tree(readme, tmp_path)) == finding


def test_readme_tells_the_tree() -> None:
    assert untrue_tree((ROOT / "README.md").read_text(encoding="utf-8"), ROOT / "src" / "facetrm") == []
