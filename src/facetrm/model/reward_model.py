"""The reward model: an encoder, an optional router, and one mixture per task.

    conversation -> Features -> (router: which task) -> mixture -> reward = base + sum_k contribution_k

If experts have adapters, the prompts are routed first, and each row is encoded only with the adapters of its task.

Shapes: N conversations, D hidden size, K experts of one mixture, T tasks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, final

import torch
from torch import Tensor

from facetrm.backbone.encoder import (
    LAST,
    AdapterEncoder,
    Encoder,
    Features,
    Layer,
    LayerEncoder,
    in_order,
    labels,
    shown_layers,
)
from facetrm.core.errors import BackboneError, ModelError, did_you_mean
from facetrm.data.records import Conversation
from facetrm.model import store
from facetrm.model.gate import Gate
from facetrm.model.mixture import Mixture
from facetrm.model.output import RewardOutput, Score, rows_of
from facetrm.model.routing import Fallback, Routes, route


@final
class RewardModel:
    """A reward model that scores conversations.

    Args:
        encoder: encodes conversations as features. It must support the adapters and layers that experts read.
        mixtures: the mixture of each task, by task name; ArmoRM has one, ``{"all": mixture}``.
        router: a :class:`Gate` over the tasks, in the order of ``mixtures``; needed if there are several tasks.
        fallback: the task for rows where the router is unsure: one of the router's tasks, or an extra last mixture.
        threshold: the router's probability below which a row goes to ``fallback``, in (0, 1].
        provenance: JSON-ready facts for the manifest, such as data fingerprints, seeds and earlier edits.

    Raises:
        ModelError: the numbers of mixtures and of the router's tasks differ, hidden sizes differ, the encoder lacks an
            adapter, or only one of ``fallback`` and ``threshold`` is given.

    Example:
        >>> from facetrm import RewardModel, toy_model
        >>> model = toy_model()
        >>> RewardModel(model.encoder, model.mixtures).tasks
        ('all',)
    """

    def __init__(
        self,
        encoder: Encoder,
        mixtures: Mapping[str, Mixture],
        router: Gate | None = None,
        *,
        fallback: str | None = None,
        threshold: float = 0.0,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        self.encoder, self.mixtures, self.router = encoder, dict(mixtures), router
        self.fallback = _fallback(fallback, threshold, router, tuple(mixtures))
        self.provenance: dict[str, Any] = dict(provenance or {})
        self._check_parts()
        for part in (*self.mixtures.values(), *(() if router is None else (router,))):
            part.eval()

    def _check_parts(self) -> None:
        """Raise ModelError if mixtures, router and encoder do not fit together."""
        tasks = 1 if self.router is None else self.router.shape.choices
        spare = self.fallback is not None and self.fallback.task == self.tasks[-1]
        if len(self.mixtures) - tasks not in ((0, 1) if spare else (0,)):
            routed = "there is no router" if self.router is None else f"the router has {tasks} tasks"
            raise ModelError(
                f"there are {len(self.mixtures)} mixtures, but {routed}",
                place="reward model",
                fix="give one mixture per task of the router, or one mixture and no router",
            )
        sizes = {f"experts of '{task}'": mixture.experts.hidden_size for task, mixture in self.mixtures.items()}
        sizes |= {f"aggregator of '{task}'": part.aggregator.hidden_size for task, part in self.mixtures.items()}
        sizes |= {} if self.router is None else {"router": self.router.shape.hidden_size}
        for part, size in sizes.items():
            if size != self.encoder.hidden_size:
                raise ModelError(
                    f"the hidden size of the {part} is {size}, that of the encoder is {self.encoder.hidden_size}",
                    place="reward model",
                    fix="use the encoder that the parts were fitted on",
                )
        if self.adapters and not isinstance(self.encoder, AdapterEncoder):
            raise ModelError(
                f"the experts use {len(self.adapters)} adapters, but a {type(self.encoder).__name__} supports none",
                place="reward model",
                fix="use an encoder that supports adapters",
            )
        known = self.encoder.adapters if isinstance(self.encoder, AdapterEncoder) else ()
        missing = next((name for name in self.adapters if name not in known), None)
        if missing is not None:
            raise ModelError(
                f"the encoder has no adapter '{missing}'", place="reward model", fix=did_you_mean(missing, known)
            )
        self._check_layers()

    def _check_layers(self) -> None:
        """Raise ModelError if the encoder cannot read a layer that an expert reads."""
        if not self.layers:
            return
        if not isinstance(self.encoder, LayerEncoder):
            problem = f"the experts read {shown_layers(self.layers)}, but a {type(self.encoder).__name__} only its last"
            raise ModelError(problem, place="reward model", fix="use an encoder whose layers can be read")
        try:
            known = self.encoder.known_layers(self.layers)
        except BackboneError as exc:
            raise ModelError(exc.problem, place="reward model: experts", fix=exc.fix) from None
        other = next((layer for layer in self.layers if layer not in known), None)
        if other is not None:
            raise ModelError(f"layer {other} is the last one", place="reward model: experts", fix="name it last")

    @cached_property
    def hash(self) -> str:
        """The fingerprint of everything that a score depends on: every tensor, every setting, the encoder."""
        return store.model_hash(self._described().manifest)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of the tasks, in the order of the router."""
        return tuple(self.mixtures)

    @property
    def adapters(self) -> tuple[str, ...]:
        """The names of the adapters of all experts, each once; empty if no expert has an adapter."""
        return tuple(dict.fromkeys(name for mixture in self.mixtures.values() for name in mixture.adapters))

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The different layers of the trunk that experts read, in order; empty if all read the last."""
        return labels(in_order(layer for mixture in self.mixtures.values() for layer in mixture.layers or (LAST,)))

    def mixture(self, task: str | None = None) -> Mixture:
        """Return the mixture of one task.

        Args:
            task: the name of the task; None if the model has only one.

        Raises:
            ModelError: the task is unknown, or it is None and the model has several tasks.
        """
        if task is None:
            if len(self.mixtures) > 1:
                raise ModelError(
                    f"the model has {len(self.mixtures)} tasks", fix=f"name one of {', '.join(self.mixtures)}"
                )
            return next(iter(self.mixtures.values()))
        if task not in self.mixtures:
            raise ModelError(f"unknown task '{task}'", fix=did_you_mean(task, self.mixtures))
        return self.mixtures[task]

    def route(self, features: Features) -> Tensor:
        """Return the index into :attr:`tasks` of the mixture that scores each row, [N]; zeros without a router."""
        return self.routes(features.prompt_ND).used_N

    def routes(self, prompt_ND: Tensor) -> Routes:
        """Return the task used, the router's choice and its probability for each prompt vector.

        With an ``exact`` encoder the router processes one prompt at a time.
        """
        step = 1 if self.encoder.mode == "exact" else max(len(prompt_ND), 1)
        parts = [prompt_ND[start : start + step] for start in range(0, max(len(prompt_ND), 1), step)]
        found = [route(self.router, part, tasks=self.tasks, fallback=self.fallback) for part in parts]
        return Routes(*(torch.cat([getattr(r, field.name) for r in found]) for field in fields(Routes)))

    def tasks_of(self, conversations: Sequence[Conversation]) -> list[str]:
        """Return the task whose mixture scores each conversation, in order."""
        if self.router is None or not conversations:
            return [self.tasks[0]] * len(conversations)
        return [self.tasks[n] for n in self.routes(self._prompts(conversations)).used_N.tolist()]

    def _prompts(self, conversations: Sequence[Conversation]) -> Tensor:
        """Return the prompt vectors, [N, D], without encoding the responses if the encoder supports that."""
        if isinstance(self.encoder, AdapterEncoder):
            return self.encoder.prompts(conversations)
        return self.encoder.encode(conversations).prompt_ND

    def output(self, features: Features, *, task: str | None = None) -> RewardOutput:
        """Return the output of one mixture on all rows, without routing.

        Args:
            features: the features of N conversations.
            task: the task whose mixture is used; None if the model has only one.
        """
        with torch.no_grad():
            output: RewardOutput = self.mixture(task)(features)
        return output

    def features(self, conversations: Sequence[Conversation], *, task: str | None = None) -> Features:
        """Encode conversations for the mixture of one task, with the adapters or layers that its experts read.

        Args:
            conversations: the N conversations to encode.
            task: the name of the task; None if the model has only one task or no adapters.
        """
        adapters = self.mixture(task).adapters if self.adapters else ()
        if adapters and isinstance(self.encoder, AdapterEncoder):
            return self.encoder.encode(conversations, adapters=adapters)
        if self.layers and isinstance(self.encoder, LayerEncoder):
            return self.encoder.encode(conversations, layers=self.layers)
        return self.encoder.encode(conversations)

    def score(self, conversations: Sequence[Conversation]) -> list[Score]:
        """Return one score per conversation, in order."""
        if not conversations:
            return []
        if not self.adapters or len(self.mixtures) == 1:
            return self.score_features(self.features(conversations), task=None)
        return self._score_by_task(conversations)

    def score_features(self, features: Features, *, task: str | None = None) -> list[Score]:
        """Return one score per row of ``features``, in order.

        With an ``exact`` encoder the heads also process one row at a time, because the rounding of a matrix product can
        depend on the other rows of the batch.

        Args:
            features: the features of N conversations.
            task: the task whose mixture scores all rows, without routing; None lets the router decide. It is needed if
                several tasks have adapters, because features belong to the adapters of one task.

        Raises:
            ModelError: a reward is not finite, or a task is needed and not given.
        """
        if task is None and self.adapters and len(self.mixtures) > 1:
            raise ModelError(
                "the features belong to the adapters of one task, but no task is given",
                place="reward model",
                fix=f"name one of {', '.join(self.mixtures)}, or score conversations",
            )
        routes = self.routes(features.prompt_ND)
        used_N = routes.used_N if task is None else torch.full_like(routes.used_N, self._index(task))
        scores: dict[int, Score] = {}
        for index in range(len(self.mixtures)):
            rows = torch.nonzero(used_N == index).flatten()
            if len(rows):
                scores |= zip(rows.tolist(), self._scored(index, features.select(rows), routes, rows), strict=True)
        return [scores[n] for n in range(len(features))]

    def _score_by_task(self, conversations: Sequence[Conversation]) -> list[Score]:
        """Route the prompts, then encode and score each task's rows with its adapters."""
        routes = self.routes(self._prompts(conversations))
        scores: dict[int, Score] = {}
        for index, task in enumerate(self.tasks):
            rows = torch.nonzero(routes.used_N == index).flatten()
            numbers = rows.tolist()
            if not numbers:
                continue
            try:
                features = self.features([conversations[n] for n in numbers], task=task)
            except BackboneError as exc:
                if exc.row is None:
                    raise
                raise exc.at(f"conversation {numbers[exc.row]}", row=numbers[exc.row]) from None
            scores |= zip(numbers, self._scored(index, features, routes, rows), strict=True)
        return [scores[n] for n in range(len(conversations))]

    def _index(self, task: str) -> int:
        """Return the index of a task in :attr:`tasks`."""
        self.mixture(task)
        return self.tasks.index(task)

    def margin_probability(self, margin_N: Tensor, *, task: str | None = None) -> Tensor:
        """Return the probability that A is preferred to B, sigmoid(beta * margin), for each margin, [N].

        Args:
            margin_N: the reward margins, the reward of A minus the reward of B.
            task: the task whose mixture gave both rewards; None if the model has only one.
        """
        return self.mixture(task).margin_probability(margin_N)

    def with_mixture(
        self, mixture: Mixture, *, task: str | None = None, provenance: Mapping[str, Any] | None = None
    ) -> RewardModel:
        """Return the same model with the mixture of one task replaced.

        Args:
            mixture: the new mixture.
            task: the task whose mixture is replaced; None if the model has only one.
            provenance: JSON-ready facts to add to the model's provenance; None adds nothing.
        """
        self.mixture(task)
        name = self.tasks[0] if task is None else task  # tasks may share a mixture, so it does not tell the task
        return RewardModel(
            self.encoder,
            {**self.mixtures, name: mixture},
            self.router,
            **({} if self.fallback is None else self.fallback.to_dict()),
            provenance={**self.provenance, **(provenance or {})},
        )

    def save(self, folder: str | Path, *, backbone: Literal["copy", "reference"] = "reference") -> None:
        """Write the model to a folder, with ``manifest.json`` and safetensors.

        Args:
            folder: a new or empty folder, or an earlier model folder, which is replaced.
            backbone: ``copy`` copies the backbone into the folder; ``reference`` stores only its path.

        Raises:
            ModelError: the folder holds other files, or the backbone cannot be copied.
        """
        store.save(Path(folder), self._described(), backbone=backbone)

    @staticmethod
    def load(folder: str | Path, *, load_encoder: Callable[[dict[str, object]], Encoder]) -> RewardModel:
        """Load a model folder. Its scores are bit-equal to those of the model that was saved.

        Args:
            folder: a folder written by :meth:`save`.
            load_encoder: builds the encoder from the ``spec()`` in the manifest.

        Raises:
            ModelError: a file is missing, changed, malformed or of an unknown version, or the encoder differs.
        """
        saved = store.load(Path(folder))
        encoder = store.load_same_encoder(Path(folder), saved.manifest, load_encoder)
        routing = {} if saved.fallback is None else saved.fallback.to_dict()
        return RewardModel(encoder, saved.mixtures, saved.router, **routing, provenance=saved.manifest["provenance"])

    def _described(self) -> store.Described:
        """Return the model in the form in which it is written."""
        return store.describe(
            self.encoder, self.mixtures, self.router, fallback=self.fallback, provenance=self.provenance
        )

    def _scored(self, index: int, features: Features, routes: Routes, rows: Tensor) -> list[Score]:
        """Return the scores of ``rows`` from one mixture; ``features`` holds only these rows, ``routes`` all rows."""
        task, mixture = self.tasks[index], list(self.mixtures.values())[index]
        alone = self.encoder.mode == "exact"
        parts = [features.select(torch.tensor([n])) for n in range(len(features))] if alone else [features]
        with torch.no_grad():
            outputs: list[RewardOutput] = [mixture(part) for part in parts]
        given = [row for output in outputs for row in rows_of(output, mixture.objectives)]
        unsure = [u for part, output in zip(parts, outputs, strict=True) for u in mixture.uncertainties(part, output)]
        result = []
        for n, (row, (reward, base, named)) in enumerate(zip(rows.tolist(), given, strict=True)):
            tokens = int(features.tokens_N[n])
            if not math.isfinite(reward):
                raise ModelError(
                    f"the reward of a conversation of {tokens} tokens is {reward}",
                    place=f"task '{task}'",
                    fix="encode it again; its features are not finite",
                )
            result.append(
                Score(
                    reward=reward,
                    base=base,
                    **named,
                    task=task,
                    routed=self.tasks[int(routes.chosen_N[row])],
                    confidence=float(routes.confidence_N[row]),
                    tokens=tokens,
                    length=int(features.length_N[n]),
                    truncated=bool(features.truncated_N[n]),
                    model=self.hash,
                    template=self.encoder.template_hash,
                    mode=self.encoder.mode,
                    unknown=float(features.unknown_N[n]),
                    settings=dict(getattr(self.encoder, "shortening", {})),
                    uncertainty=unsure[n],
                )
            )
        return result


def _fallback(task: str | None, threshold: float, router: Gate | None, tasks: Sequence[str]) -> Fallback | None:
    """Return the checked fallback; None if there is none."""
    if task is None and threshold == 0.0:
        return None
    if task is None or router is None:
        problem = f"a threshold of {threshold} without a fallback" if task is None else "a fallback without a router"
        raise ModelError(problem, place="reward model: fallback", fix="give router, fallback and threshold together")
    found = Fallback(task, threshold)
    found.check(tasks)
    return found
