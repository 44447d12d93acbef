"""What a fitted rival is made of: other scorers, each with the place that it is loaded from and its hash."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, final

from pydantic import Field

from facetrm.backbone.text.truncate import Truncation
from facetrm.baselines.named import scorer_hash
from facetrm.baselines.plain import PLAIN_SCORERS
from facetrm.core.config import Section
from facetrm.core.errors import FacetrmError, ModelError
from facetrm.model.output import Scorer


class PartReading(Section):
    """How the reward models among the parts read conversations; what is None stays as a model has it.

    Attributes:
        max_tokens: Maximum tokens of a conversation.
        truncation: What to do with a longer conversation: ``error``, or ``drop_oldest`` to drop the oldest turns.
        dtype: Data type of the trunk. The folder of a facetrm model fixes its own.
    """

    max_tokens: int | None = Field(default=None, ge=2)
    truncation: Truncation | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] | None = None

    @property
    def given(self) -> dict[str, Any]:
        """The settings that are not None."""
        return self.model_dump(exclude_none=True)


class SavedPart(Section):
    """A part as a manifest names it.

    Attributes:
        place: Where it is loaded from: a folder, ``hf://owner/name``, a shipped model, or a name of PLAIN_SCORERS.
        hash: Hash of the scorer, which does not depend on its place, its device or its mode.
        reading: How it reads conversations.
    """

    place: str
    hash: str
    reading: PartReading = PartReading()


@final
@dataclass(frozen=True)
class LoadedPart:
    """A loaded part.

    Attributes:
        scorer: The scorer.
        saved: How a manifest names it.
    """

    scorer: Scorer
    saved: SavedPart


LoadPart: TypeAlias = Callable[[str, PartReading], LoadedPart]
"""Loads a part from its place."""


def lasting_place(place: str) -> str:
    """Return a place that means the same from every working folder: a path becomes absolute, a name stays.

    Args:
        place: Place of a part.
    """
    path = Path(place).expanduser()
    return place if place in PLAIN_SCORERS or not path.is_dir() else str(path.resolve())


def named_part(load: LoadPart, place: str, reading: PartReading, *, called: str) -> LoadedPart:
    """Load a part; an error says which one it is.

    Args:
        load: Loads it.
        place: Its place.
        reading: How it reads conversations.
        called: What the user calls it, such as ``member 'gate'``.

    Raises:
        FacetrmError: It cannot be loaded; the class is that of the cause.
    """
    try:
        part = load(place, reading)
        scorer_hash(part.scorer)
    except FacetrmError as exc:
        where = place if exc.place in (None, place) else f"{place}: {exc.place}"
        raise type(exc)(f"{called} cannot be loaded: {exc.problem}", place=where, fix=exc.fix) from None
    return part


def same_part(load: LoadPart, saved: SavedPart, *, called: str, manifest: Path) -> LoadedPart:
    """Load a part, and check that it is the one that the rival was fitted to.

    Args:
        load: Loads it.
        saved: How the manifest names it.
        called: What the user calls it.
        manifest: Path of the manifest.

    Raises:
        FacetrmError: It cannot be loaded.
        ModelError: It is another scorer.
    """
    part = named_part(load, saved.place, saved.reading, called=called)
    if part.saved.hash != saved.hash:
        raise ModelError(
            f"{called} at '{saved.place}' has the hash {part.saved.hash[:12]}..., but the rival was fitted to "
            f"{saved.hash[:12]}...",
            place=manifest,
            fix="run the recipe again, or put the unchanged scorer back (correct 'place' if it was moved)",
        )
    return part
