"""Where and how a results file was made, as recorded at the start of every benchmark's JSON."""

from __future__ import annotations

import datetime
import os
import platform
import sys
from pathlib import Path


def provenance() -> dict[str, str]:
    """Return command, date and machine of this run."""
    return {
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
    }
