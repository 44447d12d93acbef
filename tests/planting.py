"""What ``benchmarks/planted.py`` and ``benchmarks/planted_servers.py`` plant, and their loopback server."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

planted = importlib.import_module("planted")
servers = importlib.import_module("planted_servers")
loopback = importlib.import_module("loopback")
