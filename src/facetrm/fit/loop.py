"""The training loop of small heads: seeded, resumable, and it keeps the best state.

The batch and the dropout of step t are drawn from generators seeded with (seed, t). A run that was killed and resumed
therefore computes the same numbers as one that was not, and no generator state has to be saved.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from facetrm.core.errors import FitError
from facetrm.core.files import why_unread, write_bytes


@dataclass(frozen=True)
class Schedule:
    """Settings of the training loop.

    Attributes:
        steps: number of AdamW steps; the learning rate falls along a cosine to 0.
        batch_size: number of rows per step, drawn with replacement; 0 uses all rows in every step.
        learning_rate: learning rate of AdamW at the first step.
        weight_decay: weight decay of AdamW; biases and other vectors are not decayed.
        evaluate_every: number of steps between two evaluations.
        patience: number of evaluations without a new best before training stops; 0 never stops early.
        seed: random seed of batches and dropout.
    """

    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    evaluate_every: int
    patience: int
    seed: int


@dataclass
class Progress:
    """The state of a training.

    Attributes:
        step: number of steps done.
        best_step: step with the lowest validation loss (the earliest if several are equal).
        best: lowest validation loss.
        history: one entry per evaluation, with step, training loss and validation loss.
    """

    step: int
    best_step: int
    best: float
    history: list[dict[str, float]]


def train(
    module: nn.Module,
    schedule: Schedule,
    *,
    rows: int,
    loss: Callable[[Tensor | slice], Tensor],
    evaluate: Callable[[], float] | None = None,
    checkpoint: Path | None = None,
    key: str = "",
    stop: int | None = None,
) -> Progress:
    """Train ``module`` and leave it in its best state (without ``evaluate``, in its last state).

    Args:
        module: the module to train, in place.
        schedule: settings of the loop.
        rows: number of training rows.
        loss: function from the row indices of a batch to its loss.
        evaluate: function that returns the validation loss. It is called in eval mode before the first step and then
            every ``evaluate_every`` steps. None for no evaluation.
        checkpoint: file to write at every evaluation; if it exists, training resumes from it. None for no file.
        key: fingerprint of data and settings; a checkpoint with a different key is an error.
        stop: number of steps after which to stop; the learning rate still follows ``schedule.steps``.

    Returns:
        The final state of the training.

    Raises:
        FitError: the loss is not finite, or the checkpoint belongs to another run or cannot be read.
    """
    parameters = dict(module.named_parameters())
    decayed = [p for p in parameters.values() if p.ndim > 1]
    others = [p for p in parameters.values() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": schedule.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=schedule.learning_rate,
    )
    state = Progress(0, 0, math.inf, [])
    best = {name: p.detach().clone() for name, p in parameters.items()}
    if checkpoint is not None and checkpoint.exists():
        state, best = _resume(checkpoint, key, parameters, optimizer)
    elif evaluate is not None:
        _evaluate(module, evaluate, state, best, parameters, training_loss=math.nan)
    last = schedule.steps if stop is None else min(stop, schedule.steps)
    while state.step < last and not _stopped(state, schedule):
        value = _step(module, optimizer, schedule, state.step, rows, loss)
        state.step += 1
        if not math.isfinite(value):
            raise FitError(
                f"the loss is {value} at step {state.step}", fix="lower learning_rate, or check the features"
            )
        if state.step % schedule.evaluate_every == 0 or state.step == last:
            if evaluate is not None:
                _evaluate(module, evaluate, state, best, parameters, training_loss=value)
            if checkpoint is not None:
                _write(checkpoint, key, state, parameters, optimizer, best)
    if evaluate is not None:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(best[name])
    module.eval()
    return state


def _stopped(state: Progress, schedule: Schedule) -> bool:
    return 0 < schedule.patience * schedule.evaluate_every <= state.step - state.best_step


def _step(
    module: nn.Module,
    optimizer: torch.optim.AdamW,
    schedule: Schedule,
    step: int,
    rows: int,
    loss: Callable[[Tensor | slice], Tensor],
) -> float:
    """Take one optimiser step and return the loss before it."""
    batch: Tensor | slice = slice(None)
    if schedule.batch_size > 0:
        rng = np.random.default_rng([schedule.seed, step])
        batch = torch.from_numpy(rng.integers(rows, size=schedule.batch_size))
    for group in optimizer.param_groups:
        group["lr"] = schedule.learning_rate * 0.5 * (1.0 + math.cos(math.pi * step / schedule.steps))
    module.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(np.random.SeedSequence([schedule.seed, step]).generate_state(1)[0]))
        value = loss(batch)
    optimizer.zero_grad()
    value.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return float(value.detach())


def _evaluate(
    module: nn.Module,
    evaluate: Callable[[], float],
    state: Progress,
    best: dict[str, Tensor],
    parameters: dict[str, nn.Parameter],
    *,
    training_loss: float,
) -> None:
    """Evaluate, add to the history, and keep the state if it is the best so far."""
    module.eval()
    with torch.no_grad():
        value = evaluate()
    row = {"step": float(state.step), "validation_loss": value}
    state.history.append(row if math.isnan(training_loss) else {**row, "training_loss": training_loss})
    if value < state.best:
        state.best, state.best_step = value, state.step
        for name, parameter in parameters.items():
            best[name] = parameter.detach().clone()


def _write(
    path: Path,
    key: str,
    state: Progress,
    parameters: dict[str, nn.Parameter],
    optimizer: torch.optim.AdamW,
    best: dict[str, Tensor],
) -> None:
    """Write parameters, optimiser moments and best state to one safetensors file, atomically."""
    tensors = {f"best.{name}": tensor for name, tensor in best.items()}
    for name, parameter in parameters.items():
        tensors[f"now.{name}"] = parameter.detach().clone()
        for moment in ("step", "exp_avg", "exp_avg_sq"):
            tensors[f"{moment}.{name}"] = optimizer.state[parameter][moment].clone()
    best_value = state.best if math.isfinite(state.best) else None
    meta = {"step": state.step, "best_step": state.best_step, "best": best_value, "history": state.history}
    write_bytes(path, save_tensors(tensors, metadata={"key": key, "progress": json.dumps(meta)}))


def _resume(
    path: Path, key: str, parameters: dict[str, nn.Parameter], optimizer: torch.optim.AdamW
) -> tuple[Progress, dict[str, Tensor]]:
    """Read a checkpoint into the parameters and the optimiser."""
    try:
        with safe_open(path, framework="pt") as handle:
            metadata = handle.metadata() or {}
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
        found, meta = metadata["key"], json.loads(metadata["progress"])
    except OSError as exc:
        problem, fix = why_unread(exc, missing="the checkpoint is gone", fix="run again to start over")
        raise FitError(problem, place=path, fix=fix) from None
    except (SafetensorError, KeyError, ValueError) as exc:
        raise FitError(f"the checkpoint cannot be read ({exc})", place=path, fix="delete it to start over") from None
    if found != key:
        raise FitError(
            f"the checkpoint belongs to run {found[:12]} with other data or settings; this run is {key[:12]}",
            place=path,
            fix="delete it to start over, or give another file",
        )
    best: dict[str, Tensor] = {}
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[f"now.{name}"])
            best[name] = tensors[f"best.{name}"]
            moments: dict[str, Any] = {m: tensors[f"{m}.{name}"] for m in ("step", "exp_avg", "exp_avg_sq")}
            optimizer.state[parameter] = moments
    value = math.inf if meta["best"] is None else float(meta["best"])
    return Progress(meta["step"], meta["best_step"], value, meta["history"]), best
