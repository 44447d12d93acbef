"""The layout of the published ArmoRM checkpoint: tensor names, shapes and settings, for loading and export.

    model.*                           the trunk (or another prefix, if Transformers uses one)
    regression_layer.weight           [K, D], or [K * m, D] with QRM's m quantiles; no bias
    reward_transform_matrix           [K, K]
    gating.logit_scale                [1]
    gating.layers.{i}.weight, .bias   linear layers; in QRM, i also counts ReLU and batch
                                      normalisation, and the hidden layers have no bias

Shapes: K objectives, D hidden size, H width of the gate's hidden layers, n hidden layers, m quantiles.

Reference: ArmoRM (arXiv 2406.12845) and QRM (arXiv 2409.10164), as their checkpoints were published.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from pydantic import ConfigDict, Field, ValidationError
from safetensors import safe_open
from torch import Tensor

from facetrm.core.config import Section
from facetrm.core.errors import ModelError
from facetrm.core.files import read_json
from facetrm.data.objectives import Objective
from facetrm.data.sources.armorm import ARMORM_OBJECTIVES
from facetrm.model.experts import LengthScale

GATED_ARCHITECTURE: Final = "ForRewardModelWithGating"
INDEX: Final = "model.safetensors.index.json"
WEIGHTS_FILE: Final = "model.safetensors"


class LayoutConfig(Section):
    """The settings of the heads in ``config.json``. Its other settings belong to the trunk.

    The layout has no tensors for the attributes from ``objectives`` to ``beta``. Only checkpoints that facetrm wrote
    have them.

    Attributes:
        hidden_size: the hidden size of the trunk, D.
        num_objectives: the number of objectives, K.
        num_quantiles: the number of quantiles per objective in QRM, m; None for ArmoRM.
        gating_hidden_dim: the width of the gate's hidden layers, H.
        gating_n_hidden: the number of the gate's hidden layers, n.
        gating_temperature: the softmax temperature of the gate.
        objectives: the K objectives with their names and scales; None if they are not stated.
        objective_bias: the K intercepts of the heads; None for zeros.
        length_expert: the scale of the length expert, which is the last objective; None if there is no length expert.
        reference_scores: the K scores of the reference answer; None for zeros.
        beta: the factor on the reward margin in P(A > B) = sigmoid(beta * margin).
        dtype: the dtype of the saved trunk, such as ``bfloat16``; None if it is not stated.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    hidden_size: int = Field(ge=1)
    num_objectives: int = Field(default=19, ge=1)
    num_quantiles: int | None = Field(default=None, ge=1)
    gating_hidden_dim: int = Field(default=1024, ge=1)
    gating_n_hidden: int = Field(default=3, ge=0)
    gating_temperature: float = Field(default=10.0, gt=0.0)
    objectives: tuple[Objective, ...] | None = None
    objective_bias: tuple[float, ...] | None = None
    length_expert: LengthScale | None = None
    reference_scores: tuple[float, ...] | None = None
    beta: float = Field(default=1.0, gt=0.0)
    dtype: str | None = None

    def names(self) -> tuple[Objective, ...]:
        """Return the K objectives: the stated ones, ArmoRM's if there are 19, or else numbered ones."""
        if self.objectives is not None:
            return self.objectives
        if self.num_objectives == len(ARMORM_OBJECTIVES):
            return ARMORM_OBJECTIVES
        return tuple(
            Objective(name=f"objective-{k}", low=0.0, high=1.0, kind="continuous", source="the checkpoint")
            for k in range(self.num_objectives)
        )


