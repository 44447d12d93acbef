"""What the ``data`` sections of generated rows share, whichever generator and recipe they belong to."""

from __future__ import annotations

from typing import Any, ClassVar

from facetrm.core.config import Section
from facetrm.data.synthetic.known import KnownTruth, SyntheticConfig


class Generated(Section):
    """Rows of a generator whose truth is known. The settings of the generator stand under its name.

    Attributes:
        kind: Name of the generator.
    """

    source: ClassVar[type[KnownTruth[Any]]]
    kind: str

    @property
    def settings(self) -> SyntheticConfig:
        """Settings of the generator."""
        settings: SyntheticConfig = getattr(self, self.source.name)
        return settings

    def generator(self) -> KnownTruth[Any]:
        """Return the generator."""
        return self.source(self.settings)


def generator_seeds(section: Section) -> dict[str, int]:
    """Return the seed of the generator of a ``data`` section, by its name; empty if there is none.

    Args:
        section: A recipe's ``data`` section.
    """
    return {section.source.name: section.settings.seed} if isinstance(section, Generated) else {}
