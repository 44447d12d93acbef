"""``facetrm init`` and ``facetrm train``: from a user's files to a recipe, or to a finished run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from facetrm.core.config import apply_sets, parse_config
from facetrm.core.errors import ConfigError, DataError
from facetrm.core.files import write_text
from facetrm.data.guess import objectives_text
from facetrm.recipes.armorm.config import ArmormConfig
from facetrm.recipes.armorm.rows import FilesData
from facetrm.recipes.own_data.audit import audit_data, audit_lines
from facetrm.recipes.own_data.draft import draft_settings, fitted_settings, recipe_text
from facetrm.recipes.own_data.load import OwnData, find_files, read_own_data
from facetrm.recipes.run import Run, run_armorm

OBJECTIVES: Final = "objectives.yaml"
RECIPE: Final = "recipe.yaml"


@dataclass(frozen=True)
class Drafted:
    """A recipe for a user's files, drafted but not written.

    Attributes:
        data: The rows and objectives.
        settings: Settings of the recipe.
        config: The same settings, checked.
        lines: The audit as lines of text.
    """

    data: OwnData
    settings: dict[str, Any]
    config: ArmormConfig
    lines: list[str]

    @property
    def guessed_text(self) -> str:
        """The guessed objectives as YAML; empty if they were declared."""
        files = [str(file.path) for file in self.data.ratings]
        return objectives_text(self.data.guessed, files=files) if self.data.guessed else ""


def draft(
    ratings: Sequence[Path],
    pairs: Sequence[Path],
    *,
    backbone: str,
    written: Path,
    objectives: Path | None = None,
    sets: Sequence[str] = (),
) -> Drafted:
    """Read a user's files and draft a recipe for them. Nothing is written but side files of skipped rows.

    Args:
        ratings: Files of ratings.
        pairs: Files of preferences.
        backbone: Path or name of the backbone.
        written: Path of the objectives file to be written if objectives are guessed.
        objectives: YAML file of declared objectives; None to guess them.
        sets: Changes to the settings, each ``section.key=value``.

    Raises:
        DataError: A file is missing or empty, follows no known convention, or has a bad row; or one kind is missing.
        ConfigError: A changed setting is unknown.
    """
    ratings, pairs, borrowed = find_files(ratings, pairs)
    title = f"ArmoRM on {pairs[0].name.split('.')[0]}"
    plain = draft_settings(
        ratings=ratings, pairs=pairs, backbone=backbone, objectives=objectives or written, title=title
    )
    section = _checked(plain, sets).data
    assert isinstance(section, FilesData)
    declared = Path(section.objectives)
    data = read_own_data(
        [Path(path) for path in section.ratings],
        [Path(path) for path in section.preferences],
        objectives=None if objectives is None and declared == written else declared,
        borrowed=borrowed,
        **section.skipping,
    )
    settings = apply_sets(fitted_settings(plain, data), sets)
    config = _checked(settings, ())
    assert isinstance(config.data, FilesData)
    assert config.backbone is not None
    audit = audit_data(data, config.backbone, test_share=config.data.test_share, seed=config.seed)
    return Drafted(data, settings, config, audit_lines(data, audit))


def _checked(settings: dict[str, Any], sets: Sequence[str]) -> ArmormConfig:
    config = parse_config(ArmormConfig, apply_sets(settings, sets), place="--set")
    if not isinstance(config.data, FilesData) or config.backbone is None:
        raise ConfigError("not a recipe for files and a backbone", place="--set", fix="use facetrm run for others")
    return config


def in_any_folder(config: ArmormConfig) -> ArmormConfig:
    """Return the settings with absolute paths, so that the resolved recipe of a run works from any folder.

    Args:
        config: Settings of a recipe for files.
    """
    assert isinstance(config.data, FilesData)
    assert config.backbone is not None
    data = config.data
    paths: dict[str, Any] = {
        "ratings": tuple(str(Path(path).resolve()) for path in data.ratings),
        "preferences": tuple(str(Path(path).resolve()) for path in data.preferences),
        "decontaminate": tuple(str(Path(path).resolve()) for path in data.decontaminate),
        "objectives": str(Path(data.objectives).resolve()),
    }
    return config.model_copy(
        update={"data": data.model_copy(update=paths), "backbone": config.backbone.with_full_paths()}
    )


def check_unwritten(folder: Path, *, force: bool = False) -> None:
    """Check that a folder holds neither file of a draft.

    Args:
        folder: Folder to write to.
        force: Whether the files may be overwritten.

    Raises:
        ConfigError: A file is there and ``force`` is not set.
    """
    for path in (folder / OBJECTIVES, folder / RECIPE):
        if path.exists() and not force:
            raise ConfigError("is there already", place=path, fix="give another folder with --out, or --force")


def write_draft(drafted: Drafted, folder: Path, *, force: bool = False) -> Path:
    """Write the objectives and the recipe of a draft, and return the path of the recipe.

    Args:
        drafted: The draft.
        folder: Folder to write to; it is created if it does not exist.
        force: Whether to overwrite files that are there.

    Raises:
        ConfigError: A file is there and ``force`` is not set; nothing is written.
    """
    check_unwritten(folder, force=force)
    recipe = folder / RECIPE
    texts = {folder / OBJECTIVES: drafted.guessed_text, recipe: recipe_text(drafted.settings, path=recipe)}
    for path, text in ((path, text) for path, text in texts.items() if text):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    return recipe


def keep_objectives(drafted: Drafted, path: Path) -> None:
    """Write the guessed objectives of a training into its run folder, unless the same are there.

    Args:
        drafted: The draft.
        path: Path of the objectives file.

    Raises:
        DataError: Other objectives are there, so the folder belongs to another training.
    """
    text = drafted.guessed_text
    if not text:
        return
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise DataError(
            "holds the objectives of another training, or was edited",
            place=path,
            fix=f"give another --out, or use them with --objectives {path}",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)


def train_own_data(drafted: Drafted, folder: Path) -> Run:
    """Train on a user's files in a run folder, which keeps the objectives and the resolved recipe.

    Args:
        drafted: The draft.
        folder: Folder of the run.

    Raises:
        DataError: The folder holds the objectives of another training.
        FacetrmError: A step failed; the error names value, place and fix.
    """
    keep_objectives(drafted, folder / OBJECTIVES)
    return run_armorm(in_any_folder(drafted.config), folder)
