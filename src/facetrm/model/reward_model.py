"""The reward model: an encoder, an optional router, and one mixture per task.

    conversation -> Features -> (router: which task) -> mixture -> reward = base + sum_k contribution_k

Shapes: N conversations, D hidden size, K experts of one mixture, T tasks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, final

import torch
from torch import Tensor

from facetrm.backbone.encoder import Encoder, Features
from facetrm.core.errors import ModelError, did_you_mean
from facetrm.data.records import Conversation
from facetrm.model import store
from facetrm.model.gate import Gate
from facetrm.model.mixture import Mixture
from facetrm.model.output import RewardOutput, Score


@final
class RewardModel:
    """Conversations to readable scores.

    Args:
        encoder: conversations to features.
        mixtures: task to mixture; ArmoRM has one, ``{"all": mixture}``.
        router: a :class:`Gate` over the tasks, in the order of ``mixtures``; needed when there are several.
        provenance: JSON-able facts for the manifest, such as data fingerprints, seeds and earlier edits.

    Raises:
        ModelError: no mixture, several without a router, or parts of another hidden size than the encoder's.
    """

    def __init__(
        self,
        encoder: Encoder,
        mixtures: Mapping[str, Mixture],
        router: Gate | None = None,
        *,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        tasks = 1 if router is None else router.shape.choices
        if len(mixtures) != tasks:
            raise ModelError(
                f"{len(mixtures)} mixtures and a router over {tasks} tasks",
                place="reward model",
                fix="give one mixture per task of the router, or one mixture and no router",
            )
        sizes = {f"experts of '{task}'": mixture.experts.hidden_size for task, mixture in mixtures.items()}
        sizes |= {f"gate of '{task}'": mixture.aggregator.gate.shape.hidden_size for task, mixture in mixtures.items()}
        sizes |= {} if router is None else {"router": router.shape.hidden_size}
        for part, size in sizes.items():
            if size != encoder.hidden_size:
                raise ModelError(
                    f"{part} reads {size} features, the encoder gives {encoder.hidden_size}",
                    place="reward model",
                    fix="use the encoder that the parts were fitted on",
                )
        self.encoder, self.mixtures, self.router = encoder, dict(mixtures), router
        self.provenance: dict[str, Any] = dict(provenance or {})
        for part in (*self.mixtures.values(), *(() if router is None else (router,))):
            part.eval()

    @cached_property
    def hash(self) -> str:
        """The fingerprint of everything that a score depends on: every tensor, every setting, the encoder."""
        return store.model_hash(store.describe(self.encoder, self.mixtures, self.router, self.provenance).manifest)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The task names, in the router's order."""
        return tuple(self.mixtures)

    def mixture(self, task: str | None = None) -> Mixture:
        """Return the mixture of ``task``; the only one when there is one.

        Raises:
            ModelError: an unknown task, or no task named where there are several.
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
        """Return the index into :attr:`tasks` of each row, [N]; zeros without a router."""
        if self.router is None:
            return torch.zeros(len(features), dtype=torch.int64)
        with torch.no_grad():
            return self.router.choose(features.prompt_ND)

    def output(self, features: Features, *, task: str | None = None) -> RewardOutput:
        """Return the tensors of one mixture on all rows (see :meth:`mixture` for ``task``); no routing takes place."""
        with torch.no_grad():
            output: RewardOutput = self.mixture(task)(features)
        return output

    def score(self, conversations: Sequence[Conversation]) -> list[Score]:
        """Return one score per conversation, in order; nothing in, nothing out."""
        return self.score_features(self.encoder.encode(conversations)) if conversations else []

    def score_features(self, features: Features) -> list[Score]:
        """Return one score per row of ``features``, in order.

        With an ``exact`` encoder the heads read one row at a time too: a matrix product may round a row otherwise when
        other rows stand beside it.

        Raises:
            ModelError: a reward that is not finite: the features hold an infinity or a NaN.
        """
        if self.encoder.mode == "exact" and len(features) > 1:
            alone = (features.select(torch.tensor([n])) for n in range(len(features)))
            return [score for row in alone for score in self.score_features(row)]
        scores: dict[int, Score] = {}
        tasks_N = self.route(features)
        for index, (task, mixture) in enumerate(self.mixtures.items()):
            rows = torch.nonzero(tasks_N == index).flatten()
            if len(rows):
                part = features.select(rows)
                scores |= zip(rows.tolist(), self._readable(task, mixture, part), strict=True)
        return [scores[n] for n in range(len(features))]

    def margin_probability(self, margin_N: Tensor, *, task: str | None = None) -> Tensor:
        """Return P(A is preferred to B) = sigmoid(beta * margin) of reward margins A - B within one ``task``, [N]."""
        return self.mixture(task).margin_probability(margin_N)

    def with_mixture(
        self, mixture: Mixture, *, task: str | None = None, provenance: Mapping[str, Any] | None = None
    ) -> RewardModel:
        """Return the same model with the mixture of one task replaced, and facts added to its provenance."""
        name = next(key for key, value in self.mixtures.items() if value is self.mixture(task))
        return RewardModel(
            self.encoder,
            {**self.mixtures, name: mixture},
            self.router,
            provenance={**self.provenance, **(provenance or {})},
        )

    def save(self, folder: str | Path, *, backbone: Literal["copy", "reference"] = "reference") -> None:
        """Write ``manifest.json`` and safetensors to ``folder``: see :func:`facetrm.model.store.save`."""
        store.save(
            Path(folder), store.describe(self.encoder, self.mixtures, self.router, self.provenance), backbone=backbone
        )

    @staticmethod
    def load(folder: str | Path, *, load_encoder: Callable[[dict[str, object]], Encoder]) -> RewardModel:
        """Read a model folder; the scores are bit-equal to those of the model that was saved.

        Args:
            folder: as :meth:`save` wrote it.
            load_encoder: makes the encoder again from its ``spec()``.

        Raises:
            ModelError: anything missing, changed, malformed, of an unknown version, or another encoder.
        """
        saved = store.load(Path(folder))
        encoder = store.load_same_encoder(Path(folder), saved.manifest, load_encoder)
        return RewardModel(encoder, saved.mixtures, saved.router, provenance=saved.manifest["provenance"])

    def _readable(self, task: str, mixture: Mixture, features: Features) -> list[Score]:
        """Return the scores of rows that belong to one task."""
        with torch.no_grad():
            output: RewardOutput = mixture(features)
        names, objectives = mixture.names, mixture.objectives
        columns = zip(
            output.reward_N.tolist(),
            output.base_N.tolist(),
            output.contributions_NK.tolist(),
            output.scores_NK.tolist(),
            output.weights_NK.tolist(),
            output.coefficients_NK.tolist(),
            features.tokens_N.tolist(),
            features.length_N.tolist(),
            features.truncated_N.tolist(),
            strict=True,
        )
        result = []
        for reward, base, contributions, scores, weights, coefficients, tokens, length, truncated in columns:
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
                    contributions=dict(zip(names, contributions, strict=True)),
                    scores=dict(zip(names, scores, strict=True)),
                    ratings={o.name: o.from_unit(x) for o, x in zip(objectives, scores, strict=True)},
                    weights=dict(zip(names, weights, strict=True)),
                    coefficients=dict(zip(names, coefficients, strict=True)),
                    task=task,
                    tokens=tokens,
                    length=length,
                    truncated=truncated,
                    model=self.hash,
                    template=self.encoder.template_hash,
                    mode=self.encoder.mode,
                )
            )
        return result
