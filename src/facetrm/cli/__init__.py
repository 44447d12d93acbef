"""Floor 7: the command line. Commands parse arguments and print; settings are given as ``--set section.key=value``."""

from facetrm.cli.app import main, start

__all__ = ["main", "start"]
