"""Short conversations on which a fast path must give the same vectors as the plain one."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from transformers import PreTrainedModel

from facetrm.backbone.text.chat import Ids

TOLERANCE: Final = {torch.float32: 1e-3, torch.bfloat16: 0.05, torch.float16: 0.02}
"""Largest relative error (by norm) allowed for a vector from a pack, compared with the conversation read alone."""

_STRETCHED: Final = frozenset({"dynamic", "longrope"})  # RoPE types whose positions depend on the longest row of a pass


def probes(trunk: PreTrainedModel) -> tuple[list[Ids], list[int]]:
    """Return the token ids and prompt lengths of five short conversations, four of which share a prompt."""
    vocabulary = int(trunk.config.get_text_config().vocab_size)
    rows = [tuple((7 * i * i + 3 * n) % vocabulary for i in range(1, 12 + n)) for n in range(2)]
    return [rows[0], rows[0][:5] + rows[1], rows[1], rows[0] + rows[1], rows[0][:7]], [5, 5, 4, 5, 5]


def positions_problem(trunk: PreTrainedModel, inputs: frozenset[str]) -> str | None:
    """Return why the positions of ``trunk`` cannot restart within a pass, or None if they can.

    Args:
        trunk: model that reads.
        inputs: names of the arguments of its forward method.
    """
    rope = getattr(trunk.config.get_text_config(), "rope_parameters", None) or {}
    kinds = {str(part.get("rope_type")) for part in (rope, *rope.values()) if isinstance(part, dict)}
    if kinds & _STRETCHED:
        return f"positions of type {', '.join(sorted(kinds & _STRETCHED))} depend on the longest row of a pass"
    return None if "position_ids" in inputs else "the model takes no position_ids"


def vector_gap(found_ND: Tensor, expected_ND: Tensor, what: str, *, dtype: torch.dtype) -> str | None:
    """Return by how much vectors differ from the expected ones, or None if it is no more than rounding.

    Args:
        found_ND: vectors of a fast path, [N, D].
        expected_ND: vectors of the plain path, [N, D].
        what: opening of the answer.
        dtype: dtype of the trunk, which decides the tolerance.
    """
    gap_N = (found_ND.float() - expected_ND.float()).norm(dim=-1)
    worst = float((gap_N / expected_ND.float().norm(dim=-1).clamp_min(1e-6)).max())
    limit = TOLERANCE.get(dtype, 1e-3)
    return None if worst <= limit else f"{what} by {worst:.2g} (relative norm)"
