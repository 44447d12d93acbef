"""The folder of a run: one run at a time, and ``config.resolved.yaml`` is always that of the results beside it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from facetrm.core.config import Section, dump_yaml
from facetrm.core.files import remove_leftovers, write_text
from facetrm.core.locks import sole_writer

RESOLVED: Final = "config.resolved.yaml"


@dataclass(frozen=True)
class RunFolder:
    """A folder in which this process, and no other, runs a recipe.

    Attributes:
        path: where it is.
        main: whether this process writes: one of several does.
        settings: settings of the run, as YAML.
    """

    path: Path
    main: bool
    settings: str

    def begin(self) -> None:
        """Write the settings, unless there are some: a run that is refused must not change those of an earlier one."""
        if self.main and not (self.path / RESOLVED).exists():
            write_text(self.path / RESOLVED, self.settings)

    def keep_settings(self) -> None:
        """Write the settings: from now on the folder gets this run's results."""
        if self.main:
            write_text(self.path / RESOLVED, self.settings)


@contextmanager
def run_folder(folder: Path, config: Section, *, main: bool = True) -> Iterator[RunFolder]:
    """Yield the folder of a run, held against other runs, without what killed ones left half written.

    Args:
        folder: folder of the run; it is made.
        config: the run's settings.
        main: whether this process writes, where several run together.

    Raises:
        StoreError: another run holds it.
    """
    found = RunFolder(folder, main, dump_yaml(config))
    if not main:
        yield found
        return
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with sole_writer(folder, fix="wait for that run to end, stop it, or give another run folder (--out)"):
            remove_leftovers(folder, below=True)
            yield found
    finally:
        if new:
            with suppress(OSError):
                folder.rmdir()  # only where nothing came of it
