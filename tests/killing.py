"""A process that dies at the n-th thing it does to the file system, as by SIGKILL: nothing is tidied up after it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator

STEPS = frozenset(
    """
    os.rename os.remove os.mkdir os.rmdir os.link os.symlink os.chmod os.chown os.truncate shutil.rmtree
    ctypes.dlsym
    """.split()  # noqa: SIM905
)
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
DEAD = 9


def dies_at(step: int, act: Callable[[], object]) -> bool:
    """Return whether ``act``, in a process of its own, was killed before its ``step``-th step (it may end before)."""
    child = os.fork()
    if child == 0:
        seen = 0

        def count(event: str, told: tuple[object, ...]) -> None:
            nonlocal seen
            if event in STEPS or (event == "open" and isinstance(told[2], int) and told[2] & WRITING):
                seen += 1
                if seen == step:
                    os._exit(DEAD)

        sys.addaudithook(count)
        code = 1
        try:
            act()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, DEAD), f"it failed with {code} at step {step}"
    return code == DEAD


def deaths(act: Callable[[], object], *, start: Callable[[], object]) -> Iterator[int]:
    """Let ``act`` die at its first step, its second, and so on, each time after ``start``; yield each step's number."""
    step = 1
    while True:
        start()
        if not dies_at(step, act):
            return
        yield step
        step += 1
