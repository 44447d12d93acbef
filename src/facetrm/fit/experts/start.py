"""Where a training of one adapter with its head starts: a new adapter or a copy, a head, and the way back to both.

Shapes: D hidden size.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

import torch
from safetensors import safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor
from transformers import PreTrainedModel

from facetrm.backbone.lora.adapters import LoraSettings, adapter_tensors
from facetrm.backbone.lora.switching import adapter_names, train_only
from facetrm.backbone.transformer import TransformerEncoder
from facetrm.core.errors import FitError
from facetrm.core.files import write_bytes
from facetrm.fit.finetune.model import TrainableHeads, TrunkWithHeads

_START: Final = "start.safetensors"
_HEAD: Final = "heads.preference_D"


def prepare_adapter(
    encoder: TransformerEncoder, *, name: str, head_D: Tensor, lora: LoraSettings, seed: int, start: str | None
) -> tuple[TrunkWithHeads, dict[str, Tensor]]:
    """Return trunk and head as one module in which only the adapter ``name`` and the head are trained.

    Args:
        encoder: Gets the adapter; an adapter of that name is replaced.
        name: Name of the adapter.
        head_D: Where the head starts, [D].
        lora: Size and place of the adapter.
        seed: Random seed of a new adapter.
        start: Name of the adapter to copy; None for a new one, which changes nothing at first.

    Returns:
        The module, and the tensors of adapter and head before the first step.

    Raises:
        FitError: The adapter to copy has other layers or another rank.
    """
    trunk = encoder.model
    if name in adapter_names(trunk):
        encoder.remove_adapter(name)
    encoder.add_adapter(name, lora, seed=seed)
    if start is not None:
        _copy_adapter(trunk, start, name)
    train_only(trunk, name)
    heads = TrainableHeads(encoder.hidden_size, 0, preference=True, seed=seed).to(trunk.device)
    with torch.no_grad():
        heads.preference_D.copy_(head_D)
    model = TrunkWithHeads(trunk, heads, regression=0.0, preference=1.0, pooled=encoder.kind == "encoder")
    return model, state_of(model, model.trained())


def state_of(model: TrunkWithHeads, kept: Collection[str]) -> dict[str, Tensor]:
    """Return copies of the tensors that are named.

    Args:
        model: Module to copy from.
        kept: Names in its state dict.
    """
    return {key: tensor.detach().clone() for key, tensor in model.state_dict().items() if key in kept}


@torch.no_grad()
def restore(model: TrunkWithHeads, state: Mapping[str, Tensor]) -> None:
    """Copy ``state`` into ``model``.

    Args:
        model: Module to change.
        state: Tensors by name, as in its state dict.
    """
    own = model.state_dict()
    for key, tensor in state.items():
        own[key].copy_(tensor)


def write_start(folder: Path, head_D: Tensor) -> None:
    """Write the head that a training starts with.

    It is kept because the last digits of a solver differ between machines, and a training may go on elsewhere.

    Args:
        folder: Folder of the training.
        head_D: The head, [D].
    """
    write_bytes(folder / _START, save_tensors({_HEAD: head_D.detach().cpu()}))


def read_start(folder: Path) -> Tensor:
    """Return the head that the training in ``folder`` started with, [D]."""
    with safe_open(folder / _START, framework="pt") as handle:
        head_D: Tensor = handle.get_tensor(_HEAD)
    return head_D


def random_head(size: int, *, seed: int) -> Tensor:
    """Return a head drawn like the weights of ``torch.nn.Linear(size, 1)``, uniform in +-1 / sqrt(size), [D].

    Its bias is left out: it cancels in every difference of two rewards.

    Args:
        size: D.
        seed: Random seed.
    """
    draw = torch.Generator().manual_seed(seed)
    head_D: Tensor = (2.0 * torch.rand(size, generator=draw) - 1.0) / size**0.5
    return head_D


def has_start(folder: Path) -> bool:
    """Return whether ``folder`` holds the start of a training."""
    return (folder / _START).exists()


@torch.no_grad()
def _copy_adapter(trunk: PreTrainedModel, source: str, name: str) -> None:
    found, own = adapter_tensors(trunk, name=source), adapter_tensors(trunk, name=name)
    if {key: t.shape for key, t in found.items()} != {key: t.shape for key, t in own.items()}:
        raise FitError(
            f"adapter '{name}' has other layers or another rank than '{source}', from which it starts",
            place="expert",
            fix="give both phases the same lora section",
        )
    for key, tensor in found.items():
        own[key].copy_(tensor)
