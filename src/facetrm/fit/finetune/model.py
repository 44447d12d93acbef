"""The module that the Trainer trains: trunk and heads in one, which returns the loss of a batch.

    s_n = W h_n + b        r_n = w . h_n        h_n the vector that scoring uses (last token), in float32

    L_MSE = 1/M sum_n 1/|K_n| sum_{k in K_n} (s_nk - y_nk)^2       rated rows n, K_n the objectives that row n rates
    L_BT  = mean over pairs of softplus(-(r_chosen - r_rejected))
    loss  = regression * L_MSE + preference * L_BT

Shapes: N rows of a batch (rated, then chosen, then rejected), L tokens, D hidden size, K objectives.

Reference: SMORM (ICLR 2026): a Bradley-Terry head and a multi-objective regression head trained jointly on one trunk,
on different data. With one of the two weights 0 it is plain multi-objective regression, or a plain reward model.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from facetrm.backbone.lora.switching import adapter_names
from facetrm.fit.losses import bradley_terry_loss, masked_mse_loss


@final
class TrainableHeads(nn.Module):
    """Float32 heads for K ratings and one preference score.

    The preference head has no intercept, because only differences of its scores are trained. Either kind may be absent.

    Args:
        hidden_size: size D of a feature vector.
        objectives: number of ratings K; 0 for no rating heads.
        preference: whether there is a preference head.
        seed: random seed of the initial weights, which are normal with standard deviation 0.1 / sqrt(D). The intercepts
            start at 0.5.
    """

    def __init__(self, hidden_size: int, objectives: int, *, preference: bool, seed: int) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        deviation = 0.1 / hidden_size**0.5
        weight_KD = deviation * torch.randn(objectives, hidden_size, generator=draw)
        preference_D = deviation * torch.randn(int(preference) * hidden_size, generator=draw)
        self.weight_KD = nn.Parameter(weight_KD, requires_grad=objectives > 0)
        self.bias_K = nn.Parameter(torch.full((objectives,), 0.5), requires_grad=objectives > 0)
        self.preference_D = nn.Parameter(preference_D, requires_grad=preference)

    @property
    def has_preference(self) -> bool:
        """Whether there is a preference head."""
        return self.preference_D.numel() > 0

    def rate(self, features_ND: Tensor) -> Tensor:
        """Return the ratings of each row of ``features_ND`` on the [0, 1] scale, [N, K], always in float32."""
        with torch.autocast(features_ND.device.type, enabled=False):
            return features_ND.float() @ self.weight_KD.float().T + self.bias_K.float()

    def prefer(self, features_ND: Tensor) -> Tensor:
        """Return the preference score of each row of ``features_ND``, [N]; differences of scores are log odds."""
        with torch.autocast(features_ND.device.type, enabled=False):
            return features_ND.float() @ self.preference_D.float()


@final
class TrunkWithHeads(nn.Module):
    """A trunk with heads that computes the loss of a batch.

    Args:
        trunk: a Transformers model without a head; if it has LoRA layers, only they are trained.
        heads: the heads on the features of the trunk.
        regression: weight of the regression loss.
        preference: weight of the Bradley-Terry loss.
        pooled: whether a feature is the mean over the response tokens (encoders) and not the last token's vector.
    """

    accepts_loss_kwargs = False  # the loss is a mean over the batch, so the Trainer averages over accumulated batches

    def __init__(
        self,
        trunk: PreTrainedModel,
        heads: TrainableHeads,
        *,
        regression: float,
        preference: float,
        pooled: bool = False,
    ) -> None:
        super().__init__()
        self.trunk, self.heads, self.pooled = trunk, heads, pooled
        self.regression, self.preference = regression, preference
        self.config = trunk.config
        self._no_split_modules = getattr(trunk, "_no_split_modules", None)  # what FSDP wraps
        self._accepts = frozenset(inspect.signature(trunk.forward).parameters)

    def features(
        self, input_ids: Tensor, attention_mask: Tensor, start_N: Tensor, stop_N: Tensor, **more: Any
    ) -> Tensor:
        """Return the feature vectors, [N, D]: the mean over the tokens ``[start_N, stop_N)`` of each row.

        Args:
            input_ids: token ids, [N, L].
            attention_mask: 1 for tokens and 0 for padding, [N, L].
            start_N: first token of the span of each row, [N].
            stop_N: end of the span of each row, exclusive, [N].
            more: other arguments for the trunk; those that it does not accept are ignored.
        """
        given = {key: value for key, value in more.items() if key in self._accepts and value is not None}
        if "use_cache" in self._accepts:
            given["use_cache"] = False
        hidden_NLD: Tensor = self.trunk(input_ids=input_ids, attention_mask=attention_mask, **given).last_hidden_state
        if not self.pooled:
            return hidden_NLD[torch.arange(len(stop_N), device=stop_N.device), stop_N - 1].float()
        place_L = torch.arange(input_ids.shape[1], device=input_ids.device)
        inside_NL = (place_L >= start_N[:, None]) & (place_L < stop_N[:, None])
        total_ND = torch.where(inside_NL[..., None], hidden_NLD.float(), 0.0).sum(dim=1)
        return total_ND / inside_NL.sum(dim=1, keepdim=True)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        start_N: Tensor,
        stop_N: Tensor,
        labels_NK: Tensor,
        token_type_ids: Tensor | None = None,
        better_P: Tensor | None = None,
        worse_P: Tensor | None = None,
        weight_P: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return ``loss`` and its parts ``regression`` and ``preference`` for a batch that starts with the rated rows.

        Args:
            input_ids: token ids, [N, L].
            attention_mask: 1 for tokens and 0 for padding, [N, L].
            token_type_ids: token types, [N, L]; None if the trunk has none.
            start_N: first of the tokens whose mean is the feature of the row, [N].
            stop_N: end of these tokens, exclusive, [N].
            labels_NK: labels on the [0, 1] scale of the rated rows, one line each; NaN if not rated. The remaining rows
                are pairs: first all chosen rows, then all rejected rows in the same order.
            better_P: index of the better row of each pair among the remaining rows, [P]; None for the order above.
            worse_P: index of the worse row of each pair, [P]; None for the order above.
            weight_P: weight of each pair, [P]; None for equal weights.
        """
        vectors_ND = self.features(input_ids, attention_mask, start_N, stop_N, token_type_ids=token_type_ids)
        rated, pairs = len(labels_NK), (len(vectors_ND) - len(labels_NK)) // 2
        regression, preference = vectors_ND.new_zeros(2).unbind()
        if self.regression > 0:
            regression = masked_mse_loss(self.heads.rate(vectors_ND[:rated]), labels_NK)
        if self.preference > 0:
            score_N = self.heads.prefer(vectors_ND[rated:])
            if better_P is None or worse_P is None:
                preference = bradley_terry_loss(score_N[:pairs] - score_N[pairs:], weight_P)
            else:
                preference = bradley_terry_loss(score_N[better_P] - score_N[worse_P], weight_P)
        loss = self.regression * regression + self.preference * preference
        return {"loss": loss, "regression": regression.detach(), "preference": preference.detach()}

    def trained(self) -> frozenset[str]:
        """Return the state-dict names of the trained parameters: the heads, and the adapter or the whole trunk."""
        return frozenset(name for name, parameter in self.named_parameters() if parameter.requires_grad)

    def activation_checkpointing_enable(self, activation_checkpointing_kwargs: Any = None, **more: Any) -> None:
        """Let the trunk recompute activations in the backward pass.

        Args:
            activation_checkpointing_kwargs: arguments of ``torch.utils.checkpoint``.
            more: other arguments of the trunk's method.
        """
        if adapter_names(self.trunk):
            self.trunk.enable_input_require_grads()  # frozen embeddings feed the layers
        self.trunk.activation_checkpointing_enable(activation_checkpointing_kwargs, **more)

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: Any = None) -> None:
        """Let the trunk recompute activations, under the name that earlier Transformers releases use.

        Args:
            gradient_checkpointing_kwargs: arguments of ``torch.utils.checkpoint``.
        """
        if adapter_names(self.trunk):
            self.trunk.enable_input_require_grads()
        self.trunk.gradient_checkpointing_enable(gradient_checkpointing_kwargs)


@contextmanager
def without_dropout(trunk: PreTrainedModel) -> Iterator[None]:
    """Turn off the dropout of ``trunk`` in this context, even in training mode; an adapter keeps its dropout."""
    before: list[tuple[object, str, float]] = []
    holders: list[object] = [trunk.config, trunk.config.get_text_config()]
    holders += [module for path, module in trunk.named_modules() if "lora_dropout" not in path]
    for holder in holders:
        names = ["p"] if isinstance(holder, nn.Dropout) else [key for key in vars(holder) if "drop" in key]
        before += [(holder, key, getattr(holder, key)) for key in names if isinstance(getattr(holder, key), float)]
    for holder, key, _ in before:
        setattr(holder, key, 0.0)
    try:
        yield
    finally:
        for holder, key, value in reversed(before):
            setattr(holder, key, value)