def read_layout(folder: Path) -> LayoutConfig:
    """Read the settings of the heads from ``config.json``.

    Raises:
        ModelError: the file or a setting is missing or malformed.
    """
    path = folder / "config.json"
    value = read_json(path, ModelError, fix="give a folder with config.json")
    try:
        config = LayoutConfig.model_validate(value)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_context=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ModelError(
            f"'{key}' is malformed ({first['msg']})", place=path, fix="fetch the checkpoint again"
        ) from None
    for name, given in (
        ("objectives", config.objectives),
        ("objective_bias", config.objective_bias),
        ("reference_scores", config.reference_scores),
    ):
        if given is not None and len(given) != config.num_objectives:
            raise ModelError(
                f"'{name}' has {len(given)} entries for {config.num_objectives} objectives",
                place=path,
                fix="export the model again",
            )
    return config


def head_shapes(config: LayoutConfig, *, normalised: bool) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor outside the trunk, by name.

    Args:
        config: the settings of the checkpoint.
        normalised: whether the gate has batch normalisation (QRM).
    """
    size, width, objectives = config.hidden_size, config.gating_hidden_dim, config.num_objectives
    shapes: dict[str, tuple[int, ...]] = {
        "regression_layer.weight": (objectives * (config.num_quantiles or 1), size),
        "reward_transform_matrix": (objectives, objectives),
        "gating.logit_scale": (1,),
    }
    step = 3 if normalised else 1
    for n in range(config.gating_n_hidden):
        linear, norm = f"gating.layers.{step * n}", f"gating.layers.{step * n + 2}"
        shapes[f"{linear}.weight"] = (width, size if n == 0 else width)
        if normalised:
            shapes |= {f"{norm}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")}
            shapes[f"{norm}.num_batches_tracked"] = ()
        else:
            shapes[f"{linear}.bias"] = (width,)
    last = f"gating.layers.{step * config.gating_n_hidden}"
    return shapes | {
        f"{last}.weight": (objectives, width if config.gating_n_hidden else size),
        f"{last}.bias": (objectives,),
    }


def tensor_files(folder: Path) -> dict[str, Path]:
    """Return the file of every tensor in a safetensors checkpoint, by tensor name.

    Raises:
        ModelError: there is no safetensors file, the file or its index is broken, or there are two checkpoints.
    """
    index = folder / INDEX
    if index.is_file() and (folder / WEIGHTS_FILE).is_file():
        raise ModelError(
            f"the folder holds two checkpoints, {WEIGHTS_FILE} and {INDEX}",
            place=folder,
            fix="delete the outdated one",
        )
    if index.is_file():
        found = read_json(index, ModelError, fix="fetch the checkpoint again")
        try:
            return {str(name): folder / str(file) for name, file in found["weight_map"].items()}
        except (KeyError, TypeError, AttributeError):
            raise ModelError(
                "the index has no valid 'weight_map'", place=index, fix="fetch the checkpoint again"
            ) from None
    file = folder / WEIGHTS_FILE
    if not file.is_file():
        raise ModelError(
            f"no file {WEIGHTS_FILE}", place=folder, fix="fetch the weights as safetensors, or convert them"
        )
    with _opened(file) as handle:
        return dict.fromkeys(handle.keys(), file)


def read_tensors(files: Mapping[str, Path], names: list[str]) -> dict[str, Tensor]:
    """Read tensors from safetensors files, converted to float32.

    Args:
        files: the file of each tensor by tensor name, from :func:`tensor_files`.
        names: the names of the tensors to read.

    Raises:
        ModelError: a file is missing or broken, or lacks a tensor that the index lists.
    """
    tensors: dict[str, Tensor] = {}
    for file in sorted({files[name] for name in names}):
        with _opened(file) as handle:
            held = set(handle.keys())
            for name in (n for n in names if files[n] == file):
                if name not in held:
                    raise ModelError(f"tensor '{name}' is not in the file", place=file, fix="fetch the file again")
                tensors[name] = handle.get_tensor(name).to(torch.float32)
    return tensors


def _opened(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt")
    except Exception as exc:  # safetensors raises several unrelated kinds of error
        reason = " ".join(str(exc).split())[:200]
        raise ModelError(
            f"not a complete safetensors file ({reason})", place=file, fix="fetch the file again"
        ) from None
