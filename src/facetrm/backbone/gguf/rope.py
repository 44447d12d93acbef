"""The rotary positions of a GGUF file: scaling that Transformers does not read from the file, so that none is lost.

Llama 3.1 and later store, in ``rope_freqs.weight``, the factor by which each frequency is divided. Transformers
computes these factors from four settings of ``config.json``, which the file does not hold; they are found again here
and must give the same factors.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from facetrm.backbone.gguf.header import Header
from facetrm.core.errors import short

_TENSOR: Final = "rope_freqs.weight"
_LOW, _HIGH, _CONTEXT = 1.0, 4.0, 8192  # the same in every published Llama 3 model
_TOLERANCE: Final = 1e-4


def rope_settings(header: Header) -> tuple[dict[str, Any] | None, frozenset[str]]:
    """Return the rotary settings that Transformers leaves out, or None, and the tensors that they stand for.

    Args:
        header: header of the file.

    Raises:
        BackboneError: The positions are scaled in a way that cannot be carried over.
    """
    _check_scaling(header)
    if _TENSOR not in header.tensors:
        return None, frozenset()
    factors = _numbers(header)
    if np.allclose(factors, 1.0, atol=1e-6):
        return None, frozenset({_TENSOR})
    factor = float(factors.max())
    theta = header.settings.get(f"{header.architecture}.rope.freq_base", 10_000.0)
    if np.allclose(factors, _llama3(len(factors), theta=float(theta), factor=factor), rtol=_TOLERANCE):
        settings = {
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": _LOW,
            "high_freq_factor": _HIGH,
            "original_max_position_embeddings": _CONTEXT,
        }
        return settings, frozenset({_TENSOR})
    raise header.wrong(
        f"the frequencies of its positions are divided by {factors.min():.3g} to {factors.max():.3g} (rope_freqs), "
        "which are not those of Llama 3",
        fix="give the model as a folder of safetensors",
    )


def _check_scaling(header: Header) -> None:
    if header.architecture == "gpt-oss":  # the only one whose scaling Transformers reads
        return
    prefix = f"{header.architecture}.rope."
    kind, factor = header.settings.get(f"{prefix}scaling.type"), header.settings.get(f"{prefix}scaling.factor", 1.0)
    old = header.settings.get(f"{prefix}scale_linear", 1.0)
    if old == 1.0 and (kind in (None, "none") or (kind == "linear" and factor == 1.0)):
        return
    raise header.wrong(
        f"its positions are scaled ({short(kind or 'linear')} by {short(factor if old == 1.0 else old)}), which "
        "Transformers does not read from a GGUF file, so its scores would be wrong",
        fix="give the model as a folder of safetensors",
    )


def _numbers(header: Header) -> npt.NDArray[np.float64]:
    tensor = header.tensors[_TENSOR]
    if tensor.kind != "F32" or len(tensor.shape) != 1 or not tensor.numbers:
        raise header.wrong(f"{_TENSOR} is {tensor.kind} of shape {tensor.shape}, not one row of F32")
    with open(header.path, "rb") as handle:
        handle.seek(tensor.start)
        found = np.frombuffer(handle.read(tensor.size), dtype="<f4").astype(np.float64)
    if not (np.isfinite(found).all() and (found > 0).all()):
        raise header.wrong(f"{_TENSOR} holds a number that is not positive")
    return found


def _llama3(count: int, *, theta: float, factor: float) -> npt.NDArray[np.float64]:
    """Return the factors of Llama 3: 1 for short waves, ``factor`` for long ones, and a blend between."""
    wave_N = 2 * math.pi * theta ** (np.arange(count) / count)
    blend_N = (_CONTEXT / wave_N - _LOW) / (_HIGH - _LOW)
    middle_N = 1 / ((1 - blend_N) / factor + blend_N)
    return np.where(wave_N < _CONTEXT / _HIGH, 1.0, np.where(wave_N > _CONTEXT / _LOW, factor, middle_N))
