"""The parts of a mixture: their interfaces, and registries of their kinds. A saved model names the kind of each part.

    experts      features -> scores_NK                     linear, adapter
    aggregator   features, scores_NK -> RewardOutput       gated_sum, concat_mlp

Shapes: N conversations, K experts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol, TypeVar

from torch import Tensor

from facetrm.backbone.encoder import Features, Layer
from facetrm.core.errors import ModelError
from facetrm.core.registry import Registry
from facetrm.data.objectives import Objective
from facetrm.model.adapter_experts import AdapterExperts
from facetrm.model.aggregate import GatedSum
from facetrm.model.concat import ConcatMLP
from facetrm.model.edits import WeightEdit
from facetrm.model.experts import LinearExperts
from facetrm.model.output import RewardOutput

T = TypeVar("T")


class Experts(Protocol):
    """K named experts that rate conversations."""

    @property
    def names(self) -> tuple[str, ...]:
        """The expert names, in the order of the columns."""
        ...

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """The objectives that the experts rate, in the same order."""
        ...

    @property
    def adapters(self) -> tuple[str, ...]:
        """The K adapters to encode with, in the same order; empty if the experts read the trunk without adapters."""
        ...

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The different layers of the trunk that the experts read, in order; empty if all read the last."""
        ...

    @property
    def hidden_size(self) -> int:
        """The hidden size, D."""
        ...

    def __call__(self, features: Features) -> Tensor:
        """Return the ratings on the [0, 1] scale, [N, K]."""
        ...

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the tensors and a JSON-ready spec with its ``kind``."""
        ...

    @staticmethod
    def from_state(tensors: Mapping[str, Tensor], spec: Mapping[str, Any]) -> Experts:
        """Restore the experts, bit-equal, from the tensors and the spec that :meth:`state` returned."""
        ...


class Aggregator(Protocol):
    """Combines features and ratings into a reward: ``reward_N = base_N + contributions_NK.sum(-1)``."""

    @property
    def kind(self) -> str:
        """The name of this kind in :data:`AGGREGATORS`."""
        ...

    @property
    def reads_vectors(self) -> bool:
        """Whether it needs one response vector per expert, so that the experts must have adapters."""
        ...

    @property
    def size(self) -> int:
        """The number of experts, K."""
        ...

    @property
    def hidden_size(self) -> int:
        """The hidden size, D."""
        ...

    @property
    def edit(self) -> WeightEdit:
        """The user's changes to the weights."""
        ...

    def with_edit(self, edit: WeightEdit | None) -> Aggregator:
        """Return the same aggregator with another edit; None removes the edit."""
        ...

    def read(self, features: Features, scores_NK: Tensor) -> RewardOutput:
        """Return the rewards with their bases and contributions.

        Args:
            features: the features of N conversations.
            scores_NK: the experts' ratings on the [0, 1] scale.
        """
        ...

    def rewards(self, features: Features, scores_NK: Tensor) -> Tensor:
        """Return only the rewards, [N], by the cheapest computation.

        Args:
            features: the features of N conversations.
            scores_NK: the experts' ratings on the [0, 1] scale.
        """
        ...

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the tensors and a JSON-ready spec with its ``kind``."""
        ...

    @staticmethod
    def from_state(tensors: Mapping[str, Tensor], spec: Mapping[str, Any]) -> Aggregator:
        """Restore the aggregator, bit-equal, from the tensors and the spec that :meth:`state` returned."""
        ...


EXPERTS: Final[Registry[type[Experts]]] = Registry("experts")
EXPERTS.add("linear", LinearExperts)
EXPERTS.add("adapter", AdapterExperts)

AGGREGATORS: Final[Registry[type[Aggregator]]] = Registry("aggregator")
AGGREGATORS.add("gated_sum", GatedSum)
AGGREGATORS.add("concat_mlp", ConcatMLP)


def kind_of(registry: Registry[T], spec: Any) -> T:
    """Return the class of a saved part.

    Args:
        registry: the kinds of this part.
        spec: the saved spec of the part, a mapping with its ``kind``.

    Raises:
        ModelError: the spec is not a mapping, or this release does not know the kind.
    """
    kind = spec.get("kind") if isinstance(spec, Mapping) else None
    if kind not in registry:
        raise ModelError(
            f"unknown kind {kind!r}",
            place=registry.kind,
            fix=f"save the model again, or use a release that knows it (known here: {', '.join(registry)})",
        )
    return registry[str(kind)]
