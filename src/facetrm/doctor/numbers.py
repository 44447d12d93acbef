"""The numbers of tensors that others wrote, whatever their type: float8, packed 4-bit, integers, complex numbers."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

_PLAIN: Final = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})


def numbers(tensor: Tensor) -> Tensor | None:
    """Return the values of ``tensor`` in a type that every operation of PyTorch knows, None where it has no such form.

    Args:
        tensor: of any type that a file of weights may hold; complex numbers become pairs.
    """
    if tensor.dtype in _PLAIN:
        return tensor
    if tensor.is_complex():
        return torch.view_as_real(tensor.to(torch.complex64))
    try:
        return tensor.to(torch.float32)
    except (RuntimeError, TypeError):  # packed types have no cast
        return None


def all_finite(tensor: Tensor) -> bool | None:
    """Return whether no value is NaN or infinite, None where the type cannot be read.

    Args:
        tensor: of any type; integers are always finite.
    """
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    values = numbers(tensor)
    return None if values is None else bool(torch.isfinite(values).all())
