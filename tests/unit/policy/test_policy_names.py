"""The bridges import no trainer, and the examples in their docstrings give what they say."""

from __future__ import annotations

import doctest
import subprocess
import sys
from pathlib import Path

from facetrm import policy

TRAINERS = ("trl", "verl", "slime", "swift", "openrlhf", "verifiers", "distilabel", "vllm", "nemo_rl", "fastapi")
BRIDGES = sorted(path.stem for path in (Path(policy.__file__).parent / "bridges").glob("*.py") if path.stem[0] != "_")


def test_no_bridge_imports_its_trainer() -> None:
    assert len(BRIDGES) == 10
    lines = [f"import facetrm.policy.bridges.{name}" for name in BRIDGES]
    lines += ["import sys", f"print([name for name in {TRAINERS!r} if name in sys.modules])"]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_examples_in_docstrings_run() -> None:
    run = 0
    for name in policy.__all__:
        examples = doctest.DocTestParser().get_doctest(getattr(policy, name).__doc__ or "", {}, name, None, None)
        said: list[str] = []
        doctest.DocTestRunner().run(examples, out=said.append)
        assert not said, "".join(said)
        run += bool(examples.examples)
    assert run >= 5
