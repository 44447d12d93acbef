"""What a mixture is made of, and the kinds there are: a saved model names them, a test walks over them.

    experts      features -> scores_NK                     linear, adapter
    aggregator   features, scores_NK -> RewardOutput       gated_sum, concat_mlp

Shapes: N conversations, K experts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol, TypeVar

from torch import Tensor

from facetrm.backbone.encoder import Features
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
    """K named raters. ``adapters`` are the K adapters they read, in order; none: they read the bare trunk."""

    @property
    def names(self) -> tuple[str, ...]:
        """The expert names, in the order of the columns."""
        ...

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """What they rate, in the same order."""
        ...

    @property
    def adapters(self) -> tuple[str, ...]:
        """The adapters to encode with; empty for the bare trunk."""
        ...

    @property
    def hidden_size(self) -> int:
        """D."""
        ...

    def __call__(self, features: Features) -> Tensor:
        """Return ``scores_NK``."""
        ...

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return tensors and a JSON-able spec with its ``kind``."""
        ...

    @staticmethod
    def from_state(tensors: Mapping[str, Tensor], spec: Mapping[str, Any]) -> Experts:
        """Make it again, bit-equal, from what ``state`` gave."""
        ...


class Aggregator(Protocol):
    """Ratings, and what they were made from, to a sum: ``reward_N = base_N + contributions_NK.sum(-1)``.

    ``reads_vectors`` says that it needs one vector per expert, so experts with adapters. ``read`` gives the whole sum,
    ``rewards`` the rewards alone, as cheaply as it can.
    """

    @property
    def kind(self) -> str:
        """Its name in :data:`AGGREGATORS`."""
        ...

    @property
    def reads_vectors(self) -> bool:
        """Whether it needs one vector per expert."""
        ...

    @property
    def size(self) -> int:
        """K."""
        ...

    @property
    def hidden_size(self) -> int:
        """D."""
        ...

    @property
    def edit(self) -> WeightEdit:
        """What a user changed."""
        ...

    def with_edit(self, edit: WeightEdit | None) -> Aggregator:
        """Return the same with another edit; None undoes all."""
        ...

    def read(self, features: Features, scores_NK: Tensor) -> RewardOutput:
        """Return reward, base and contributions."""
        ...

    def rewards(self, features: Features, scores_NK: Tensor) -> Tensor:
        """Return the rewards alone, [N]."""
        ...

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return tensors and a JSON-able spec with its ``kind``."""
        ...

    @staticmethod
    def from_state(tensors: Mapping[str, Tensor], spec: Mapping[str, Any]) -> Aggregator:
        """Make it again, bit-equal, from what ``state`` gave."""
        ...


EXPERTS: Final[Registry[type[Experts]]] = Registry("experts")
EXPERTS.add("linear", LinearExperts)
EXPERTS.add("adapter", AdapterExperts)

AGGREGATORS: Final[Registry[type[Aggregator]]] = Registry("aggregator")
AGGREGATORS.add("gated_sum", GatedSum)
AGGREGATORS.add("concat_mlp", ConcatMLP)


def kind_of(registry: Registry[T], spec: Any) -> T:
    """Return the class that a saved ``spec`` names.

    Args:
        registry: of the kinds.
        spec: as ``state()`` wrote it.

    Raises:
        ModelError: no spec, or a kind that this release does not know.
    """
    kind = spec.get("kind") if isinstance(spec, Mapping) else None
    if kind not in registry:
        raise ModelError(f"{registry.kind} of kind {kind!r}", place=registry.kind, fix=f"known: {', '.join(registry)}")
    return registry[str(kind)]
