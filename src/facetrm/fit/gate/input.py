"""What the gate reads of the prompts: their projection, and the projected vectors of a fit.

Shapes: N pairs, D hidden size, R gate input size.
"""

from __future__ import annotations

from typing import final

import numpy as np
import torch
from torch import Tensor

from facetrm.fit.blocks import Vectors, row_blocks, select_rows
from facetrm.fit.gate.config import GateConfig
from facetrm.fit.pairs import ScoredPairs
from facetrm.fit.projection import Projection, fit_discriminants, fit_projection
from facetrm.model.gate import Gate


def gate_projection(config: GateConfig, pairs: ScoredPairs) -> Projection:
    """Fit the projection on the prompts of some pairs, each once.

    Args:
        config: settings of the gate.
        pairs: N pairs.
    """
    once = np.unique(pairs.groups_N, return_index=True)[1]
    prompt_ND, size = select_rows(pairs.prompt_ND, torch.from_numpy(once)), (config.rank, config.shrinkage)
    if config.directions == "tasks":
        return fit_discriminants(prompt_ND, pairs.tasks_N[once].tolist(), rank=size[0], shrinkage=size[1])
    return fit_projection(prompt_ND, rank=size[0], shrinkage=size[1], standardise=config.standardise)


@final
class GateInput:
    """The projected prompt vectors: projected once if they fit in memory, else batch by batch.

    Args:
        gate: the gate whose projection is used.
        prompt_ND: prompt vectors of the pairs, [N, D].
    """

    def __init__(self, gate: Gate, prompt_ND: Vectors) -> None:
        self._gate, self._prompt_ND = gate, prompt_ND
        self._x_NR: Tensor | None = None
        if isinstance(prompt_ND, Tensor) or gate.projection_DR is not None:
            self._x_NR = torch.cat([gate.project(block_ND) for _, block_ND in row_blocks(prompt_ND)])

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        return self._gate.project(self._prompt_ND[rows]) if self._x_NR is None else self._x_NR[rows]
