"""The gate: turns a prompt vector into weights over experts. A gate over tasks is the router.

    x = ((prompt - center) * spread) @ projection        weights = softmax(MLP(x) / temperature)

Shapes: N conversations, D hidden size, R gate input size, K choices (experts or tasks).

Reference: ArmoRM (arXiv 2406.12845), section 3.2. facetrm takes the softmax over the choices (the released training
script takes it over chosen and rejected). No learnable factor multiplies the weights, because it could flip the sign of
every reward.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from facetrm.core.errors import ModelError


@dataclass(frozen=True)
class GateShape:
    """The sizes and settings of a gate, from which it can be built before its tensors are loaded.

    Attributes:
        hidden_size: D of the prompt vector.
        choices: the number of experts or tasks, K.
        hidden: the width of the hidden layers; 0 (with ``n_hidden`` 0) makes the gate a bias that ignores the prompt.
        n_hidden: the number of hidden layers; 0 with ``hidden`` > 0 makes the gate linear.
        rank: the number of columns of the projection, R; None for no projection.
        temperature: the softmax temperature.
        dropout: the dropout rate after each hidden layer, used only in training.

    Example:
        >>> from facetrm import GateShape
        >>> GateShape(hidden_size=32, choices=3).hidden
        64
    """

    hidden_size: int
    choices: int
    hidden: int = 64
    n_hidden: int = 1
    rank: int | None = None
    temperature: float = 1.0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for name, value, low in (("hidden_size", self.hidden_size, 1), ("choices", self.choices, 1)):
            if value < low:
                raise ModelError(f"gate {name} is {value}", fix=f"give at least {low}")
        if self.hidden < 0 or self.n_hidden < 0 or (self.n_hidden > 0 and self.hidden == 0):
            raise ModelError(
                f"gate hidden is {self.hidden} but n_hidden is {self.n_hidden}", fix="give both, or 0 for both"
            )
        if not self.temperature > 0:
            raise ModelError(f"gate temperature is {self.temperature}", fix="give a number above 0")
        if not 0 <= self.dropout < 1:
            raise ModelError(f"gate dropout is {self.dropout}", fix="give a number in [0, 1)")
        if self.rank is not None and not 1 <= self.rank <= self.hidden_size:
            raise ModelError(f"gate rank is {self.rank}", fix=f"give 1 to {self.hidden_size}, or None")

    @property
    def unconditional(self) -> bool:
        """Whether the weights ignore the prompt."""
        return self.hidden == 0

    def to_dict(self) -> dict[str, Any]:
        """Return the arguments of this class as a JSON-ready dict."""
        return asdict(self)


def check_tensors(found: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]], *, place: str) -> None:
    """Check the names, shapes and values of tensors.

    Args:
        found: the tensors, by name.
        wanted: the expected shapes, by tensor name.
        place: the part of the model or the folder, for error messages.

    Raises:
        ModelError: a tensor is missing, unexpected, of another shape or not finite.
    """
    fix = "save the model again, or fetch the whole folder"
    for name in sorted(wanted.keys() - found.keys()):
        raise ModelError(f"tensor '{name}' is missing", place=place, fix=fix)
    for name in sorted(found.keys() - wanted.keys()):
        raise ModelError(f"tensor '{name}' is unexpected", place=place, fix=fix)
    for name, shape in wanted.items():
        if tuple(found[name].shape) != shape:
            raise ModelError(
                f"tensor '{name}' has shape {list(found[name].shape)}, not {list(shape)}", place=place, fix=fix
            )
        if not bool(torch.isfinite(found[name]).all()):
            raise ModelError(f"tensor '{name}' is not finite", place=place, fix=fix)


def check_kind(spec: Mapping[str, Any], kind: str, *, what: str) -> None:
    """Check the kind of a saved part.

    Args:
        spec: the saved spec of the part.
        kind: the kind that is expected.
        what: the part: ``experts`` or ``aggregator``.

    Raises:
        ModelError: the part is of another kind.
    """
    if spec.get("kind") != kind:
        raise ModelError(
            f"the kind is {spec.get('kind')!r}, not {kind!r}", place=what, fix=f"give a spec of kind {kind}"
        )


@final
class Gate(nn.Module):
    """A multi-layer perceptron on the prompt vector and a softmax over K choices.

        weights_NK = softmax(MLP(((prompt_ND - center_D) * spread_D) @ projection_DR) / temperature)

    The buffers start as 0, 1 and the identity, which leave the prompt vector unchanged. The aggregator multiplies each
    (debiased) score by ``unit_K``. It is 1, or 1 over the spread of the score between answers to one prompt, which
    makes weights comparable across objectives.

    Args:
        shape: the sizes, the temperature and the dropout rate.
        gated: one flag per choice. A choice with False gets a weight of exactly 0. None allows all choices.

    Raises:
        ModelError: no choice is allowed, or the number of flags differs from the number of choices.

    Reference: ArmoRM, section 3.2 (3 hidden layers of 1,024, temperature 10).

    Example:
        >>> import torch
        >>> from facetrm import Gate, GateShape
        >>> gate = Gate(GateShape(hidden_size=32, choices=3)).eval()
        >>> round(gate(torch.zeros(1, 32)).sum().item(), 3)
        1.0
    """

    center_D: Tensor
    spread_D: Tensor
    projection_DR: Tensor | None
    gated_K: Tensor
    unit_K: Tensor

    def __init__(self, shape: GateShape, *, gated: Sequence[bool] | None = None) -> None:
        super().__init__()
        flags = torch.ones(shape.choices, dtype=torch.bool) if gated is None else torch.tensor(list(gated))
        if tuple(flags.shape) != (shape.choices,):
            raise ModelError(f"{len(flags)} flags for {shape.choices} choices", place="gate", fix="give one per choice")
        if not bool(flags.any()):
            raise ModelError(
                "the gate cannot give weight to any objective",
                place="gate",
                fix="give at least one objective whose direction is 'higher' or 'lower'",
            )
        self.shape = shape
        inputs = shape.hidden_size if shape.rank is None else shape.rank
        self.register_buffer("center_D", torch.zeros(shape.hidden_size))
        self.register_buffer("spread_D", torch.ones(shape.hidden_size))
        projection = None if shape.rank is None else torch.eye(shape.hidden_size, shape.rank)
        self.register_buffer("projection_DR", projection)
        self.register_buffer("gated_K", flags)
        self.register_buffer("unit_K", torch.ones(shape.choices))
        layers: list[nn.Module] = []
        for _ in range(shape.n_hidden):
            layers += [nn.Linear(inputs, shape.hidden), nn.ReLU(), nn.Dropout(shape.dropout)]
            inputs = shape.hidden
        self.body = nn.Sequential(*layers)
        self.head = None if shape.unconditional else nn.Linear(inputs, shape.choices, bias=False)
        self.bias_K = nn.Parameter(torch.zeros(shape.choices))

    @property
    def temperature(self) -> float:
        """The softmax temperature."""
        return self.shape.temperature

    def project(self, prompt_ND: Tensor) -> Tensor:
        """Return the inputs of the perceptron, [N, R], float32."""
        if prompt_ND.ndim != 2 or prompt_ND.shape[1] != self.shape.hidden_size:
            raise ModelError(
                f"the prompt features have shape {list(prompt_ND.shape)}, not [N, {self.shape.hidden_size}]",
                place="gate",
                fix="use features of the encoder that the model was fitted with",
            )
        x_ND = (prompt_ND.float() - self.center_D) * self.spread_D
        return x_ND if self.projection_DR is None else x_ND @ self.projection_DR

    def logits(self, prompt_ND: Tensor) -> Tensor:
        """Return the logits divided by the temperature, [N, K]. Choices that are not allowed have minus infinity."""
        return self.logits_of(self.project(prompt_ND))

    def logits_of(self, x_NR: Tensor) -> Tensor:
        """Return the logits, [N, K], of inputs from :meth:`project`, which fitting computes only once."""
        z_NK = self.bias_K.expand(len(x_NR), -1)
        if self.head is not None:
            z_NK = z_NK + self.head(self.body(x_NR))
        return (z_NK / self.shape.temperature).masked_fill(~self.gated_K, float("-inf"))

    def forward(self, prompt_ND: Tensor) -> Tensor:
        """Return the weights, [N, K]. They are not negative, and each row sums to 1."""
        return torch.softmax(self.logits(prompt_ND), dim=-1)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the tensors (for safetensors) and a JSON-ready spec, for :meth:`from_state`."""
        return {name: tensor.detach().contiguous() for name, tensor in self.state_dict().items()}, self.shape.to_dict()

    @staticmethod
    def from_state(tensors: Mapping[str, Tensor], spec: Mapping[str, Any]) -> Gate:
        """Restore the gate, bit-equal, from the output of :meth:`state`.

        Args:
            tensors: the tensors, by name.
            spec: the spec that belongs to them.

        Raises:
            ModelError: the spec is malformed, or a tensor is missing, unexpected, of another shape or not finite.
        """
        try:
            shape = GateShape(**spec)
        except TypeError as exc:
            raise ModelError(f"malformed shape ({exc})", place="gate", fix="save the model again") from None
        widest = max((max(tensor.shape, default=1) for tensor in tensors.values()), default=0)
        for name in ("hidden_size", "choices", "hidden", "n_hidden", "rank"):
            size = getattr(shape, name)
            if name == "hidden" and shape.n_hidden == 0:
                continue  # no layer has this width
            if size is not None and size > (len(tensors) if name == "n_hidden" else widest):
                raise ModelError(
                    f"{name} is {size:,}, larger than its tensors allow", place="gate", fix="save the model again"
                )
        gate = Gate(shape)
        check_tensors(tensors, {name: tuple(t.shape) for name, t in gate.state_dict().items()}, place="gate")
        if not bool(tensors["gated_K"].any()):
            raise ModelError("no choice is allowed (gated_K is all false)", place="gate", fix="save the model again")
        if not bool((tensors["unit_K"] > 0).all()):
            raise ModelError("unit_K has values that are not above 0", place="gate", fix="save the model again")
        gate.load_state_dict(dict(tensors))
        return gate

    def choose(self, prompt_ND: Tensor) -> Tensor:
        """Return the index of the largest weight, [N]. This is the choice of a router."""
        return self.logits(prompt_ND).argmax(dim=-1)
