"""Time several sides in turns, and measure this machine's fastest matrix product, the yardstick of every speed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "processor": time.process_time}


def in_turns(
    sides: Mapping[str, Callable[[], object]], *, rounds: int, device: str = "cpu", clock: str = "wall"
) -> dict[str, list[float]]:
    """Return the seconds of each side in each round; every side runs once before, unmeasured.

    The order changes from round to round, so that no side always follows the same one.

    Args:
        sides: Functions to time, by name.
        rounds: Number of rounds.
        device: Device whose work must be finished before the clock is read.
        clock: ``wall`` for elapsed time, or ``processor`` for the CPU time of all threads of this process, which does
            not depend on other processes.
    """
    now = CLOCKS[clock]
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    for side in sides.values():
        side()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    names = list(sides)
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            wait()
            start = now()
            sides[name]()
            wait()
            seconds[name].append(now() - start)
    return seconds


def ratio(seconds: Mapping[str, list[float]], *, ours: str, theirs: str) -> dict[str, float]:
    """Return both medians, and the median and the worst of the rounds' ratios of their time over ours."""
    ratios = sorted(b / a for a, b in zip(seconds[ours], seconds[theirs], strict=True))
    return {
        "ours": statistics.median(seconds[ours]),
        "theirs": statistics.median(seconds[theirs]),
        "ratio": statistics.median(ratios),
        "worst": ratios[0],
    }


def matmul_peak(
    dtype: torch.dtype, *, device: str = "cpu", size: int = 2048, tries: int = 7, clock: str = "wall"
) -> float:
    """Return the operations a second of the fastest of ``tries`` products of two square matrices of ``size``."""
    one, other = torch.randn(2, size, size, device=device).to(dtype)
    seconds = in_turns({"product": lambda: one @ other}, rounds=tries, device=device, clock=clock)
    return 2 * size**3 / min(seconds["product"])
