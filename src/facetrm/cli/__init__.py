"""Floor 7: the command line. Verbs parse and print; settings are ``--set section.key=value``."""

from facetrm.cli.app import main, start

__all__ = ["main", "start"]
