"""Running out of memory in a pass: the error is caught, memory is freed, and a smaller pass may follow."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch
from torch import Tensor

from facetrm.core.errors import BackboneError
from facetrm.core.progress import log


def unless_out_of_memory(read: Callable[[], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor] | None:
    """Return the result of ``read``, or None if memory runs out (this frees the tensors that the error refers to)."""
    try:
        return read()
    except torch.OutOfMemoryError:
        return None
    except RuntimeError as exc:
        if "can't allocate memory" not in str(exc):  # message of the CPU allocator
            raise
        return None


def free_memory(device: torch.device, *, tokens: int, next_try: int) -> None:
    """Free what the failed pass held, and log its size and that of the next one.

    Args:
        device: device that ran out of memory.
        tokens: tokens of the failed pass.
        next_try: tokens of the next pass.
    """
    log("out of memory", tokens=tokens, next_try=next_try)
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def too_long(tokens: int) -> BackboneError:
    """Return the error for a conversation of so many tokens that it cannot be read even alone."""
    return BackboneError(
        f"a conversation of {tokens} tokens does not fit into memory",
        fix="lower backbone.max_tokens, use a smaller dtype, or a device with more memory",
    )
