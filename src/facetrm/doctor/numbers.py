"""Read the numbers of tensors of any dtype: float8, packed 4-bit, integers, complex numbers."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

_PLAIN: Final = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})


def numbers(tensor: Tensor) -> Tensor | None:
    """Return ``tensor`` in a floating dtype that all PyTorch operations support, or None if it cannot be cast.

    Args:
        tensor: a tensor of any dtype that a weight file may hold. Complex numbers become pairs of real numbers.
    """
    if tensor.dtype in _PLAIN:
        return tensor
    if tensor.is_complex():
        return torch.view_as_real(tensor.to(torch.complex64))
    try:
        return tensor.to(torch.float32)
    except (RuntimeError, TypeError):  # packed dtypes cannot be cast
        return None


def all_finite(tensor: Tensor) -> bool | None:
    """Return whether all values are finite, or None if the dtype cannot be read.

    Args:
        tensor: a tensor of any dtype. Integers are always finite.
    """
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    values = numbers(tensor)
    return None if values is None else bool(torch.isfinite(values).all())
