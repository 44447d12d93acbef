"""The folder of a run: one run at a time, and ``config.resolved.yaml`` always belongs to the results beside it."""

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
    """A folder that is locked for one run.

    Attributes:
        path: Path of the folder.
        main: Whether this process writes; of several processes in a run, one does.
        settings: Settings of the run, as YAML.
    """

    path: Path
    main: bool
    settings: str

    def begin(self) -> None:
        """Write the settings if there are none yet: a run that is refused must not change those of an earlier one."""
        if self.main and not (self.path / RESOLVED).exists():
            write_text(self.path / RESOLVED, self.settings)

    def keep_settings(self) -> None:
        """Write the settings, because from now on the folder receives this run's results."""
        if self.main:
            write_text(self.path / RESOLVED, self.settings)


@contextmanager
def run_folder(folder: Path, config: Section, *, main: bool = True) -> Iterator[RunFolder]:
    """Yield the folder of a run, locked against other runs, without half-written files of killed runs.

    Args:
        folder: Folder of the run; it is created if it does not exist.
        config: Settings of the run.
        main: Whether this process writes; of several processes in a run, one does.

    Raises:
        StoreError: Another run uses the folder.
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
                folder.rmdir()  # removes it only if the run has written nothing
